// Statistics of tapped features: the kernel against library operations in double, and what a prediction brings out
// against the features of a pass of its own.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/var_mean.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>

#include "backbones/backbone.h"
#include "ensemble.h"
#include "error.h"
#include "prediction/predict.h"
#include "taps/statistics.h"

#include "check.h"
#include "small_network.h"

namespace {

using namespace le;
using test::network;

double farthest(const at::Tensor& a, const at::Tensor& b) {
  CHECK(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>();
}

at::Tensor row(std::vector<float> values) { return at::tensor(values).unsqueeze(0); }

std::vector<at::MemoryFormat> formats(size_t axes) {
  return {at::MemoryFormat::Contiguous, axes == 3 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast};
}

std::shared_ptr<Backbone> from_file(const std::string& name) {
  return make_backbone(Json::Object{{"kind", "file"}, {"file", std::string(LE_FIXTURES) + "/" + name}});
}

EnsembleOptions options_of(std::vector<std::string> taps = {}, std::vector<int64_t> size = {16, 16}) {
  EnsembleOptions options;
  options.taps = std::move(taps);
  options.input_size = std::move(size);
  return options;
}

PredictOptions watching(const std::vector<std::string>& taps, Json::Object more = {}) {
  more["tapStatistics"] = Json::Array(taps.begin(), taps.end());
  return PredictOptions::from(Json(std::move(more)));
}

// By library operations in double, of the features of a pass of their own.
std::vector<at::Tensor> expected(Backbone& backbone, const std::vector<std::string>& taps, const at::Tensor& image) {
  const at::NoGradGuard no_grad;
  backbone.train(false);
  std::vector<at::Tensor> all;
  for (const at::Tensor& features : backbone.forward(image, backbone.tap(taps).get()).taps) {
    const auto [variance, mean] = at::var_mean(features.to(at::kDouble).flatten(2), at::IntArrayRef{2}, 0);
    all.push_back(at::cat({mean, variance.sqrt()}, 1).to(at::kFloat));
  }
  return all;
}

void check_watched(Ensemble& ensemble, const std::vector<std::string>& taps, const at::Tensor& image) {
  const Control control;
  const auto result = predict(ensemble, {image}, watching(taps), control)[0];
  CHECK(result.tap_statistics.size() == taps.size());
  const auto wanted = expected(ensemble.backbone(), taps, image.unsqueeze(0));
  for (size_t t = 0; t < taps.size(); ++t) CHECK_NEAR(farthest(result.tap_statistics[t], wanted[t]), 0, 2e-5);
}

}  // namespace

TEST("statistics: of an input how its standardised values are distributed, whatever their scale, size and order") {
  at::Generator generator = at::detail::createCPUGenerator(4);
  for (const int64_t channels : {1, 3})
    for (const std::vector<int64_t>& size : {std::vector<int64_t>{1, 1}, {7, 5}, {61, 133}, {9, 40, 31}})
      for (const at::MemoryFormat format : formats(size.size())) {
        std::vector<int64_t> shape = {2, channels};
        shape.insert(shape.end(), size.begin(), size.end());
        const at::Tensor x = at::randn(shape, generator).contiguous(format);
        const at::Tensor found = input_statistics(x);
        CHECK(found.size(0) == 2 && found.size(1) == 18 * channels);
        CHECK_NEAR(farthest(found, input_statistics_reference(x)), 0, 1e-5);
        CHECK_NEAR(farthest(found, input_statistics(x * 300 + 1000)), 0, 2e-4);
      }
  // Of two values -1 and 1 the maps max(0, t - u) are known.
  const at::Tensor two = at::cat({at::full({1, 1, 4, 5}, 3), at::full({1, 1, 4, 5}, 7)}, 3);
  const at::Tensor of_two = input_statistics(two)[0];
  const std::vector<double> thresholds = {-1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3};
  for (size_t t = 0; t < thresholds.size(); ++t) {
    const double low = std::max(0.0, thresholds[t] + 1), high = std::max(0.0, thresholds[t] - 1);
    CHECK_NEAR(of_two[static_cast<int64_t>(t)].item<double>(), (low + high) / 2, 1e-6);
    CHECK_NEAR(of_two[static_cast<int64_t>(t) + 9].item<double>(), (low - high) / 2, 1e-6);
  }
  // A still image has values of 0.
  CHECK(at::equal(input_statistics(at::full({1, 1, 3, 3}, 40)), input_statistics(at::full({1, 1, 3, 3}, -2))));
}

TEST("statistics: of an input how fine it is along each axis, whatever its scale, size and order") {
  at::Generator generator = at::detail::createCPUGenerator(6);
  for (const int64_t channels : {1, 3})
    for (const std::vector<int64_t>& size :
         {std::vector<int64_t>{1, 1}, {7, 1}, {2, 5}, {61, 133}, {1, 9, 8}, {9, 40, 31}})
      for (const at::MemoryFormat format : formats(size.size())) {
        std::vector<int64_t> shape = {2, channels};
        shape.insert(shape.end(), size.begin(), size.end());
        const at::Tensor x = at::randn(shape, generator).contiguous(format);
        const at::Tensor found = texture_statistics(x);
        CHECK(found.size(0) == 2 && found.size(1) == static_cast<int64_t>(4 * size.size()) * channels);
        CHECK_NEAR(farthest(found, texture_statistics_reference(x)), 0, 2e-5);
        CHECK_NEAR(farthest(found, texture_statistics(x * 300 + 1000)), 0, 5e-4);
      }
  // Columns of 0 and 2, whose standard deviation is 1: steps of 2 and back along x, none along y.
  const at::Tensor columns = at::arange(6).remainder(2).mul(2).to(at::kFloat).expand({1, 1, 4, 6});
  CHECK_NEAR(farthest(texture_statistics(columns), row({0, 2, 0, 4, 0, 0, 0, 0})), 0, 1e-6);
  // A row along x of 0, 0, 3, 3: of its three steps one is of 2 deviations, of its two bends both are.
  const at::Tensor steps = row({0, 0, 3, 3}).expand({1, 1, 1, 4});
  const at::Tensor known = row({0, 2.0F / 3, 0, 2, 0, std::sqrt(8.0F / 9), 0, 0});
  CHECK_NEAR(farthest(texture_statistics(steps), known), 0, 1e-6);
  // A still image has none, and what is no number stays none.
  CHECK(texture_statistics(at::full({1, 1, 3, 3}, 40)).eq(0).all().item<bool>());
  CHECK(texture_statistics(at::full({1, 1, 3, 3}, NAN)).isnan().all().item<bool>());
}

TEST("statistics: a pass brings out those of its input, too") {
  Ensemble ensemble(network(1), options_of({"encoder.0"}));
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor image = at::randn({1, 16, 16}, generator);
  const std::string tap = "encoder.0";
  const auto result = predict(ensemble, {image}, watching({"(input)", "(texture)", tap}), Control())[0];
  CHECK(result.tap_statistics.size() == 3);
  CHECK_NEAR(farthest(result.tap_statistics[0], input_statistics(image.unsqueeze(0))), 0, 1e-6);
  CHECK_NEAR(farthest(result.tap_statistics[1], texture_statistics(image.unsqueeze(0))), 0, 1e-6);
  CHECK(
      at::equal(result.tap_statistics[2], predict(ensemble, {image}, watching({tap}), Control())[0].tap_statistics[0]));
}

TEST("statistics: the kernel gives mean and standard deviation, whatever the size, order and type") {
  at::Generator generator = at::detail::createCPUGenerator(1);
  for (const char* isa : {"generic", "avx2", "avx512"}) {
    ::setenv("LAYER_ENSEMBLES_ISA", isa, 1);
    for (const int64_t channels : {1, 3, 16, 33, 64, 100, 512})
      for (const std::vector<int64_t>& size :
           {std::vector<int64_t>{1, 1}, {7, 5}, {8, 8}, {61, 133}, {3, 4, 5}, {9, 40, 31}})
        for (const at::MemoryFormat format : formats(size.size())) {
          std::vector<int64_t> shape = {2, channels};
          shape.insert(shape.end(), size.begin(), size.end());
          const at::Tensor x = (at::randn(shape, generator) * 3 + 2).contiguous(format);
          CHECK_NEAR(farthest(tap_statistics(x), tap_statistics_reference(x)), 0, 1e-5);
          const at::Tensor half = x.to(at::kBFloat16);
          CHECK_NEAR(farthest(tap_statistics(half), tap_statistics_reference(half)), 0, 1e-5);
        }
  }
  ::unsetenv("LAYER_ENSEMBLES_ISA");
}

TEST("statistics: little variation on a large mean is seen, none is zero, and what is not finite stays so") {
  for (const at::MemoryFormat format : formats(2)) {
    const at::Tensor x = (at::randn({1, 20, 40, 50}).to(at::kDouble) * 0.5 + 1e4).to(at::kFloat).contiguous(format);
    CHECK_NEAR(farthest(tap_statistics(x).narrow(1, 20, 20), tap_statistics_reference(x).narrow(1, 20, 20)), 0, 1e-5);
    const at::Tensor same = at::full({2, 20, 40, 50}, 0.1f).contiguous(format);
    CHECK(at::equal(tap_statistics(same).narrow(1, 20, 20), at::full({2, 20}, 0.f)));
    CHECK(at::equal(tap_statistics(same).narrow(1, 0, 20), at::full({2, 20}, 0.1f)));
    for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      at::Tensor wrong = at::full({1, 20, 40, 50}, 0.1f);
      wrong.narrow(1, 17, 1).narrow(2, 30, 1).fill_(odd);
      const at::Tensor found = tap_statistics(wrong.contiguous(format));
      CHECK(!found.isfinite()[0][17].item<bool>() && !found.isfinite()[0][37].item<bool>());
      CHECK(found.isfinite().sum().item<int64_t>() == 38);
    }
  }
}

