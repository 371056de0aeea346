// The ensemble, the training loop and prediction without Node: what the sanitizers see of them.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "backbones/backbone.h"
#include "ensemble.h"
#include "error.h"
#include "files/checkpoint.h"
#include "prediction/predict.h"
#include "training/train.h"

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
    Sample sample{1, {16, 16}, std::vector<float>(256), std::vector<uint8_t>(256)};
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

std::shared_ptr<Backbone> volume_backbone(const char* norm = "batch") {
  return make_backbone(
      Json::Object{{"kind", "unet3d"}, {"width", 4}, {"depth", 2}, {"norm", norm}, {"upsampling", "trilinear"}});
}

EnsembleOptions volume_options() {
  EnsembleOptions options;
  options.taps = {"encoder.0", "encoder.1"};
  return options;
}

// A box on a gradient, at a place of its own for each sample.
Dataset boxes(int count) {
  Dataset data;
  constexpr int kDepth = 8, kHeight = 10, kWidth = 12, kPixels = kDepth * kHeight * kWidth;
  for (int n = 0; n < count; ++n) {
    Sample sample{1, {kDepth, kHeight, kWidth}, std::vector<float>(kPixels), std::vector<uint8_t>(kPixels)};
    for (int i = 0; i < kPixels; ++i) {
      const int z = i / (kHeight * kWidth), y = i / kWidth % kHeight, x = i % kWidth;
      const int front = 1 + n % 3, top = 1 + n % 4, left = 2 + n % 5;
      const bool inside = z >= front && z < front + 4 && y >= top && y < top + 5 && x >= left && x < left + 5;
      sample.mask[i] = inside;
      sample.image[i] = static_cast<float>(inside) + 0.03f * static_cast<float>(x - y + z);
    }
    data.samples.push_back(std::move(sample));
  }
  return data;
}

