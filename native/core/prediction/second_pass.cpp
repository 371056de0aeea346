#include "prediction/second_pass.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "prediction/staple.h"

namespace le {

namespace {

// p^(1/τ), normalised over the classes; in place.
void temper(float* probabilities, int64_t classes, int64_t pixels, double temperature) {
  std::vector<double> powers(classes);
  for (int64_t i = 0; i < pixels; ++i) {
    double most = 0, sum = 0;
    for (int64_t c = 0; c < classes; ++c) most = std::max<double>(most, probabilities[c * pixels + i]);
    for (int64_t c = 0; c < classes; ++c)
      sum += powers[c] = std::pow(std::max(0.0f, probabilities[c * pixels + i]) / most, 1 / temperature);
    for (int64_t c = 0; c < classes; ++c) probabilities[c * pixels + i] = static_cast<float>(powers[c] / sum);
  }
}

}  // namespace

bool needs_second_pass(const ReduceOptions& options) {
  return options.fusion == Fusion::kStaple || options.temperature != 1;
}

ReduceOptions of_first_pass(ReduceOptions options) {
  if (options.fusion == Fusion::kStaple) {
    options.fusion = Fusion::kMean;
    options.weights.clear();
    options.labels = true;
    options.probabilities = false;
  } else {
    options.probabilities = true;
  }
  options.temperature = 1;
  return options;
}

Reduced second_pass(Reduced pass, const ReduceOptions& options) {
  const at::Tensor& mask = pass.mask;
  const int64_t images = mask.size(0), pixels = mask.numel() / images, classes = pass.counts.size(2),
                heads = pass.counts.size(1);
  if (options.fusion == Fusion::kStaple) {
    std::vector<int64_t> shape = mask.sizes().vec();
    shape.insert(shape.begin() + 1, classes);
    pass.probabilities = at::empty(shape, at::kFloat);
    pass.confusion = at::empty({images, heads, classes, classes}, at::kDouble);
    pass.rounds = at::empty({images, 2}, at::kLong);
    for (int64_t n = 0; n < images; ++n) {
      const Staple found = staple(pass.labels.const_data_ptr<uint8_t>() + n * heads * pixels, heads, classes, pixels);
      std::copy(found.posterior.begin(), found.posterior.end(),
                pass.probabilities.mutable_data_ptr<float>() + n * classes * pixels);
      std::copy(found.confusion.begin(), found.confusion.end(),
                pass.confusion.mutable_data_ptr<double>() + n * heads * classes * classes);
      auto* const rounds = pass.rounds.mutable_data_ptr<int64_t>() + n * 2;
      rounds[0] = found.rounds;
      rounds[1] = found.converged;
    }
  }

  pass.class_sums = at::zeros({images, classes, 3}, at::kDouble);
  pass.mask = at::empty(mask.sizes(), at::kByte);
  if (pass.maps[0].defined()) pass.maps[0] = at::empty(mask.sizes(), at::kFloat);
  for (int64_t n = 0; n < images; ++n) {
    float* const p = pass.probabilities.mutable_data_ptr<float>() + n * classes * pixels;
    if (options.temperature != 1) temper(p, classes, pixels, options.temperature);
    uint8_t* const labels = pass.mask.mutable_data_ptr<uint8_t>() + n * pixels;
    auto* const sums = pass.class_sums.mutable_data_ptr<double>() + n * classes * 3;
    float* const entropy = pass.maps[0].defined() ? pass.maps[0].mutable_data_ptr<float>() + n * pixels : nullptr;
    for (int64_t i = 0; i < pixels; ++i) {
      int64_t best = 0;
      double h = 0;
      for (int64_t c = 0; c < classes; ++c) {
        const double value = p[c * pixels + i];
        if (value > p[best * pixels + i]) best = c;
        if (value > 0) h -= value * std::log(value);
        sums[c * 3 + 1] += value;
      }
      labels[i] = static_cast<uint8_t>(best);
      sums[best * 3] += 1;
      sums[best * 3 + 2] += p[best * pixels + i];
      if (entropy) entropy[i] = static_cast<float>(std::max(0.0, h));
    }
    auto* const summaries = pass.summaries.mutable_data_ptr<double>() + n * kMapCount * 2;
    for (unsigned map = 0; map < kMapCount; ++map) {
      if (!pass.maps[map].defined()) continue;
      const float* const values = pass.maps[map].const_data_ptr<float>() + n * pixels;
      double all = 0, foreground = 0;
      for (int64_t i = 0; i < pixels; ++i) {
        all += values[i];
        if (labels[i] != 0) foreground += values[i];
      }
      summaries[map * 2] = all;
      summaries[map * 2 + 1] = foreground;
    }
  }
  if (!options.probabilities) pass.probabilities = at::Tensor();
  if (!options.labels) pass.labels = at::Tensor();
  return pass;
}

}  // namespace le