TEST("statistics: layers are measured in the pass that predicts, with a head, skipped or without") {
  const std::vector<std::string> taps = {"encoder.0", "encoder.1", "decoder.1"};
  const at::Tensor image = at::rand({1, 21, 34});
  Ensemble layered(network(1), options_of({"encoder.0", "decoder.1"})), plain(network(1), options_of());
  for (Ensemble* ensemble : {&layered, &plain})
    for (const bool channels_last : {true, false}) {
      ensemble->to(c10::kCPU, channels_last);
      check_watched(*ensemble, taps, image);
      check_watched(*ensemble, {"encoder.0"}, image);
      check_watched(*ensemble, {"decoder.1", "encoder.0"}, image);
    }
  // The prediction is that of a pass without, and heads that are left out change nothing.
  const Control control;
  const Predicted with = predict(layered, {image}, watching(taps, {{"heads", Json::Array{2}}}), control)[0];
  const Predicted without = predict(layered, {image}, watching({}, {{"heads", Json::Array{2}}}), control)[0];
  CHECK(without.tap_statistics.empty());
  CHECK(farthest(with.probabilities, without.probabilities) < 1e-6);
  CHECK(farthest(with.tap_statistics[0], expected(layered.backbone(), taps, image.unsqueeze(0))[0]) < 2e-5);
}

