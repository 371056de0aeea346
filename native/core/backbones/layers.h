#pragma once
// Leaf modules, and the ways they are chained. Each computes what PyTorch's module of the same name computes.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backbones/folded_conv.h"
#include "taps/hooks.h"

namespace le {

class BatchNorm2d;

// N×in×H×W → N×out×H'×W'. Left uninitialised: the network that owns it knows its package's scheme (init_*).
class Conv2d final : public UnaryModule {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1, int64_t padding = 0, bool bias = false);
  const char* type() const override { return "Conv2d"; }

  // Names the batch norm that always takes this convolution's output, so that evaluation may fold the two.
  void folds_into(BatchNorm2d& norm) { norm_ = &norm; }
  // The two as one, between begin_inference() and end_inference(); else undefined.
  const FoldedConv& folded() const { return folded_; }

  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;

  const at::Tensor weight, bias;  // out×in×kernel×kernel; out, or undefined

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const;
  const int64_t stride_, padding_;
  BatchNorm2d* norm_ = nullptr;
  at::Tensor cast_weight_, cast_bias_;
  FoldedConv folded_;
};

// eps 1e-5, momentum 0.1, affine, with running statistics.
class BatchNorm2d final : public UnaryModule {
 public:
  static constexpr double kEps = 1e-5, kMomentum = 0.1;
  explicit BatchNorm2d(int64_t channels);
  const char* type() const override { return "BatchNorm2d"; }

  const at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

// In place, as in the networks of the zoo.
class ReLU final : public UnaryModule {
 public:
  const char* type() const override { return "ReLU"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

class Sigmoid final : public UnaryModule {
 public:
  const char* type() const override { return "Sigmoid"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

class Identity final : public UnaryModule {
 public:
  const char* type() const override { return "Identity"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return x; }
};

class MaxPool2d final : public UnaryModule {
 public:
  MaxPool2d(int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode = false)
      : kernel_(kernel), stride_(stride), padding_(padding), ceil_mode_(ceil_mode) {}
  const char* type() const override { return "MaxPool2d"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t kernel_, stride_, padding_;
  const bool ceil_mode_;
};

// To one value per channel.
class AdaptiveAvgPool2d final : public UnaryModule {
 public:
  const char* type() const override { return "AdaptiveAvgPool2d"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

class Linear final : public UnaryModule {
 public:
  Linear(int64_t in, int64_t out);
  const char* type() const override { return "Linear"; }
  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;
  const at::Tensor weight, bias;

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  at::Tensor cast_weight_, cast_bias_;
};

// norm(conv(x)), and relu(norm(conv(x)) [+ shortcut]), in as few operations as evaluation and the pass's taps allow.
at::Tensor conv_norm(Conv2d& conv, BatchNorm2d& norm, const at::Tensor& x);
at::Tensor conv_norm_relu(Conv2d& conv, BatchNorm2d& norm, ReLU& relu, const at::Tensor& x,
                          const at::Tensor& shortcut = {});

// Children "0", "1", … in order. A convolution, a batch norm and a ReLU in a row may fuse.
class Sequential : public UnaryModule {
 public:
  // Python subclasses Sequential in places, and names the subclass.
  explicit Sequential(const char* type = "Sequential") : type_(type) {}
  const char* type() const override { return type_; }

  template <std::derived_from<UnaryModule> M, class... Args>
  M& add(Args&&... args) {
    return add_named<M>(std::to_string(steps_.size()), std::forward<Args>(args)...);
  }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  struct Step {
    UnaryModule* module;
    Conv2d* conv;       // where the module is one
    BatchNorm2d* norm;  // where the module is one
    ReLU* relu;         // where the module is one
  };
  template <class M, class... Args>
  M& add_named(std::string name, Args&&... args) {
    M& module = child<M>(std::move(name), std::forward<Args>(args)...);
    append(module);
    return module;
  }
  void append(UnaryModule& module);
  const char* const type_;
  std::vector<Step> steps_;
};

// A list that never runs by itself; its owner calls the members.
class ModuleList final : public Module {
 public:
  const char* type() const override { return "ModuleList"; }
  const char* why_not_tappable() const override { return "a ModuleList is a list and is never called"; }
  template <std::derived_from<Module> M, class... Args>
  M& add(Args&&... args) {
    return child<M>(std::to_string(size_++), std::forward<Args>(args)...);
  }

 private:
  size_t size_ = 0;
};

// Initial weights, in place. fan_in = in·k², fan_out = out·k²; the gain is that of ReLU, √2.
void init_kaiming_normal_fan_out(const at::Tensor& weight, at::Generator& generator);  // torchvision's ResNet
void init_kaiming_uniform_fan_in(const at::Tensor& weight, at::Generator& generator);  // smp's decoders
void init_xavier_uniform(const at::Tensor& weight, at::Generator& generator);          // smp's heads
void init_linear(const Linear& linear, at::Generator& generator);                      // PyTorch's Linear

}  // namespace le
