#include "losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <vector>

#include "error.h"
#include "loss_sums.h"

namespace le {

namespace {

struct LossSettings {
  bool include_background = false;
  double smooth = 1e-5, label_smoothing = 0, alpha = 0.5, beta = 0.5;
  std::vector<double> class_weights;

  at::Tensor weights(int64_t classes) const {
    std::vector<double> values = class_weights;
    if (values.empty()) values.assign(classes, 1.0);
    if (static_cast<int64_t>(values.size()) != classes)
      fail(code::kOption, "Expected ", classes, " numbers for option 'classWeights' but received ", values.size(), ".");
    return at::tensor(values, at::kDouble);
  }
};

// Mean over classes and images of 1 - (numerator + s) / (denominator + s); 0 for an image whose pixels are all ignored.
at::Tensor region_mean(const LossSettings& settings, const at::Tensor& numerator, const at::Tensor& denominator,
                       const PixelSums& sums) {
  const at::Tensor counted = sums.counted.gt(0).unsqueeze(1);
  const at::Tensor below = at::where(counted, denominator + settings.smooth, at::ones_like(denominator));
  const at::Tensor loss = at::where(counted, 1 - (numerator + settings.smooth) / below, at::zeros_like(numerator));
  return (settings.include_background ? loss : loss.narrow(1, 1, loss.size(1) - 1)).mean();
}

// Milletari et al. 2016, without squares.
at::Tensor soft_dice(const LossSettings& settings, const PixelSums& s) {
  return region_mean(settings, 2 * s.hits, s.predicted + s.truth, s);
}
at::Tensor jaccard(const LossSettings& settings, const PixelSums& s) {
  return region_mean(settings, s.hits, s.predicted + s.truth - s.hits, s);
}
// Salehi et al. 2017: alpha weighs false positives, beta false negatives.
at::Tensor tversky(const LossSettings& settings, const PixelSums& s) {
  return region_mean(settings, s.hits,
                     s.hits + settings.alpha * (s.predicted - s.hits) + settings.beta * (s.truth - s.hits), s);
}
// As torch.nn.CrossEntropyLoss: the weighted mean over the counted pixels of the batch. 0 where there are none.
at::Tensor cross_entropy(const LossSettings& settings, const PixelSums& s, const at::Tensor& weights) {
  const at::Tensor total = (s.truth * weights.to(s.truth.options())).sum().clamp_min(1e-12);
  const at::Tensor nll = s.nll.sum() / total;
  if (settings.label_smoothing == 0) return nll;
  const double share = settings.label_smoothing / static_cast<double>(s.truth.size(1));
  return (1 - settings.label_smoothing) * nll + share * s.all_nll.sum() / total;
}
// Lin et al. 2017: the mean over the counted pixels of the batch of -w_y (1 - p_y)^γ ln p_y.
at::Tensor focal(const PixelSums& s) { return s.focal.sum() / s.counted.sum().clamp_min(1); }

double in_range(const Json& options, const char* name, double fallback, double low, double high) {
  const double value = options.number_or(name, fallback);
  if (!(value >= low && value <= high))
    fail(code::kOption, "Expected ", low, " to ", high, " for option '", name, "' of the loss but received ", value,
         ".");
  return value;
}

}  // namespace

Loss make_loss(const Json& options, int64_t ignore_index) {
  LossSettings settings;
  settings.include_background = options.boolean_or("includeBackground", false);
  settings.smooth = in_range(options, "smooth", 1e-5, 0, 1e6);
  settings.label_smoothing = in_range(options, "labelSmoothing", 0, 0, 1);
  settings.alpha = in_range(options, "alpha", 0.5, 0, 1e6);
  settings.beta = in_range(options, "beta", 0.5, 0, 1e6);
  settings.class_weights = options.numbers_or("classWeights", {});
  for (const double weight : settings.class_weights)
    if (!(weight >= 0))
      fail(code::kOption, "Expected numbers of at least 0 for option 'classWeights' but received ", weight, ".");

  const std::string& name = options.at("name").string("name of the loss");
  using Region = at::Tensor (*)(const LossSettings&, const PixelSums&);
  const Region region = name == "softDice" || name == "diceCrossEntropy" ? soft_dice
                        : name == "jaccard"                              ? jaccard
                        : name == "tversky"                              ? tversky
                                                                         : Region{};
  PixelSumsOptions wanted;
  wanted.ignore_index = ignore_index;
  wanted.nll = name == "crossEntropy" || name == "diceCrossEntropy";
  wanted.all_nll = wanted.nll && settings.label_smoothing > 0;
  wanted.focal = name == "focal";
  wanted.gamma = in_range(options, "gamma", 2, 0, 100);
  if (!region && !wanted.nll && !wanted.focal)
    fail(code::kOption,
         "Expected softDice, crossEntropy, diceCrossEntropy, focal, tversky or jaccard for the name of the loss but "
         "received '",
         name, "'.");
  return [settings, region, wanted](const at::Tensor& logits, const at::Tensor& target) {
    const at::Tensor weights = settings.weights(logits.size(1));
    const PixelSums sums = sum_pixels(logits, target, weights, wanted);
    if (wanted.focal) return focal(sums);
    if (!wanted.nll) return region(settings, sums);
    const at::Tensor entropy = cross_entropy(settings, sums, weights);
    return region ? region(settings, sums) + entropy : entropy;
  };
}

}  // namespace le
