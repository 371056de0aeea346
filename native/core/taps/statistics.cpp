#include "taps/statistics.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/diff.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/var_mean.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/channel_sums_kernel.h"
#include "kernels/isa.h"

namespace le {

namespace {

// Numbers that a piece of work reads, about: it stays in the second cache.
constexpr int64_t kPiece = int64_t{1} << 15;
// Columns of a plane that is cut into rows.
constexpr int64_t kWidth = 64;

struct Kernels {
  kernel::ChannelSums channel_sums;
  kernel::BelowSums below_sums;
};

Kernels chosen_kernels() {
  [[maybe_unused]] const std::string isa = chosen_isa();
#if defined(__x86_64__)
  if (isa == "avx512") return {kernel::channel_sums_avx512, kernel::below_sums_avx512};
  if (isa == "avx2") return {kernel::channel_sums_avx2, kernel::below_sums_avx2};
#endif
  return {kernel::channel_sums_generic, kernel::below_sums_generic};
}

at::Tensor by_operations(const at::Tensor& features, at::ScalarType type) {
  const auto [variance, mean] = at::var_mean(features.to(type).flatten(2), at::IntArrayRef{2}, /*correction=*/0);
  return at::cat({mean, variance.sqrt()}, 1).to(at::kFloat);
}

// Of standardised values: closest where most of them are, and far into the bright end, at which scanners clip.
constexpr std::array<float, 9> kThresholds = {-1.5F, -1, -0.5F, 0, 0.5F, 1, 1.5F, 2, 3};

at::Tensor input_by_operations(const at::Tensor& images, at::ScalarType type) {
  const at::Tensor x = images.to(type).flatten(2);
  const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{2}, /*correction=*/0, /*keepdim=*/true);
  const at::Tensor u = (x - mean) * at::where(variance > 0, variance.rsqrt(), at::zeros_like(variance));
  std::vector<at::Tensor> maps;
  for (const float t : kThresholds) maps.push_back((t - u).clamp_min(0));
  return by_operations(at::stack(maps, 2).flatten(1, 2), type);
}

// Of one channel.
struct Moments {
  double mean = 0, variance = 0;

  // Twice over the values, in lanes that the compiler may put into vectors: differences from another number than the
  // mean would lose what varies where a single value is far from all others.
  Moments(const float* x, int64_t places) {
    const auto n = static_cast<double>(places);
    mean = sum(places, [&](int64_t i) { return static_cast<double>(x[i]); }) / n;
    variance = sum(places, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / n;
  }

  // Before anything is squared: large values would leave the range of float. 0 where all are one.
  float scale() const { return variance > 0 ? static_cast<float>(1 / std::sqrt(variance)) : 0; }

 private:
  template <typename Value>
  static double sum(int64_t count, const Value& value) {
    constexpr int64_t kLanes = 8;
    double lanes[kLanes] = {}, total = 0;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value(i + lane);
    for (; i < count; ++i) total += value(i);
    for (const double lane : lanes) total += lane;
    return total;
  }
};

// Of one channel: means to `means`, deviations to `deviations`.
void input_of_plane(const float* x, at::IntArrayRef size, float* means, float* deviations) {
  int64_t places = 1;
  for (const int64_t length : size) places *= length;
  const Moments moments(x, places);
  std::array<double, kThresholds.size()> sums{}, squares{};
  chosen_kernels().below_sums({x, places, static_cast<float>(moments.mean), moments.scale(), kThresholds.data(),
                               static_cast<int64_t>(kThresholds.size()), sums.data(), squares.data()});
  for (size_t t = 0; t < kThresholds.size(); ++t) {
    const double m = sums[t] / static_cast<double>(places), v = squares[t] / static_cast<double>(places) - m * m;
    means[t] = static_cast<float>(m);
    deviations[t] = static_cast<float>(v > 0 ? std::sqrt(v) : 0);
  }
}

at::Tensor texture_by_operations(const at::Tensor& images, at::ScalarType type) {
  const at::Tensor x = images.to(type);
  const at::Tensor variance = std::get<0>(at::var_mean(x.flatten(2), at::IntArrayRef{2}, /*correction=*/0));
  const at::Tensor scale = at::where(variance > 0, variance.rsqrt(), at::zeros_like(variance));
  std::vector<at::Tensor> means, deviations;
  for (const int64_t order : {1, 2})
    for (int64_t axis = 2; axis < x.dim(); ++axis) {
      if (x.size(axis) <= order) {
        for (auto* const all : {&means, &deviations}) all->push_back(at::zeros_like(scale));
        continue;
      }
      const at::Tensor steps = at::diff(x, order, axis).abs().flatten(2);
      const auto [spread, mean] = at::var_mean(steps, at::IntArrayRef{2}, /*correction=*/0);
      means.push_back(mean * scale);
      deviations.push_back(spread.sqrt() * scale);
    }
  return at::cat({at::stack(means, 2).flatten(1), at::stack(deviations, 2).flatten(1)}, 1).to(at::kFloat);
}

// Sums of the absolute values of numbers, and of their squares.
struct Steps {
  double sum = 0, squares = 0;
  int64_t count = 0;

