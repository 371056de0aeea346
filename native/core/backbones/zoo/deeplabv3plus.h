#pragma once
// DeepLabV3+ (Chen et al. 2018) on a ResNet encoder, as segmentation_models_pytorch builds and names it.
#include <ATen/core/Generator.h>

#include <array>

#include "backbones/zoo/segmentation.h"

namespace le {

struct DeepLabV3PlusOptions : EncoderOptions {
  int64_t decoder_channels = 256;
  int64_t output_stride = 16;                          // or 8: of the encoder's last map
  std::array<int64_t, 3> atrous_rates = {12, 24, 36};  // dilations of the pyramid's three separable convolutions
  double dropout = 0.5;                                // after the pyramid
};

// N×in×H×W → N×classes×H×W, for any H and W. Both resizings are bilinear with corners aligned: that of the pyramid to
// the size of layer1's map, and that of the logits to the image's own.
class DeepLabV3Plus final : public UnaryModule {
 public:
  DeepLabV3Plus(const DeepLabV3PlusOptions& options, at::Generator& generator);
  const char* type() const override { return "DeepLabV3Plus"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  class Decoder;
  ResNetEncoder& encoder_;
  Decoder& decoder_;
  SegmentationHeadModule& segmentation_head_;
};

}  // namespace le
