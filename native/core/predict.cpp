#include "predict.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_trilinear3d.h>
#include <c10/core/InferenceMode.h>

#include <map>

namespace le {

namespace {

constexpr const char* kMapNames[kMapCount] = {"entropy",  "expectedEntropy", "mutualInformation",
                                              "variance", "disagreement",    "variationRatio"};

at::Tensor to_device(const Ensemble& ensemble, at::Tensor batch, at::ScalarType dtype) {
  if (ensemble.device().is_cuda()) batch = batch.pin_memory();  // pageable memory would make the copy wait
  return batch.to(ensemble.device(), dtype, /*non_blocking=*/true, /*copy=*/false, ensemble.memory_format());
}

}  // namespace

PredictOptions PredictOptions::from(const Json& options) {
  PredictOptions result;
  result.skip = options.integer_or("skip", 0);
  result.batch_size = options.integer_or("batchSize", 8);
  const std::string fusion = options.string_or("fusion", "mean");
  if (fusion == "mean")
    result.reduce.fusion = Fusion::kMean;
  else if (fusion == "logit-mean")
    result.reduce.fusion = Fusion::kLogitMean;
  else if (fusion == "vote")
    result.reduce.fusion = Fusion::kVote;
  else if (fusion == "last")
    result.reduce.fusion = Fusion::kLast;
  else
    fail(code::kOption, "Expected mean, logit-mean, vote or last for option 'fusion' but received '", fusion, "'.");
  result.reduce.weights = options.numbers_or("weights", {});
  if (options.has("maps")) {
    result.reduce.maps = 0;
    for (const auto& name : options.strings_or("maps", {})) {
      unsigned bit = 0;
      while (bit < kMapCount && name != kMapNames[bit]) ++bit;
      if (bit == kMapCount)
        fail(code::kOption, "Expected the name of a map for option 'maps' but received '", name, "'.");
      result.reduce.maps |= 1u << bit;
    }
  }
  result.reduce.probabilities = options.boolean_or("probabilities", true);
  result.reduce.labels = options.boolean_or("labels", false);
  if (result.batch_size < 1)
    fail(code::kOption, "Expected a positive integer for option 'batchSize' but received ", result.batch_size, ".");
  return result;
}

std::vector<Reduced> predict(Ensemble& ensemble, const std::vector<at::Tensor>& images, const PredictOptions& options,
                             const Control& control) {
  const auto heads = static_cast<int64_t>(ensemble.heads().size());
  if (options.skip < 0 || options.skip >= heads)
    fail(code::kOption, "Expected 0 to ", heads - 1, " for option 'skip' (there are ", heads, " heads) but received ",
         options.skip, ".");
  const int64_t axes = ensemble.backbone().spatial_axes();
  std::map<std::vector<int64_t>, std::vector<size_t>> by_shape;
  for (size_t i = 0; i < images.size(); ++i) {
    const at::Tensor& image = images[i];
    if (image.dim() != axes + 1 || image.size(0) != ensemble.backbone().in_channels())
      fail(code::kShape, "Expected ", ensemble.backbone().in_channels(), " channels × ", axes == 3 ? "depth × " : "",
           "height × width for image ", i, " but received shape ", image.sizes(), ".");
    if (image.numel() == 0) fail(code::kShape, "Expected an image but received shape ", image.sizes(), ".");
    if (!at::isfinite(image).all().item<bool>())
      fail(code::kValue, "Expected finite numbers for image ", i, " but received NaN or infinity.");
    by_shape[image.sizes().vec()].push_back(i);
  }

  std::vector<Reduced> results(images.size());
  const Autocast autocast(ensemble.device(), options.dtype);
  const c10::InferenceMode inference_mode;
  const InferenceMode evaluation(ensemble, options.dtype);
  for (const auto& [shape, indices] : by_shape) {
    for (size_t begin = 0; begin < indices.size(); begin += options.batch_size) {
      control.check();
      const size_t end = std::min(indices.size(), begin + static_cast<size_t>(options.batch_size));
      std::vector<at::Tensor> batch;
      for (size_t i = begin; i < end; ++i) batch.push_back(images[indices[i]]);
      auto logits = ensemble.logits(to_device(ensemble, at::stack(batch), options.dtype));
      logits.erase(logits.begin(), logits.begin() + options.skip);
      control.check();
      const Reduced reduced = reduce(logits, at::IntArrayRef(shape).slice(1), options.reduce);
      for (size_t i = begin; i < end; ++i) {
        const auto one = [&](const at::Tensor& all) {
          return all.defined() ? all.narrow(0, static_cast<int64_t>(i - begin), 1) : all;
        };
        Reduced& result = results[indices[i]];
        result.probabilities = one(reduced.probabilities);
        result.mask = one(reduced.mask);
        for (unsigned map = 0; map < kMapCount; ++map) result.maps[map] = one(reduced.maps[map]);
        result.labels = one(reduced.labels);
        result.summaries = one(reduced.summaries);
        result.class_sums = one(reduced.class_sums);
        result.counts = one(reduced.counts);
        result.intersections = one(reduced.intersections);
      }
    }
  }
  return results;
}

at::Tensor interpolate(const at::Tensor& logits, at::IntArrayRef size) {
  // In float and contiguous: resizing bfloat16 channels_last logits takes five to seven times as long.
  at::Tensor x = logits.to(at::kFloat).contiguous();
  if (x.sizes().slice(2) == size) return x;
  return size.size() == 3 ? at::upsample_trilinear3d(x, size, false) : at::upsample_bilinear2d(x, size, false);
}

std::vector<at::Tensor> forward(Ensemble& ensemble, const at::Tensor& images, at::ScalarType dtype) {
  const Autocast autocast(ensemble.device(), dtype);
  const at::NoGradGuard no_grad;
  ensemble.train(false);
  auto logits = ensemble.logits(to_device(ensemble, images, at::kFloat));
  for (auto& head : logits) head = interpolate(head, images.sizes().slice(2)).cpu();
  return logits;
}

}  // namespace le
