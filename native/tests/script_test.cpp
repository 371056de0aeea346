#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "backbones/backbone.h"
#include "backbones/imported.h"
#include "backbones/script/fusion.h"
#include "backbones/script/graph.h"
#include "ensemble.h"
#include "error.h"
#include "files/archive.h"
#include "files/safetensors.h"
#include "folder.h"
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

// Everything that Python's forward hooks saw in both modes. Gives back the layers that cannot be tapped.
std::set<std::string> compare(Backbone& backbone, const SafetensorsFile& expected, const std::string& file,
                              double tolerance = 1e-5, double gradient_tolerance = 1e-4) {
  std::vector<std::string> taps;
  std::set<std::string> tappable, skipped;
  for (const Layer& layer : backbone.layers())
    if (layer.tappable) tappable.insert(layer.name);
  for (const auto& [key, value] : expected.tensors)
    if (key.starts_with("eval.tap.")) {
      if (tappable.contains(key.substr(9)))
        taps.push_back(key.substr(9));
      else
        skipped.insert(key.substr(9));
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
      CHECK_CLOSE(tensor.grad(), found->second, gradient_tolerance, file + " " + mode + " gradient of " + name);
    }
    CHECK(gradients > 0);
    for (const auto& [name, tensor] : backbone.buffers())
      CHECK_CLOSE(tensor, expected.tensors.at(mode + ".buffer." + name), 10 * tolerance,
                  file + " " + mode + " buffer " + name);
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : backbone.buffers()) tensor.copy_(before.at(name));
  }
  backbone.train(false);
  return skipped;
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
  CHECK(compare(*backbone, expected, name).empty());
  for (const Call& call : backbone->trace(expected.tensors.at("x"))) calls.push_back(call.name);
  std::set<std::string> untappable;
  for (const Layer& layer : backbone->layers())
    if (layer.why_not.find("interface") != std::string::npos) untappable.insert(layer.name);
  for (const Json& call : all_calls.array("calls"))
    if (!untappable.contains(call.string(""))) expected_calls.push_back(call.string(""));
  CHECK(calls == expected_calls);
  compare(*backbone, expected, name);
}

}  // namespace

TEST("script: one wrong bit in any entry is refused or changes nothing, also where nothing reads it") {
  const std::string bytes = test::read_bytes(fixture("block-scripted.pt"));
  const test::Folder folder;
  test::write_bytes(folder.file("whole.pt"), bytes);
  const Archive archive(folder.file("whole.pt"));
  for (const auto& entry : archive.entries()) {
    if (entry.packed < 4) continue;
    std::string flipped = bytes;
    flipped[entry.offset + entry.packed / 2] ^= 4;  // of deflated data too
    test::write_bytes(folder.file("flipped.pt"), flipped);
    CHECK_THROWS(make_backbone(Json(Json::Object{{"kind", "torchscript"}, {"file", folder.file("flipped.pt")}})),
                 code::kCheckpoint);
  }
}

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

namespace {

// Passes with derived weights against passes without, with all taps and with none.
void compare_inference(Backbone& backbone, const at::Tensor& x, const std::string& file, at::ScalarType dtype,
                       double tolerance) {
  backbone.train(false);
  const c10::InferenceMode inference_mode;
  for (const size_t every : {1, 3, 0}) {
    std::vector<std::string> taps;
    size_t i = 0;
    for (const Layer& layer : backbone.layers())
      if (layer.tappable && every && i++ % every == 0) taps.push_back(layer.name);
    const auto set = backbone.tap(taps);
    backbone.end_inference();
    const Pass expected = backbone.forward(x, set.get());
    backbone.begin_inference(dtype);
    for (int pass = 0; pass < 2; ++pass) {
      const Pass actual = backbone.forward(x, set.get());
      CHECK_CLOSE(actual.output, expected.output, tolerance, file + " derived output");
      for (size_t k = 0; k < taps.size(); ++k) {
        CHECK(actual.taps[k].defined() == expected.taps[k].defined());
        if (actual.taps[k].defined())
          CHECK_CLOSE(actual.taps[k], expected.taps[k], tolerance, file + " derived tap " + taps[k]);
      }
    }
    backbone.end_inference();
  }
}

}  // namespace

TEST("script: weights derived for evaluation give the same outputs and taps") {
  for (const std::string name : {"block-scripted", "block-traced", "block-traced-training", "branches", "frozen-traced",
                                 "tuples", "volume", "viewing", "interfaced"}) {
    const auto source = name.starts_with("block") ? "block-scripted" : name;
    const auto expected = read_safetensors(fixture(source + ".safetensors"));
    const Json options = parsed(expected, "options");
    auto backbone = loaded(name, options.object("options"));
    const at::Tensor x = expected.tensors.at("x");
    compare_inference(*backbone, x, name, at::kFloat, 1e-5);
    backbone->trace(x);
    backbone->to(c10::kCPU, true);
    compare_inference(*backbone, x, name, at::kFloat, 1e-5);
    compare_inference(*backbone, x, name, at::kBFloat16, 0.05);
  }
}