  template <typename Step>
  void add(int64_t size, const Step& step) {
    constexpr int64_t kLanes = 16, kBlock = 128;  // lanes as above; places summed in float
    for (int64_t from = 0; from < size; from += kLanes * kBlock) {
      const int64_t until = std::min(size, from + kLanes * kBlock);
      float first[kLanes] = {}, second[kLanes] = {};
      const auto take = [&](int64_t i, int64_t lane) {
        const float value = std::abs(step(i));
        first[lane] += value;
        second[lane] += value * value;
      };
      int64_t i = from;
      for (; i + kLanes <= until; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) take(i + lane, lane);
      for (; i < until; ++i) take(i, 0);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        sum += first[lane];
        squares += second[lane];
      }
    }
    count += size;
  }
};

// Of one channel: means to `means`, deviations to `deviations`, of as many maps as twice its axes.
void texture_of_plane(const float* x, at::IntArrayRef size, float* means, float* deviations) {
  int64_t places = 1;
  for (const int64_t length : size) places *= length;
  const float scale = Moments(x, places).scale();
  const auto axes = static_cast<int64_t>(size.size());
  for (int64_t order = 1; order <= 2; ++order) {
    int64_t after = places;  // places of an index of this axis
    for (int64_t axis = 0; axis < axes; ++axis) {
      const int64_t length = size[axis], block = after;
      after /= length;
      Steps steps;
      for (const float* from = x; from < x + places && length > order; from += block) {
        const float *const next = from + after, *const last = next + after;
        if (order == 1)
          steps.add(block - after, [&](int64_t i) { return (next[i] - from[i]) * scale; });
        else
          steps.add(block - 2 * after, [&](int64_t i) { return (last[i] - next[i] - (next[i] - from[i])) * scale; });
      }
      const double n = static_cast<double>(std::max<int64_t>(1, steps.count)), mean = steps.sum / n,
                   spread = steps.squares / n - mean * mean;
      const int64_t map = (order - 1) * axes + axis;
      means[map] = static_cast<float>(mean);
      // Not std::max, which would make 0 of NaN.
      deviations[map] = static_cast<float>(spread < 0 ? 0 : std::sqrt(spread));
    }
  }
}

// Of each channel of each image on its own, on the CPU: `fill` has its values, their size, and where its means and
// deviations of `maps` maps go.
template <typename Fill>
at::Tensor by_planes(const at::Tensor& images, int64_t maps, const Fill& fill) {
  const at::Tensor x = images.to(at::kFloat).contiguous();
  const int64_t count = x.size(0), channels = x.size(1), places = x.numel() / (count * channels);
  at::Tensor result = at::empty({count, 2 * channels * maps}, at::kFloat);
  auto* const out = result.mutable_data_ptr<float>();
  const auto* const data = x.const_data_ptr<float>();
  at::parallel_for(0, count * channels, std::max<int64_t>(1, kPiece / places), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      float* const means = out + (2 * (plane / channels) * channels + plane % channels) * maps;
      fill(data + plane * places, x.sizes().slice(2), means, means + channels * maps);
    }
  });
  return result;
}

float first_of(const char* at, bool bfloat16) {
  return bfloat16 ? static_cast<float>(*reinterpret_cast<const at::BFloat16*>(at))
                  : *reinterpret_cast<const float*>(at);
}

// Sums over the places of each channel of each image, from the channel's first value.
struct Sums {
  std::vector<float> origin;
  std::vector<double> sums, squares;
  explicit Sums(int64_t count) : origin(count), sums(count), squares(count) {}
};

