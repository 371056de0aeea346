#include "tiles/restore.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "error.h"
#include "prediction/second_pass.h"

namespace le {

namespace {

// `whole`, which is undefined before the first slab, with a slab's pixels from row `begin` of its first spatial axis.
void put(at::Tensor& whole, const at::Tensor& slab, int64_t axes, int64_t begin, int64_t rows) {
  if (!slab.defined()) return;
  const int64_t first = slab.dim() - axes;
  if (!whole.defined()) {
    std::vector<int64_t> shape = slab.sizes().vec();
    shape[first] = rows;
    whole = at::empty(shape, slab.scalar_type());
  }
  whole.narrow(first, begin, slab.size(first)).copy_(slab);
}

void add(at::Tensor& whole, const at::Tensor& slab) {
  if (whole.defined()) {
    whole.add_(slab);
  } else {
    whole = slab;
  }
}

// ERR_LE_SHAPE for a size without pixels.
int64_t slab_rows(at::IntArrayRef size) {
  for (const int64_t side : size)
    if (side < 1) fail(code::kShape, "Expected positive numbers for the output's size but received ", size, ".");
  const int64_t row = std::accumulate(size.begin() + 1, size.end(), int64_t{1}, std::multiplies<>());
  return std::max<int64_t>(1, kSlabPixels / row);
}

}  // namespace

Restoration::Restoration(std::vector<Part> parts, at::IntArrayRef size, ReduceOptions options, int64_t rows)
    : parts_(std::move(parts)),
      size_(size.vec()),
      options_(std::move(options)),
      rows_(rows > 0 ? rows : slab_rows(size)) {
  if (parts_.size() != size_.size())
    fail(code::kShape, "Expected a part per spatial axis of the output, ", size_.size(), ", but received ",
         parts_.size(), ".");
  for (const Part& part : parts_)
    if (part.before < 0 || part.length < 1 || part.length > part.whole - part.before)
      fail(code::kValue, "Expected a part within what the heads cover but received ", part.before, " + ", part.length,
           " of ", part.whole, ".");
}

void Restoration::take(const std::vector<HeadRows>& heads, const Control& control) {
  if (plans_.empty())
    for (const HeadRows& head : heads) plans_.emplace_back(head.whole, size_[0], 1, parts_[0]);
  int64_t ready = size_[0];
  for (size_t k = 0; k < heads.size(); ++k) {
    const AxisPlan& plan = plans_[k];
    const int64_t there = heads[k].first + heads[k].logits.size(2);
    int64_t end = done_;
    while (end < ready && plan.index[end] + (plan.weight[end] != 0) < there) ++end;
    ready = end;
  }
  const auto axes = static_cast<int64_t>(size_.size());
  while (done_ < ready) {
    control.check();
    const int64_t end = std::min(ready, done_ + rows_);
    const Reduced slab = reduce_slab(heads, size_, {parts_, done_, end}, options_);
    put(all_.probabilities, slab.probabilities, axes, done_, size_[0]);
    put(all_.mask, slab.mask, axes, done_, size_[0]);
    for (unsigned map = 0; map < kMapCount; ++map) put(all_.maps[map], slab.maps[map], axes, done_, size_[0]);
    put(all_.labels, slab.labels, axes, done_, size_[0]);
    add(all_.summaries, slab.summaries);
    add(all_.class_sums, slab.class_sums);
    add(all_.head_sums, slab.head_sums);
    add(all_.counts, slab.counts);
    add(all_.intersections, slab.intersections);
    done_ = end;
    if (control.report) control.report(Json::Object{{"stage", "restore"}, {"done", end}, {"of", size_[0]}});
  }
}

std::vector<int64_t> Restoration::needed() const {
  std::vector<int64_t> first;
  for (const AxisPlan& plan : plans_) first.push_back(done_ < size_[0] ? plan.index[done_] : plan.source);
  return first;
}

Reduced Restoration::result() && {
  if (done_ < size_[0])
    fail(code::kValue, "Expected all rows of the heads but received what ends with row ", done_, " of ", size_[0], ".");
  return std::move(all_);
}

Reduced restore(const std::vector<at::Tensor>& logits, const std::vector<Part>& parts, at::IntArrayRef size,
                const ReduceOptions& options, const Control& control, int64_t rows) {
  check_reduce_arguments(logits, size, options);
  if (logits[0].size(0) != 1 || !logits[0].device().is_cpu())
    fail(code::kShape, "Expected the logits of one image, on the CPU, to restore but received ", logits[0].sizes(),
         " on ", logits[0].device().str(), ".");
  std::vector<HeadRows> all;
  for (const at::Tensor& head : logits) all.push_back({head, 0, head.size(2)});
  return in_passes(options, [&](const ReduceOptions& of_first) {
    Restoration restoration(parts, size, of_first, rows);
    // A slab reads but a part of the samples.
    for (size_t k = 0; k < logits.size(); ++k) check_finite_logits(logits[k], k);
    restoration.take(all, control);
    return std::move(restoration).result();
  });
}

}  // namespace le
