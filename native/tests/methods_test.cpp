// The other methods: several heads on one tap, several networks in one prediction, and Monte Carlo dropout.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>

#include "backbones/backbone.h"
#include "ensemble.h"
#include "error.h"
#include "prediction/predict.h"
#include "prediction/staple.h"

#include "check.h"
#include "small_network.h"

namespace {

using namespace le;
using test::network;

EnsembleOptions plain_options() {
  EnsembleOptions options;
  options.input_size = {16, 16};
  return options;
}

PredictOptions options_of(Json::Object more) { return PredictOptions::from(Json(std::move(more))); }

// Means and standard deviations over the passes of all numbers of every pass's logits.
void check_sampling(std::shared_ptr<Backbone> backbone) {
  Ensemble ensemble(std::move(backbone), plain_options());
  CHECK(ensemble.has_dropout());
  ensemble.to(c10::kCPU, true);
  const at::Tensor image = at::rand({1, 1, 9, 12});
  const at::NoGradGuard no_grad;
  ensemble.train(false);
  const at::Tensor still = forward({&ensemble}, image, at::kFloat)[0];
  const at::Tensor passes = at::stack(forward({&ensemble}, image, at::kFloat, 400, 7));
  CHECK(passes.size(0) == 400);
  CHECK(passes.std(0).max().item<double>() > 0.01);
  // What follows the dropout is linear, so that the mean over many passes is the pass without.
  CHECK_NEAR((passes.mean(0) - still).abs().mean().item<double>(), 0, 0.1 * still.std().item<double>() + 0.02);
  CHECK(at::equal(forward({&ensemble}, image, at::kFloat)[0], still));
  const at::Tensor again = at::stack(forward({&ensemble}, image, at::kFloat, 400, 7));
  CHECK(at::equal(again, passes));
}

// The gradient of every weight after a training pass of which the heads in `heads` are the loss. Undefined: none came.
std::vector<at::Tensor> gradients(Ensemble& ensemble, const at::Tensor& input, const std::vector<size_t>& heads,
                                  double head_gradient, at::ScalarType dtype = at::kFloat) {
  ensemble.train(true);
  const NamedTensors weights = ensemble.parameters();
  for (const auto& [name, weight] : weights) weight.mutable_grad() = at::Tensor();
  std::vector<at::Tensor> logits;
  {
    const Autocast autocast(c10::kCPU, dtype);
    logits = ensemble.logits(input, nullptr, head_gradient);
  }
  at::Tensor loss = at::zeros({});
  for (const size_t k : heads) loss = loss + logits[k].to(at::kFloat).pow(2).sum();
  loss.backward();
  std::vector<at::Tensor> result;
  for (const auto& [name, weight] : weights)
    result.push_back(weight.grad().defined() ? weight.grad().clone() : at::Tensor());
  return result;
}

// Compares a pass with whole, half and no gradient from the heads before the last.
void check_head_gradient(std::shared_ptr<Backbone> backbone, EnsembleOptions options, at::Tensor input,
                         at::ScalarType dtype = at::kFloat) {
  Ensemble ensemble(std::move(backbone), options);
  std::vector<size_t> early, all;
  for (size_t k = 0; k < ensemble.heads().size(); ++k) all.push_back(k);
  early.assign(all.begin(), all.end() - 1);
  const NamedTensors weights = ensemble.parameters();
  const size_t backbones = ensemble.backbone().parameters().size();
  const auto whole = gradients(ensemble, input, early, 1, dtype), half = gradients(ensemble, input, early, 0.5, dtype),
             none = gradients(ensemble, input, early, 0, dtype);
  bool reached = false;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!whole[i].defined()) continue;
    if (i < backbones) {
      reached = true;
      CHECK(at::equal(half[i], whole[i] * 0.5));
      CHECK(!none[i].defined());
    } else {
      CHECK(at::equal(half[i], whole[i]));
      CHECK(at::equal(none[i], whole[i]));
    }
  }
  CHECK(reached);
  // The last head's gradient is whole, and what is tapped has the same numbers.
  const auto last = gradients(ensemble, input, {all.back()}, 1, dtype),
             with = gradients(ensemble, input, all, 0, dtype);
  for (size_t i = 0; i < backbones; ++i) CHECK(last[i].defined() == with[i].defined());
  for (size_t i = 0; i < backbones; ++i)
    if (last[i].defined()) CHECK(at::equal(last[i], with[i]));
  const at::NoGradGuard no_grad;
  const auto logits = ensemble.logits(input), scaled = ensemble.logits(input, nullptr, 0.3);
  for (const size_t k : all) CHECK(at::equal(logits[k], scaled[k]));
}

}  // namespace

