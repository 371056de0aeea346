// The fused pass against library operations and against a plain scalar computation in double precision.
#include "prediction/reduce.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

#include "check.h"
#include "error.h"
#include "kernels/isa.h"

namespace {

using namespace le;

// What the kernel reaches on maps and probabilities against double precision, over all tests here.
constexpr double kTolerance = 2e-6;

struct Naive {
  int64_t images, heads, classes, pixels;
  std::vector<double> fused;            // N×C×S
  std::vector<double> maps[kMapCount];  // N×S
  std::vector<int> labels;              // N×K×S
  std::vector<double> heads_p;          // N×K×C×S
  std::vector<bool> close_head, close;  // N×S: a head's (the fusion's) two best classes are equal but for rounding
};

std::vector<int64_t> volume(at::IntArrayRef size) {
  return size.size() == 2 ? std::vector<int64_t>{1, size[0], size[1]} : size.vec();
}

// One logit of a head at an output pixel. Coordinates are single precision, as libtorch's are; the rest is double.
double sample(const float* data, const std::vector<int64_t>& source, const std::vector<int64_t>& size,
              const int64_t (&at)[3]) {
  int64_t low[3];
  double share[3];
  for (int axis = 0; axis < 3; ++axis) {
    const float scale = static_cast<float>(source[axis]) / static_cast<float>(size[axis]);
    const float x = std::max(0.0f, std::fma(scale, static_cast<float>(at[axis]) + 0.5f, -0.5f));
    low[axis] = std::min(static_cast<int64_t>(x), source[axis] - 1);
    share[axis] = low[axis] == source[axis] - 1 ? 0 : static_cast<double>(x) - static_cast<double>(low[axis]);
  }
  double sum = 0;
  for (int corner = 0; corner < 8; ++corner) {
    double weight = 1;
    int64_t position[3];
    for (int axis = 0; axis < 3; ++axis) {
      const int up = corner >> axis & 1;
      weight *= up ? share[axis] : 1 - share[axis];
      position[axis] = std::min(low[axis] + up, source[axis] - 1);
    }
    if (weight != 0) sum += weight * data[(position[0] * source[1] + position[1]) * source[2] + position[2]];
  }
  return sum;
}

std::vector<double> softmax(const std::vector<double>& z) {
  double highest = z[0], sum = 0;
  for (const double x : z) highest = std::max(highest, x);
  std::vector<double> p;
  for (const double x : z) sum += p.emplace_back(std::exp(x - highest));
  for (double& x : p) x /= sum;
  return p;
}

size_t best(const std::vector<double>& x) { return std::max_element(x.begin(), x.end()) - x.begin(); }

double entropy(const std::vector<double>& p) {
  double sum = 0, others = 0;
  for (size_t c = 0; c < p.size(); ++c) {
    if (c == best(p)) continue;
    others += p[c];
    if (p[c] > 0) sum -= p[c] * std::log(p[c]);
  }
  return sum - (1 - others) * std::log1p(-others);
}

// Whether rounding may decide which of the two best is best: they differ, but by less than `margin`.
bool is_close(const std::vector<double>& x, double margin) {
  const size_t first = best(x);
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i] != x[first] && x[first] - x[i] < margin) return true;
  return false;
}

