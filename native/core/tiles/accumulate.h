#pragma once
// Logits of overlapping tiles, brought together head by head.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "prediction/reduce.h"
#include "tiles/plan.h"

namespace le {

// Sums of weight · logit and of weights, in float, on the CPU. A head stays at its own resolution where every tile's
// offset is a whole number of its samples; else its logits are interpolated to the tile first. One tile along an axis
// always is at its own.
//
// Along the first spatial axis only the rows between what is forgotten and the furthest tile are held. Whoever adds the
// tiles in their order, and forgets what settles, holds of each head the rows of one tile and a few behind them,
// however long the axis is: bytes() = 4 · (C · Σ_k A_k + Σ A), with A_k the samples of head k in those rows, and the
// second sum over the distinct shapes of heads. While a tile is added, at most 8 · (C + 1) · T more, T the pixels of a
// tile.
class TileSums {
 public:
  TileSums(TilePlan plan, TileWeights weights);

  const TilePlan& plan() const { return plan_; }
  // Tile `index` of the plan: per head 1×C×s_k, of whatever float type and device. The first tile says what the heads
  // are. A tile may be added more than once: its logits are then averaged. ERR_LE_SHAPE where a tile's heads are
  // others; ERR_LE_VALUE for a logit that is not finite, with the head, and for a tile of rows that have settled;
  // nothing is added then.
  void add(int64_t index, const std::vector<at::Tensor>& logits);
  // The weighted means of what no tile to come reaches, all of it once every tile was added: per head 1×C×rows×…, the
  // rows that were not forgotten. Views, until something is added or forgotten. None before the first tile.
  std::vector<HeadRows> settle();
  // Gives up what lies before row before[k] of head k, which has settled.
  void forget(const std::vector<int64_t>& before);
  // What the sums hold.
  int64_t bytes() const;

 private:
  // What heads of one resolution in the sums share.
  struct Shape {
    std::vector<int64_t> samples;    // of a tile
    std::vector<int64_t> whole;      // of `padded`
    int64_t first = 0, settled = 0;  // rows: the first that is held; the first that is a sum yet, no mean
    at::Tensor weights, total;       // `samples`; rows×…
  };
  struct Head {
    size_t shape;
    std::vector<int64_t> in_tile;  // of a tile's logits
    at::Tensor sum;                // 1×C×rows×…
  };
  void start(const std::vector<at::Tensor>& logits);
  // Makes room for the rows of `shape` before `end`.
  void hold(size_t shape, int64_t end);
  int64_t row_of(const Shape& shape, int64_t start) const;
  at::Tensor window(const at::Tensor& of, const Shape& shape, const std::vector<int64_t>& offset) const;

  const TilePlan plan_;
  const TileWeights weights_;
  const int64_t in_band_;  // tiles that begin in one row
  std::vector<Shape> shapes_;
  std::vector<Head> heads_;
  std::vector<bool> added_;
  int64_t settled_bands_ = 0;
};

}  // namespace le
