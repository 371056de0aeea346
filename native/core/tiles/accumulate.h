#pragma once
// Logits of overlapping tiles, brought together head by head.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tiles/plan.h"

namespace le {

// Sums of weight · logit and of weights, in float, on the CPU. A head stays at its own resolution where every tile's
// offset is a whole number of its samples; else its logits are interpolated to the tile first. One tile along an axis
// always is at its own.
//
// Memory: bytes() = 4 · (C · Σ_k A_k + Σ A), with A_k the samples of head k over plan.padded, and the second sum over
// the distinct shapes of heads; while a tile is added, at most 8 · (C + 1) · T more, T the pixels of a tile.
class TileSums {
 public:
  TileSums(TilePlan plan, TileWeights weights);

  const TilePlan& plan() const { return plan_; }
  // Tile `index` of the plan: per head 1×C×s_k, of whatever float type and device. The first tile says what the heads
  // are. A tile may be added more than once: its logits are then averaged. ERR_LE_SHAPE where a tile's heads are
  // others; ERR_LE_VALUE for a logit that is not finite, with the head; nothing is added then.
  void add(int64_t index, const std::vector<at::Tensor>& logits);
  // The weighted mean of the tiles: per head 1×C×A_k, over plan().padded. Every tile must have been added; the sums end
  // with this. ERR_LE_VALUE.
  std::vector<at::Tensor> means() &&;
  // What the sums hold.
  int64_t bytes() const;

 private:
  // What heads of one size in the tile share.
  struct Shape {
    std::vector<int64_t> in_tile, samples;  // of a tile's logits; of a tile in the sums
    at::Tensor weights, total;              // `samples`; A
  };
  struct Head {
    size_t shape;
    at::Tensor sum;  // 1×C×A_k
  };
  void start(const std::vector<at::Tensor>& logits);
  at::Tensor window(const at::Tensor& of, const Shape& shape, const std::vector<int64_t>& offset) const;

  const TilePlan plan_;
  const TileWeights weights_;
  std::vector<Shape> shapes_;
  std::vector<Head> heads_;
  std::vector<bool> added_;
};

}  // namespace le
