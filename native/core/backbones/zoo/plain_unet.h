#pragma once
// Small U-Nets (Ronneberger et al. 2015; in 3D Çiçek et al. 2016) that train in a minute on a CPU.
#include <ATen/core/Generator.h>

#include <vector>

#include "backbones/zoo/layers.h"

namespace le {

struct PlainUnetOptions {
  int64_t axes = 2;  // spatial ones: 2 or 3
  int64_t in_channels = 1, classes = 2;
  int64_t width = 16;          // channels of the first level; doubled at each level below
  int64_t depth = 4;           // levels, the full-size one counted
  double dropout = 0;          // of whole channels, after each level but the full-size ones
  bool instance_norm = false;  // 3 axes only: instead of batch norm
  Upsampling upsampling = Upsampling::kNearest;
};

// N×in×s → N×classes×s. Each level is two 3×3 (3×3×3) convolutions with norm and ReLU. Down by max pooling over 2×2(×2)
// (sides rounded up, so that any size works), up to the size of the level above, joined with its map.
// Modules: encoder.<level>, pool, decoder.<level> (from the deepest up), head.
class PlainUnet final : public UnaryModule {
 public:
  PlainUnet(const PlainUnetOptions& options, at::Generator& generator);
  const char* type() const override { return axes_ == 3 ? "UNet3d" : "PlainUnet"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const int64_t axes_;
  const Upsampling upsampling_;
  std::vector<Sequential*> encoder_, decoder_;
  MaxPool& pool_;
  Conv& head_;
};

}  // namespace le