TrainOptions options_of(Json::Object options) {
  options.merge(Json::Object{{"epochs", 3},
                             {"batchSize", 4},
                             {"accumulate", 1},
                             {"learningRate", 0.01},
                             {"loss", Json::Object{{"name", "softDice"}}},
                             {"optimizer", Json::Object{{"name", "adam"}}},
                             {"schedule", Json::Object{{"name", "constant"}}},
                             {"headGradient", 1},
                             {"clipNorm", 0},
                             {"earlyStopping", 0},
                             {"augment", Json::Object{}},
                             {"seed", 0},
                             {"ignoreIndex", 255},
                             {"checkpointEvery", 1},
                             {"restoreBest", true}});
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

TEST("train: without the early heads' gradient the network becomes what the last head alone makes of it") {
  const Folder folder;
  const Dataset data = squares(8);
  Control control;
  const auto trained = [&](Json::Object options) {
    auto ensemble = std::make_unique<Ensemble>(small_backbone(), small_options());
    train(*ensemble, data, nullptr, options_of(std::move(options)), std::nullopt, control);
    return ensemble;
  };
  const auto detached = trained({{"headGradient", 0}, {"run", folder.path.string()}});
  const auto alone = trained({{"headWeights", Json::Array{0, 0, 1}}});
  const NamedTensors left = detached->state(), right = alone->state();
  for (size_t i = 0; i < left.size(); ++i)
    CHECK(at::equal(left[i].second, right[i].second) == !left[i].first.starts_with("heads."));
  // It decides the weights: a run goes on with its own alone.
  Json::Object resumed{{"run", folder.path.string()}, {"resume", true}, {"epochs", 4}};
  CHECK_THROWS(trained(resumed), code::kCheckpoint);
  resumed["headGradient"] = 0;
  trained(resumed);
  for (const double wrong : {-0.1, 1.1}) CHECK_THROWS(trained({{"headGradient", wrong}}), code::kOption);
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
  sizes.samples[1].size = {16, 8};
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
  PredictOptions options =
      PredictOptions::from(Json::Object{{"heads", Json::Array{1, 2}}, {"labels", true}, {"batchSize", 1}});
  const auto results = predict(ensemble, images, options, control);
  CHECK(results.size() == 3);
  CHECK(results[1].mask.sizes() == at::IntArrayRef({1, 9, 7}));
  CHECK(results[2].labels.sizes() == at::IntArrayRef({1, 2, 16, 20}));
  control.stop = true;
  CHECK_THROWS(predict(ensemble, images, options, control), code::kAborted);
  control.stop = false;
  CHECK_THROWS(predict(ensemble, {at::rand({2, 8, 8})}, options, control), code::kShape);
  CHECK_THROWS(predict(ensemble, {at::zeros({1, 8, 8}) / 0}, options, control), code::kValue);
  options.heads = {3};
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

TEST("volumes: heads convolve in three dimensions, and sizes of two are refused") {
  Ensemble ensemble(volume_backbone(), volume_options());
  CHECK(ensemble.options().input_size == std::vector<int64_t>({32, 32, 32}));
  CHECK(ensemble.heads()[1].size == std::vector<int64_t>({16, 16, 16}));
  CHECK(ensemble.heads()[2].name == kFinalHead);
  for (const auto& [name, tensor] : ensemble.state())
    if (name == "heads.0.weight") CHECK(tensor.sizes() == at::IntArrayRef({2, 4, 3, 3, 3}));
  EnsembleOptions flat = volume_options();
  flat.input_size = {32, 32};
  CHECK_THROWS(Ensemble(volume_backbone(), flat), code::kOption);
  Control control;
  CHECK_THROWS(predict(ensemble, {at::rand({1, 8, 8})}, PredictOptions::from(Json::Object{}), control), code::kShape);
  CHECK_THROWS(train(ensemble, squares(2), nullptr, options_of({}), std::nullopt, control), code::kShape);
}

TEST("volumes: training lowers the loss and finds the box, in float and bfloat16, with every augmentation") {
  const Dataset data = boxes(8), validation = boxes(4);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const char* norm : {"batch", "instance"}) {
      Ensemble ensemble(volume_backbone(norm), volume_options());
      ensemble.to(c10::kCPU, true);
      Control control;
      TrainOptions options = options_of({{"epochs", 12},
                                         {"loss", Json::Object{{"name", "diceCrossEntropy"}}},
                                         {"augment", Json::Object{{"flipHorizontal", 0.5},
                                                                  {"flipVertical", 0.5},
                                                                  {"flipDepth", 0.5},
                                                                  {"rotation", 5},
                                                                  {"noise", 0.02}}}});
      options.dtype = dtype;
      const Json history = train(ensemble, data, &validation, options, std::nullopt, control);
      const auto& epochs = history.at("epochs").array("epochs");
      CHECK(epochs[11].at("loss").number("loss") < 0.6 * epochs[0].at("loss").number("loss"));
      double best = 0;
      for (const auto& epoch : epochs)
        best = std::max(best, epoch.at("validation").at("fused").at("dice").number("dice"));
      CHECK(best > 0.8);
    }
}

TEST("volumes: predict equals the reference reduction of the heads' own logits") {
  Ensemble ensemble(volume_backbone(), volume_options());
  ensemble.to(c10::kCPU, true);
  const at::Tensor image = at::rand({1, 9, 14, 11});
  Control control;
  const PredictOptions options = PredictOptions::from(Json::Object{{"labels", true}});
  const Reduced actual = predict(ensemble, {image}, options, control)[0];
  const at::NoGradGuard no_grad;
  ensemble.train(false);
  const Reduced expected = reduce_reference(ensemble.logits(image.unsqueeze(0)), {9, 14, 11}, options.reduce);
  const auto near = [](const at::Tensor& a, const at::Tensor& b) {
    CHECK(a.sizes() == b.sizes());
    CHECK((a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() < 1e-4);
  };
  near(actual.probabilities, expected.probabilities);
  for (unsigned map = 0; map < kMapCount; ++map) near(actual.maps[map], expected.maps[map]);
  CHECK((actual.mask != expected.mask).sum().item<int64_t>() <= 2);
  CHECK((actual.labels != expected.labels).sum().item<int64_t>() <= 6);
}

TEST("train: dropout inside of the network follows the run's seed, and leaves the default generator alone") {
  const Folder folder;
  const auto backbone = [] {
    return std::shared_ptr<Backbone>(make_backbone(Json::Object{
        {"kind", "deeplabv3plus"}, {"inChannels", 1}, {"classes", 2}, {"decoderChannels", 8}, {"dropout", 0.5}}));
  };
  CHECK(backbone()->draws_in_training());
  CHECK(!small_backbone()->draws_in_training());
  EnsembleOptions taps;
  taps.taps = {"encoder.layer1"};
  taps.input_size = {16, 16};
  const Dataset data = squares(8);
  Json::Object options{{"run", folder.path.string()}, {"epochs", 2}};
  Control control;
  at::manual_seed(4);
  const at::Tensor undisturbed = at::rand({4});
  at::manual_seed(4);
  Ensemble whole(backbone(), taps);
  train(whole, data, nullptr, options_of({{"epochs", 2}}), std::nullopt, control);
  CHECK(at::equal(at::rand({4}), undisturbed));

  Ensemble interrupted(backbone(), taps);
  Control stopping;
  stopping.report = [&](const Json& event) {
    if (event.at("type").string("type") == "batch" && event.at("epoch").integer("epoch") == 1) stopping.stop = true;
  };
  options["resume"] = true;
  CHECK_THROWS(train(interrupted, data, nullptr, options_of(options), std::nullopt, stopping), code::kAborted);
  Ensemble resumed(backbone(), taps);
  at::manual_seed(11);
  train(resumed, data, nullptr, options_of(options), std::nullopt, control);
  CHECK(largest_difference(whole, resumed) == 0);

  Ensemble other(backbone(), taps);
  train(other, data, nullptr, options_of({{"epochs", 2}, {"seed", 1}}), std::nullopt, control);
  CHECK(largest_difference(whole, other) > 0);
}

}  // namespace
