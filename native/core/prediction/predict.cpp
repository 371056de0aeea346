#include "prediction/predict.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/hardshrink.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>

#include <deque>
#include <map>
#include <numeric>
#include <optional>

#include "backbones/folded_conv.h"
#include "kernels/interpolation.h"
#include "options.h"
#include "platform/default_generator.h"
#include "prediction/passes.h"
#include "random.h"

namespace le {

namespace {

// In the order of Fusion and of Map.
constexpr const char* kFusionNames[] = {"mean", "logit-mean", "vote", "last", "staple"};
constexpr const char* kMapNames[kMapCount] = {"entropy",  "expectedEntropy", "mutualInformation",
                                              "variance", "disagreement",    "variationRatio"};

at::Tensor to_device(const Ensemble& ensemble, at::Tensor batch, at::ScalarType dtype) {
  if (ensemble.device().is_cuda()) batch = batch.pin_memory();  // pageable memory would make the copy wait
  return batch.to(ensemble.device(), dtype, /*non_blocking=*/true, /*copy=*/false, ensemble.memory_format());
}

at::Generator head_dropout(c10::Device device, uint64_t seed) {
  at::Generator generator =
      device.is_cuda() ? at::globalContext().getAcceleratorHooksInterface(c10::kCUDA).getNewGenerator(device.index())
                       : at::detail::createCPUGenerator();
  generator.set_current_seed(seed);
  return generator;
}

// All heads of `passes` passes of one image each with its own dropout, as a batch of copies; `statistics` are the means
// over its passes.
std::vector<at::Tensor> sampled(Ensemble& ensemble, const at::Tensor& images, int64_t passes, uint64_t seed,
                                TapStatistics* statistics) {
  // Copies that share a pass: as many as fit in memory where the image itself does, or nearly so.
  const int64_t together = images.dim() == 5 ? 2 : 8;
  std::vector<std::vector<at::Tensor>> by_head(passes * ensemble.heads().size());
  std::vector<std::vector<at::Tensor>> by_tap(statistics ? statistics->taps.size() : 0);
  for (const at::Tensor& image : images.split(1)) {
    std::vector<at::Tensor> sums(by_tap.size());
    Random random(seed, kSampling);
    const SeededDefaultGenerator seeded(ensemble.device(), random.bits());
    at::Generator generator = head_dropout(ensemble.device(), random.bits());
    for (int64_t begin = 0; begin < passes; begin += together) {
      const int64_t count = std::min(together, passes - begin);
      std::vector<int64_t> shape(image.dim(), -1);
      shape[0] = count;
      const at::Tensor copies = image.expand(shape).contiguous(ensemble.memory_format());
      const std::vector<at::Tensor> logits =
          ensemble.logits(copies, ensemble.options().dropout > 0 ? &generator : nullptr, 1, statistics);
      for (int64_t pass = 0; pass < count; ++pass)
        for (size_t k = 0; k < logits.size(); ++k)
          by_head[(begin + pass) * logits.size() + k].push_back(logits[k].narrow(0, pass, 1));
      for (size_t t = 0; t < sums.size(); ++t) {
        const at::Tensor sum = statistics->values[t].sum(0, /*keepdim=*/true);
        sums[t] = sums[t].defined() ? sums[t] + sum : sum;
      }
    }
    for (size_t t = 0; t < sums.size(); ++t) by_tap[t].push_back(sums[t] / static_cast<double>(passes));
  }
  for (size_t t = 0; t < by_tap.size(); ++t) statistics->values[t] = at::cat(by_tap[t]);
  std::vector<at::Tensor> all;
  for (const auto& head : by_head) all.push_back(head.size() == 1 ? head[0] : at::cat(head));
  return all;
}

// Zeros where folded convolutions left almost zeros: behind units that are all off, classes tie, and a tie goes to the
// lower class, not to the sign of what is left.
at::Tensor exact_zeros(at::Tensor logits) { return logits.is_cpu() ? at::hardshrink(logits, kRounding) : logits; }

std::vector<at::Tensor> all_logits(const Members& members, const at::Tensor& images, at::ScalarType dtype,
                                   int64_t passes, uint64_t seed, TapStatistics* statistics = nullptr) {
  const at::Tensor input = to_device(*members.front(), images, dtype);
  std::vector<at::Tensor> all;
  for (size_t m = 0; m < members.size(); ++m) {
    TapStatistics* const of_first = m == 0 ? statistics : nullptr;
    auto logits = passes == 0 ? members[m]->logits(input, nullptr, 1, of_first)
                              : sampled(*members[m], input, passes, Random(seed, kSampling, m).bits(), of_first);
    for (auto& head : logits) all.push_back(exact_zeros(std::move(head)));
  }
  return all;
}

// The number of all heads, where the members fit together.
int64_t checked_heads(const Members& members, int64_t passes) {
  if (members.empty()) fail(code::kOption, "Expected at least one network for a prediction but received none.");
  Ensemble& first = *members.front();
  int64_t heads = 0;
  for (size_t m = 0; m < members.size(); ++m) {
    Ensemble& member = *members[m];
    const auto agree = [&](const char* what, int64_t expected, int64_t received) {
      if (expected != received)
        fail(code::kOption, "Expected ", expected, " ", what, " for member ", m + 1,
             ", as for the first, but received ", received, ".");
    };
    agree("classes", first.classes(), member.classes());
    agree("channels of the image", first.backbone().in_channels(), member.backbone().in_channels());
    agree("spatial axes", first.backbone().spatial_axes(), member.backbone().spatial_axes());
    if (member.device() != first.device())
      fail(code::kOption, "Expected device ", first.device().str(), " for member ", m + 1,
           ", as for the first, but received ", member.device().str(), ".");
    if (passes > 0 && !member.has_dropout())
      fail(code::kOption, "Expected a network with dropout for Monte Carlo dropout but received one without: give the ",
           "backbone or its head option 'dropout'.");
    heads += static_cast<int64_t>(member.heads().size()) * std::max<int64_t>(1, passes);
  }
  return heads;
}

// Indices of the kept heads.
std::vector<int64_t> kept_heads(const PredictOptions& options, int64_t heads) {
  std::vector<int64_t> kept = options.heads;
  if (kept.empty()) {
    kept.resize(heads);
    std::iota(kept.begin(), kept.end(), int64_t{0});
  }
  for (size_t i = 0; i < kept.size(); ++i)
    if (kept[i] < 0 || kept[i] >= heads || (i > 0 && kept[i] <= kept[i - 1]))
      fail(code::kOption, "Expected increasing indices below ", heads, " for option 'heads' but received ", kept[i],
           ".");
  if (!options.temperatures.empty() && options.temperatures.size() != kept.size())
    fail(code::kOption, "Expected ", kept.size(),
         " numbers, one per kept head, for option 'temperatures' but received ", options.temperatures.size(), ".");
  for (const double temperature : options.temperatures)
    if (!(temperature > 0) || std::isinf(temperature))
      fail(code::kOption, "Expected positive numbers for option 'temperatures' but received ", temperature, ".");
  return kept;
}

}  // namespace

PredictOptions PredictOptions::from(const Json& options) {
  PredictOptions result;
  result.batch_size = in_range(options, "batchSize", result.batch_size, at_least<int64_t>(1));
  result.reduce.fusion = static_cast<Fusion>(one_of("fusion", options.string_or("fusion", "mean"), kFusionNames));
  result.reduce.temperature = options.number_or("temperature", 1);
  result.heads = options.integers_or("heads", {});
  result.temperatures = options.numbers_or("temperatures", {});
  result.passes = in_range(options, "passes", result.passes, {0, 10'000});
  result.seed = static_cast<uint64_t>(options.integer_or("seed", 0));
  result.reduce.weights = options.numbers_or("weights", {});
  if (options.has("maps")) {
    result.reduce.maps = 0;
    for (const auto& name : options.strings_or("maps", {})) result.reduce.maps |= 1u << one_of("maps", name, kMapNames);
  }
  result.reduce.probabilities = options.boolean_or("probabilities", true);
  result.reduce.labels = options.boolean_or("labels", false);
  result.tap_statistics = options.strings_or("tapStatistics", {});
  return result;
}

void check_finite(const at::Tensor& image, size_t index) {
  if (!at::isfinite(image).all().item<bool>())
    fail(code::kValue, "Expected finite numbers for image ", index, " but received NaN or infinity.");
}

Passes::Passes(const Members& members, const PredictOptions& options)
    : members_(members),
      options_(options),
      kept_(kept_heads(options, checked_heads(members, options.passes))),
      autocast_(members.front()->device(), options.dtype) {
  for (Ensemble* member : members) evaluation_.emplace_back(*member, options.dtype, options.passes > 0);
}

std::vector<at::Tensor> Passes::logits(const at::Tensor& images, TapStatistics* statistics) {
  auto all = all_logits(members_, images, options_.dtype, options_.passes, options_.seed,
                        statistics && !statistics->taps.empty() ? statistics : nullptr);
  std::vector<at::Tensor> kept;
  for (size_t k = 0; k < kept_.size(); ++k) {
    at::Tensor& head = kept.emplace_back(std::move(all[kept_[k]]));
    if (!options_.temperatures.empty() && options_.temperatures[k] != 1)
      head = head.to(at::kFloat) / options_.temperatures[k];
  }
  return kept;
}

void Passes::check_shape(at::IntArrayRef shape, size_t index) const {
  const Backbone& backbone = members_.front()->backbone();
  const int64_t axes = backbone.spatial_axes();
  if (static_cast<int64_t>(shape.size()) != axes + 1 || shape[0] != backbone.in_channels())
    fail(code::kShape, "Expected ", backbone.in_channels(), " channels × ", axes == 3 ? "depth × " : "",
         "height × width for image ", index, " but received shape ", shape, ".");
  for (const int64_t size : shape)
    if (size < 1) fail(code::kShape, "Expected an image but received shape ", shape, ".");
}

std::vector<Predicted> predict(const Members& members, const std::vector<at::Tensor>& images,
                               const PredictOptions& options, const Control& control) {
  return Passes(members, options).predict(images, control);
}

std::vector<Predicted> Passes::predict(const std::vector<at::Tensor>& images, const Control& control) {
  std::map<std::vector<int64_t>, std::vector<size_t>> by_shape;
  for (size_t i = 0; i < images.size(); ++i) {
    check_shape(images[i].sizes(), i);
    check_finite(images[i], i);
    by_shape[images[i].sizes().vec()].push_back(i);
  }

  std::vector<Predicted> results(images.size());
  const HeardInside heard(control);
  const auto batch_size = static_cast<size_t>(options_.batch_size);
  for (const auto& [shape, indices] : by_shape) {
    for (size_t begin = 0; begin < indices.size(); begin += batch_size) {
      control.check();
      const size_t end = std::min(indices.size(), begin + batch_size);
      std::vector<at::Tensor> batch;
      for (size_t i = begin; i < end; ++i) batch.push_back(images[indices[i]]);
      TapStatistics statistics{options_.tap_statistics, {}};
      const auto heads = logits(at::stack(batch), &statistics);
      control.check();
      const Reduced reduced = reduce(heads, at::IntArrayRef(shape).slice(1), options_.reduce);
      for (at::Tensor& values : statistics.values) values = values.cpu();
      for (size_t i = begin; i < end; ++i) {
        const auto of_image = [&](const at::Tensor& all) {
          return all.defined() ? all.narrow(0, static_cast<int64_t>(i - begin), 1) : all;
        };
        Predicted& result = results[indices[i]];
        static_cast<Reduced&>(result) = reduced.each(of_image);
        for (const at::Tensor& values : statistics.values) result.tap_statistics.push_back(of_image(values));
      }
    }
  }
  return results;
}

std::vector<at::Tensor> forward(const Members& members, const at::Tensor& images, at::ScalarType dtype, int64_t passes,
                                uint64_t seed) {
  checked_heads(members, passes);
  for (int64_t i = 0; images.dim() > 0 && i < images.size(0); ++i) check_finite(images[i], static_cast<size_t>(i));
  // As predict() does: the same logits, whatever ran before.
  const Autocast autocast(members.front()->device(), dtype);
  const c10::InferenceMode inference_mode;
  std::deque<Evaluation> evaluation;
  for (Ensemble* member : members) evaluation.emplace_back(*member, dtype, passes > 0);
  auto logits = all_logits(members, images, dtype, passes, seed);
  for (size_t k = 0; k < logits.size(); ++k) {
    logits[k] = interpolate(logits[k], images.sizes().slice(2)).cpu();
    check_finite_logits(logits[k], k);
  }
  return logits;
}

}  // namespace le
