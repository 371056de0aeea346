#include "prediction/reduce.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "error.h"
#include "kernels/isa.h"
#include "kernels/reduce_kernel.h"
#include "prediction/second_pass.h"

namespace le {

namespace {

using kernel::kBand;
using kernel::kMaps;
using kernel::kTile;

static_assert(kMaps == kMapCount && kEntropy == 1u << 0 && kExpectedEntropy == 1u << 1 &&
              kMutualInformation == 1u << 2 && kVariance == 1u << 3 && kDisagreement == 1u << 4 &&
              kVariationRatio == 1u << 5);

[[noreturn]] void fail_not_finite(size_t head) {
  fail(code::kValue, "Expected finite numbers for the logits of head ", head, " but received NaN or infinity.");
}

// Scratch memory of one thread, in one allocation.
class Workspace {
 public:
  explicit Workspace(const kernel::Task& task) {
    const size_t heads = task.heads, classes = task.classes, channels = kernel::channels_of(task);
    int64_t widest = 0;
    for (size_t k = 0; k < heads; ++k) widest = std::max(widest, task.head[k].axis[2].source);
    lay_out(heads, classes, channels, widest);
    memory_ = at::zeros({static_cast<int64_t>(used_ + 64)}, at::kByte);
    const auto address = reinterpret_cast<uintptr_t>(memory_.data_ptr());
    base_ = reinterpret_cast<unsigned char*>((address + 63) / 64 * 64);
    used_ = 0;
    lay_out(heads, classes, channels, widest);
  }
  const kernel::Scratch& scratch() const { return scratch_; }

 private:
  template <class T>
  void take(T*& pointer, size_t count) {
    pointer = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 63) / 64 * 64;
  }
  void lay_out(size_t heads, size_t classes, size_t channels, int64_t widest) {
    take(scratch_.wide, heads * 2 * channels * kTile);
    take(scratch_.cached, heads * 2);
    take(scratch_.rows, heads);
    take(scratch_.samples, classes * (static_cast<size_t>(widest) + kTile));
    take(scratch_.next, classes * (static_cast<size_t>(widest) + kTile));
    take(scratch_.segment, static_cast<size_t>(widest) + kTile);
    take(scratch_.lanes, (5 * classes + 2 * (kMaps + classes)) * 16);
    take(scratch_.totals, 2 * (kMaps + classes) * 16);
    take(scratch_.counts, classes);
    take(scratch_.head_lanes, heads * channels * 2 * 16);
    take(scratch_.head_totals, heads * channels * 2 * 16);
    take(scratch_.edge, (kMaps + classes) * kTile);
    take(scratch_.edge_bytes, (1 + heads) * kTile);
    take(scratch_.words, heads * classes * kBand);
  }

  at::Tensor memory_;
  unsigned char* base_ = nullptr;
  size_t used_ = 0;
  kernel::Scratch scratch_{};
};

kernel::Run chosen_kernel() {
  [[maybe_unused]] const std::string isa = chosen_isa();
#if defined(__x86_64__)
  if (isa == "avx512") return kernel::run_avx512;
  if (isa == "avx2") return kernel::run_avx2;
#endif
  return kernel::run_generic;
}

kernel::Fused fused_as(const ReduceOptions& options) {
  switch (options.fusion) {
    case Fusion::kLogitMean:
      return kernel::Fused::kLogitMean;
    case Fusion::kVote:
      return kernel::Fused::kVote;
    case Fusion::kLast:
      return kernel::Fused::kLast;
    default:
      break;
  }
  for (const double weight : options.weights)
    if (weight != options.weights.front()) return kernel::Fused::kWeightedMean;
  return kernel::Fused::kMean;
}

// Counts of pairs of heads from their lower triangle; for two classes class 0 from class 1:
// #(¬A ∧ ¬B) = S - #A - #B + #(A ∧ B).
void finish_pairs(int64_t* pairs, int64_t heads, int64_t classes, int64_t pixels) {
  const auto at = [&](int64_t i, int64_t j, int64_t c) -> int64_t& { return pairs[(i * heads + j) * classes + c]; };
  for (int64_t i = 0; i < heads; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      if (classes == 2) at(i, j, 0) = pixels - at(i, i, 1) - at(j, j, 1) + at(i, j, 1);
      for (int64_t c = 0; c < classes; ++c) at(j, i, c) = at(i, j, c);
    }
  }
}

