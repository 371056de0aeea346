#include "tiles/accumulate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "error.h"
#include "prediction/reduce.h"

namespace le {

TileSums::TileSums(TilePlan plan, TileWeights weights)
    : plan_(std::move(plan)), weights_(weights), added_(plan_.count()) {}

void TileSums::start(const std::vector<at::Tensor>& logits) {
  for (const at::Tensor& head : logits) {
    const std::vector<int64_t> in_tile = head.sizes().slice(2).vec();
    size_t s = 0;
    while (s < shapes_.size() && shapes_[s].in_tile != in_tile) ++s;
    if (s == shapes_.size()) {
      bool own = true;
      for (size_t axis = 0; axis < in_tile.size(); ++axis)
        for (const int64_t start : plan_.starts[axis]) own = own && start * in_tile[axis] % plan_.tile[axis] == 0;
      Shape& shape = shapes_.emplace_back();
      shape.in_tile = in_tile;
      shape.samples = own ? in_tile : plan_.tile;
      std::vector<int64_t> all;
      for (size_t axis = 0; axis < in_tile.size(); ++axis)
        all.push_back(plan_.starts[axis].back() * shape.samples[axis] / plan_.tile[axis] + shape.samples[axis]);
      shape.weights = tile_weights(weights_, shape.samples);
      shape.total = at::zeros(all, at::kFloat);
    }
    std::vector<int64_t> size = {1, head.size(1)};
    size.insert(size.end(), shapes_[s].total.sizes().begin(), shapes_[s].total.sizes().end());
    heads_.push_back({s, at::zeros(size, at::kFloat)});
  }
}

at::Tensor TileSums::window(const at::Tensor& of, const Shape& shape, const std::vector<int64_t>& offset) const {
  at::Tensor part = of;
  const int64_t leading = of.dim() - static_cast<int64_t>(offset.size());
  for (size_t axis = 0; axis < offset.size(); ++axis)
    part = part.narrow(leading + static_cast<int64_t>(axis), offset[axis] * shape.samples[axis] / plan_.tile[axis],
                       shape.samples[axis]);
  return part;
}

void TileSums::add(int64_t index, const std::vector<at::Tensor>& logits) {
  if (index < 0 || index >= plan_.count())
    fail(code::kValue, "Expected an index below ", plan_.count(), " for a tile but received ", index, ".");
  check_reduce_arguments(logits, plan_.tile, {});
  for (size_t k = 0; k < logits.size(); ++k) {
    if (logits[k].size(0) != 1)
      fail(code::kShape, "Expected one tile for the logits of head ", k, " but received ", logits[k].size(0), ".");
    check_finite_logits(logits[k], k);
  }
  if (heads_.empty()) start(logits);
  if (logits.size() != heads_.size())
    fail(code::kShape, "Expected ", heads_.size(), " heads for tile ", index, ", as for the first, but received ",
         logits.size(), ".");
  for (size_t k = 0; k < logits.size(); ++k)
    if (logits[k].size(1) != heads_[k].sum.size(1) || logits[k].sizes().slice(2) != shapes_[heads_[k].shape].in_tile)
      fail(code::kShape, "Expected for head ", k, " of tile ", index, " the shape of the first tile's but received ",
           logits[k].sizes(), ".");

  const std::vector<int64_t> offset = plan_.offset(index);
  for (size_t k = 0; k < logits.size(); ++k) {
    const Shape& shape = shapes_[heads_[k].shape];
    const at::Tensor tile = interpolate(logits[k].to(at::kCPU), shape.samples);
    window(heads_[k].sum, shape, offset).addcmul_(tile, shape.weights);
  }
  for (Shape& shape : shapes_) window(shape.total, shape, offset).add_(shape.weights);
  added_[index] = true;
}

std::vector<at::Tensor> TileSums::means() && {
  const auto missing = std::find(added_.begin(), added_.end(), false);
  if (missing != added_.end())
    fail(code::kValue, "Expected the logits of all ", added_.size(), " tiles but those of tile ",
         missing - added_.begin(), " were not added.");
  std::vector<at::Tensor> means;
  for (Head& head : heads_) means.push_back(head.sum.div_(shapes_[head.shape].total));
  heads_.clear();
  shapes_.clear();
  return means;
}

int64_t TileSums::bytes() const {
  int64_t numbers = 0;
  for (const Shape& shape : shapes_) numbers += shape.total.numel();
  for (const Head& head : heads_) numbers += head.sum.numel();
  return 4 * numbers;
}

}  // namespace le
