#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/special_entr.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

#include "error.h"
#include "kernels/interpolation.h"
#include "prediction/reduce.h"
#include "prediction/second_pass.h"

namespace le {

namespace {

// -Σ p ln p over classes: N×C×S → N×S.
at::Tensor entropy(const at::Tensor& p) { return at::special_entr(p).sum(1); }

// #(m_i = c and m_j = c) from label maps N×K×P, as products of 0/1 matrices. A float counts to 2^24 exactly, so longer
// maps go in pieces.
at::Tensor count_pairs(const at::Tensor& labels, int64_t classes) {
  constexpr int64_t kPiece = 1 << 24;
  const int64_t images = labels.size(0), heads = labels.size(1), pixels = labels.size(2);
  at::Tensor result = at::zeros({images, heads, heads, classes}, labels.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < pixels; begin += kPiece) {
    const at::Tensor piece = labels.narrow(2, begin, std::min(kPiece, pixels - begin));
    for (int64_t c = 0; c < classes; ++c) {
      const at::Tensor here = piece.eq(c).to(at::kFloat);
      result.select(3, c).add_(at::bmm(here, here.transpose(1, 2)).to(at::kLong));
    }
  }
  return result;
}

// The first pass, by operations.
Reduced first_pass(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options) {
  const at::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // it would count in bfloat16
  const auto heads = static_cast<int64_t>(logits.size());
  const int64_t classes = logits[0].size(1);
  double total_weight = 0;
  for (int64_t k = 0; k < heads; ++k) total_weight += options.weights.empty() ? 1.0 : options.weights[k];

  std::vector<int64_t> one_per_class(logits[0].dim(), 1);
  one_per_class[1] = classes;
  const at::Tensor class_of = at::arange(classes, logits[0].options().dtype(at::kLong)).view(one_per_class);
  std::vector<at::Tensor> labels, finite, head_sums;
  at::Tensor mean, deviations, expected, fused;
  for (int64_t k = 0; k < heads; ++k) {
    finite.push_back(at::isfinite(logits[k]).all());
    const at::Tensor z = interpolate(logits[k], size);
    const at::Tensor label = z.argmax(1);
    labels.push_back(label.to(at::kByte));
    // Where differences of logits overflow, p is 0 and its logarithm must not become 0 · ∞.
    const at::Tensor log_p = at::log_softmax(z, 1).clamp_min_(-1e4), p = log_p.exp();
    const at::Tensor h = (p * log_p).sum(1).neg_();
    const auto per_class = [](const at::Tensor& x) { return x.flatten(2).sum(2, false, at::kDouble); };
    head_sums.push_back(at::stack({per_class(p), per_class(p * label.unsqueeze(1).eq(class_of))}, 2));
    if (k == 0) {
      mean = p.clone();
      deviations = at::zeros_like(p);
      expected = h;
    } else {  // Welford 1962
      const at::Tensor step = p - mean;
      mean.add_(step, 1.0 / static_cast<double>(k + 1));
      deviations.addcmul_(step, p - mean);
      expected.add_(h);
    }
    const double share = (options.weights.empty() ? 1.0 : options.weights[k]) / total_weight;
    if (options.fusion == Fusion::kLast) fused = p;
    if (options.fusion == Fusion::kMean) fused = k == 0 ? p * share : fused.add_(p, share);
    if (options.fusion == Fusion::kLogitMean) fused = k == 0 ? z * share : fused.add_(z, share);
  }
  const at::Tensor all_labels = at::stack(labels, 1);
  std::vector<at::Tensor> votes;
  for (int64_t c = 0; c < classes; ++c) votes.push_back(all_labels.eq(c).sum(1).to(at::kFloat));
  const at::Tensor n = at::stack(votes, 1);
  const auto count = static_cast<double>(heads);
  if (options.fusion == Fusion::kLogitMean) fused = at::softmax(fused, 1);
  if (options.fusion == Fusion::kVote) fused = n / count;
  const at::Tensor mask = fused.argmax(1);

  Reduced result;
  expected = expected / count;
  result.maps[0] = entropy(fused);
  result.maps[1] = expected;
  result.maps[2] = (entropy(mean) - expected).clamp_min_(0);
  result.maps[3] = deviations.clamp_min_(0).sum(1) / (count * static_cast<double>(classes));
  result.maps[4] = (count * count - (n * n).sum(1)) / std::max(count * (count - 1), 1.0);
  result.maps[5] = (count - n.amax(1)) / count;

  const at::Tensor foreground = mask.ne(0);
  const auto sum = [&](const at::Tensor& x) { return x.flatten(1).sum(1, false, at::kDouble); };
  std::vector<at::Tensor> summaries, class_sums;
  for (unsigned map = 0; map < kMapCount; ++map) {
    at::Tensor& values = result.maps[map];
    const bool wanted = options.maps & 1u << map;
    if (!wanted) values = at::zeros_like(expected);
    summaries.push_back(at::stack({sum(values), sum(values * foreground)}, 1));
    if (!wanted) values = at::Tensor();
  }
  for (int64_t c = 0; c < classes; ++c) {
    const at::Tensor here = mask.eq(c), p = fused.select(1, c);
    class_sums.push_back(at::stack({sum(here), sum(p), sum(p * here)}, 1));
  }
  result.intersections = count_pairs(all_labels.flatten(2), classes).cpu();
  result.counts = result.intersections.diagonal(0, 1, 2).transpose(1, 2).contiguous();
  result.summaries = at::stack(summaries, 1).cpu();
  result.class_sums = at::stack(class_sums, 1).cpu();
  result.head_sums = at::stack(head_sums, 1).cpu();
  result.mask = mask.to(at::kByte).cpu();
  if (options.probabilities) result.probabilities = fused.cpu();
  if (options.labels) result.labels = all_labels.cpu();
  for (at::Tensor& map : result.maps)
    if (map.defined()) map = map.cpu();

  const at::Tensor all_finite = at::stack(finite).cpu();
  for (int64_t k = 0; k < heads; ++k)
    if (!all_finite[k].item<bool>())
      fail(code::kValue, "Expected finite numbers for the logits of head ", k, " but received NaN or infinity.");
  return result;
}

}  // namespace

Reduced reduce_reference(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options) {
  check_reduce_arguments(logits, size, options);
  return in_passes(options, [&](const ReduceOptions& of_first) { return first_pass(logits, size, of_first); });
}

}  // namespace le
