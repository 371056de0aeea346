#pragma once
// A small U-Net (Ronneberger et al. 2015) that trains in a minute on a CPU.
#include <ATen/core/Generator.h>

#include <vector>

#include "backbones/layers.h"

namespace le {

struct PlainUnetOptions {
  int64_t in_channels = 1, classes = 2;
  int64_t width = 16;  // channels of the first level; doubled at each level below
  int64_t depth = 4;   // levels, the full-size one counted
};

// N×in×H×W → N×classes×H×W. Each level is two 3×3 convolutions with batch norm and ReLU. Down by 2×2 max pooling (sides
// rounded up, so that any size works), up by nearest neighbour to the size of the level above, joined with its map.
// Modules: encoder.<level>, pool, decoder.<level> (from the deepest up), head.
class PlainUnet final : public UnaryModule {
 public:
  PlainUnet(const PlainUnetOptions& options, at::Generator& generator);
  const char* type() const override { return "PlainUnet"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  std::vector<Sequential*> encoder_, decoder_;
  MaxPool2d& pool_;
  Conv2d& head_;
};

}  // namespace le