TEST("script: convolutions fold with what follows, scripted and traced, but not across a tap") {
  for (const std::string name : {"block-scripted", "block-traced", "block-traced-training"}) {
    auto module = torch::jit::load(fixture(name + ".pt"));
    module.eval();
    auto modules = script::named_modules(module);
    const auto inlined = script::inlined_forward(module, modules);
    const auto left = [&](const std::string& tap, const std::string& kind) {
      std::vector<int> slots(modules.size(), -1);
      for (size_t i = 0; i < modules.size(); ++i)
        if (modules[i].name == tap) slots[i] = 0;
      auto graph = script::with_taps(*inlined, slots, std::vector<Fate>(modules.size(), Fate::kKept));
      const auto derived = script::derive(graph, module, at::kFloat);
      CHECK(derived && derived->whole && derived->convolutions.size() == 6);
      size_t count = 0;
      for (const auto* node : graph->nodes()) count += node->kind().toQualString() == kind;
      return count;
    };
    CHECK(left("", "aten::batch_norm") == 0);
    CHECK(left("", "aten::add_") == 0);
    CHECK(left("", "aten::relu_") == 0);
    CHECK(left("conv1", "aten::batch_norm") == 1);
    CHECK(left("bn1", "aten::batch_norm") == 0);
    CHECK(left("bn1", "aten::relu_") == 1);
  }
}

TEST("script: derived weights follow the parameters, and are not used for training") {
  const auto expected = read_safetensors(fixture("block-scripted.safetensors"));
  auto backbone = loaded("block-scripted");
  const at::Tensor x = expected.tensors.at("x");
  backbone->train(false);
  backbone->begin_inference(at::kFloat);
  at::Tensor before;
  {
    const c10::InferenceMode inference_mode;
    before = backbone->forward(x, nullptr).output.clone();
  }
  CHECK(backbone->forward(x, nullptr).output.requires_grad());
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : backbone->parameters())
      if (name == "conv1.weight") tensor.mul_(3);
  }
  const c10::InferenceMode inference_mode;
  CHECK(at::allclose(backbone->forward(x, nullptr).output, before));
  backbone->begin_inference(at::kFloat);
  const at::Tensor after = backbone->forward(x, nullptr).output;
  CHECK(!at::allclose(after, before));
  backbone->end_inference();
  CHECK_CLOSE(after, backbone->forward(x, nullptr).output, 1e-5, "output after a change");
}

TEST("script: a saved network has the present weights, the frozen modules, and no trace of taps") {
  const auto expected = read_safetensors(fixture("frozen-scripted.safetensors"));
  auto backbone = loaded("frozen-scripted");
  const auto set = backbone->tap({"bn", "drop"});
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : backbone->parameters())
      if (name == "last.bias") tensor.add_(5);
  }
  backbone->train(false);
  const at::Tensor x = expected.tensors.at("x");
  const at::Tensor output = backbone->forward(x, set.get()).output;
  const test::Folder folder;
  const std::string path = folder.file("saved.pt");
  backbone->save(path);
  auto again = make_backbone(Json(Json::Object{{"kind", "torchscript"}, {"file", path}}));
  again->train(false);
  CHECK_CLOSE(again->forward(x, nullptr).output, output, 0, "output of the saved network");
  for (const auto& [name, tensor] : again->parameters()) CHECK(tensor.requires_grad() == (name != "frozen.weight"));
  const auto mean_of = [](Backbone& network, const std::string& name) {
    for (const auto& [key, tensor] : network.buffers())
      if (key == name) return tensor.clone();
    throw std::runtime_error("no buffer " + name);
  };
  again->train(true);
  const at::Tensor frozen = mean_of(*again, "frozen.running_mean"), live = mean_of(*again, "bn.running_mean");
  again->forward(x, nullptr);
  CHECK(at::equal(mean_of(*again, "frozen.running_mean"), frozen));
  CHECK(!at::equal(mean_of(*again, "bn.running_mean"), live));
  CHECK_THROWS(backbone->save("/nowhere/at/all.pt"), code::kIo);
  const std::string before = test::read_bytes(path);
  {
    const test::SmallDisk disk;
    CHECK_THROWS(backbone->save(path), code::kIo);
  }
  CHECK(folder.entries() == 1 && test::read_bytes(path) == before);
}

