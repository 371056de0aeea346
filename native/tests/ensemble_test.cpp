// The ensemble, the training loop and prediction without Node: what the sanitizers see of them.
#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "backbones/backbone.h"
#include "checkpoint.h"
#include "ensemble.h"
#include "error.h"
#include "predict.h"
#include "train.h"

#include "check.h"

namespace {

using namespace le;

// A folder of its own for each test, gone at the end.
struct Folder {
  std::filesystem::path path;
  Folder() {
    static int count = 0;
    path = std::filesystem::temp_directory_path() /
           ("le-ensemble-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

std::shared_ptr<Backbone> small_backbone() {
  return make_backbone(
      Json::Object{{"kind", "plain-unet"}, {"inChannels", 1}, {"classes", 2}, {"width", 4}, {"depth", 2}, {"seed", 3}});
}

EnsembleOptions small_options() {
  EnsembleOptions options;
  options.taps = {"encoder.1", "encoder.0"};
  options.input_size = {16, 16};
  options.dropout = 0.1;
  return options;
}

// A square on a gradient, at a place of its own for each sample.
Dataset squares(int count) {
  Dataset data;
  for (int n = 0; n < count; ++n) {
    Sample2d sample{1, 16, 16, std::vector<float>(256), std::vector<uint8_t>(256)};
    for (int i = 0; i < 256; ++i) {
      const int y = i / 16, x = i % 16, top = 2 + n % 5, left = 3 + n % 4;
      const bool inside = y >= top && y < top + 6 && x >= left && x < left + 6;
      sample.mask[i] = inside;
      sample.image[i] = static_cast<float>(inside) + 0.03f * static_cast<float>(x - y);
    }
    data.samples.push_back(std::move(sample));
  }
  return data;
}

TrainOptions options_of(Json::Object options) {
  options.try_emplace("epochs", 3);
  options.try_emplace("batchSize", 4);
  options.try_emplace("learningRate", 0.01);
  return TrainOptions::from(Json(std::move(options)));
}

double largest_difference(Ensemble& a, Ensemble& b) {
  double worst = 0;
  const NamedTensors left = a.state(), right = b.state();
  for (size_t i = 0; i < left.size(); ++i)
    worst =
        std::max(worst, (left[i].second.to(at::kDouble) - right[i].second.to(at::kDouble)).abs().max().item<double>());
  return worst;
}

TEST("ensemble: taps are ordered by execution, final is last, names are state-dict names") {
  Ensemble ensemble(small_backbone(), small_options());
  CHECK(ensemble.heads().size() == 3);
  CHECK(ensemble.heads()[0].name == "encoder.0");
  CHECK(ensemble.heads()[1].name == "encoder.1");
  CHECK(ensemble.heads()[2].name == kFinalHead);
  bool found = false;
  for (const auto& [name, tensor] : ensemble.state()) found = found || name == "heads.1.weight";
  CHECK(found);
  EnsembleOptions unknown = small_options();
  unknown.taps = {"encoder.9"};
  CHECK_THROWS(Ensemble(small_backbone(), unknown), code::kTap);
}

TEST("train: the loss falls, and a stopped run goes on to the same weights") {
  const Folder folder;
  const Dataset data = squares(12), validation = squares(4);
  const Json::Object base{{"run", (folder.path / "whole").string()},
                          {"augment", Json::Object{{"flipHorizontal", 0.5}, {"rotation", 20}}}};
  std::filesystem::create_directories(folder.path / "whole");
  std::filesystem::create_directories(folder.path / "broken");
  Ensemble whole(small_backbone(), small_options());
  Control control;
  const Json history = train(whole, data, &validation, options_of(base), std::nullopt, control);
  const auto& epochs = history.at("epochs").array("epochs");
  CHECK(epochs.size() == 3);
  CHECK(epochs[2].at("loss").number("loss") < epochs[0].at("loss").number("loss"));

  Json::Object broken_options = base;
  broken_options["run"] = (folder.path / "broken").string();
  broken_options["resume"] = true;
  {
    Ensemble interrupted(small_backbone(), small_options());
    Control stopping;
    stopping.report = [&](const Json& event) {
      if (event.at("type").string("type") == "batch" && event.at("epoch").integer("epoch") == 1) stopping.stop = true;
    };
    CHECK_THROWS(train(interrupted, data, &validation, options_of(broken_options), std::nullopt, stopping),
                 code::kAborted);
  }
  Ensemble resumed(small_backbone(), small_options());
  const Json rest = train(resumed, data, &validation, options_of(broken_options), std::nullopt, control);
  CHECK(rest.at("epochs").array("epochs").size() == 3);
  CHECK(largest_difference(whole, resumed) == 0);

  broken_options["learningRate"] = 0.5;
  CHECK_THROWS(train(resumed, data, &validation, options_of(broken_options), std::nullopt, control), code::kCheckpoint);
}

TEST("train: a state file that is cut short is refused") {
  const Folder folder;
  const Dataset data = squares(4);
  Ensemble ensemble(small_backbone(), small_options());
  Control control;
  const Json::Object options{{"run", folder.path.string()}, {"epochs", 1}};
  train(ensemble, data, nullptr, options_of(options), std::nullopt, control);
  const auto state = folder.path / "state.safetensors";
  std::filesystem::resize_file(state, std::filesystem::file_size(state) / 2);
  Json::Object resume = options;
  resume["resume"] = true;
  resume["epochs"] = 2;
  CHECK_THROWS(train(ensemble, data, nullptr, options_of(resume), std::nullopt, control), code::kCheckpoint);
}

TEST("train: samples that do not fit are named") {
  Ensemble ensemble(small_backbone(), small_options());
  Control control;
  Dataset labels = squares(2);
  labels.samples[1].mask[5] = 9;
  CHECK_THROWS(train(ensemble, labels, nullptr, options_of({}), std::nullopt, control), code::kValue);
  Dataset sizes = squares(2);
  sizes.samples[1].width = 8;
  CHECK_THROWS(train(ensemble, sizes, nullptr, options_of({}), std::nullopt, control), code::kShape);
  CHECK_THROWS(train(ensemble, Dataset{}, nullptr, options_of({}), std::nullopt, control), code::kShape);
}

TEST("train: batches differ by at most one, hold every sample once, and depend on seed and epoch") {
  const auto batches = epoch_batches(23, 8, 5, 2);
  std::vector<int> seen(23, 0);
  for (const auto& batch : batches) {
    CHECK(batch.size() == 7 || batch.size() == 8);
    for (const size_t index : batch) ++seen[index];
  }
  for (const int times : seen) CHECK(times == 1);
  CHECK(batches == epoch_batches(23, 8, 5, 2));
  CHECK(batches != epoch_batches(23, 8, 5, 3));
  CHECK(batches != epoch_batches(23, 8, 6, 2));
}

TEST("train: a loss from outside gives its gradient") {
  Ensemble ensemble(small_backbone(), small_options());
  Control control;
  int calls = 0;
  const Loss squares_of_logits = external_loss([&](const at::Tensor& logits, const at::Tensor&) {
    ++calls;
    CHECK(!logits.requires_grad());
    return LossAndGradient{logits.pow(2).mean().item<double>(), 2 * logits / static_cast<double>(logits.numel())};
  });
  const Json history = train(ensemble, squares(8), nullptr, options_of({{"epochs", 6}}), squares_of_logits, control);
  const auto& epochs = history.at("epochs").array("epochs");
  CHECK(calls == 6 * 2 * 3);
  CHECK(epochs[5].at("loss").number("loss") < epochs[0].at("loss").number("loss"));
}

TEST("predict: images of different sizes, skipped heads, abort, and what is refused") {
  Ensemble ensemble(small_backbone(), small_options());
  const std::vector<at::Tensor> images = {at::rand({1, 16, 20}), at::rand({1, 9, 7}), at::rand({1, 16, 20})};
  Control control;
  PredictOptions options = PredictOptions::from(Json::Object{{"skip", 1}, {"labels", true}, {"batchSize", 1}});
  const auto results = predict(ensemble, images, options, control);
  CHECK(results.size() == 3);
  CHECK(results[1].mask.sizes() == at::IntArrayRef({1, 9, 7}));
  CHECK(results[2].labels.sizes() == at::IntArrayRef({1, 2, 16, 20}));
  control.stop = true;
  CHECK_THROWS(predict(ensemble, images, options, control), code::kAborted);
  control.stop = false;
  CHECK_THROWS(predict(ensemble, {at::rand({2, 8, 8})}, options, control), code::kShape);
  CHECK_THROWS(predict(ensemble, {at::zeros({1, 8, 8}) / 0}, options, control), code::kValue);
  options.skip = 3;
  CHECK_THROWS(predict(ensemble, images, options, control), code::kOption);
}

TEST("predict: bfloat16 is close to float, and leaves later float work alone") {
  Ensemble ensemble(small_backbone(), small_options());
  ensemble.to(c10::kCPU, true);
  const std::vector<at::Tensor> images = {at::rand({1, 32, 32})};
  Control control;
  PredictOptions options = PredictOptions::from(Json::Object{});
  const at::Tensor before = predict(ensemble, images, options, control)[0].probabilities;
  options.dtype = at::kBFloat16;
  const at::Tensor rough = predict(ensemble, images, options, control)[0].probabilities;
  CHECK_NEAR((rough - before).abs().max().item<double>(), 0, 0.02);
  options.dtype = at::kFloat;
  const at::Tensor after = predict(ensemble, images, options, control)[0].probabilities;
  CHECK((after - before).abs().max().item<double>() == 0);
}

}  // namespace
