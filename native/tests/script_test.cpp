#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "backbones/backbone.h"
#include "backbones/imported.h"
#include "error.h"
#include "safetensors.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;

namespace {

std::string fixture(const std::string& name) { return std::string(LE_FIXTURES) + "/script/" + name; }

Json parsed(const SafetensorsFile& file, const char* key) {
  return Json::parse(file.metadata.at(key), code::kCheckpoint);
}

std::unique_ptr<Backbone> loaded(const std::string& name, Json::Object options = {}) {
  options.emplace("kind", "torchscript");
  options.emplace("file", fixture(name + ".pt"));
  return make_backbone(Json(options));
}

double difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (!actual.defined() || actual.sizes() != expected.sizes()) return INFINITY;
  if (expected.numel() == 0) return 0;
  const double scale = std::max(expected.to(at::kDouble).abs().max().item<double>(), 1e-3);
  return (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>() / scale;
}

#define CHECK_CLOSE(actual, expected, tolerance, what)                                                          \
  do {                                                                                                          \
    const double le_difference = difference(actual, expected);                                                  \
    if (!(le_difference <= (tolerance))) test::failed(__FILE__, __LINE__, what, " differs by ", le_difference); \
  } while (false)

// Everything that Python's forward hooks saw in both modes.
void compare(Backbone& backbone, const SafetensorsFile& expected, const std::string& file, double tolerance = 1e-5) {
  std::vector<std::string> taps;
  std::set<std::string> tappable;
  for (const Layer& layer : backbone.layers())
    if (layer.tappable) tappable.insert(layer.name);
  for (const auto& [key, value] : expected.tensors)
    if (key.starts_with("eval.tap.")) {
      taps.push_back(key.substr(9));
      if (!tappable.contains(taps.back())) test::failed(__FILE__, __LINE__, file, ": ", taps.back(), " has no tap");
    }
  const auto set = backbone.tap(taps);
  for (const std::string mode : {"eval", "train"}) {
    if (!expected.tensors.contains(mode + ".final")) continue;
    std::map<std::string, at::Tensor> before;
    for (const auto& [name, tensor] : backbone.buffers()) before[name] = tensor.clone();
    for (auto& [name, tensor] : backbone.parameters()) tensor.mutable_grad() = at::Tensor();
    backbone.train(mode == "train");
    Pass pass = backbone.forward(expected.tensors.at("x"), set.get());
    at::Tensor loss = pass.output.square().mean();
    CHECK_CLOSE(pass.output, expected.tensors.at(mode + ".final"), tolerance, file + " " + mode + " output");
    for (size_t i = 0; i < taps.size(); ++i) {
      CHECK_CLOSE(pass.taps[i], expected.tensors.at(mode + ".tap." + taps[i]), tolerance,
                  file + " " + mode + " tap " + taps[i]);
      loss = loss + pass.taps[i].square().mean();
    }
    loss.backward();
    size_t gradients = 0;
    for (const auto& [name, tensor] : backbone.parameters()) {
      const auto found = expected.tensors.find(mode + ".grad." + name);
      CHECK(tensor.grad().defined() == (found != expected.tensors.end()));
      if (!tensor.grad().defined()) continue;
      ++gradients;
      CHECK_CLOSE(tensor.grad(), found->second, 10 * tolerance, file + " " + mode + " gradient of " + name);
    }
    CHECK(gradients > 0);
    for (const auto& [name, tensor] : backbone.buffers())
      CHECK_CLOSE(tensor, expected.tensors.at(mode + ".buffer." + name), 10 * tolerance,
                  file + " " + mode + " buffer " + name);
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : backbone.buffers()) tensor.copy_(before.at(name));
  }
  backbone.train(false);
}

void compare_fixture(const std::string& name, const std::string& source = "") {
  const auto expected = read_safetensors(fixture((source.empty() ? name : source) + ".safetensors"));
  auto backbone = loaded(name, parsed(expected, "options").object("options"));
  std::vector<std::string> layers, calls;
  for (const Layer& layer : backbone->layers()) layers.push_back(layer.name + " " + layer.type);
  std::vector<std::string> expected_layers, expected_calls;
  const Json all_layers = parsed(expected, "layers"), all_calls = parsed(expected, "calls");
  for (const Json& layer : all_layers.array("layers"))
    expected_layers.push_back(layer.array("")[0].string("") + " " + layer.array("")[1].string(""));
  CHECK(layers == expected_layers);
  // Without a trace first, nothing is known of what is overwritten.
  compare(*backbone, expected, name);
  for (const Call& call : backbone->trace(expected.tensors.at("x"))) calls.push_back(call.name);
  std::set<std::string> untappable;
  for (const Layer& layer : backbone->layers())
    if (layer.why_not.find("interface") != std::string::npos) untappable.insert(layer.name);
  for (const Json& call : all_calls.array("calls"))
    if (!untappable.contains(call.string(""))) expected_calls.push_back(call.string(""));
  CHECK(calls == expected_calls);
  compare(*backbone, expected, name);
  compare(*backbone->clone(), expected, name);
}

}  // namespace

TEST("script: a network with branches, loops, repeated calls and a shared module is what Python sees") {
  compare_fixture("branches");
}
TEST("script: in-place successors leave a tap as its module returned it, scripted") {
  compare_fixture("block-scripted");
}
TEST("script: in-place successors leave a tap as its module returned it, traced") {
  compare_fixture("block-traced", "block-scripted");
}
TEST("script: a network traced in training mode can be evaluated") {
  compare_fixture("block-traced-training", "block-scripted");
}
TEST("script: a network traced in evaluation mode can be trained") { compare_fixture("eval-traced"); }
TEST("script: a batch norm saved as frozen stays frozen, scripted") { compare_fixture("frozen-scripted"); }
TEST("script: a batch norm saved as frozen stays frozen, traced") { compare_fixture("frozen-traced"); }
TEST("script: several inputs and a dictionary as the result") { compare_fixture("several"); }
TEST("script: tuples and lists as the result") { compare_fixture("tuples"); }
TEST("script: three spatial axes") { compare_fixture("volume"); }
TEST("script: a network that views its tensors") { compare_fixture("viewing"); }
TEST("script: what lies behind an interface is not tapped") { compare_fixture("interfaced"); }

// For checks against networks that are too large for the repository: every NAME.pt in the folder with its
// NAME.safetensors, made as make_script_fixtures.py does.
TEST("script: the networks in LE_SCRIPT_FOLDER are what Python sees") {
  const char* folder = std::getenv("LE_SCRIPT_FOLDER");
  if (!folder) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::filesystem::path path = entry.path();
    if (path.extension() != ".pt") continue;
    Json::Object options{{"kind", "torchscript"}, {"file", path.string()}};
    const auto expected = read_safetensors(path.replace_extension(".safetensors").string());
    options.merge(Json::Object(parsed(expected, "options").object("options")));
    auto backbone = make_backbone(Json(options));
    std::cout << path.stem() << std::endl;
    compare(*backbone, expected, path.stem().string());
    backbone->trace(expected.tensors.at("x"));
    compare(*backbone, expected, path.stem().string());
  }
}