TEST("script: a traced convolution trains in bfloat16 as a scripted one does") {
  for (const char* name : {"block-scripted", "block-traced"}) {
    const auto backbone = loaded(name);
    const auto taps = backbone->tap({"conv1", "down.0", "act.0", "head.0"});
    backbone->train(true);
    const Autocast autocast(at::kCPU, at::kBFloat16);
    const Pass pass = backbone->forward(at::randn({2, 3, 8, 8}), taps.get());
    for (const at::Tensor& tap : pass.taps) CHECK(tap.scalar_type() == at::kBFloat16);
  }
}

TEST("script: moving keeps every tensor's identity") {
  auto backbone = loaded("block-scripted");
  const auto before = backbone->parameters();
  backbone->to(c10::kCPU, true);
  const auto after = backbone->parameters();
  for (size_t i = 0; i < before.size(); ++i)
    CHECK(before[i].second.unsafeGetTensorImpl() == after[i].second.unsafeGetTensorImpl());
  CHECK(after[0].second.is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST("script: a network that cannot work in channels_last stays contiguous") {
  auto backbone = loaded("viewing");
  const at::Tensor x = at::ones({1, 3, 4, 5});
  backbone->trace(x);
  backbone->to(c10::kCPU, true);
  CHECK(backbone->forward(x, nullptr).output.defined());
}

TEST("script: what the image has is found in the file") {
  auto grey = loaded("eval-traced");
  CHECK(grey->in_channels() == 1 && grey->spatial_axes() == 2);
  auto volume = loaded("volume");
  CHECK(volume->in_channels() == 1 && volume->spatial_axes() == 3);
  const Json config = volume->config();
  CHECK(config.at("kind").string("") == "torchscript" && config.at("inChannels").integer("") == 1 &&
        config.at("image").string("") == "x");
  CHECK(make_backbone(config)->spatial_axes() == 3);
}

TEST("script: untappable layers say why, and unknown names are answered with near ones") {
  auto backbone = loaded("branches", {{"inputs", Json::Object{{"n", 3}}}});
  CHECK_THROWS(backbone->tap({"nothing"}), code::kTap);
  CHECK_THROWS(backbone->tap({"idle", "idle"}), code::kTap);
  auto tuples = loaded("tuples");
  CHECK_THROWS(tuples->tap({"pair"}), code::kTap);
  auto interfaced = loaded("interfaced");
  CHECK_THROWS(interfaced->tap({"step.conv"}), code::kTap);
  bool found = false;
  for (const Layer& layer : interfaced->layers())
    found |= layer.name == "step" && layer.why_not.find("interface") != std::string::npos;
  CHECK(found);
  // Taken only where the mean is absurd: not run, and no value.
  const auto set = backbone->tap({"idle"});
  CHECK(!backbone->forward(at::ones({1, 3, 4, 4}), set.get()).taps[0].defined());
}

TEST("script: options that do not fit are errors that name the arguments") {
  CHECK_THROWS(loaded("branches"), code::kOption);  // no value for n
  CHECK_THROWS(loaded("branches", {{"inputs", Json::Object{{"n", "three"}}}}), code::kOption);
  CHECK_THROWS(loaded("branches", {{"inputs", Json::Object{{"m", 3}}}}), code::kOption);
  CHECK_THROWS(loaded("branches", {{"image", "n"}, {"inputs", Json::Object{{"x", 3}}}}), code::kOption);
  auto tuples = loaded("tuples", {{"output", Json::Array{5}}});
  CHECK_THROWS(tuples->forward(at::ones({1, 3, 4, 4}), nullptr), code::kOption);
  auto block = loaded("block-scripted");
  CHECK_THROWS(block->forward(at::ones({1, 2, 4, 4}), nullptr), code::kShape);
}

TEST("script: files that are no network that can be tapped are refused") {
  CHECK_THROWS(loaded("frozen"), code::kCheckpoint);
  for (const std::string name : {"foreign", "setstate"}) CHECK_THROWS(loaded(name), code::kCheckpoint);
  CHECK_THROWS(
      make_backbone(Json(Json::Object{{"kind", "torchscript"}, {"file", fixture("block-scripted.safetensors")}})),
      code::kCheckpoint);
  CHECK_THROWS(make_backbone(Json(Json::Object{{"kind", "torchscript"}, {"file", fixture("none.pt")}})), code::kIo);
}

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
    std::cout << path.stem().string() << std::endl;
    for (const auto& layer : compare(*backbone, expected, path.stem().string(), 1e-4, 1e-2))
      std::cout << "  not tapped: " << layer << std::endl;
    compare_inference(*backbone, expected.tensors.at("x"), path.stem().string(), at::kFloat, 1e-4);
    backbone->trace(expected.tensors.at("x"));
    compare(*backbone, expected, path.stem().string(), 1e-4, 1e-2);
  }
}