// The sums of heads as le::Reduced has them from those of the kernel. For two classes, with Q the sum of the less
// likely class's probability and Q_1 that where m = 1: the pixels of class 1 have Σ p_1 = # - Q_1, the others Q - Q_1.
void finish_head_sums(const std::vector<double>& from, const int64_t* counts, int64_t heads, int64_t classes,
                      int64_t pixels, double* to) {
  if (classes != 2) {
    std::copy(from.begin(), from.end(), to);
    return;
  }
  for (int64_t k = 0; k < heads; ++k) {
    const double minor_1 = from[2 * k + 1], minor_0 = from[2 * k] - minor_1;
    const auto sure_1 = static_cast<double>(counts[2 * k + 1]) - minor_1;
    const auto sure_0 = static_cast<double>(pixels - counts[2 * k + 1]) - minor_0;
    double* const sums = to + 4 * k;
    sums[0] = sure_0 + minor_1;
    sums[1] = sure_0;
    sums[2] = sure_1 + minor_0;
    sums[3] = sure_1;
  }
}

}  // namespace

Reduced reduce_slab(const std::vector<HeadRows>& rows, at::IntArrayRef of_whole, const Slab& slab,
                    const ReduceOptions& options) {
  const kernel::Run run = chosen_kernel();
  const auto heads = static_cast<int64_t>(rows.size());
  const int64_t images = rows[0].logits.size(0), classes = rows[0].logits.size(1);

  // Two spatial axes are three with a depth of 1.
  const auto volume = [](at::IntArrayRef axes) {
    return axes.size() == 2 ? std::vector<int64_t>{1, axes[0], axes[1]} : axes.vec();
  };
  const std::vector<int64_t> whole = volume(of_whole);
  std::vector<int64_t> size = of_whole.vec();
  size[0] = slab.end - slab.begin;
  const std::vector<int64_t> output = volume(size);
  const int flat = size.size() == 2;  // the first of three axes that is one of the output's
  const int64_t pixels = output[0] * output[1] * output[2];

  double total_weight = 0;
  for (int64_t k = 0; k < heads; ++k) total_weight += options.weights.empty() ? 1.0 : options.weights[k];
  std::map<std::tuple<int, int64_t, int64_t>, AxisPlan> plans;
  std::vector<kernel::Head> sources(heads);
  for (int64_t k = 0; k < heads; ++k) {
    const at::Tensor& head = rows[k].logits;
    kernel::Head& source = sources[k];
    source.data = head.const_data_ptr();
    source.bfloat16 = head.scalar_type() == at::kBFloat16;
    source.image_stride = head.stride(0);
    source.class_stride = head.stride(1);
    const std::vector<int64_t> input = volume(head.sizes().slice(2));
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t of_tensor = axis - 3 + head.dim();
      source.stride[axis] = of_tensor < 2 ? 0 : head.stride(of_tensor);
      const Part part = axis < flat ? Part{} : slab.parts[axis - flat];
      const Samples samples = axis == flat ? Samples{rows[k].first, input[axis], rows[k].whole} : Samples{input[axis]};
      const AxisPlan& plan =
          plans.try_emplace({axis, samples.whole, samples.first}, samples, whole[axis], kTile, part).first->second;
      source.axis[axis] = axis == flat ? plan.axis(slab.begin, slab.end) : plan.axis();
    }
    source.share = static_cast<float>((options.weights.empty() ? 1.0 : options.weights[k]) / total_weight);
  }

  const auto shape = [&](std::initializer_list<int64_t> leading) {
    std::vector<int64_t> all(leading);
    all.insert(all.end(), size.begin(), size.end());
    return all;
  };
  Reduced result;
  kernel::Task task{};
  task.heads = heads;
  task.classes = classes;
  for (int axis = 0; axis < 3; ++axis) task.size[axis] = output[axis];
  task.head = sources.data();
  task.fused = fused_as(options);
  if (options.probabilities) {
    result.probabilities = at::empty(shape({images, classes}), at::kFloat);
    task.probabilities = result.probabilities.mutable_data_ptr<float>();
  }
  for (unsigned map = 0; map < kMapCount; ++map) {
    if (!(options.maps & 1u << map)) continue;
    result.maps[map] = at::empty(shape({images}), at::kFloat);
    task.maps[map] = result.maps[map].mutable_data_ptr<float>();
  }
  result.mask = at::empty(shape({images}), at::kByte);
  task.mask = result.mask.mutable_data_ptr<uint8_t>();
  if (options.labels) {
    result.labels = at::empty(shape({images, heads}), at::kByte);
    task.labels = result.labels.mutable_data_ptr<uint8_t>();
  }
  result.intersections = at::zeros({images, heads, heads, classes}, at::kLong);
  auto* const intersections = result.intersections.mutable_data_ptr<int64_t>();

  // Sums are kept per item and added in the items' order; counts are whole numbers, whose order does not matter.
  const int64_t per_image = kernel::items_per_image(task), items = images * per_image, pairs = heads * heads * classes,
                per_item = kernel::sums_of(task), of_heads = kernel::head_sums_of(task);
  std::vector<double> sums(items * per_item);
  std::vector<uint8_t> not_finite(heads);
  std::mutex mutex;
  at::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(task);
    std::vector<int64_t> local_pairs(pairs);
    std::vector<uint8_t> local_not_finite(heads);
    for (int64_t item = begin; item < end; ++item) {
      run(task, item, workspace.scratch(), {&sums[item * per_item], local_pairs.data(), local_not_finite.data()});
      if (item + 1 < end && (item + 1) % per_image != 0) continue;
      const std::lock_guard lock(mutex);
      int64_t* const of_image = intersections + item / per_image * pairs;
      for (int64_t i = 0; i < pairs; ++i) of_image[i] += std::exchange(local_pairs[i], 0);
    }
    const std::lock_guard lock(mutex);
    for (int64_t k = 0; k < heads; ++k) not_finite[k] |= local_not_finite[k];
  });
  for (int64_t k = 0; k < heads; ++k)
    if (not_finite[k]) fail_not_finite(k);

  result.summaries = at::zeros({images, kMapCount, 2}, at::kDouble);
  result.class_sums = at::zeros({images, classes, 3}, at::kDouble);
  std::vector<double> head_sums(images * of_heads);
  auto* const summaries = result.summaries.mutable_data_ptr<double>();
  auto* const class_sums = result.class_sums.mutable_data_ptr<double>();
  for (int64_t item = 0; item < items; ++item) {
    const int64_t image = item / per_image;
    const double* from = &sums[item * per_item];
    for (int64_t i = 0; i < 2 * kMaps; ++i) summaries[image * 2 * kMaps + i] += *from++;
    for (int64_t i = 0; i < 3 * classes; ++i) class_sums[image * 3 * classes + i] += *from++;
    for (int64_t i = 0; i < of_heads; ++i) head_sums[image * of_heads + i] += *from++;
  }
  for (int64_t image = 0; image < images; ++image) finish_pairs(intersections + image * pairs, heads, classes, pixels);
  result.counts = result.intersections.diagonal(0, 1, 2).transpose(1, 2).contiguous();
  result.head_sums = at::empty({images, heads, classes, 2}, at::kDouble);
  finish_head_sums(head_sums, result.counts.const_data_ptr<int64_t>(), images * heads, classes, pixels,
                   result.head_sums.mutable_data_ptr<double>());
  return result;
}

