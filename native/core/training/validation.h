#pragma once
// What a training is validated on, and what heads score there.
#include <ATen/core/Tensor.h>

#include <vector>

#include "data/patches.h"

namespace le {

// Tiles that share a pass of the network; or whole samples.
struct JudgedBatch : Batch {
  at::Tensor judged;            // N×s int64: the targets, ignored where a pixel is judged in another tile
  std::vector<int64_t> sample;  // N: which one a tile is of
};
JudgedBatch judged_batch(const Dataset& data, const std::vector<JudgedTile>& tiles, size_t begin, size_t end,
                         int64_t ignore_index, bool pinned);

// Dice and nll of each sample, whose tiles come one after another, and their means. On the CPU, in double.
class Scores {
 public:
  Scores(size_t samples, int64_t classes, int64_t ignore_index);

  // labels: N×s; probabilities: N×C×s, and `judged` of a batch, all on one device.
  void add(const at::Tensor& labels, const at::Tensor& probabilities, const at::Tensor& judged,
           const std::vector<int64_t>& sample);
  // {"dice", "nll"}. Dice: mean over foreground classes (where a sample has none of one and none was found, 1), then
  // over samples. nll: mean over pixels of -ln(p_y + 1e-5) (SPEC section 8), then over samples. A sample of which no
  // pixel counts has neither.
  Json means() const;

 private:
  const int64_t classes_, ignore_index_;
  at::Tensor both_, size_;   // S×(C-1): pixels of both, and of either, counted twice
  at::Tensor nll_, pixels_;  // S
};

}  // namespace le
