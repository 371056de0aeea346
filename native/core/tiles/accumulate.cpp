#include "tiles/accumulate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "error.h"

namespace le {

namespace {

// A tensor of zeros like `of` (leading×rows×…) with so many rows.
at::Tensor with_rows(const at::Tensor& of, int64_t leading, int64_t rows) {
  std::vector<int64_t> size = of.sizes().vec();
  size[leading] = rows;
  return at::zeros(size, at::kFloat);
}

// Moves the rows of `of` up by `by`; what comes in from below are zeros.
void move_up(at::Tensor& of, int64_t leading, int64_t by) {
  const int64_t row = of.stride(leading), plane = of.size(leading) * row, shift = by * row;
  auto* const data = of.mutable_data_ptr<float>();
  for (float* p = data; p < data + of.numel(); p += plane) {
    std::memmove(p, p + shift, (plane - shift) * sizeof(float));
    std::fill(p + plane - shift, p + plane, 0.0f);
  }
}

}  // namespace

TileSums::TileSums(TilePlan plan, TileWeights weights)
    : plan_(std::move(plan)),
      weights_(weights),
      in_band_(plan_.count() / static_cast<int64_t>(plan_.starts[0].size())),
      added_(plan_.count()) {}

int64_t TileSums::row_of(const Shape& shape, int64_t start) const { return start * shape.samples[0] / plan_.tile[0]; }

void TileSums::start(const std::vector<at::Tensor>& logits) {
  for (const at::Tensor& head : logits) {
    const std::vector<int64_t> in_tile = head.sizes().slice(2).vec();
    bool own = true;
    for (size_t axis = 0; axis < in_tile.size(); ++axis)
      for (const int64_t start : plan_.starts[axis]) own = own && start * in_tile[axis] % plan_.tile[axis] == 0;
    const std::vector<int64_t>& samples = own ? in_tile : plan_.tile;
    size_t s = 0;
    while (s < shapes_.size() && shapes_[s].samples != samples) ++s;
    heads_.push_back({s, in_tile, {}});
    if (s < shapes_.size()) continue;
    Shape& shape = shapes_.emplace_back();
    shape.samples = samples;
    for (size_t axis = 0; axis < samples.size(); ++axis)
      shape.whole.push_back(plan_.starts[axis].back() * samples[axis] / plan_.tile[axis] + samples[axis]);
    shape.weights = tile_weights(weights_, samples);
  }
  // What a finer head waits for is half a row of the coarsest.
  int64_t coarsest = plan_.tile[0];
  for (const Shape& shape : shapes_) coarsest = std::min(coarsest, shape.samples[0]);
  for (Shape& shape : shapes_) {
    std::vector<int64_t> size = shape.whole;
    size[0] = std::min(size[0], shape.samples[0] + (shape.samples[0] + 2 * coarsest - 1) / (2 * coarsest) + 1);
    shape.total = at::zeros(size, at::kFloat);
  }
  for (size_t k = 0; k < logits.size(); ++k) {
    std::vector<int64_t> size = {1, logits[k].size(1)};
    const at::IntArrayRef rows = shapes_[heads_[k].shape].total.sizes();
    size.insert(size.end(), rows.begin(), rows.end());
    heads_[k].sum = at::zeros(size, at::kFloat);
  }
}

void TileSums::hold(size_t index, int64_t end) {
  Shape& shape = shapes_[index];
  const int64_t held = shape.total.size(0), rows = end - shape.first;
  if (rows <= held) return;
  const auto enlarge = [&](at::Tensor& of, int64_t leading) {
    const at::Tensor all = with_rows(of, leading, rows);
    all.narrow(leading, 0, held).copy_(of);
    of = all;
  };
  enlarge(shape.total, 0);
  for (Head& head : heads_)
    if (head.shape == index) enlarge(head.sum, 2);
}

at::Tensor TileSums::window(const at::Tensor& of, const Shape& shape, const std::vector<int64_t>& offset) const {
  at::Tensor part = of;
  const int64_t leading = of.dim() - static_cast<int64_t>(offset.size());
  for (size_t axis = 0; axis < offset.size(); ++axis) {
    const int64_t begin = offset[axis] * shape.samples[axis] / plan_.tile[axis] - (axis == 0 ? shape.first : 0);
    part = part.narrow(leading + static_cast<int64_t>(axis), begin, shape.samples[axis]);
  }
  return part;
}

void TileSums::add(int64_t index, const std::vector<at::Tensor>& logits) {
  if (index < 0 || index >= plan_.count())
    fail(code::kValue, "Expected an index below ", plan_.count(), " for a tile but received ", index, ".");
  if (index / in_band_ < settled_bands_)
    fail(code::kValue, "Expected a tile of rows that have not settled but received tile ", index, ".");
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
    if (logits[k].size(1) != heads_[k].sum.size(1) || logits[k].sizes().slice(2) != heads_[k].in_tile)
      fail(code::kShape, "Expected for head ", k, " of tile ", index, " the shape of the first tile's but received ",
           logits[k].sizes(), ".");

  const std::vector<int64_t> offset = plan_.offset(index);
  for (size_t s = 0; s < shapes_.size(); ++s) hold(s, row_of(shapes_[s], offset[0]) + shapes_[s].samples[0]);
  for (size_t k = 0; k < logits.size(); ++k) {
    const Shape& shape = shapes_[heads_[k].shape];
    const at::Tensor tile = interpolate(logits[k].to(at::kCPU), shape.samples);
    window(heads_[k].sum, shape, offset).addcmul_(tile, shape.weights);
  }
  for (Shape& shape : shapes_) window(shape.total, shape, offset).add_(shape.weights);
  added_[index] = true;
}

std::vector<HeadRows> TileSums::settle() {
  if (heads_.empty()) return {};
  const auto missing = std::find(added_.begin(), added_.end(), false) - added_.begin();
  settled_bands_ = missing / in_band_;
  const bool all = missing == static_cast<int64_t>(added_.size());
  std::vector<int64_t> end;
  for (const Shape& shape : shapes_)
    end.push_back(all ? shape.whole[0] : row_of(shape, plan_.starts[0][settled_bands_]));
  std::vector<HeadRows> rows;
  for (Head& head : heads_) {
    const Shape& shape = shapes_[head.shape];
    const int64_t from = shape.settled - shape.first, count = end[head.shape] - shape.settled;
    if (count > 0) head.sum.narrow(2, from, count).div_(shape.total.narrow(0, from, count));
    rows.push_back({head.sum.narrow(2, 0, from + count), shape.first, shape.whole[0]});
  }
  for (size_t s = 0; s < shapes_.size(); ++s) shapes_[s].settled = end[s];
  return rows;
}

void TileSums::forget(const std::vector<int64_t>& before) {
  std::vector<int64_t> of_shape(shapes_.size());
  for (size_t s = 0; s < shapes_.size(); ++s) of_shape[s] = shapes_[s].settled;
  for (size_t k = 0; k < heads_.size(); ++k) of_shape[heads_[k].shape] = std::min(of_shape[heads_[k].shape], before[k]);
  for (Head& head : heads_)
    if (const int64_t by = of_shape[head.shape] - shapes_[head.shape].first; by > 0) move_up(head.sum, 2, by);
  for (size_t s = 0; s < shapes_.size(); ++s) {
    if (const int64_t by = of_shape[s] - shapes_[s].first; by > 0) move_up(shapes_[s].total, 0, by);
    shapes_[s].first = std::max(shapes_[s].first, of_shape[s]);
  }
}

int64_t TileSums::bytes() const {
  int64_t numbers = 0;
  for (const Shape& shape : shapes_) numbers += shape.total.numel();
  for (const Head& head : heads_) numbers += head.sum.numel();
  return 4 * numbers;
}

}  // namespace le
