#pragma once
// Where the tiles of an image lie, and how much each of their pixels counts.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/interpolation.h"

namespace le {

enum class TileWeights { kConstant, kGaussian };

// Sizes and offsets are of 2 or 3 spatial axes, in pixels of the network's input.
struct TilePlan {
  std::vector<int64_t> image, tile;
  std::vector<int64_t> padded;               // the larger of both: zeros surround an image that is smaller than a tile
  std::vector<int64_t> before;               // how many of them lie before the image
  std::vector<std::vector<int64_t>> starts;  // per axis, within `padded`, increasing

  int64_t count() const;
  // Of tile `index`, below count(); the last axis runs fastest.
  std::vector<int64_t> offset(int64_t index) const;
  // Where the image lies in `padded`, per axis.
  std::vector<Part> parts() const;
};

// Tiles as nnU-Net and MONAI lay them: the first flush with the near border, the last with the far one, the others
// evenly between them, at most tile · (1 - overlap) apart. overlap: 0 or more and below 1. ERR_LE_OPTION.
TilePlan plan_tiles(at::IntArrayRef image, at::IntArrayRef tile, double overlap);

// Weights of a tile for `samples` samples per axis that cover it: 1, or the product over the axes of
// exp(-x² / 2σ²), x from the tile's middle, σ an eighth of its size, and never below 1e-3, so that no pixel is left to
// rounding. Float, of the shape `samples`.
at::Tensor tile_weights(TileWeights weights, at::IntArrayRef samples);

}  // namespace le
