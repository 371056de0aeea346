#pragma once
// U-Net (Ronneberger et al. 2015) on a ResNet encoder, as segmentation_models_pytorch builds and names it.
#include <ATen/core/Generator.h>

#include <vector>

#include "backbones/zoo/segmentation.h"

namespace le {

struct UnetOptions : EncoderOptions {
  std::vector<int64_t> decoder_channels = {256, 128, 64, 32, 16};  // from the deepest block on, one per stride of 2
  // Of whole channels, after the encoder's last map and after each decoder block but the last.
  double dropout = 0;
  bool scse = false;  // concurrent spatial and channel squeeze and excitation (Roy et al. 2018) in each decoder block
};

// N×in×H×W → N×classes×H×W, for any H and W: each decoder block takes its map, by nearest neighbour, to the size of the
// encoder's map at that depth. That is twice the size wherever the sides divide by 32.
class Unet final : public UnaryModule {
 public:
  Unet(const UnetOptions& options, at::Generator& generator);
  const char* type() const override { return "Unet"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  class Decoder;
  ResNetEncoder& encoder_;
  Decoder& decoder_;
  SegmentationHeadModule& segmentation_head_;
};

}  // namespace le
