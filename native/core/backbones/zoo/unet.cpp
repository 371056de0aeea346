#include "backbones/zoo/unet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>

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

// Channels of a map say much the same at neighbouring places: dropping single numbers would take little away.
Dropout* add_dropout(Module& owner, double p) {
  return p > 0 ? &owner.child<Dropout>("dropout", p, Dropout::Of::kChannels) : nullptr;
}

// Takes a map to the size of `skip`, joins the two, and convolves twice.
class DecoderBlock final : public Module {
 public:
  DecoderBlock(int64_t in, int64_t skip, int64_t out, bool scse, double dropout)
      : conv1_(add_conv_norm_relu(*this, "conv1", "Conv2dReLU", in + skip, out, 3)),
        attention1_(child<Attention>("attention1", scse, in + skip)),
        conv2_(add_conv_norm_relu(*this, "conv2", "Conv2dReLU", out, out, 3)),
        attention2_(child<Attention>("attention2", scse, out)),
        dropout_(add_dropout(*this, dropout)) {}
  const char* type() const override { return "UnetDecoderBlock"; }

  // skip: undefined for the last block.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& skip, at::IntArrayRef size) {
    at::Tensor y = resized(x, size, Upsampling::kNearest);
    if (skip.defined()) y = attention1_(at::cat({y, skip}, 1));
    y = attention2_(conv2_(conv1_(y)));
    return report(dropout_ ? (*dropout_)(y) : y);
  }

 private:
  Sequential& conv1_;
  Attention& attention1_;
  Sequential& conv2_;
  Attention& attention2_;
  Dropout* const dropout_;
};

}  // namespace

class Unet::Decoder final : public Module {
 public:
  Decoder(const std::array<int64_t, 5>& encoder, const UnetOptions& options, at::Generator& generator)
      : center_(child<Identity>("center")), dropout_(add_dropout(*this, options.dropout)) {
    const auto& channels = options.decoder_channels;
    auto& list = child<ModuleList>("blocks");
    int64_t in = encoder.back();
    for (size_t i = 0; i < channels.size(); ++i) {
      blocks_.push_back(&list.add<DecoderBlock>(in, i < 4 ? encoder[3 - i] : 0, channels[i], options.scse,
                                                i + 1 < channels.size() ? options.dropout : 0));
      in = channels[i];
    }
    init_decoder(*this, generator);
  }
  const char* type() const override { return "UnetDecoder"; }

  // size: of the network's input.
  at::Tensor operator()(const std::array<at::Tensor, 5>& features, at::IntArrayRef size) {
    at::Tensor y = center_(features.back());
    if (dropout_) y = (*dropout_)(y);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const at::Tensor skip = i < 4 ? features[3 - i] : at::Tensor();
      y = (*blocks_[i])(y, skip, skip.defined() ? skip.sizes().slice(2) : size);
    }
    return report(y);
  }

 private:
  Identity& center_;
  Dropout* const dropout_;
  std::vector<DecoderBlock*> blocks_;
};

Unet::Unet(const UnetOptions& options, at::Generator& generator)
    : encoder_(child<ResNetEncoder>("encoder", resnet_spec(options.encoder), options.in_channels, 32, generator)),
      decoder_(child<Decoder>("decoder", resnet_spec(options.encoder).channels(), options, generator)),
      segmentation_head_(child<SegmentationHeadModule>("segmentation_head", options.decoder_channels.back(),
                                                       options.classes, 3, false, generator)) {}

at::Tensor Unet::forward(const at::Tensor& x) {
  const auto size = x.sizes().slice(2);
  return segmentation_head_(decoder_(encoder_(x), size), size);
}

}  // namespace le
