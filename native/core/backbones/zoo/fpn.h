#pragma once
// A feature pyramid network for segmentation (Lin et al. 2017; Kirillov et al. 2019) on a ResNet encoder, as
// segmentation_models_pytorch builds and names it.
#include <ATen/core/Generator.h>

#include "backbones/zoo/segmentation.h"

namespace le {

struct FpnOptions : EncoderOptions {
  int64_t pyramid_channels = 256;
  int64_t segmentation_channels = 128;  // a multiple of 32, the groups of its norms
  double dropout = 0.2;                 // of whole channels, before the head
};

// N×in×H×W → N×classes×H×W, for any H and W: what doubles a map in Python takes it to the size of the encoder's map
// there, and the logits to the image's own.
class Fpn final : public UnaryModule {
 public:
  static constexpr int64_t kNormGroups = 32;
  Fpn(const FpnOptions& options, at::Generator& generator);
  const char* type() const override { return "FPN"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  class Decoder;
  ResNetEncoder& encoder_;
  Decoder& decoder_;
  SegmentationHeadModule& segmentation_head_;
};

}  // namespace le
