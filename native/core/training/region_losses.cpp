#include "training/region_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace le {

namespace {

constexpr double kFar = std::numeric_limits<double>::infinity();

// Squares of the distances along one line of `n` values, `stride` apart: the lower envelope of parabolas (Felzenszwalb
// and Huttenlocher 2012). `line`, `place` and `from` are scratch of n, n and n + 1.
void transform_line(double* at, int64_t n, int64_t stride, std::vector<double>& line, std::vector<int64_t>& place,
                    std::vector<double>& from) {
  for (int64_t i = 0; i < n; ++i) line[i] = at[i * stride];
  int64_t last = -1;
  for (int64_t q = 0; q < n; ++q) {
    if (line[q] == kFar) continue;
    double meet = -kFar;
    while (last >= 0) {
      const int64_t p = place[last];
      meet = ((line[q] + static_cast<double>(q * q)) - (line[p] + static_cast<double>(p * p))) /
             static_cast<double>(2 * (q - p));
      if (meet > from[last]) break;
      --last;
    }
    if (last < 0) meet = -kFar;
    place[++last] = q;
    from[last] = meet;
    from[last + 1] = kFar;
  }
  if (last < 0) return;
  int64_t k = 0;
  for (int64_t q = 0; q < n; ++q) {
    while (from[k + 1] < static_cast<double>(q)) ++k;
    const auto d = static_cast<double>(q - place[k]);
    at[q * stride] = d * d + line[place[k]];
  }
}

// In place: from 0 at the sources and infinity elsewhere to the squares of the distances to the nearest source.
void transform(std::vector<double>& squares, at::IntArrayRef size) {
  const auto count = static_cast<int64_t>(squares.size());
  const int64_t longest = *std::max_element(size.begin(), size.end());
  std::vector<double> line(longest), from(longest + 1);
  std::vector<int64_t> place(longest);
  int64_t stride = 1;
  for (size_t axis = size.size(); axis-- > 0; stride *= size[axis])
    for (int64_t outer = 0; outer < count; outer += stride * size[axis])
      for (int64_t inner = 0; inner < stride; ++inner)
        transform_line(&squares[outer + inner], size[axis], stride, line, place, from);
}

}  // namespace

at::Tensor lovasz_softmax(const at::Tensor& p, const at::Tensor& target, int64_t ignore_index) {
  at::Tensor total = (p * 0.0).sum();
  for (int64_t image = 0; image < p.size(0); ++image) {
    const at::Tensor kept = target[image].ne(ignore_index).nonzero().squeeze(1);
    if (kept.numel() == 0) continue;
    const at::Tensor probability = p[image].index_select(1, kept), label = target[image].index_select(0, kept);
    at::Tensor sum;
    int64_t present = 0;
    for (int64_t c = 0; c < p.size(1); ++c) {
      const at::Tensor truth = label.eq(c);
      if (!truth.any().item<bool>()) continue;
      const at::Tensor inside = truth.to(p.scalar_type());
      const auto [errors, order] =
          (inside - probability[c]).abs().sort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
      // How the Jaccard loss grows with each further pixel that is wrong. Counts are whole: exact in double precision.
      const at::Tensor sorted = truth.index_select(0, order).to(at::kDouble), all = sorted.sum();
      const at::Tensor jaccard = 1 - (all - sorted.cumsum(0)) / (all + (1 - sorted).cumsum(0));
      const at::Tensor growth = at::cat({jaccard.narrow(0, 0, 1), jaccard.narrow(0, 1, jaccard.numel() - 1) -
                                                                      jaccard.narrow(0, 0, jaccard.numel() - 1)});
      const at::Tensor loss = errors.dot(growth.to(errors.scalar_type()));
      sum = sum.defined() ? sum + loss : loss;
      ++present;
    }
    total = total + sum / static_cast<double>(present);
  }
  return total / static_cast<double>(p.size(0));
}

at::Tensor signed_distance(const at::Tensor& target, int64_t classes, int64_t ignore_index) {
  const at::Tensor labels = target.to(at::kCPU, at::kLong).contiguous();
  const auto size = labels.sizes().slice(1);
  const int64_t images = labels.size(0), pixels = images == 0 ? 0 : labels.numel() / images;
  std::vector<int64_t> shape = labels.sizes().vec();
  shape.insert(shape.begin() + 1, classes);
  at::Tensor result = at::zeros(shape, at::kDouble);
  std::vector<double> to_class(pixels), to_others(pixels);
  for (int64_t image = 0; image < images; ++image) {
    const int64_t* label = labels.const_data_ptr<int64_t>() + image * pixels;
    for (int64_t c = 0; c < classes; ++c) {
      bool any = false, others = false;
      for (int64_t i = 0; i < pixels; ++i) {
        const bool counted = label[i] != ignore_index, inside = counted && label[i] == c, outside = counted && !inside;
        to_class[i] = inside ? 0 : kFar;
        to_others[i] = outside ? 0 : kFar;
        any |= inside;
        others |= outside;
      }
      if (!any || !others) continue;
      transform(to_class, size);
      transform(to_others, size);
      double* distance = result.mutable_data_ptr<double>() + (image * classes + c) * pixels;
      for (int64_t i = 0; i < pixels; ++i)
        if (label[i] != ignore_index)
          distance[i] = label[i] == c ? 1 - std::sqrt(to_others[i]) : std::sqrt(to_class[i]);
    }
  }
  return result;
}

}  // namespace le