TEST("statistics: an image's own, whatever shares its call") {
  Ensemble ensemble(network(1), options_of({"encoder.0", "encoder.2", "decoder.1"}));
  ensemble.to(c10::kCPU, true);
  const Control control;
  const std::vector<std::string> taps = {"encoder.2", "decoder.1"};
  const std::vector<at::Tensor> images = {at::rand({1, 16, 20}), at::rand({1, 9, 7}), at::rand({1, 16, 20}),
                                          at::rand({1, 16, 20})};
  const auto together = predict(ensemble, images, watching(taps, {{"batchSize", 2}}), control);
  for (size_t i = 0; i < images.size(); ++i) {
    const auto alone = predict(ensemble, {images[i]}, watching(taps), control)[0];
    for (size_t t = 0; t < taps.size(); ++t)
      CHECK(farthest(together[i].tap_statistics[t], alone.tap_statistics[t]) < 1e-6);
  }
}

TEST("statistics: of bfloat16 features the sums are in float") {
  Ensemble ensemble(network(1), options_of({"encoder.0"}));
  ensemble.to(c10::kCPU, true);
  const Control control;
  const at::Tensor image = at::rand({1, 64, 96});
  PredictOptions options = watching({"encoder.0", "encoder.1"});
  options.dtype = at::kBFloat16;
  const auto half = predict(ensemble, {image}, options, control)[0];
  const auto wanted = expected(ensemble.backbone(), {"encoder.0", "encoder.1"}, image.unsqueeze(0));
  // Each feature is off by up to 2^-9 of itself; a sum in bfloat16 would be off by far more.
  for (size_t t = 0; t < 2; ++t) {
    CHECK(half.tap_statistics[t].scalar_type() == at::kFloat);
    CHECK(farthest(half.tap_statistics[t], wanted[t]) < 0.01 * wanted[t].abs().max().item<double>());
  }
}