// Channels side by side. Pieces are added in their order, so that the number of threads changes nothing.
void sum_channels_last(const at::Tensor& x, kernel::ChannelSums run, bool bfloat16, Sums& all) {
  const int64_t images = x.size(0), channels = x.size(1), places = x.numel() / images / channels,
                width = bfloat16 ? 2 : 4, rows = std::max<int64_t>(1, kPiece / channels),
                pieces = (places + rows - 1) / rows;
  const auto* const data = static_cast<const char*>(x.const_data_ptr());
  for (int64_t n = 0; n < images; ++n)
    for (int64_t c = 0; c < channels; ++c)
      all.origin[n * channels + c] = first_of(data + (n * places * channels + c) * width, bfloat16);
  std::vector<double> parts(2 * images * pieces * channels);
  at::parallel_for(0, images * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / pieces, first = item % pieces * rows;
      double* const part = &parts[2 * item * channels];
      run({data + (n * places + first) * channels * width, bfloat16, std::min(rows, places - first), channels, channels,
           &all.origin[n * channels], part, part + channels});
    }
  });
  for (int64_t item = 0; item < images * pieces; ++item)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = item / pieces * channels + c;
      all.sums[at] += parts[2 * item * channels + c];
      all.squares[at] += parts[(2 * item + 1) * channels + c];
    }
}

// Each channel of each image is a plane of its own.
void sum_planes(const at::Tensor& x, kernel::ChannelSums run, bool bfloat16, Sums& all) {
  const int64_t planes = x.size(0) * x.size(1), places = x.numel() / planes, width = bfloat16 ? 2 : 4;
  const auto* const data = static_cast<const char*>(x.const_data_ptr());
  at::parallel_for(0, planes, std::max<int64_t>(1, kPiece / places), [&](int64_t begin, int64_t end) {
    float origin[kWidth];
    double sums[kWidth], squares[kWidth];
    for (int64_t plane = begin; plane < end; ++plane) {
      const char* const first = data + plane * places * width;
      all.origin[plane] = first_of(first, bfloat16);
      std::fill(origin, origin + kWidth, all.origin[plane]);
      const auto add = [&](int64_t from, int64_t rows, int64_t columns) {
        run({first + from * width, bfloat16, rows, columns, kWidth, origin, sums, squares});
        for (int64_t c = 0; c < columns; ++c) {
          all.sums[plane] += sums[c];
          all.squares[plane] += squares[c];
        }
      };
      add(0, places / kWidth, kWidth);
      add(places / kWidth * kWidth, 1, places % kWidth);
    }
  });
}

}  // namespace

at::Tensor tap_statistics_reference(const at::Tensor& features) { return by_operations(features, at::kDouble); }

at::Tensor tap_statistics(const at::Tensor& features) {
  if (!features.is_cpu()) return by_operations(features, at::kFloat);
  const bool known = features.scalar_type() == at::kFloat || features.scalar_type() == at::kBFloat16;
  at::Tensor x = known ? features : features.to(at::kFloat);
  const bool bfloat16 = x.scalar_type() == at::kBFloat16;
  const auto last = x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  // Where both orders are one, as of a single channel, either will do.
  const bool channels_last = (x.dim() == 4 || x.dim() == 5) && !x.is_contiguous() && x.is_contiguous(last);
  if (!channels_last) x = x.contiguous();
  const int64_t images = x.size(0), channels = x.size(1), places = x.numel() / (images * channels);
  Sums all(images * channels);
  (channels_last ? sum_channels_last : sum_planes)(x, chosen_kernels().channel_sums, bfloat16, all);
  at::Tensor result = at::empty({images, 2 * channels}, at::kFloat);
  auto* const out = result.mutable_data_ptr<float>();
  for (int64_t n = 0; n < images; ++n)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = n * channels + c;
      const double mean = all.sums[at] / static_cast<double>(places),
                   variance = all.squares[at] / static_cast<double>(places) - mean * mean;
      out[2 * n * channels + c] = static_cast<float>(all.origin[at] + mean);
      // Not std::max, which would make 0 of NaN.
      out[(2 * n + 1) * channels + c] = static_cast<float>(variance < 0 ? 0 : std::sqrt(variance));
    }
  return result;
}

at::Tensor input_statistics_reference(const at::Tensor& images) { return input_by_operations(images, at::kDouble); }

at::Tensor input_statistics(const at::Tensor& images) {
  if (!images.is_cpu()) return input_by_operations(images, at::kFloat);
  return by_planes(images, kThresholds.size(), input_of_plane);
}

at::Tensor texture_statistics_reference(const at::Tensor& images) { return texture_by_operations(images, at::kDouble); }

at::Tensor texture_statistics(const at::Tensor& images) {
  if (!images.is_cpu()) return texture_by_operations(images, at::kFloat);
  return by_planes(images, 2 * (images.dim() - 2), texture_of_plane);
}

ImageStatistics image_statistics(const std::string& name) {
  if (name == "(input)") return input_statistics;
  if (name == "(texture)") return texture_statistics;
  return nullptr;
}

}  // namespace le