TEST(
    "methods: a share of the early heads' gradient goes into the network, all of the last's, none where it is frozen") {
  const auto tapped = [](std::vector<std::string> taps, std::vector<int64_t> size, int64_t classes = 2) {
    EnsembleOptions options;
    options.taps = std::move(taps);
    options.input_size = std::move(size);
    options.classes = classes;
    return options;
  };
  const auto file = [](const char* name) {
    return make_backbone(Json::Object{{"kind", "file"}, {"file", std::string(LE_FIXTURES) + name}});
  };
  const EnsembleOptions flat = tapped({"encoder.0", "encoder.1", "decoder.1"}, {16, 16});
  check_head_gradient(network(3), flat, at::rand({2, 1, 16, 16}));
  check_head_gradient(network(3), flat, at::rand({2, 1, 16, 16}), at::kBFloat16);
  check_head_gradient(make_backbone(Json::Object{{"kind", "unet3d"}, {"width", 4}, {"depth", 2}}),
                      tapped({"encoder.0", "encoder.1"}, {8, 8, 8}), at::rand({2, 1, 8, 8, 8}));
  check_head_gradient(file("/exported/dynamic.pt2"), tapped({"stem.0", "conv"}, {8, 8}, 3), at::rand({2, 2, 8, 8}));
  check_head_gradient(file("/output/supervised-mean.pt"), tapped({"top", "up"}, {8, 8}, 3), at::rand({2, 2, 8, 8}));
  EnsembleOptions several = tapped({"decoder.1"}, {16, 16});
  several.heads_per_tap = 3;
  several.final = EnsembleOptions::Final::kNo;
  check_head_gradient(network(3), several, at::rand({2, 1, 16, 16}));
  EnsembleOptions frozen = flat;
  frozen.freeze_backbone = true;
  Ensemble still(network(3), frozen);
  const auto none = gradients(still, at::rand({2, 1, 16, 16}), {0, 1, 2}, 0.5);
  for (size_t i = 0; i < still.backbone().parameters().size(); ++i) CHECK(!none[i].defined());
  CHECK(none.back().defined());
}

TEST("methods: dropout draws in evaluation where it is asked to, in networks from files too") {
  for (const char* name : {"dropping-scripted.pt", "dropping-traced.pt"})
    check_sampling(
        make_backbone(Json::Object{{"kind", "file"}, {"file", std::string(LE_FIXTURES) + "/script/" + name}}));
  check_sampling(
      make_backbone(Json::Object{{"kind", "file"}, {"file", std::string(LE_FIXTURES) + "/exported/dropping.pt2"}}));
}

TEST("methods: Monte Carlo dropout runs on folded weights, and needs dropout") {
  Ensemble ensemble(network(3, 0.3), plain_options());
  ensemble.to(c10::kCPU, true);
  Control control;
  const std::vector<at::Tensor> images = {at::rand({1, 16, 20}), at::rand({1, 9, 7}), at::rand({1, 16, 20})};
  const auto options = options_of({{"passes", 9}, {"seed", 5}, {"labels", true}});
  const auto results = predict(ensemble, images, options, control);
  CHECK(results[1].labels.sizes() == at::IntArrayRef({1, 9, 9, 7}));
  CHECK(results[0].maps[3].max().item<double>() > 0);
  // An image's passes do not depend on its company.
  const auto alone = predict(ensemble, {images[2]}, options, control);
  CHECK(at::equal(alone[0].probabilities, results[2].probabilities));
  // The passes are those of forward(), but for rounding.
  const at::NoGradGuard no_grad;
  const auto logits = forward({&ensemble}, images[2].unsqueeze(0), at::kFloat, 9, 5);
  const Reduced expected = reduce_reference(logits, {16, 20}, options.reduce);
  CHECK_NEAR((expected.probabilities - results[2].probabilities).abs().max().item<double>(), 0, 1e-5);
  Ensemble plain(network(3), plain_options());
  CHECK_THROWS(predict(plain, images, options, control), code::kOption);
}

