#pragma once
// Leaf modules, and the ways they are chained. Each computes what PyTorch's module of the same name computes.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backbones/folded_conv.h"
#include "kernels/interpolation.h"
#include "taps/hooks.h"

namespace le {

// A module with a weight and a bias, of which evaluation may use casts between begin_inference() and end_inference().
class WeightedModule : public UnaryModule {
 public:
  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;
  const at::Tensor weight, bias;  // bias may be undefined

 protected:
  WeightedModule(at::Tensor weight, at::Tensor bias);
  // What this pass shall use: the casts in evaluation, else the parameters.
  const at::Tensor& current_weight() const;
  const at::Tensor& current_bias() const;

 private:
  bool casts() const;
  at::Tensor cast_weight_, cast_bias_;
};

class BatchNorm;

// The same along each spatial axis.
struct ConvOptions {
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  bool bias = false;
};

// N×in×s → N×out×s', over 2 or 3 spatial axes. Left uninitialised: the network that owns it knows its package's scheme
// (init_*).
class Conv : public WeightedModule {
 public:
  Conv(int64_t axes, int64_t in, int64_t out, int64_t kernel, const ConvOptions& options = {});
  // kernel: one number per spatial axis.
  Conv(int64_t in, int64_t out, at::IntArrayRef kernel, ConvGeometry geometry, bool bias);
  const char* type() const override { return axes() == 3 ? "Conv3d" : "Conv2d"; }
  int64_t axes() const { return weight.dim() - 2; }

  // Names the batch norm that always takes this convolution's output, so that evaluation may fold the two.
  void folds_into(BatchNorm& norm) { norm_ = &norm; }
  // The two as one, between begin_inference() and end_inference(); else undefined.
  const FoldedConv& folded() const { return folded_; }

  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const ConvGeometry geometry_;
  BatchNorm* norm_ = nullptr;
  FoldedConv folded_;
};

class Conv2d final : public Conv {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1, int64_t padding = 0, bool bias = false)
      : Conv(2, in, out, kernel, {stride, padding, 1, 1, bias}) {}
};

// N×in×s → N×out×(s · stride): a transposed convolution whose kernel is its stride, with bias. Left uninitialised.
class TransposedConv final : public WeightedModule {
 public:
  TransposedConv(int64_t in, int64_t out, std::vector<int64_t> stride);
  const char* type() const override { return stride_.size() == 3 ? "ConvTranspose3d" : "ConvTranspose2d"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const std::vector<int64_t> stride_;
};

// eps 1e-5, momentum 0.1, affine, with running statistics.
class BatchNorm : public UnaryModule {
 public:
  static constexpr double kEps = 1e-5, kMomentum = 0.1;
  // axes: spatial axes, which decide the name alone.
  BatchNorm(int64_t axes, int64_t channels);
  const char* type() const override { return axes_ == 3 ? "BatchNorm3d" : "BatchNorm2d"; }

  const at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t axes_;
};

class BatchNorm2d final : public BatchNorm {
 public:
  explicit BatchNorm2d(int64_t channels) : BatchNorm(2, channels) {}
};

// eps 1e-5, affine, without running statistics. Training refuses maps of one place, as PyTorch does.
class InstanceNorm final : public WeightedModule {
 public:
  // axes: spatial axes, which decide the name alone.
  InstanceNorm(int64_t axes, int64_t channels);
  const char* type() const override { return axes_ == 3 ? "InstanceNorm3d" : "InstanceNorm2d"; }
  void begin_inference(at::ScalarType) override {}  // takes inputs of less precision as it is

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t axes_;
};

// eps 1e-5, affine.
class GroupNorm final : public WeightedModule {
 public:
  GroupNorm(int64_t groups, int64_t channels);
  const char* type() const override { return "GroupNorm"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t groups_;
};

// In training, zeroes each number ("Dropout") or each channel of each image ("Dropout2d") with probability p and scales
// the others. Draws from libtorch's default generator, as the networks that come as files do: see
// Backbone::draws_in_training().
class Dropout final : public UnaryModule {
 public:
  enum class Of { kNumbers, kChannels };
  explicit Dropout(double p, Of of = Of::kNumbers) : p_(p), of_(of) {}
  const char* type() const override { return of_ == Of::kNumbers ? "Dropout" : "Dropout2d"; }
  double p() const { return p_; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const double p_;
  const Of of_;
};

// In place, as in the networks of the zoo.
class ReLU final : public UnaryModule {
 public:
  const char* type() const override { return "ReLU"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

// In place; of slope 0.01 below 0.
class LeakyReLU final : public UnaryModule {
 public:
  static constexpr double kSlope = 0.01;
  const char* type() const override { return "LeakyReLU"; }

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

// Over 2 or 3 spatial axes.
class MaxPool final : public UnaryModule {
 public:
  MaxPool(int64_t axes, int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode = false)
      : axes_(axes), kernel_(kernel), stride_(stride), padding_(padding), ceil_mode_(ceil_mode) {}
  const char* type() const override { return axes_ == 3 ? "MaxPool3d" : "MaxPool2d"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t axes_, kernel_, stride_, padding_;
  const bool ceil_mode_;
};

// To one value per channel.
class AdaptiveAvgPool2d final : public UnaryModule {
 public:
  const char* type() const override { return "AdaptiveAvgPool2d"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

class Linear final : public WeightedModule {
 public:
  Linear(int64_t in, int64_t out);
  const char* type() const override { return "Linear"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;
};

// norm(conv(x)), and relu(norm(conv(x)) [+ shortcut]), in as few operations as evaluation and the pass's taps allow.
at::Tensor conv_norm(Conv& conv, BatchNorm& norm, const at::Tensor& x);
at::Tensor conv_norm_relu(Conv& conv, BatchNorm& norm, ReLU& relu, const at::Tensor& x,
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
    Conv* conv;       // where the module is one
    BatchNorm* norm;  // where the module is one
    ReLU* relu;       // where the module is one
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

// Initial weights, in place. fan_in and fan_out are a weight's second and first axis times its kernel's volume; the
// gain is that of ReLU, √2.
void init_kaiming_normal_fan_out(const at::Tensor& weight, at::Generator& generator);  // torchvision's ResNet
void init_kaiming_normal_fan_in(const at::Tensor& weight, at::Generator& generator);   // nnU-Net, of LeakyReLU's gain
void init_kaiming_uniform_fan_in(const at::Tensor& weight, at::Generator& generator);  // smp's decoders
void init_xavier_uniform(const at::Tensor& weight, at::Generator& generator);          // smp's heads
void init_linear(const Linear& linear, at::Generator& generator);                      // PyTorch's Linear

}  // namespace le
