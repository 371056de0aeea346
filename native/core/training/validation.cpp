#include "training/validation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace le {

JudgedBatch judged_batch(const Dataset& data, const std::vector<JudgedTile>& tiles, size_t begin, size_t end,
                         int64_t ignore_index, bool pinned) {
  JudgedBatch batch;
  const auto add = [&](const SampleView& sample, size_t place) {
    if (place == 0) static_cast<Batch&>(batch) = empty_batch(end - begin, sample.channels, sample.size, pinned);
    put(sample, place, batch);
  };
  for (size_t i = begin; i < end; ++i) {
    const JudgedTile& tile = tiles[i];
    const SampleView sample = data.view(tile.sample);
    if (tile.size.empty())
      add(sample, i - begin);
    else
      add(view_of(part_of(sample, tile.start, tile.size)), i - begin);
    batch.sample.push_back(static_cast<int64_t>(tile.sample));
  }
  batch.judged = batch.targets;
  if (!tiles[begin].size.empty()) {
    batch.judged = at::full_like(batch.targets, ignore_index);
    for (size_t i = begin; i < end; ++i) {
      at::Tensor to = batch.judged[static_cast<int64_t>(i - begin)],
                 from = batch.targets[static_cast<int64_t>(i - begin)];
      for (size_t axis = 0; axis < tiles[i].from.size(); ++axis) {
        const int64_t first = tiles[i].from[axis], count = tiles[i].to[axis] - first;
        to = to.narrow(static_cast<int64_t>(axis), first, count);
        from = from.narrow(static_cast<int64_t>(axis), first, count);
      }
      to.copy_(from);
    }
  }
  return batch;
}

Scores::Scores(size_t samples, int64_t classes, int64_t ignore_index) : classes_(classes), ignore_index_(ignore_index) {
  const auto count = static_cast<int64_t>(samples);
  both_ = at::zeros({count, classes - 1}, at::kDouble);
  size_ = at::zeros_like(both_);
  nll_ = at::zeros({count}, at::kDouble);
  pixels_ = at::zeros_like(nll_);
}

void Scores::add(const at::Tensor& labels, const at::Tensor& probabilities, const at::Tensor& judged,
                 const std::vector<int64_t>& sample) {
  const at::Tensor counted = judged.ne(ignore_index_), index = at::tensor(sample, at::kLong);
  std::vector<at::Tensor> both, size;
  for (int64_t c = 1; c < classes_; ++c) {
    const at::Tensor a = labels.eq(c).logical_and(counted).flatten(1), b = judged.eq(c).logical_and(counted).flatten(1);
    both.push_back(a.logical_and(b).sum(1));
    size.push_back(a.sum(1) + b.sum(1));
  }
  both_.index_add_(0, index, at::stack(both, 1).cpu().to(at::kDouble));
  size_.index_add_(0, index, at::stack(size, 1).cpu().to(at::kDouble));
  const at::Tensor truth = at::where(counted, judged, at::zeros_like(judged)).unsqueeze(1);
  const at::Tensor loss = (probabilities.gather(1, truth).squeeze(1) + 1e-5).log().neg() * counted;
  nll_.index_add_(0, index, loss.flatten(1).sum(1, false, at::kDouble).cpu());
  pixels_.index_add_(0, index, counted.flatten(1).sum(1).cpu().to(at::kDouble));
}

Json Scores::means() const {
  const at::Tensor counted = pixels_.gt(0).to(at::kDouble);
  const at::Tensor dice = at::where(size_.eq(0), at::ones_like(size_), 2 * both_ / size_.clamp_min(1)).mean(1);
  const auto samples = counted.sum().item<double>();
  return Json::Object{{"dice", (dice * counted).sum().item<double>() / samples},
                      {"nll", (nll_ / pixels_.clamp_min(1)).sum().item<double>() / samples}};
}

}  // namespace le
