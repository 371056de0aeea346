#include "backbones/unet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/upsample_nearest2d.h>

namespace le {

namespace {

// x·cSE(x) + x·sSE(x), reduction 16.
class ScseModule final : public UnaryModule {
 public:
  explicit ScseModule(int64_t channels) : cse_(child<Sequential>("cSE")), sse_(child<Sequential>("sSE")) {
    cse_.add<AdaptiveAvgPool2d>();
    cse_.add<Conv2d>(channels, channels / 16, 1, 1, 0, true);
    cse_.add<ReLU>();
    cse_.add<Conv2d>(channels / 16, channels, 1, 1, 0, true);
    cse_.add<Sigmoid>();
    sse_.add<Conv2d>(channels, 1, 1, 1, 0, true);
    sse_.add<Sigmoid>();
  }
  const char* type() const override { return "SCSEModule"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return (x * cse_(x)).add_(x * sse_(x)); }

 private:
  Sequential &cse_, &sse_;
};

// The package's wrapper around whichever attention was chosen.
class Attention final : public UnaryModule {
 public:
  Attention(bool scse, int64_t channels)
      : attention_(scse ? static_cast<UnaryModule&>(child<ScseModule>("attention", channels))
                        : child<Identity>("attention")) {}
  const char* type() const override { return "Attention"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return attention_(x); }

 private:
  UnaryModule& attention_;
};

// The package's wrapper around the head's activation, which is none.
class Activation final : public UnaryModule {
 public:
  Activation() : activation_(child<Identity>("activation")) {}
  const char* type() const override { return "Activation"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return activation_(x); }

 private:
  Identity& activation_;
};

Sequential& add_conv_relu(Module& owner, const char* name, int64_t in, int64_t out) {
  auto& sequence = owner.child<Sequential>(name, "Conv2dReLU");
  sequence.add<Conv2d>(in, out, 3, 1, 1);
  sequence.add<BatchNorm2d>(out);
  sequence.add<ReLU>();
  return sequence;
}

// Takes a map to the size of `skip`, joins the two, and convolves twice.
class DecoderBlock final : public Module {
 public:
  DecoderBlock(int64_t in, int64_t skip, int64_t out, bool scse)
      : conv1_(add_conv_relu(*this, "conv1", in + skip, out)),
        attention1_(child<Attention>("attention1", scse, in + skip)),
        conv2_(add_conv_relu(*this, "conv2", out, out)),
        attention2_(child<Attention>("attention2", scse, out)) {}
  const char* type() const override { return "UnetDecoderBlock"; }

  // skip: undefined for the last block.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& skip, at::IntArrayRef size) {
    at::Tensor y = x.sizes().slice(2) == size ? x : at::upsample_nearest2d(x, size);
    if (skip.defined()) y = attention1_(at::cat({y, skip}, 1));
    return report(attention2_(conv2_(conv1_(y))));
  }

 private:
  Sequential& conv1_;
  Attention& attention1_;
  Sequential& conv2_;
  Attention& attention2_;
};

}  // namespace

class Unet::Encoder final : public Module {
 public:
  Encoder(const ResNetSpec& spec, int64_t in_channels, at::Generator& generator)
      : trunk_(*this, spec, in_channels, generator) {}
  const char* type() const override { return "ResNetEncoder"; }
  const char* why_not_tappable() const override { return "it returns several feature maps"; }

  std::array<at::Tensor, 5> operator()(const at::Tensor& x) {
    auto features = trunk_(x);
    report({});
    return features;
  }

 private:
  const ResNetTrunk trunk_;
};

class Unet::Decoder final : public Module {
 public:
  Decoder(const std::array<int64_t, 5>& encoder, const std::vector<int64_t>& channels, bool scse,
          at::Generator& generator)
      : center_(child<Identity>("center")) {
    auto& list = child<ModuleList>("blocks");
    int64_t in = encoder.back();
    for (size_t i = 0; i < channels.size(); ++i) {
      blocks_.push_back(&list.add<DecoderBlock>(in, i < 4 ? encoder[3 - i] : 0, channels[i], scse));
      in = channels[i];
    }
    for (const auto& [name, module] : enumerate())
      if (auto* conv = dynamic_cast<Conv2d*>(module)) init_kaiming_uniform_fan_in(conv->weight, generator);
  }
  const char* type() const override { return "UnetDecoder"; }

  // size: of the network's input.
  at::Tensor operator()(const std::array<at::Tensor, 5>& features, at::IntArrayRef size) {
    at::Tensor y = center_(features.back());
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const at::Tensor skip = i < 4 ? features[3 - i] : at::Tensor();
      y = (*blocks_[i])(y, skip, skip.defined() ? skip.sizes().slice(2) : size);
    }
    return report(y);
  }

 private:
  Identity& center_;
  std::vector<DecoderBlock*> blocks_;
};

Unet::Unet(const UnetOptions& options, at::Generator& generator)
    : encoder_(child<Encoder>("encoder", resnet_spec(options.encoder), options.in_channels, generator)),
      decoder_(child<Decoder>("decoder", resnet_spec(options.encoder).channels(), options.decoder_channels,
                              options.scse, generator)),
      segmentation_head_(child<Sequential>("segmentation_head", "SegmentationHead")) {
  auto& conv = segmentation_head_.add<Conv2d>(options.decoder_channels.back(), options.classes, 3, 1, 1, true);
  segmentation_head_.add<Identity>();
  segmentation_head_.add<Activation>();
  init_xavier_uniform(conv.weight, generator);
}

at::Tensor Unet::forward(const at::Tensor& x) { return segmentation_head_(decoder_(encoder_(x), x.sizes().slice(2))); }

}  // namespace le
