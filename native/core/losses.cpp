#include "losses.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "error.h"

namespace le {

namespace {

// All that the region losses and cross-entropy need of a batch, summed over the counted pixels of each image. The sums
// carry gradients; the losses are then arithmetic on N×C numbers.
struct Sums {
  at::Tensor hits;       // N×C: Σ p_c over y = c
  at::Tensor predicted;  // N×C: Σ p_c
  at::Tensor truth;      // N×C: #(y = c); no gradient
  at::Tensor nll;        // N: Σ w_y · -ln p_y
  at::Tensor all_nll;    // N: Σ Σ_c w_c · -ln p_c; for label smoothing
};

// By library operations: on any device, in any floating type.
Sums sums_by_operations(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& weights,
                        int64_t ignore_index) {
  const at::Tensor log_p = logits.log_softmax(1).flatten(2);
  const at::Tensor y = target.flatten(1);
  const at::Tensor counted = y.ne(ignore_index);
  const at::Tensor label = at::where(counted, y, at::zeros_like(y)).unsqueeze(1);
  const at::Tensor one_hot =
      at::zeros(log_p.sizes(), log_p.options().requires_grad(false)).scatter_(1, label, 1.0) * counted.unsqueeze(1);
  const at::Tensor p = log_p.exp() * counted.unsqueeze(1);
  const at::Tensor w = weights.to(log_p.options()).view({1, -1, 1});
  Sums sums;
  sums.hits = (p * one_hot).sum(2);
  sums.predicted = p.sum(2);
  sums.truth = one_hot.sum(2);
  sums.nll = -(log_p * one_hot * w).sum(at::IntArrayRef{1, 2});
  sums.all_nll = -(log_p * counted.unsqueeze(1) * w).sum(at::IntArrayRef{1, 2});
  return sums;
}

// Pixels per piece of work. Fixed, so that sums are added in the same order whatever the thread count.
constexpr int64_t kPiece = 8192;

// The same sums in one pass over the pixels, and their gradient in another.
class FusedSums : public torch::autograd::Function<FusedSums> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                                                const at::Tensor& target, const at::Tensor& weights,
                                                int64_t ignore_index) {
    const at::Tensor log_p = logits.detach().log_softmax(1);
    const at::Tensor labels = target.contiguous();
    const int64_t n = log_p.size(0), c = log_p.size(1), pixels = log_p.numel() / std::max<int64_t>(1, n * c);
    const int64_t pieces = (pixels + kPiece - 1) / kPiece;
    const at::Tensor partial = at::zeros({n * pieces, 3 * c + 2}, at::kDouble);
    const float* lp = log_p.const_data_ptr<float>();
    const int64_t* y = labels.const_data_ptr<int64_t>();
    const float* w = weights.const_data_ptr<float>();
    double* out = partial.mutable_data_ptr<double>();
    at::Tensor p = log_p.exp();
    const float* probability = p.const_data_ptr<float>();
    at::parallel_for(0, n * pieces, 1, [&](int64_t first, int64_t last) {
      for (int64_t piece = first; piece < last; ++piece) {
        const int64_t image = piece / pieces, begin = piece % pieces * kPiece, end = std::min(pixels, begin + kPiece);
        double* row = out + piece * (3 * c + 2);
        const int64_t* label = y + image * pixels;
        for (int64_t k = 0; k < c; ++k) {
          const float* pk = probability + (image * c + k) * pixels;
          const float* lk = lp + (image * c + k) * pixels;
          float hits = 0, predicted = 0, nll = 0, all = 0;
          int64_t truth = 0;
          const auto flush = [&] {
            row[k] += hits;
            row[c + k] += predicted;
            row[3 * c] += nll * static_cast<double>(w[k]);
            row[3 * c + 1] += all * static_cast<double>(w[k]);
            hits = predicted = nll = all = 0;
          };
          for (int64_t block = begin; block < end; block += 512) {  // float sums of few terms, double sums of these
            const int64_t stop = std::min(end, block + 512);
            for (int64_t i = block; i < stop; ++i) {
              const bool counts = label[i] != ignore_index, here = label[i] == k;
              predicted += counts ? pk[i] : 0.0f;
              hits += here ? pk[i] : 0.0f;
              nll -= here ? lk[i] : 0.0f;
              all -= counts ? lk[i] : 0.0f;
              truth += here;
            }
            flush();
          }
          row[2 * c + k] = static_cast<double>(truth);
        }
      }
    });
    const at::Tensor sums = partial.view({n, pieces, 3 * c + 2}).sum(1).to(at::kFloat);
    context->save_for_backward({p, labels, weights});
    context->saved_data["ignore"] = ignore_index;
    at::Tensor truth = sums.narrow(1, 2 * c, c).contiguous();
    context->mark_non_differentiable({truth});
    return {sums.narrow(1, 0, c).contiguous(), sums.narrow(1, c, c).contiguous(), truth,
            sums.select(1, 3 * c).contiguous(), sums.select(1, 3 * c + 1).contiguous()};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &p = saved[0], &labels = saved[1], &weights = saved[2];
    const int64_t ignore_index = context->saved_data["ignore"].toInt();
    const int64_t n = p.size(0), c = p.size(1), pixels = p.numel() / std::max<int64_t>(1, n * c);
    const int64_t pieces = (pixels + kPiece - 1) / kPiece;
    const auto dense = [&](const at::Tensor& gradient, at::IntArrayRef shape) {
      return gradient.defined() ? gradient.to(at::kFloat).contiguous() : at::zeros(shape, at::kFloat);
    };
    const at::Tensor hits = dense(gradients[0], {n, c}), predicted = dense(gradients[1], {n, c});
    const at::Tensor nll = dense(gradients[3], {n}), all = dense(gradients[4], {n});
    at::Tensor result = at::empty(p.sizes(), p.options());
    const float *probability = p.const_data_ptr<float>(), *w = weights.const_data_ptr<float>();
    const int64_t* y = labels.const_data_ptr<int64_t>();
    float* out = result.mutable_data_ptr<float>();
    float weight_sum = 0;
    for (int64_t k = 0; k < c; ++k) weight_sum += w[k];
    at::parallel_for(0, n * pieces, 1, [&](int64_t first, int64_t last) {
      constexpr int64_t kBlock = 256;
      float mean[kBlock], nll_weight[kBlock];
      for (int64_t piece = first; piece < last; ++piece) {
        const int64_t image = piece / pieces, begin = piece % pieces * kPiece, end = std::min(pixels, begin + kPiece);
        const float *gh = hits.const_data_ptr<float>() + image * c, *gp = predicted.const_data_ptr<float>() + image * c;
        const float gn = nll.const_data_ptr<float>()[image], ga = all.const_data_ptr<float>()[image];
        for (int64_t block = begin; block < end; block += kBlock) {
          const int64_t size = std::min(kBlock, end - block);
          const int64_t* label = y + image * pixels + block;
          // d/dz_c of Σ_j g_j p_j = p_c (g_c - Σ_j g_j p_j), and of -ln p_y = p_c - [y = c].
          std::fill_n(mean, size, 0.0f);
          std::fill_n(nll_weight, size, 0.0f);
          for (int64_t k = 0; k < c; ++k) {
            const float* pk = probability + (image * c + k) * pixels + block;
            for (int64_t i = 0; i < size; ++i) {
              const float here = label[i] == k ? 1.0f : 0.0f;
              mean[i] += pk[i] * (gp[k] + here * gh[k]);
              nll_weight[i] += here * w[k] * gn;
            }
          }
          for (int64_t k = 0; k < c; ++k) {
            const float* pk = probability + (image * c + k) * pixels + block;
            float* ok = out + (image * c + k) * pixels + block;
            for (int64_t i = 0; i < size; ++i) {
              const float here = label[i] == k ? 1.0f : 0.0f;
              const float counts = label[i] == ignore_index ? 0.0f : 1.0f;
              ok[i] = counts * (pk[i] * (gp[k] + here * gh[k] - mean[i]) + nll_weight[i] * (pk[i] - here) +
                                ga * (weight_sum * pk[i] - w[k]));
            }
          }
        }
      }
    });
    return {result, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

Sums sums_of(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& weights, int64_t ignore_index) {
  const bool fused = logits.device().is_cpu() && logits.scalar_type() == at::kFloat && logits.is_contiguous();
  if (!fused) return sums_by_operations(logits, target, weights.to(logits.device()), ignore_index);
  const auto all = FusedSums::apply(logits, target, weights, ignore_index);
  return {all[0], all[1], all[2], all[3], all[4]};
}

struct LossSettings {
  bool include_background = false;
  double smooth = 1e-5, label_smoothing = 0, gamma = 2, alpha = 0.5, beta = 0.5;
  std::vector<double> class_weights;
  int64_t ignore_index = 255;

  at::Tensor weights(int64_t classes) const {
    std::vector<float> values(class_weights.begin(), class_weights.end());
    if (values.empty()) values.assign(classes, 1.0f);
    if (static_cast<int64_t>(values.size()) != classes)
      fail(code::kOption, "Expected ", classes, " numbers for option 'classWeights' but received ", values.size(), ".");
    return at::tensor(values);
  }
};

// Mean over classes and images of 1 - (hits + s) / (hits + α · false positives + β · false negatives + s) and its like.
// An image whose pixels are all ignored has the value 0 by s / s.
at::Tensor region_mean(const LossSettings& settings, const at::Tensor& numerator, const at::Tensor& denominator) {
  const at::Tensor loss = 1 - (numerator + settings.smooth) / (denominator + settings.smooth);
  return (settings.include_background ? loss : loss.narrow(1, 1, loss.size(1) - 1)).mean();
}

at::Tensor soft_dice(const LossSettings& settings, const Sums& s) {
  return region_mean(settings, 2 * s.hits, s.predicted + s.truth);
}
at::Tensor jaccard(const LossSettings& settings, const Sums& s) {
  return region_mean(settings, s.hits, s.predicted + s.truth - s.hits);
}
at::Tensor tversky(const LossSettings& settings, const Sums& s) {
  return region_mean(settings, s.hits,
                     s.hits + settings.alpha * (s.predicted - s.hits) + settings.beta * (s.truth - s.hits));
}
// As torch.nn.CrossEntropyLoss: the weighted mean over the counted pixels of the batch.
at::Tensor cross_entropy(const LossSettings& settings, const Sums& s, const at::Tensor& weights) {
  const at::Tensor total = (s.truth * weights.to(s.truth.options())).sum().clamp_min(1e-12);
  const at::Tensor nll = s.nll.sum() / total;
  if (settings.label_smoothing == 0) return nll;
  const double share = settings.label_smoothing / static_cast<double>(s.truth.size(1));
  return (1 - settings.label_smoothing) * nll + share * s.all_nll.sum() / total;
}
// Lin et al. 2017: the mean over counted pixels of -w_y (1 - p_y)^γ ln p_y.
at::Tensor focal(const LossSettings& settings, const at::Tensor& logits, const at::Tensor& target,
                 const at::Tensor& weights) {
  const at::Tensor counted = target.ne(settings.ignore_index);
  const at::Tensor label = at::where(counted, target, at::zeros_like(target));
  const at::Tensor log_p = logits.log_softmax(1).gather(1, label.unsqueeze(1)).squeeze(1);
  const at::Tensor w = weights.to(logits.options().requires_grad(false)).index({label}) * counted;
  const at::Tensor loss = -w * (1 - log_p.exp()).clamp_min(0).pow(settings.gamma) * log_p;
  return loss.sum() / counted.sum().clamp_min(1);
}

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
  settings.ignore_index = ignore_index;
  settings.include_background = options.boolean_or("includeBackground", false);
  settings.smooth = in_range(options, "smooth", 1e-5, 0, 1e6);
  settings.label_smoothing = in_range(options, "labelSmoothing", 0, 0, 1);
  settings.gamma = in_range(options, "gamma", 2, 0, 100);
  settings.alpha = in_range(options, "alpha", 0.5, 0, 1e6);
  settings.beta = in_range(options, "beta", 0.5, 0, 1e6);
  settings.class_weights = options.numbers_or("classWeights", {});
  for (const double weight : settings.class_weights)
    if (!(weight >= 0))
      fail(code::kOption, "Expected numbers of at least 0 for option 'classWeights' but received ", weight, ".");

  using Region = at::Tensor (*)(const LossSettings&, const Sums&);
  const std::string& name = options.at("name").string("name of the loss");
  const Region region = name == "softDice" || name == "diceCrossEntropy" ? soft_dice
                        : name == "jaccard"                              ? jaccard
                        : name == "tversky"                              ? tversky
                                                                         : Region{};
  const bool entropy = name == "crossEntropy" || name == "diceCrossEntropy";
  if (!region && !entropy && name != "focal")
    fail(code::kOption,
         "Expected softDice, crossEntropy, diceCrossEntropy, focal, tversky or jaccard for the name of the loss but "
         "received '",
         name, "'.");
  return [settings, region, entropy](const at::Tensor& logits, const at::Tensor& target) {
    const at::Tensor weights = settings.weights(logits.size(1));
    if (!region && !entropy) return focal(settings, logits, target, weights);
    const Sums sums = sums_of(logits, target, weights, settings.ignore_index);
    at::Tensor loss;
    if (region) loss = region(settings, sums);
    if (entropy) {
      const at::Tensor value = cross_entropy(settings, sums, weights);
      loss = loss.defined() ? loss + value : value;
    }
    return loss;
  };
}

}  // namespace le
