#pragma once
// The U-Net of nnU-Net (Isensee et al. 2021), whose strides and kernels follow the voxels' spacing: built and named as
// nnU-Net's PlainConvUNet.
#include <ATen/core/Generator.h>

#include <vector>

#include "backbones/zoo/layers.h"

namespace le {

struct DynUnetOptions {
  int64_t axes = 3;  // spatial ones: 2 or 3
  int64_t in_channels = 1, classes = 2;
  int64_t width = 32, widest = 320;  // channels of the first stage, doubled at each stage below up to `widest`
  int64_t convolutions = 2;          // of a stage
  double dropout = 0;                // of whole channels, after each convolution
  // Per stage, per axis: the stride by which a stage begins, and its kernels, which are odd. As many of both as stages.
  std::vector<std::vector<int64_t>> strides, kernels;
};

// N×in×s → N×classes×s, for any s. Stages of convolutions with bias, instance norm and LeakyReLU. Down by the stride of
// a stage's first convolution (sides rounded up), up by transposed convolutions, whose map is cut to the size of the
// map that it is joined with.
//
// Modules: encoder.stages.<stage>.0.convs.<i>.{conv, dropout, norm, nonlin}; decoder.stages.<from the deepest
// up>.convs, decoder.transpconvs, decoder.seg_layers. Of the seg_layers only the last one, which makes the output,
// runs. nnU-Net lists conv and norm as all_modules.0 and .1 as well, and the encoder as decoder.encoder: one name each
// is kept here.
class DynUnet final : public UnaryModule {
 public:
  DynUnet(const DynUnetOptions& options, at::Generator& generator);
  const char* type() const override { return "PlainConvUNet"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  class Encoder;
  class Decoder;
  Encoder& encoder_;
  Decoder& decoder_;
};

}  // namespace le
