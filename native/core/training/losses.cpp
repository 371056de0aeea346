#include "training/losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <memory>
#include <vector>

#include "options.h"
#include "training/loss_sums.h"
#include "training/region_losses.h"

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

// Kervadec et al. 2019: the mean over the counted pixels, the classes and the images of φ_c p_c, negative where the
// network is right. φ, which takes longer than the rest, is made once for the heads of a batch.
class Boundary {
 public:
  Boundary(bool include_background, int64_t ignore_index)
      : first_(include_background ? 0 : 1), ignore_index_(ignore_index) {}
  at::Tensor operator()(const at::Tensor& p, const at::Tensor& target) {
    if (!target_.is_same(target) || classes_ != p.size(1) || distance_.scalar_type() != p.scalar_type()) {
      distance_ = signed_distance(target, p.size(1), ignore_index_).flatten(2).to(p.device(), p.scalar_type());
      counted_ = target.ne(ignore_index_).flatten(1).sum(1).clamp_min(1).to(p.scalar_type());
      target_ = target;
      classes_ = p.size(1);
    }
    const int64_t classes = classes_ - first_;
    const at::Tensor sums = (p * distance_).narrow(1, first_, classes).flatten(1).sum(1);
    return (sums / counted_).mean() / static_cast<double>(classes);
  }

 private:
  int64_t first_, ignore_index_, classes_ = 0;
  at::Tensor target_, distance_, counted_;
};

}  // namespace

Loss make_loss(const Json& options, int64_t ignore_index) {
  LossSettings settings;
  const auto number = [&](const char* name, double fallback, double high) {
    return in_range(options, name, fallback, {0, high}, " of the loss");
  };
  settings.include_background = options.boolean_or("includeBackground", settings.include_background);
  settings.smooth = number("smooth", settings.smooth, 1e6);
  settings.label_smoothing = number("labelSmoothing", settings.label_smoothing, 1);
  settings.alpha = number("alpha", settings.alpha, 1e6);
  settings.beta = number("beta", settings.beta, 1e6);
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
  wanted.gamma = number("gamma", 2, 100);
  if (name == "lovaszSoftmax")
    return [ignore_index](const at::Tensor& logits, const at::Tensor& target) {
      const Pixels pixels = probabilities(logits, target, ignore_index);
      return lovasz_softmax(pixels.p, pixels.target.flatten(1), ignore_index);
    };
  if (name == "boundary")
    return [loss = std::make_shared<Boundary>(settings.include_background, ignore_index), ignore_index](
               const at::Tensor& logits, const at::Tensor& target) {
      return (*loss)(probabilities(logits, target, ignore_index).p, target);
    };
  if (!region && !wanted.nll && !wanted.focal)
    fail(code::kOption,
         "Expected softDice, crossEntropy, diceCrossEntropy, focal, tversky, jaccard, lovaszSoftmax or boundary for "
         "the name of the loss (those of regression, such as mse, come later) but received '",
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