Naive naive(std::vector<at::Tensor> logits, at::IntArrayRef output, const ReduceOptions& options) {
  for (at::Tensor& head : logits) head = head.to(at::kFloat).contiguous();
  const std::vector<int64_t> size = volume(output);
  Naive r;
  r.images = logits[0].size(0), r.heads = logits.size(), r.classes = logits[0].size(1);
  r.pixels = size[0] * size[1] * size[2];
  const int64_t K = r.heads, C = r.classes, S = r.pixels;
  r.fused.resize(r.images * C * S);
  r.labels.resize(r.images * K * S);
  r.heads_p.resize(r.images * K * C * S);
  for (auto& map : r.maps) map.resize(r.images * S);
  r.close_head.resize(r.images * S), r.close.resize(r.images * S);
  std::vector<std::vector<int64_t>> sources;
  for (const at::Tensor& head : logits) sources.push_back(volume(head.sizes().slice(2)));
  double weights = 0;
  for (int64_t k = 0; k < K; ++k) weights += options.weights.empty() ? 1 : options.weights[k];
  for (int64_t n = 0; n < r.images; ++n) {
    for (int64_t i = 0; i < S; ++i) {
      const int64_t at[3] = {i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]};
      std::vector<double> mean(C), fused(C), votes(C), p;
      std::vector<std::vector<double>> all;
      double expected = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double weight = (options.weights.empty() ? 1 : options.weights[k]) / weights;
        std::vector<double> z(C);
        double largest = 0;
        for (int64_t c = 0; c < C; ++c) {
          const float* data = logits[k].const_data_ptr<float>() + (n * C + c) * logits[k].stride(1);
          z[c] = sample(data, sources[k], size, at);
          largest = std::max(largest, std::abs(z[c]));
        }
        p = softmax(z);
        expected += entropy(p) / static_cast<double>(K);
        const size_t label = best(z);
        r.labels[(n * K + k) * S + i] = static_cast<int>(label);
        if (is_close(z, 1e-6 * (1 + largest))) r.close_head[n * S + i] = true;
        votes[label] += 1;
        for (int64_t c = 0; c < C; ++c) {
          r.heads_p[((n * K + k) * C + c) * S + i] = p[c];
          mean[c] += p[c] / static_cast<double>(K);
          if (options.fusion == Fusion::kMean) fused[c] += weight * p[c];
          if (options.fusion == Fusion::kLogitMean) fused[c] += weight * z[c];
        }
        all.push_back(p);
      }
      if (options.fusion == Fusion::kLogitMean) fused = softmax(fused);
      if (options.fusion == Fusion::kLast) fused = p;
      if (options.fusion == Fusion::kVote)
        for (int64_t c = 0; c < C; ++c) fused[c] = votes[c] / static_cast<double>(K);
      double variance = 0, same = 0;
      for (int64_t c = 0; c < C; ++c) {
        r.fused[(n * C + c) * S + i] = fused[c];
        for (const auto& of_head : all)
          variance += (of_head[c] - mean[c]) * (of_head[c] - mean[c]) / static_cast<double>(K * C);
        same += votes[c] * (votes[c] - 1);
      }
      r.close[n * S + i] = is_close(fused, 1e-5);
      r.maps[0][n * S + i] = entropy(fused);
      r.maps[1][n * S + i] = expected;
      r.maps[2][n * S + i] = std::max(0.0, entropy(mean) - expected);
      r.maps[3][n * S + i] = variance;
      r.maps[4][n * S + i] = K == 1 ? 0 : 1 - same / static_cast<double>(K * (K - 1));
      r.maps[5][n * S + i] = 1 - votes[best(votes)] / static_cast<double>(K);
    }
  }
  return r;
}