TEST("statistics: of several networks the first one's, of passes with dropout their mean") {
  Ensemble first(network(1), options_of()), second(network(2), options_of());
  const Control control;
  const at::Tensor image = at::rand({1, 16, 24});
  const std::vector<std::string> taps = {"encoder.0", "decoder.1"};
  const auto both = predict({&first, &second}, {image}, watching(taps), control)[0];
  const auto alone = predict(first, {image}, watching(taps), control)[0];
  for (size_t t = 0; t < taps.size(); ++t) CHECK(at::equal(both.tap_statistics[t], alone.tap_statistics[t]));

  Ensemble dropping(network(1, 0.3), options_of());
  const auto of = [&](int64_t passes, const std::vector<at::Tensor>& images) {
    return predict(dropping, images, watching({"decoder.1"}, {{"passes", passes}, {"seed", 5}}), control);
  };
  const at::Tensor one = of(1, {image})[0].tap_statistics[0], many = of(400, {image})[0].tap_statistics[0],
                   still = expected(dropping.backbone(), {"decoder.1"}, image.unsqueeze(0))[0];
  CHECK(farthest(one, many) > 1e-3);
  // The mean over many passes of a layer before which little is dropped is near the pass without.
  CHECK(farthest(many, still) < 0.5 * farthest(one, still) + 0.1);
  // Whatever shares the call.
  const auto shared = of(11, {at::rand({1, 16, 24}), image});
  CHECK(farthest(shared[1].tap_statistics[0], of(11, {image})[0].tap_statistics[0]) < 1e-6);
}

TEST("statistics: of networks that come as files, and of volumes") {
  at::Generator generator = at::detail::createCPUGenerator(2);
  for (const char* file : {"script/block-scripted.pt", "script/block-traced.pt", "script/volume.pt",
                           "exported/dynamic.pt2", "exported/volume.pt2"}) {
    const auto backbone = from_file(file);
    const auto axes = static_cast<size_t>(backbone->spatial_axes());
    std::vector<int64_t> size = backbone->example_size();
    if (size.empty()) size.assign(axes, axes == 3 ? 8 : 16);
    std::vector<int64_t> shape = {1, backbone->in_channels()};
    shape.insert(shape.end(), size.begin(), size.end());
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const Call& call : backbone->trace(at::rand(shape, generator))) shapes[call.name] = call.shape;
    std::vector<std::string> taps;
    for (const Layer& layer : backbone->layers())
      if (layer.tappable && shapes[layer.name].size() == axes + 2 && shapes[layer.name][0] == 1)
        taps.push_back(layer.name);
    CHECK(taps.size() >= 2);
    EnsembleOptions options = options_of({taps.back()}, size);
    options.final = EnsembleOptions::Final::kNo;
    Ensemble ensemble(backbone, options);
    for (const bool channels_last : {false, true}) {
      ensemble.to(c10::kCPU, channels_last);
      check_watched(ensemble, taps, at::rand(at::IntArrayRef(shape).slice(1), generator));
    }
  }
  Ensemble volume(
      make_backbone(Json::Object{{"kind", "unet3d"}, {"inChannels", 1}, {"classes", 2}, {"width", 4}, {"depth", 2}}),
      options_of({}, {8, 8, 8}));
  volume.to(c10::kCPU, true);
  std::vector<std::string> blocks;
  for (const Layer& layer : volume.backbone().layers())
    if (layer.name.starts_with("encoder.") && layer.name.size() == 9) blocks.push_back(layer.name);
  CHECK(!blocks.empty());
  check_watched(volume, blocks, at::rand({1, 9, 14, 11}));
}

TEST("statistics: layers that are unknown or have no feature map are named") {
  Ensemble ensemble(network(1), options_of({"encoder.0"}));
  const Control control;
  const at::Tensor image = at::rand({1, 16, 16});
  CHECK_THROWS(predict(ensemble, {image}, watching({"encoder.9"}), control), code::kTap);
  Ensemble classifier(make_backbone(Json::Object{{"kind", "resnet18"}, {"inChannels", 1}, {"classes", 3}}),
                      options_of({"layer1"}, {32, 32}));
  CHECK_THROWS(predict(classifier, {at::rand({1, 32, 32})}, watching({"fc"}), control), code::kTap);
  // And the next prediction is none the worse for it.
  check_watched(classifier, {"layer1", "layer2"}, at::rand({1, 32, 32}));
}
