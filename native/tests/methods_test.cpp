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

namespace {

using namespace le;

std::shared_ptr<Backbone> network(int seed, double dropout = 0) {
  return make_backbone(Json::Object{{"kind", "plain-unet"},
                                    {"inChannels", 1},
                                    {"classes", 2},
                                    {"width", 4},
                                    {"depth", 3},
                                    {"dropout", dropout},
                                    {"seed", seed}});
}

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

}  // namespace

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