// Every array of a result against the scalar one; what follows from other arrays of the result, against those exactly.
void check_result(const Reduced& got, const Naive& want, const ReduceOptions& options, double tolerance) {
  const int64_t N = want.images, K = want.heads, C = want.classes, S = want.pixels;
  CHECK(got.probabilities.numel() == N * C * S && got.mask.numel() == N * S && got.labels.numel() == N * K * S);
  const float* p = got.probabilities.const_data_ptr<float>();
  const uint8_t *mask = got.mask.const_data_ptr<uint8_t>(), *labels = got.labels.const_data_ptr<uint8_t>();
  const double *summaries = got.summaries.const_data_ptr<double>(),
               *class_sums = got.class_sums.const_data_ptr<double>();
  const int64_t *counts = got.counts.const_data_ptr<int64_t>(), *pairs = got.intersections.const_data_ptr<int64_t>();
  const float* maps[kMapCount];
  for (unsigned map = 0; map < kMapCount; ++map) maps[map] = got.maps[map].const_data_ptr<float>();
  int64_t close = 0;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = 0; i < S; ++i) {
      const bool close_head = want.close_head[n * S + i], votes_differ = options.fusion == Fusion::kVote && close_head;
      close += close_head;
      for (int64_t k = 0; k < K && !close_head; ++k)
        CHECK(labels[(n * K + k) * S + i] == want.labels[(n * K + k) * S + i]);
      int64_t highest = 0;
      for (int64_t c = 0; c < C; ++c) {
        if (!votes_differ) CHECK_NEAR(p[(n * C + c) * S + i], want.fused[(n * C + c) * S + i], tolerance);
        CHECK(p[(n * C + c) * S + i] >= 0 && p[(n * C + c) * S + i] <= 1 + 1e-6);
        if (p[(n * C + c) * S + i] > p[(n * C + highest) * S + i]) highest = c;
      }
      CHECK(mask[n * S + i] == highest);
      if (!want.close[n * S + i] && !votes_differ)
        for (int64_t c = 0; c < C; ++c)
          CHECK(want.fused[(n * C + highest) * S + i] >=
                want.fused[(n * C + c) * S + i] + (c < highest ? 1e-9 : -1e-9));
      for (unsigned map = 0; map < kMapCount; ++map) {
        const float value = maps[map][n * S + i];
        CHECK(value >= 0);
        if ((map >= 4 && close_head) || (map == 0 && votes_differ)) continue;
        CHECK_NEAR(value, want.maps[map][n * S + i], tolerance);
      }
    }
    for (unsigned map = 0; map < kMapCount; ++map) {
      double all = 0, foreground = 0;
      for (int64_t i = 0; i < S; ++i) {
        const float value = maps[map][n * S + i];
        all += value;
        foreground += mask[n * S + i] ? value : 0;
      }
      CHECK_NEAR(summaries[(n * kMapCount + map) * 2], all, 1e-6 * all);
      CHECK_NEAR(summaries[(n * kMapCount + map) * 2 + 1], foreground, 1e-6 * all);
    }
    for (int64_t c = 0; c < C; ++c) {
      double here = 0, sum = 0, sum_here = 0;
      for (int64_t i = 0; i < S; ++i) {
        const double value = p[(n * C + c) * S + i];
        here += mask[n * S + i] == c;
        sum += value;
        sum_here += mask[n * S + i] == c ? value : 0;
      }
      const double* sums = class_sums + (n * C + c) * 3;
      CHECK(sums[0] == here);
      CHECK_NEAR(sums[1], sum, 1e-6 * sum);
      CHECK_NEAR(sums[2], sum_here, 1e-6 * sum);
    }
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t c = 0; c < C; ++c) {
        double sum = 0, here = 0;
        for (int64_t i = 0; i < S; ++i) {
          const double value = want.heads_p[((n * K + k) * C + c) * S + i];
          sum += value;
          here += labels[(n * K + k) * S + i] == c ? value : 0;
        }
        const double* sums = got.head_sums.const_data_ptr<double>() + ((n * K + k) * C + c) * 2;
        CHECK_NEAR(sums[0], sum, tolerance * sum + 1e-12);
        CHECK_NEAR(sums[1], here, tolerance * here + 1e-12);
      }
    }
    std::vector<int64_t> both(K * K * C);
    for (int64_t i = 0; i < S; ++i) {
      for (int64_t a = 0; a < K; ++a) {
        const uint8_t label = labels[(n * K + a) * S + i];
        for (int64_t b = 0; b < K; ++b) both[(a * K + b) * C + label] += label == labels[(n * K + b) * S + i];
      }
    }
    for (int64_t i = 0; i < K * K * C; ++i) CHECK(pairs[n * K * K * C + i] == both[i]);
    for (int64_t k = 0; k < K; ++k)
      for (int64_t c = 0; c < C; ++c) CHECK(counts[(n * K + k) * C + c] == both[(k * K + k) * C + c]);
  }
  CHECK(close * 20 <= N * S);  // else too little was compared
}

// Runs `body` once per instruction set of this processor.
void for_each_isa(const std::function<void()>& body) {
  int ran = 0;
  for (const char* name : {"avx512", "avx2", "generic"}) {
    setenv("LAYER_ENSEMBLES_ISA", name, 1);
    if (chosen_isa() != name) continue;
    ++ran;
    try {
      body();
    } catch (const std::exception& error) {
      unsetenv("LAYER_ENSEMBLES_ISA");
      throw std::runtime_error(std::string(name) + ": " + error.what());
    }
  }
  unsetenv("LAYER_ENSEMBLES_ISA");
  CHECK(ran > 0);
}

