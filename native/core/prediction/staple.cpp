#include "prediction/staple.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>

namespace le {

namespace {

constexpr int64_t kMaxRounds = 100;
constexpr double kTolerance = 1e-7;
// Chances are kept this far from 0 and 1 inside likelihoods, so that one head cannot rule a class out.
constexpr double kChanceLimit = 1e-7;

// The combinations of labels that occur: all pixels with the same labels have the same W.
struct Patterns {
  std::vector<uint8_t> labels;  // D×K
  std::vector<double> counts;   // D: pixels
  std::vector<int32_t> of;      // P: the pattern of each pixel
};

Patterns find_patterns(const uint8_t* labels, int64_t heads, int64_t pixels) {
  Patterns found;
  found.of.resize(pixels);
  std::unordered_map<std::string, int32_t> known;
  std::string key(heads, '\0'), before;
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t k = 0; k < heads; ++k) key[k] = static_cast<char>(labels[k * pixels + i]);
    int32_t index;
    if (i > 0 && key == before) {  // neighbours mostly agree
      index = found.of[i - 1];
    } else {
      const auto [entry, fresh] = known.try_emplace(key, static_cast<int32_t>(known.size()));
      index = entry->second;
      if (fresh) {
        found.labels.insert(found.labels.end(), key.begin(), key.end());
        found.counts.push_back(0);
      }
      before = key;
    }
    found.of[i] = index;
    found.counts[index] += 1;
  }
  return found;
}

class Estimate {
 public:
  Estimate(const Patterns& patterns, int64_t heads, int64_t classes)
      : patterns_(patterns), heads_(heads), classes_(classes), chances_(heads * classes * classes) {
    const auto distinct = static_cast<int64_t>(patterns.counts.size());
    posterior_.assign(distinct * classes, 0.0);
    prior_.assign(classes, 0.0);
    double pixels = 0;
    for (int64_t d = 0; d < distinct; ++d) {
      double* const share = &posterior_[d * classes];
      for (int64_t k = 0; k < heads; ++k) share[patterns.labels[d * heads + k]] += 1;
      for (int64_t c = 0; c < classes; ++c) {
        share[c] /= static_cast<double>(heads);
        prior_[c] += share[c] * patterns.counts[d];
      }
      pixels += patterns.counts[d];
    }
    for (double& share : prior_) share /= pixels;
  }

  Staple run() {
    Staple result;
    result.converged = heads_ == 1 || std::any_of(prior_.begin(), prior_.end(), [](double p) { return p == 1; });
    if (result.converged) maximise();
    while (!result.converged && result.rounds < kMaxRounds) {
      ++result.rounds;
      const std::vector<double> before = chances_;
      maximise();
      expect();
      result.converged = result.rounds > 1 && largest_move(before) <= kTolerance;
    }
    result.confusion = chances_;
    const auto pixels = static_cast<int64_t>(patterns_.of.size());
    result.posterior.resize(classes_ * pixels);
    for (int64_t c = 0; c < classes_; ++c)
      for (int64_t i = 0; i < pixels; ++i)
        result.posterior[c * pixels + i] = static_cast<float>(posterior_[patterns_.of[i] * classes_ + c]);
    return result;
  }

 private:
  // Each head's confusion matrix from W; NaN in the row of a class without W.
  void maximise() {
    std::fill(chances_.begin(), chances_.end(), 0.0);
    for (size_t d = 0; d < patterns_.counts.size(); ++d)
      for (int64_t k = 0; k < heads_; ++k) {
        const uint8_t label = patterns_.labels[d * heads_ + k];
        for (int64_t t = 0; t < classes_; ++t)
          chances_[(k * classes_ + t) * classes_ + label] += patterns_.counts[d] * posterior_[d * classes_ + t];
      }
    for (size_t row = 0; row < chances_.size(); row += classes_) {
      double sum = 0;
      for (int64_t s = 0; s < classes_; ++s) sum += chances_[row + s];
      for (int64_t s = 0; s < classes_; ++s) chances_[row + s] /= sum;
    }
  }

  // W from the confusion matrices, in logarithms. A class without W has no prior: it cannot come back.
  void expect() {
    std::vector<double> logs(chances_.size());
    for (size_t i = 0; i < logs.size(); ++i)
      logs[i] = std::isnan(chances_[i]) ? 0 : std::log(std::clamp(chances_[i], kChanceLimit, 1 - kChanceLimit));
    std::vector<double> likelihood(classes_);
    for (size_t d = 0; d < patterns_.counts.size(); ++d) {
      double most = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t t = 0; t < classes_; ++t) {
        const bool gone = prior_[t] == 0 || std::isnan(chances_[t * classes_]);
        double& log = likelihood[t];
        log = gone ? -std::numeric_limits<double>::infinity() : std::log(prior_[t]);
        if (!gone)
          for (int64_t k = 0; k < heads_; ++k)
            log += logs[(k * classes_ + t) * classes_ + patterns_.labels[d * heads_ + k]];
        most = std::max(most, log);
      }
      for (double& log : likelihood) sum += (log = std::exp(log - most));
      for (int64_t t = 0; t < classes_; ++t) posterior_[d * classes_ + t] = likelihood[t] / sum;
    }
  }

  // NaN stays NaN, which is no move.
  double largest_move(const std::vector<double>& before) const {
    double most = 0;
    for (size_t i = 0; i < chances_.size(); ++i) {
      const double move = std::abs(chances_[i] - before[i]);
      if (move > most) most = move;
    }
    return most;
  }

  const Patterns& patterns_;
  const int64_t heads_, classes_;
  std::vector<double> posterior_, prior_, chances_;  // D×C, C, K×C×C
};

}  // namespace

Staple staple(const uint8_t* labels, int64_t heads, int64_t classes, int64_t pixels) {
  const Patterns patterns = find_patterns(labels, heads, pixels);
  return Estimate(patterns, heads, classes).run();
}

}  // namespace le
