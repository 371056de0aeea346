// Against PyTorch: the folder of fixtures that scripts/parity/make_fixtures.py writes, given by
// LAYER_ENSEMBLES_FIXTURES. Without it no test is registered.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sum.h>

#include <cstdlib>
#include <filesystem>

#include "backbones/backbone.h"
#include "error.h"
#include "fixture.h"

using namespace le;
using test::check_close, test::Fixture, test::names_of;

namespace {

constexpr double kTolerance = 1e-5;

std::unique_ptr<Backbone> backbone_of(const Fixture& fixture) {
  auto result = make_backbone(Json::parse(fixture.metadata("config"), code::kCheckpoint));
  load_weights(*result, {{"", fixture.under("state/")}});
  return result;
}

void check_evaluation(const Fixture& fixture, Backbone& backbone, double tolerance) {
  const auto expected = fixture.under("eval/tap/");
  const auto names = names_of(expected);
  const at::NoGradGuard no_grad;
  backbone.train(false);
  check_close("output", backbone.forward(fixture.at("input"), nullptr).output, fixture.at("eval/output"), tolerance);
  // All at once, and each alone: what is tapped decides what may be fused.
  const Pass pass = backbone.forward(fixture.at("input"), backbone.tap(names).get());
  check_close("output", pass.output, fixture.at("eval/output"), tolerance);
  for (size_t i = 0; i < names.size(); ++i) check_close(names[i], pass.taps[i], expected.at(names[i]), tolerance);
  for (size_t i = 0; i < names.size(); i += 7) {
    const Pass one = backbone.forward(fixture.at("input"), backbone.tap({names[i]}).get());
    check_close(names[i] + " alone", one.taps[0], expected.at(names[i]), tolerance);
    check_close("output", one.output, fixture.at("eval/output"), tolerance);
  }
}

void check_modules(const Fixture& fixture, Backbone& backbone) {
  // Python's hooks saw the same modules run.
  const auto expected = fixture.under("eval/tap/");
  std::map<std::string, std::vector<int64_t>> ran;
  for (const auto& call : backbone.trace(fixture.at("input")))
    if (!call.shape.empty()) ran[call.name] = call.shape;
  for (const auto& [name, tensor] : expected)
    if (!ran.contains(name) || at::IntArrayRef(ran.at(name)) != tensor.sizes())
      test::failed(__FILE__, __LINE__, name, " did not run, or has another shape");
  CHECK(ran.size() == expected.size());
}

void check_training(const Fixture& fixture, Backbone& backbone) {
  const auto expected = fixture.under("train/tap/");
  const auto names = names_of(expected);
  backbone.train(true);
  at::manual_seed(3);  // as make_fixtures.py does: dropout draws the same
  const Pass pass = backbone.forward(fixture.at("input"), backbone.tap(names).get());
  at::Tensor loss = (pass.output * fixture.at("train/cotangent")).sum();
  for (const at::Tensor& tap : pass.taps) loss = loss + (tap * test::cosines(tap)).sum() / tap.numel();
  loss.backward();

  check_close("output", pass.output, fixture.at("train/output"), kTolerance);
  for (size_t i = 0; i < names.size(); ++i) check_close(names[i], pass.taps[i], expected.at(names[i]), kTolerance);
  const auto gradients = fixture.under("train/grad/");
  for (const auto& [name, parameter] : backbone.parameters()) {
    if (gradients.contains(name))
      check_close("gradient of " + name, parameter.grad(), gradients.at(name), kTolerance);
    else
      CHECK(!parameter.grad().defined());
  }
  const auto buffers = fixture.under("train/buffer/");
  const auto mine = backbone.buffers();
  CHECK(mine.size() == buffers.size());
  for (const auto& [name, buffer] : mine) check_close(name, buffer, buffers.at(name), kTolerance);
}

void register_case(const std::string& path) {
  const std::string name = "parity " + std::filesystem::path(path).stem().string() + ": ";
  const auto test = [&](const std::string& what, auto run) {
    test::Register(name + what, [path, run] {
      at::set_num_threads(2);
      const Fixture fixture(path);
      const auto backbone = backbone_of(fixture);
      run(fixture, *backbone);
    });
  };
  test("modules, output and taps", [](const Fixture& fixture, Backbone& backbone) {
    check_evaluation(fixture, backbone, kTolerance);  // nothing known of overwriting yet: every tap is copied
    check_modules(fixture, backbone);
    check_evaluation(fixture, backbone, kTolerance);
  });
  test("gradients and buffers", [](const Fixture& fixture, Backbone& backbone) {
    backbone.trace(fixture.at("input"));
    check_training(fixture, backbone);
  });
  test("folded inference", [](const Fixture& fixture, Backbone& backbone) {
    backbone.trace(fixture.at("input"));
    for (const bool channels_last : {false, true}) {
      backbone.to(at::kCPU, channels_last);
      backbone.train(false);
      backbone.begin_inference(at::kFloat);
      check_evaluation(fixture, backbone, 2 * kTolerance);  // folding rounds once more
    }
  });
}

const bool registered = [] {
  const char* folder = std::getenv("LAYER_ENSEMBLES_FIXTURES");
  if (!folder) return false;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) register_case(path);
  return true;
}();

}  // namespace