std::vector<at::Tensor> random_logits(int64_t images, int64_t heads, int64_t classes,
                                      const std::vector<std::vector<int64_t>>& sizes, double scale) {
  std::vector<at::Tensor> logits;
  for (int64_t k = 0; k < heads; ++k) {
    std::vector<int64_t> shape = {images, classes};
    const auto& size = sizes[k % sizes.size()];
    shape.insert(shape.end(), size.begin(), size.end());
    at::Tensor head = at::randn(shape) * scale;
    if (k % 3 == 1) head = head.to(at::kBFloat16);
    if (k % 2 == 1)
      head = head.contiguous(size.size() == 2 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d);
    logits.push_back(head);
  }
  return logits;
}

void check_all(const std::vector<at::Tensor>& logits, at::IntArrayRef size, ReduceOptions options,
               double tolerance = kTolerance) {
  options.labels = true;
  const Naive want = naive(logits, size, options);
  for_each_isa([&] { check_result(reduce(logits, size, options), want, options, tolerance); });
  check_result(reduce_reference(logits, size, options), want, options, tolerance);
}

bool identical(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || at::equal(a, b));
}

bool identical(const Reduced& a, const Reduced& b) {
  bool same = identical(a.probabilities, b.probabilities) && identical(a.mask, b.mask) &&
              identical(a.labels, b.labels) && identical(a.summaries, b.summaries) &&
              identical(a.class_sums, b.class_sums) && identical(a.head_sums, b.head_sums) &&
              identical(a.counts, b.counts) && identical(a.intersections, b.intersections);
  for (unsigned map = 0; map < kMapCount; ++map) same = same && identical(a.maps[map], b.maps[map]);
  return same;
}

constexpr Fusion kFusions[] = {Fusion::kMean, Fusion::kLogitMean, Fusion::kVote, Fusion::kLast};

}  // namespace

TEST("reduce equals the definitions in 2D for classes, heads and fusions") {
  at::manual_seed(1);
  for (const int64_t classes : {2, 3, 4, 7}) {
    for (const int64_t heads : {1, 2, 3, 10, 70}) {
      const auto logits = random_logits(1, heads, classes, {{1, 1}, {9, 35}, {18, 70}, {5, 7}, {3, 33}, {18, 9}}, 3);
      for (const Fusion fusion : kFusions) {
        ReduceOptions options;
        options.fusion = fusion;
        check_all(logits, {18, 70}, options);
      }
    }
  }
}

TEST("reduce equals the definitions in 3D") {
  at::manual_seed(2);
  for (const int64_t classes : {2, 3, 4, 7})
    for (const int64_t heads : {1, 3, 10})
      check_all(random_logits(2, heads, classes, {{2, 4, 8}, {5, 7, 9}, {1, 1, 1}, {3, 2, 5}, {5, 4, 9}}, 3), {5, 7, 9},
                {});
}

TEST("reduce goes over several bands, tiles and images") {
  at::manual_seed(3);
  for (const int64_t classes : {2, 4})
    check_all(random_logits(2, 4, classes, {{71, 131}, {9, 17}, {36, 66}, {2, 3}}, 2), {71, 131}, {});
}

TEST("reduce takes any output size, and heads larger than it") {
  at::manual_seed(4);
  for (const int64_t classes : {2, 3}) {
    for (const std::vector<int64_t>& size :
         std::vector<std::vector<int64_t>>{{1, 1}, {5, 1}, {1, 65}, {3, 15}, {33, 64}, {4, 16}})
      check_all(random_logits(1, 3, classes, {{1, 1}, {4, 6}, {40, 130}}, 2), size, {});
    check_all(random_logits(1, 3, classes, {{1, 1, 1}, {6, 5, 20}, {2, 9, 3}}, 2), {3, 4, 17}, {});
  }
}

TEST("reduce weights heads in mean and logit-mean, and only there") {
  at::manual_seed(5);
  for (const int64_t classes : {2, 3, 4, 5}) {
    for (const Fusion fusion : kFusions) {
      ReduceOptions options;
      options.fusion = fusion;
      options.weights = {0.5, 0, 3, 1.25};
      check_all(random_logits(1, 4, classes, {{6, 10}, {12, 20}}, 3), {12, 20}, options);
    }
  }
}