TEST("methods: the heads of several networks make one prediction, if they fit together") {
  Ensemble first(network(1), plain_options()), second(network(2), plain_options());
  EnsembleOptions many = plain_options();
  many.taps = {"decoder.1"};
  many.heads_per_tap = 3;
  many.final = EnsembleOptions::Final::kNo;
  Ensemble third(network(3), many);
  CHECK(third.heads()[2].name == "decoder.1#3");
  Control control;
  const at::Tensor image = at::rand({1, 11, 13});
  const auto options = options_of({{"labels", true}});
  const Reduced all = predict({&first, &second, &third}, {image}, options, control)[0];
  CHECK(all.labels.size(1) == 5);
  const at::NoGradGuard no_grad;
  const auto logits = forward({&first, &second, &third}, image.unsqueeze(0), at::kFloat);
  CHECK_NEAR(
      (reduce_reference(logits, {11, 13}, options.reduce).probabilities - all.probabilities).abs().max().item<double>(),
      0, 1e-5);
  // Kept heads by index, and their temperatures.
  const Reduced some =
      predict({&first, &second, &third}, {image},
              options_of({{"heads", Json::Array{1, 4}}, {"temperatures", Json::Array{2, 0.5}}}), control)[0];
  const Reduced wanted = reduce_reference({logits[1] / 2, logits[4] / 0.5}, {11, 13}, ReduceOptions());
  CHECK_NEAR((wanted.probabilities - some.probabilities).abs().max().item<double>(), 0, 1e-5);
  for (Json::Object wrong : {Json::Object{{"heads", Json::Array{4, 1}}}, Json::Object{{"heads", Json::Array{5}}},
                             Json::Object{{"temperatures", Json::Array{1}}}})
    CHECK_THROWS(predict({&first, &second, &third}, {image}, options_of(wrong), control), code::kOption);
  EnsembleOptions four = plain_options();
  four.classes = 4;
  four.taps = {"decoder.1"};
  Ensemble other(network(1), four);
  CHECK_THROWS(predict({&first, &other}, {image}, options, control), code::kOption);
  CHECK_THROWS(predict(Members{}, {image}, options, control), code::kOption);
}

TEST("methods: STAPLE keeps an agreed mask, weighs down a bad head, and never gives NaN") {
  const uint8_t agreed[] = {0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0};
  const Staple same = staple(agreed, 3, 2, 4);
  for (int i = 0; i < 4; ++i) CHECK_NEAR(same.posterior[4 + i], agreed[i], 1e-5);
  // Two heads that agree in ten pixels, and one that says the opposite.
  std::vector<uint8_t> labels(30);
  for (int i = 0; i < 10; ++i) {
    labels[i] = labels[10 + i] = i < 4;
    labels[20 + i] = i >= 4;
  }
  const Staple found = staple(labels.data(), 3, 2, 10);
  CHECK(found.converged && found.rounds > 1);
  for (int i = 0; i < 10; ++i) CHECK_NEAR(found.posterior[10 + i], i < 4, 1e-4);
  CHECK(found.confusion[3] > 0.99);          // the first head's sensitivity
  CHECK(found.confusion[2 * 4 + 3] < 0.01);  // the third's
  const uint8_t empty[] = {0, 0, 0, 0, 0, 0};
  const Staple none = staple(empty, 3, 3, 2);
  CHECK(none.converged && none.rounds == 0);
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < 2; ++i) CHECK(none.posterior[c * 2 + i] == (c == 0 ? 1 : 0));
  CHECK(std::isnan(none.confusion[1 * 3]));
}