void check_finite_logits(const at::Tensor& logits, size_t head) {
  for (int64_t c = 0; c < logits.size(1); ++c)
    if (!at::isfinite(logits.select(1, c)).all().item<bool>()) fail_not_finite(head);
}

void check_reduce_arguments(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options) {
  if (logits.empty()) fail(code::kShape, "Expected the logits of at least one head but received none.");
  if (size.size() != 2 && size.size() != 3)
    fail(code::kShape, "Expected 2 or 3 spatial axes for the output's size but received ", size, ".");
  for (const int64_t axis : size)
    if (axis < 1) fail(code::kShape, "Expected positive numbers for the output's size but received ", size, ".");
  const auto axes = static_cast<int64_t>(size.size()) + 2;
  for (size_t k = 0; k < logits.size(); ++k) {
    const at::Tensor &head = logits[k], &first = logits[0];
    if (!head.defined()) fail(code::kShape, "Expected a tensor for the logits of head ", k, " but received none.");
    if (head.dim() != axes || head.numel() == 0)
      fail(code::kShape, "Expected N × C × ", axes - 2, " spatial axes for the logits of head ", k,
           " but received shape ", head.sizes(), ".");
    if (head.size(0) != first.size(0) || head.size(1) != first.size(1))
      fail(code::kShape, "Expected ", first.size(0), " × ", first.size(1), " × spatial axes for the logits of head ", k,
           ", as for head 0, but received shape ", head.sizes(), ".");
    if (head.scalar_type() != at::kFloat && head.scalar_type() != at::kBFloat16)
      fail(code::kValue, "Expected float or bfloat16 for the logits of head ", k, " but received ", head.scalar_type(),
           ".");
    if (head.device() != first.device())
      fail(code::kValue, "Expected device ", first.device(), " for the logits of head ", k,
           ", as for head 0, but received ", head.device(), ".");
  }
  if (!(options.temperature > 0) || std::isinf(options.temperature))
    fail(code::kValue, "Expected a positive number for the temperature but received ", options.temperature, ".");
  if (logits[0].size(1) < 2 || logits[0].size(1) > 255)
    fail(code::kShape, "Expected 2 to 255 classes for the logits but received ", logits[0].size(1), ".");
  if (options.weights.empty()) return;
  if (options.weights.size() != logits.size())
    fail(code::kShape, "Expected ", logits.size(), " numbers for the heads' weights but received ",
         options.weights.size(), ".");
  double sum = 0;
  for (const double weight : options.weights) {
    if (!(weight >= 0) || std::isinf(weight))
      fail(code::kValue, "Expected finite numbers from 0 up for the heads' weights but received ", weight, ".");
    sum += weight;
  }
  if (!(sum > 0) || std::isinf(sum))
    fail(code::kValue, "Expected a positive sum for the heads' weights but received ", sum, ".");
}

Reduced reduce(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options) {
  check_reduce_arguments(logits, size, options);
  if (!logits[0].device().is_cpu()) return reduce_reference(logits, size, options);
  // The kernel looks at every sample that it reads; shrinking jumps over some.
  for (size_t k = 0; k < logits.size(); ++k) {
    bool shrinks = false;
    for (size_t axis = 0; axis < size.size(); ++axis) shrinks = shrinks || logits[k].size(axis + 2) > size[axis];
    if (shrinks) check_finite_logits(logits[k], k);
  }
  std::vector<HeadRows> rows;
  for (const at::Tensor& head : logits) rows.push_back({head, 0, head.size(2)});
  const Slab all{std::vector<Part>(size.size()), 0, size[0]};
  return in_passes(options, [&](const ReduceOptions& of_first) { return reduce_slab(rows, size, all, of_first); });
}

}  // namespace le