TEST("reduce stays exact where heads are saturated") {
  at::manual_seed(6);
  for (const int64_t classes : {2, 3, 7}) {
    std::vector<at::Tensor> logits;
    for (int64_t k = 0; k < 5; ++k) {
      at::Tensor head = at::randint(0, 2, {1, classes, 6, 8}).to(at::kFloat) * 160 - 80;
      logits.push_back(k % 2 ? head : at::randn({1, classes, 12, 16}) * 40);
    }
    for (const Fusion fusion : kFusions) {
      ReduceOptions options;
      options.fusion = fusion;
      check_all(logits, {12, 16}, options, 1e-5);
    }
  }
}

TEST("reduce keeps the relative accuracy of small probabilities, entropies and variances of two classes") {
  // Heads agree with odds e^d to 1; each map is then small, and must not be lost beside 1.
  const std::vector<double> margins = {-30, -20, -12, -7, -3, -1, 0.5, 2, 5, 9, 15, 25, 31};
  std::vector<at::Tensor> logits;
  for (int k = 0; k < 4; ++k) {
    at::Tensor head = at::zeros({1, 2, 1, static_cast<int64_t>(margins.size())});
    for (size_t i = 0; i < margins.size(); ++i) head[0][1][0][static_cast<int64_t>(i)] = margins[i] * (1 + 0.1 * k);
    logits.push_back(head);
  }
  const at::IntArrayRef size = logits[0].sizes().slice(2);
  const Naive want = naive(logits, size, {});
  const auto width = static_cast<int64_t>(margins.size());
  for_each_isa([&] {
    const Reduced got = reduce(logits, size, {});
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t c = 0; c < 2; ++c) {
        const double p = want.fused[c * width + i];
        CHECK_NEAR(got.probabilities[0][c][0][i].item<float>(), p, p * (3e-7 + 1e-7 * std::abs(margins[i])));
      }
      for (const unsigned map : {0, 1, 3}) {
        if (map == 3 && std::abs(margins[i]) > 10) continue;  // double precision itself loses it beside 1
        const double value = want.maps[map][i];
        CHECK_NEAR(got.maps[map][0][0][i].item<float>(), value, value * (map == 3 ? 1e-4 : 2e-5));
      }
    }
  });
}

TEST("reduce gives ties to the lower class") {
  // Whole numbers at factors of two: interpolation is exact, so every tie is exact in every implementation.
  at::manual_seed(7);
  for (const int64_t classes : {2, 3, 4, 6}) {
    std::vector<at::Tensor> logits;
    for (const int64_t side : {4, 8, 16, 16})
      logits.push_back(at::randint(0, 2, {1, classes, side, side}).to(at::kFloat) * 4);
    ReduceOptions options;
    options.labels = true;
    const Naive want = naive(logits, {16, 16}, options);
    const auto check = [&](const Reduced& got) {
      const uint8_t* labels = got.labels.const_data_ptr<uint8_t>();
      for (size_t i = 0; i < want.labels.size(); ++i) CHECK(labels[i] == want.labels[i]);
    };
    for_each_isa([&] { check(reduce(logits, {16, 16}, options)); });
    check(reduce_reference(logits, {16, 16}, options));

    // Two heads that contradict each other: equal means, equal votes.
    at::Tensor one = at::zeros({1, classes, 1, 1}), other = at::zeros({1, classes, 1, 1});
    one[0][classes - 1] = 1.7, other[0][classes - 2] = 1.7;
    for (const Fusion fusion : {Fusion::kMean, Fusion::kVote, Fusion::kLogitMean}) {
      ReduceOptions fused;
      fused.fusion = fusion;
      for_each_isa([&] { CHECK(reduce({one, other}, {1, 1}, fused).mask.item<int64_t>() == classes - 2); });
      CHECK(reduce_reference({one, other}, {1, 1}, fused).mask.item<int64_t>() == classes - 2);
    }
  }
}

