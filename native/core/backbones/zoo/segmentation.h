#pragma once
// What the networks of segmentation_models_pytorch have in common: a ResNet encoder, and a head on the decoder's map.
#include <ATen/core/Generator.h>

#include <array>
#include <string>

#include "backbones/zoo/resnet.h"

namespace le {

struct EncoderOptions {
  std::string encoder = "resnet18";
  int64_t in_channels = 3, classes = 1;
};

// A ResNet without its classifier, which returns the feature maps of every stage.
class ResNetEncoder final : public Module {
 public:
  ResNetEncoder(const ResNetSpec& spec, int64_t in_channels, int64_t output_stride, at::Generator& generator)
      : trunk_(*this, spec, in_channels, output_stride, generator) {}
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

// Bilinear, with corners aligned. Python's has a factor; here the owner gives the size, which is the same wherever the
// image's sides divide by the factor.
class UpsamplingBilinear2d final : public Module {
 public:
  const char* type() const override { return "UpsamplingBilinear2d"; }
  at::Tensor operator()(const at::Tensor& x, at::IntArrayRef size) {
    return report(resized(x, size, Upsampling::kLinearAlignedCorners));
  }
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

// N×in×s → N×classes×size: a convolution with bias, then the image's size where `upsamples`. Starts Xavier uniform.
class SegmentationHeadModule final : public Module {
 public:
  SegmentationHeadModule(int64_t in, int64_t classes, int64_t kernel, bool upsamples, at::Generator& generator);
  const char* type() const override { return "SegmentationHead"; }
  at::Tensor operator()(const at::Tensor& x, at::IntArrayRef size);

 private:
  Conv2d& conv_;
  UpsamplingBilinear2d* const up_;
  Identity* const no_up_;
  Activation& activation_;
};

// Conv2d (no bias), BatchNorm2d, ReLU.
Sequential& add_conv_norm_relu(Module& owner, const std::string& name, const char* type, int64_t in, int64_t out,
                               int64_t kernel);

// smp's start for decoders: kaiming uniform (fan in) for the weights of convolutions.
void init_decoder(Module& decoder, at::Generator& generator);

}  // namespace le
