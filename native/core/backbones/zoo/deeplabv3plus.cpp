#include "backbones/zoo/deeplabv3plus.h"

#include <ATen/ops/cat.h>

namespace le {

namespace {

// Channels that the map of the encoder's first stage is brought to before it joins the pyramid's.
constexpr int64_t kHighResolutionChannels = 48;

// A 3×3 convolution of each channel by itself, then 1×1 across channels.
class SeparableConv2d final : public Sequential {
 public:
  SeparableConv2d(int64_t in, int64_t out, int64_t dilation) : Sequential("SeparableConv2d") {
    add<Conv>(2, in, in, 3, ConvOptions{1, dilation, dilation, in});
    add<Conv2d>(in, out, 1);
  }
};

void add_separable_norm_relu(Sequential& sequence, int64_t in, int64_t out, int64_t dilation) {
  sequence.add<SeparableConv2d>(in, out, dilation);
  sequence.add<BatchNorm2d>(out);
  sequence.add<ReLU>();
}

// The image's mean features, at every place.
class ASPPPooling final : public Sequential {
 public:
  ASPPPooling(int64_t in, int64_t out) : Sequential("ASPPPooling") {
    add<AdaptiveAvgPool2d>();
    add<Conv2d>(in, out, 1);
    add<BatchNorm2d>(out);
    add<ReLU>();
  }

 protected:
  at::Tensor forward(const at::Tensor& x) override {
    return resized(Sequential::forward(x), x.sizes().slice(2), Upsampling::kLinear);
  }
};

// Atrous spatial pyramid pooling: 1×1, three dilated separable convolutions and the mean, joined.
class ASPP final : public UnaryModule {
 public:
  ASPP(int64_t in, int64_t out, const std::array<int64_t, 3>& rates, double dropout) {
    auto& convs = child<ModuleList>("convs");
    branches_.push_back(&add_conv_norm_relu(convs, "0", "Sequential", in, out, 1));
    for (size_t i = 0; i < rates.size(); ++i) {
      auto& branch = convs.child<Sequential>(std::to_string(i + 1), "ASPPSeparableConv");
      add_separable_norm_relu(branch, in, out, rates[i]);
      branches_.push_back(&branch);
    }
    branches_.push_back(&convs.child<ASPPPooling>(std::to_string(rates.size() + 1), in, out));
    project_ =
        &add_conv_norm_relu(*this, "project", "Sequential", static_cast<int64_t>(branches_.size()) * out, out, 1);
    project_->add<Dropout>(dropout);
  }
  const char* type() const override { return "ASPP"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override {
    std::vector<at::Tensor> maps;
    for (UnaryModule* branch : branches_) maps.push_back((*branch)(x));
    return (*project_)(at::cat(maps, 1));
  }

 private:
  std::vector<UnaryModule*> branches_;
  Sequential* project_;
};

}  // namespace

class DeepLabV3Plus::Decoder final : public Module {
 public:
  Decoder(const std::array<int64_t, 5>& encoder, const DeepLabV3PlusOptions& options, at::Generator& generator)
      : aspp_(child<Sequential>("aspp")), up_(child<UpsamplingBilinear2d>("up")) {
    const int64_t out = options.decoder_channels;
    aspp_.add<ASPP>(encoder.back(), out, options.atrous_rates, options.dropout);
    add_separable_norm_relu(aspp_, out, out, 1);
    block1_ = &add_conv_norm_relu(*this, "block1", "Sequential", encoder[1], kHighResolutionChannels, 1);
    block2_ = &child<Sequential>("block2");
    add_separable_norm_relu(*block2_, kHighResolutionChannels + out, out, 1);
    init_decoder(*this, generator);
  }
  const char* type() const override { return "DeepLabV3PlusDecoder"; }

  at::Tensor operator()(const std::array<at::Tensor, 5>& features) {
    const at::Tensor& high = features[1];
    const at::Tensor pyramid = up_(aspp_(features.back()), high.sizes().slice(2));
    return report((*block2_)(at::cat({pyramid, (*block1_)(high)}, 1)));
  }

 private:
  Sequential& aspp_;
  UpsamplingBilinear2d& up_;
  Sequential *block1_, *block2_;
};

DeepLabV3Plus::DeepLabV3Plus(const DeepLabV3PlusOptions& options, at::Generator& generator)
    : encoder_(child<ResNetEncoder>("encoder", resnet_spec(options.encoder), options.in_channels, options.output_stride,
                                    generator)),
      decoder_(child<Decoder>("decoder", resnet_spec(options.encoder).channels(), options, generator)),
      segmentation_head_(child<SegmentationHeadModule>("segmentation_head", options.decoder_channels, options.classes,
                                                       1, true, generator)) {}

at::Tensor DeepLabV3Plus::forward(const at::Tensor& x) {
  return segmentation_head_(decoder_(encoder_(x)), x.sizes().slice(2));
}

}  // namespace le