TEST("reduce gives no disagreement to heads that are the same") {
  at::manual_seed(8);
  for (const int64_t classes : {2, 3, 5}) {
    const at::Tensor head = at::randn({1, classes, 7, 20}) * 5;
    for_each_isa([&] {
      const Reduced got = reduce({head, head, head}, {14, 40}, {});
      CHECK(got.maps[2].max().item<float>() < 5e-7);
      CHECK(got.maps[3].max().item<float>() < 5e-8);
      CHECK(got.maps[4].max().item<float>() == 0 && got.maps[5].max().item<float>() == 0);
    });
  }
}

TEST("reduce gives the same bits for any number of threads") {
  at::manual_seed(9);
  const int before = at::get_num_threads();
  for (const int64_t classes : {2, 4}) {
    const auto logits = random_logits(3, 5, classes, {{100, 150}, {25, 38}, {7, 10}}, 3);
    ReduceOptions options;
    options.labels = true;
    for_each_isa([&] {
      at::set_num_threads(1);
      const Reduced one = reduce(logits, {100, 150}, options);
      at::set_num_threads(2);
      const Reduced two = reduce(logits, {100, 150}, options);
      at::set_num_threads(before);
      CHECK(identical(one, two));
    });
  }
}

TEST("reduce gives the same bits for any layout of the logits") {
  at::manual_seed(10);
  for (const int64_t classes : {2, 3, 4, 5}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor plain = at::randn({2, classes, 11, 37}).to(type);
      const at::Tensor last = plain.contiguous(at::MemoryFormat::ChannelsLast);
      const at::Tensor strided = at::zeros({2, classes, 22, 111}, type).slice(2, 0, 22, 2).slice(3, 1, 111, 3);
      strided.copy_(plain);
      for_each_isa([&] {
        for (const std::vector<int64_t>& size : std::vector<std::vector<int64_t>>{{11, 37}, {30, 77}}) {
          const Reduced want = reduce({plain}, size, {});
          CHECK(identical(reduce({last}, size, {}), want));
          CHECK(identical(reduce({strided}, size, {}), want));
        }
      });
    }
  }
}

TEST("reduce counts and fuses in full precision under autocast") {
  at::manual_seed(13);
  const auto logits = random_logits(1, 3, 3, {{40, 50}, {10, 13}}, 2);
  const Reduced kernel = reduce(logits, {40, 50}, {}), reference = reduce_reference(logits, {40, 50}, {});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const Reduced kernel_inside = reduce(logits, {40, 50}, {}), reference_inside = reduce_reference(logits, {40, 50}, {});
  at::autocast::set_autocast_enabled(at::kCPU, false);
  CHECK(identical(kernel, kernel_inside));
  CHECK(identical(reference, reference_inside));
}

TEST("reduce brings out what is asked for, with the same values") {
  at::manual_seed(11);
  for (const int64_t classes : {2, 3}) {
    for (const Fusion fusion : kFusions) {
      const auto logits = random_logits(1, 3, classes, {{5, 9}, {10, 18}}, 2);
      ReduceOptions options;
      options.fusion = fusion;
      const auto check = [&](const std::function<Reduced(const ReduceOptions&)>& run) {
        const Reduced all = run(options);
        for (unsigned maps = 0; maps <= kAllMaps; ++maps) {
          ReduceOptions some = options;
          some.maps = maps;
          some.probabilities = maps % 2;
          const Reduced got = run(some);
          CHECK(got.probabilities.defined() == some.probabilities && !got.labels.defined());
          CHECK(at::equal(got.mask, all.mask) && at::equal(got.class_sums, all.class_sums));
          CHECK(at::equal(got.intersections, all.intersections) && at::equal(got.counts, all.counts));
          for (unsigned map = 0; map < kMapCount; ++map) {
            const bool asked = maps >> map & 1;
            CHECK(got.maps[map].defined() == asked);
            if (asked) CHECK(at::equal(got.maps[map], all.maps[map]));
            CHECK(at::equal(got.summaries.select(1, map),
                            asked ? all.summaries.select(1, map) : at::zeros_like(all.summaries.select(1, map))));
          }
        }
      };
      for_each_isa([&] { check([&](const ReduceOptions& some) { return reduce(logits, {10, 18}, some); }); });
      check([&](const ReduceOptions& some) { return reduce_reference(logits, {10, 18}, some); });
    }
  }
}

