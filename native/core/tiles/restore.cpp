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

}  // namespace

Reduced restore(const std::vector<at::Tensor>& logits, const std::vector<Part>& parts, at::IntArrayRef size,
                const ReduceOptions& options, const Control& control, int64_t rows) {
  check_reduce_arguments(logits, size, options);
  const auto axes = static_cast<int64_t>(size.size());
  if (parts.size() != size.size())
    fail(code::kShape, "Expected a part per spatial axis of the output, ", axes, ", but received ", parts.size(), ".");
  for (const Part& part : parts)
    if (part.before < 0 || part.length < 1 || part.length > part.whole - part.before)
      fail(code::kValue, "Expected a part within what the heads cover but received ", part.before, " + ", part.length,
           " of ", part.whole, ".");
  if (logits[0].size(0) != 1 || !logits[0].device().is_cpu())
    fail(code::kShape, "Expected the logits of one image, on the CPU, to restore but received ", logits[0].sizes(),
         " on ", logits[0].device().str(), ".");
  // A slab reads but a part of the samples.
  for (size_t k = 0; k < logits.size(); ++k) check_finite_logits(logits[k], k);

  if (rows <= 0) {
    const int64_t row = std::accumulate(size.begin() + 1, size.end(), int64_t{1}, std::multiplies<>());
    rows = std::max<int64_t>(1, kSlabPixels / row);
  }
  return in_passes(options, [&](const ReduceOptions& of_first) {
    Reduced all;
    for (int64_t begin = 0; begin < size[0]; begin += rows) {
      control.check();
      const int64_t end = std::min(size[0], begin + rows);
      const Reduced slab = reduce_slab(logits, size, {parts, begin, end}, of_first);
      put(all.probabilities, slab.probabilities, axes, begin, size[0]);
      put(all.mask, slab.mask, axes, begin, size[0]);
      for (unsigned map = 0; map < kMapCount; ++map) put(all.maps[map], slab.maps[map], axes, begin, size[0]);
      put(all.labels, slab.labels, axes, begin, size[0]);
      add(all.summaries, slab.summaries);
      add(all.class_sums, slab.class_sums);
      add(all.head_sums, slab.head_sums);
      add(all.counts, slab.counts);
      add(all.intersections, slab.intersections);
      if (control.report) control.report(Json::Object{{"stage", "restore"}, {"done", end}, {"of", size[0]}});
    }
    return all;
  });
}

}  // namespace le
