#include "backbones/zoo/dynunet.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>

namespace le {

namespace {

using Axes = std::vector<int64_t>;

int64_t channels(const DynUnetOptions& options, size_t stage) {
  int64_t width = options.width;
  for (size_t i = 0; i < stage && width < options.widest; ++i) width *= 2;
  return std::min(width, options.widest);
}

Conv& add_conv(Module& owner, int64_t in, int64_t out, const Axes& kernel, const Axes& stride) {
  Axes padding;
  for (const int64_t side : kernel) padding.push_back((side - 1) / 2);
  return owner.child<Conv>("conv", in, out, kernel, ConvGeometry{stride, padding, Axes(kernel.size(), 1)}, true);
}

class ConvBlock final : public UnaryModule {
 public:
  ConvBlock(const DynUnetOptions& options, int64_t in, int64_t out, const Axes& kernel, const Axes& stride)
      : conv_(add_conv(*this, in, out, kernel, stride)),
        dropout_(options.dropout > 0 ? &child<Dropout>("dropout", options.dropout, Dropout::Of::kChannels) : nullptr),
        norm_(child<InstanceNorm>("norm", options.axes, out)),
        nonlin_(child<LeakyReLU>("nonlin")) {}
  const char* type() const override { return "ConvDropoutNormReLU"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override {
    const at::Tensor y = conv_(x);
    return nonlin_(norm_(dropout_ ? (*dropout_)(y) : y));
  }

 private:
  Conv& conv_;
  Dropout* const dropout_;
  InstanceNorm& norm_;
  LeakyReLU& nonlin_;
};

class StackedBlocks final : public UnaryModule {
 public:
  StackedBlocks(const DynUnetOptions& options, int64_t in, int64_t out, const Axes& kernel, const Axes& stride)
      : convs_(child<Sequential>("convs")) {
    for (int64_t i = 0; i < options.convolutions; ++i)
      convs_.add<ConvBlock>(options, i ? out : in, out, kernel, i ? Axes(stride.size(), 1) : stride);
  }
  const char* type() const override { return "StackedConvBlocks"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return convs_(x); }

 private:
  Sequential& convs_;
};

// The first places along each spatial axis.
at::Tensor cut(at::Tensor map, at::IntArrayRef size) {
  for (size_t axis = 0; axis < size.size(); ++axis)
    if (map.size(axis + 2) > size[axis]) map = map.narrow(axis + 2, 0, size[axis]);
  return map;
}

}  // namespace

class DynUnet::Encoder final : public Module {
 public:
  explicit Encoder(const DynUnetOptions& options) {
    auto& list = child<ModuleList>("stages");
    for (size_t stage = 0; stage < options.strides.size(); ++stage) {
      auto& wrapper = list.add<Sequential>();
      wrapper.add<StackedBlocks>(options, stage ? channels(options, stage - 1) : options.in_channels,
                                 channels(options, stage), options.kernels[stage], options.strides[stage]);
      stages_.push_back(&wrapper);
    }
  }
  const char* type() const override { return "PlainConvEncoder"; }
  const char* why_not_tappable() const override { return "it returns several feature maps"; }

  std::vector<at::Tensor> operator()(const at::Tensor& x) {
    std::vector<at::Tensor> maps;
    for (Sequential* stage : stages_) maps.push_back((*stage)(maps.empty() ? x : maps.back()));
    report({});
    return maps;
  }

 private:
  std::vector<Sequential*> stages_;
};

class DynUnet::Decoder final : public Module {
 public:
  explicit Decoder(const DynUnetOptions& options) {
    auto& stages = child<ModuleList>("stages");
    auto& transposed = child<ModuleList>("transpconvs");
    auto& outputs = child<ModuleList>("seg_layers");
    const Axes ones(static_cast<size_t>(options.axes), 1);
    for (size_t stage = options.strides.size() - 1; stage-- > 0;) {
      const int64_t below = channels(options, stage + 1), width = channels(options, stage);
      stages_.push_back(&stages.add<StackedBlocks>(options, 2 * width, width, options.kernels[stage], ones));
      up_.push_back(&transposed.add<TransposedConv>(below, width, options.strides[stage + 1]));
      output_ = &outputs.add<Conv>(options.axes, width, options.classes, 1, ConvOptions{.bias = true});
    }
  }
  const char* type() const override { return "UNetDecoder"; }

  at::Tensor operator()(std::vector<at::Tensor> maps) {
    at::Tensor y = std::move(maps.back());
    maps.pop_back();
    for (size_t i = 0; i < stages_.size(); ++i) {
      const at::Tensor up = cut((*up_[i])(y), maps.back().sizes().slice(2));
      y = (*stages_[i])(at::cat({up, maps.back()}, 1));
      maps.pop_back();
    }
    return report((*output_)(y));
  }

 private:
  std::vector<StackedBlocks*> stages_;
  std::vector<TransposedConv*> up_;
  Conv* output_ = nullptr;
};

DynUnet::DynUnet(const DynUnetOptions& options, at::Generator& generator)
    : encoder_(child<Encoder>("encoder", options)), decoder_(child<Decoder>("decoder", options)) {
  for (const auto& [name, module] : enumerate())
    if (dynamic_cast<Conv*>(module) || dynamic_cast<TransposedConv*>(module))
      init_kaiming_normal_fan_in(static_cast<WeightedModule*>(module)->weight, generator);
}

at::Tensor DynUnet::forward(const at::Tensor& x) { return decoder_(encoder_(x)); }

}  // namespace le