TEST("reduce takes 255 classes and 200 heads") {
  at::manual_seed(12);
  check_all(random_logits(1, 3, 255, {{3, 5}, {6, 10}}, 1), {6, 10}, {}, 1e-5);
  check_all(random_logits(1, 200, 2, {{3, 5}, {6, 10}}, 3), {6, 10}, {}, 1e-5);
  check_all(random_logits(1, 200, 3, {{3, 5}, {6, 10}}, 3), {6, 10}, {}, 1e-5);
}

TEST("reduce takes the largest finite logits") {
  const float largest = std::numeric_limits<float>::max();
  for (const int64_t classes : {2, 3}) {
    const at::Tensor high = at::full({1, classes, 2, 2}, -largest), low = at::full({1, classes, 2, 2}, largest);
    high.select(1, 1).fill_(largest), low.select(1, 1).fill_(-largest);
    for (const Fusion fusion : kFusions) {
      ReduceOptions options;
      options.fusion = fusion;
      for_each_isa([&] {
        const Reduced got = reduce({high, high, low}, {3, 5}, options);
        CHECK(at::isfinite(got.probabilities).all().item<bool>());
        for (const at::Tensor& map : got.maps) CHECK(at::isfinite(map).all().item<bool>());
        if (fusion != Fusion::kLast) CHECK(got.mask.eq(1).all().item<bool>());
      });
    }
  }
}

TEST("reduce names the head whose logits are not finite") {
  for (const int64_t classes : {2, 3}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        for (const int64_t side :
             {4, 9, 40}) {  // smaller than the output, the same, larger (where samples are skipped)
          at::Tensor head = at::zeros({2, classes, side, side}, type);
          head[1][classes - 1][side - 1][side - 2] = bad;
          const std::vector<at::Tensor> logits = {at::zeros({2, classes, 3, 3}), head};
          const auto check = [&](auto run) {
            CHECK_THROWS(run(logits, {9, 9}, {}), "ERR_LE_VALUE");
            try {
              run(logits, {9, 9}, {});
            } catch (const Error& error) {
              CHECK(std::string(error.what()).find("head 1") != std::string::npos);
            }
          };
          for_each_isa([&] { check(reduce); });
          check(reduce_reference);
        }
      }
    }
  }
}

TEST("reduce refuses arguments that do not fit") {
  const at::Tensor head = at::zeros({1, 2, 4, 4});
  const auto with_weights = [](std::vector<double> weights) {
    ReduceOptions options;
    options.weights = std::move(weights);
    return options;
  };
  const auto check = [&](auto run) {
    CHECK_THROWS(run({}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({at::Tensor()}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head}, {4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head}, {4, 0}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head}, {4, 4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({at::zeros({0, 2, 4, 4})}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({at::zeros({1, 1, 4, 4})}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({at::zeros({1, 256, 1, 1})}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head, at::zeros({2, 2, 4, 4})}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head, at::zeros({1, 3, 4, 4})}, {4, 4}, {}), "ERR_LE_SHAPE");
    CHECK_THROWS(run({at::zeros({1, 2, 4, 4}, at::kLong)}, {4, 4}, {}), "ERR_LE_VALUE");
    CHECK_THROWS(run({head}, {4, 4}, with_weights({1, 1})), "ERR_LE_SHAPE");
    CHECK_THROWS(run({head}, {4, 4}, with_weights({-1})), "ERR_LE_VALUE");
    CHECK_THROWS(run({head}, {4, 4}, with_weights({0})), "ERR_LE_VALUE");
    CHECK_THROWS(run({head}, {4, 4}, with_weights({std::nan("")})), "ERR_LE_VALUE");
  };
  check(reduce);
  check(reduce_reference);
}

TEST("LAYER_ENSEMBLES_ISA must be a name that is known") {
  setenv("LAYER_ENSEMBLES_ISA", "avx1024", 1);
  CHECK_THROWS(chosen_isa(), "ERR_LE_OPTION");
  unsetenv("LAYER_ENSEMBLES_ISA");
}
