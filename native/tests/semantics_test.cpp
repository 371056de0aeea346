// Imported networks mean what they mean in PyTorch: scripts/models/make_semantics_fixtures.py made the files.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "backbones/aliases.h"
#include "backbones/backbone.h"
#include "backbones/output_flow.h"
#include "ensemble.h"
#include "error.h"
#include "files/archive.h"
#include "files/safetensors.h"
#include "training/train.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;

namespace {

using Tensors = std::map<std::string, at::Tensor>;

std::string fixture(const std::string& name) { return std::string(LE_FIXTURES) + "/semantics/" + name; }

std::unique_ptr<Backbone> loaded(const std::string& path) {
  auto backbone = make_backbone(Json(Json::Object{{"kind", "file"},
                                                  {"file", path.starts_with("/") ? path : fixture(path)},
                                                  {"inChannels", 1},
                                                  {"spatialAxes", 2}}));
  backbone->train(false);
  return backbone;
}

Tensors expected(const std::string& name) { return read_safetensors(fixture(name + ".safetensors")).tensors; }

void close(const std::string& what, const at::Tensor& actual, const at::Tensor& wanted, double tolerance = 1e-5) {
  double error = INFINITY;
  if (actual.defined() && actual.sizes() == wanted.sizes())
    error = (actual.detach().to(at::kDouble) - wanted.to(at::kDouble)).abs().max().item<double>() /
            std::max(wanted.to(at::kDouble).abs().max().item<double>(), 1e-3);
  if (!(error <= tolerance)) test::failed(__FILE__, __LINE__, what, " differs by ", error);
}

// The layers that Python's hooks saw and that can be tapped here.
std::vector<std::string> taps_of(const Backbone& backbone, const Tensors& wanted, const std::string& mode) {
  std::vector<std::string> names;
  for (const Layer& layer : backbone.layers())
    if (layer.tappable && layer.alias_of.empty() && wanted.contains(mode + ".tap." + layer.name))
      names.push_back(layer.name);
  return names;
}

void check_evaluation(Backbone& backbone, const Tensors& wanted, const std::string& what, double tolerance = 1e-5) {
  const at::NoGradGuard no_grad;
  const auto names = taps_of(backbone, wanted, "eval");
  const auto taps = backbone.tap(names);
  const Pass pass = backbone.forward(wanted.at("x").clone(), taps.get());
  close(what + " output", pass.output, wanted.at("eval.final"), tolerance);
  for (size_t i = 0; i < names.size(); ++i)
    close(what + " tap " + names[i], pass.taps[i], wanted.at("eval.tap." + names[i]), tolerance);
}

void check_training(Backbone& backbone, const Tensors& wanted, const std::string& what) {
  for (auto& [name, parameter] : backbone.parameters()) parameter.mutable_grad() = at::Tensor();
  backbone.train(true);
  const auto names = taps_of(backbone, wanted, "train");
  const auto taps = backbone.tap(names);
  at::manual_seed(0);
  const Pass pass = backbone.forward(wanted.at("x").clone(), taps.get());
  close(what + " output in training", pass.output, wanted.at("train.final"));
  at::Tensor loss = pass.output.square().mean();
  for (size_t i = 0; i < names.size(); ++i) {
    close(what + " tap in training " + names[i], pass.taps[i], wanted.at("train.tap." + names[i]));
    loss = loss + pass.taps[i].square().mean();
  }
  size_t tapped = 0;
  for (const auto& [key, value] : wanted) tapped += key.starts_with("train.tap.");
  if (tapped == names.size()) {  // else the loss is another
    torch::autograd::backward({loss}, {});
    for (const auto& [name, parameter] : backbone.parameters())
      close(what + " gradient of " + name, parameter.grad(), wanted.at("train.grad." + name), 1e-4);
  }
  for (const auto& [name, buffer] : backbone.buffers())
    close(what + " buffer " + name, buffer, wanted.at("train.buffer." + name), 1e-4);
  backbone.train(false);
}

// In evaluation by every way that a pass may take: before and after a trace, in both layouts, with derived weights.
void check_ways(const std::string& file, const Tensors& wanted) {
  const auto backbone = loaded(file);
  check_evaluation(*backbone, wanted, file);
  for (const bool channels_last : {false, true}) {
    backbone->to(c10::kCPU, channels_last);
    backbone->trace(wanted.at("x"));
    check_evaluation(*backbone, wanted, file);
    const c10::InferenceMode inference;
    backbone->begin_inference(at::kFloat);
    check_evaluation(*backbone, wanted, file + " with derived weights");
    backbone->end_inference();
  }
}

std::string message_of(const std::function<void()>& run, const std::string& expected_code) {
  try {
    run();
  } catch (const Error& error) {
    if (error.code() != expected_code) test::failed(__FILE__, __LINE__, error.code(), ": ", error.what());
    return error.what();
  }
  test::failed(__FILE__, __LINE__, "nothing was refused");
}

std::map<std::string, Layer> layers_of(const Backbone& backbone) {
  std::map<std::string, Layer> all;
  for (const Layer& layer : backbone.layers()) all.emplace(layer.name, layer);
  return all;
}

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Every name that named_modules() has for a layer where duplicates are not removed, with the first one.
std::map<std::string, std::string> names_of(const std::string& name) {
  std::map<std::string, std::string> names;
  const auto file = read_safetensors(fixture(name + ".safetensors"));
  const Json json = Json::parse(file.metadata.at("names"), code::kCheckpoint);
  for (const auto& [alias, first] : json.object("names")) names.emplace(alias, first.string("name"));
  return names;
}

const std::vector<std::string> kAll{".pt", "-traced.pt", ".pt2"}, kRecorded{"-traced.pt", ".pt2"};

}  // namespace

TEST("semantics: a layer is tapped by each of its names, as PyTorch's hooks see it") {
  const Tensors wanted = expected("aliased");
  const auto names = names_of("aliased");
  for (const std::string kind : {".pt", "-traced.pt", ".pt2", "-strict.pt2"}) {
    const std::string file = "aliased" + kind;
    check_ways(file, wanted);
    check_training(*loaded(file), wanted, file);
    const auto backbone = loaded(file);
    auto layers = layers_of(*backbone);
    CHECK(layers.size() == names.size());
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const Call& call : backbone->trace(wanted.at("x"))) {
      if (shapes.contains(call.name)) test::failed(__FILE__, __LINE__, file, " calls ", call.name, " twice");
      shapes[call.name] = call.shape;
    }
    const at::NoGradGuard no_grad;
    for (const auto& [name, first] : names) {
      const Layer& layer = layers.at(name);
      const bool runs = wanted.contains("eval.tap." + first);  // the encoder returns a list
      if (layer.alias_of != (name == first ? "" : first) || layer.tappable != runs ||
          layer.parameters != layers.at(first).parameters)
        test::failed(__FILE__, __LINE__, file, " ", name, ": ", layer.alias_of, ", ", layer.why_not);
      if (!runs) continue;
      CHECK(at::IntArrayRef(shapes.at(name)) == wanted.at("eval.tap." + first).sizes());
      const auto tap = backbone->tap({name});
      close(file + " tap " + name, backbone->forward(wanted.at("x"), tap.get()).taps[0],
            wanted.at("eval.tap." + first));
      if (name != first)
        for (const auto& both : {std::vector{name, first}, std::vector{first, name}})
          CHECK(mentions(message_of([&] { backbone->tap(both); }, code::kTap), "names of one layer"));
    }
    CHECK(mentions(message_of(
                       [&] {
                         backbone->tap({"encoder.stages.0.norm", "decoder.encoder.stages.0.norm",
                                        "decoder.encoder.stages.0.all_modules.1"});
                       },
                       code::kTap),
                   "names of one layer"));
    CHECK(find_features(*backbone, wanted.at("x").narrow(0, 0, 1)).layer == "decoder.stage");
  }
}

TEST("semantics: a weight has every name that PyTorch's state dict has for it") {
  for (const std::string name : {"aliased", "twice"}) {
    const auto file = read_safetensors(fixture(name + ".safetensors"));
    std::set<std::string> keys;
    const Json state_keys = Json::parse(file.metadata.at("state"), code::kCheckpoint);
    for (const Json& key : state_keys.array("state")) keys.insert(key.string("key"));
    for (const std::string kind : {".pt", "-traced.pt", ".pt2", "-strict.pt2"}) {
      const auto backbone = loaded(name + kind);
      std::set<std::string> found;
      for (const auto& [key, tensor] : state_of(*backbone)) found.insert(key);
      if (found != keys) test::failed(__FILE__, __LINE__, name, kind, " has ", found.size(), " of ", keys.size());
      std::set<const void*> places;
      for (const auto& [key, parameter] : backbone->parameters())
        if (!places.insert(parameter.const_data_ptr()).second)
          test::failed(__FILE__, __LINE__, name, kind, " has ", key, " twice");

      // A state dict of PyTorch is taken whole, by all its names.
      StateDict state;
      for (const auto& [key, tensor] : state_of(*backbone)) state.tensors.emplace(key, tensor.detach() + 1);
      load_weights(*backbone, {state});
      const std::string path = std::filesystem::temp_directory_path() /
                               ("le-names-" + std::to_string(getpid()) + name + kind.substr(kind.rfind('.')));
      backbone->save(path);
      const auto again = loaded(path);
      std::filesystem::remove(path);
      for (const auto& [key, tensor] : state_of(*again)) CHECK(at::equal(tensor, state.tensors.at(key)));
    }
  }
}

TEST("semantics: many names of one weight keep no reader busy") {
  std::vector<RecordedModule> modules{{"", "", "", -1}};
  std::vector<std::pair<std::string, const void*>> weights;
  int weight = 0;
  for (int i = 0; i < 100'000; ++i) {
    modules.push_back({std::to_string(i) + "m", "Conv2d", "", i});
    weights.emplace_back(modules.back().name + ".weight", &weight);
  }
  weights.emplace_back(std::string(1 << 20, '.'), &weight);
  CHECK(mentions(find_aliases(modules, weights).why_not[1], "more than 1000"));  // hours, were all compared
}

TEST("semantics: where it is open which layer a name is, it is said") {
  const Tensors wanted = expected("twice");
  const at::NoGradGuard no_grad;
  for (const std::string kind : {".pt", "-traced.pt", ".pt2", "-strict.pt2"}) {
    const std::string file = "twice" + kind;
    check_ways(file, wanted);
    const auto backbone = loaded(file);
    const auto layers = layers_of(*backbone);
    const auto value = [&](const std::string& name) {
      const auto tap = backbone->tap({name});
      return backbone->forward(wanted.at("x"), tap.get()).taps[0];
    };
    // Its last call is that by this name.
    close(file + " both.0", value("both.0"), wanted.at("eval.tap.conv"));
    if (kind == "-traced.pt" || kind == "-strict.pt2") {  // which know objects
      close(file + " conv", value("conv"), wanted.at("eval.tap.conv"));
      CHECK(layers.at("both.0").alias_of == "conv");
    } else {
      CHECK(!layers.at("conv").tappable && mentions(layers.at("conv").why_not, "both.0"));
    }
    close(file + " bn", value("bn"), wanted.at("eval.tap.bn"));
    CHECK(layers.at("both.1").alias_of == "bn");
    for (const char* name : {"idle", "idle_too"})
      CHECK(!layers.at(name).tappable && mentions(layers.at(name).why_not, "never called"));
    for (const char* name : {"stem", "again", "last"}) CHECK(layers.at(name).alias_of.empty());
  }
}

TEST("semantics: compositions of operators behind an operation in place are PyTorch's") {
  const Tensors wanted = expected("composed");
  for (const auto& kind : kAll) {
    check_ways("composed" + kind, wanted);
    check_training(*loaded("composed" + kind), wanted, "composed" + kind);
  }
}

TEST("semantics: a network's own state changes in training alone") {
  const Tensors wanted = expected("counting");
  const auto backbone = loaded("counting.pt");
  const auto seen = [&] {
    for (const auto& [name, buffer] : backbone->buffers())
      if (name == "seen") return buffer.clone();
    test::failed(__FILE__, __LINE__, "no buffer");
  };
  const at::Tensor before = seen();
  for (int pass = 0; pass < 3; ++pass) check_evaluation(*backbone, wanted, "counting");
  backbone->trace(wanted.at("x").narrow(0, 0, 1));
  {
    const c10::InferenceMode inference;
    backbone->begin_inference(at::kFloat);
    for (int pass = 0; pass < 2; ++pass) check_evaluation(*backbone, wanted, "counting with derived weights");
    backbone->end_inference();
  }
  CHECK(at::equal(seen(), before));
  check_training(*backbone, wanted, "counting");
  CHECK(!at::equal(seen(), before));
}

TEST("semantics: the image stays its caller's, whatever works in place on it, in any mode") {
  for (const std::string name : {"on_image", "drops_image"}) {
    const Tensors wanted = expected(name);
    for (const auto& kind : kAll) {
      const auto backbone = loaded(name + kind);
      check_evaluation(*backbone, wanted, name + kind);
      at::Tensor image = wanted.at("x").clone();
      const auto pass = [&](const char* when) {
        backbone->forward(image, nullptr);
        if (!at::equal(image, wanted.at("x"))) test::failed(__FILE__, __LINE__, name, kind, " changed it ", when);
      };
      pass("in evaluation");
      backbone->trace(image);
      CHECK(at::equal(image, wanted.at("x")));
      pass("after a trace");
      backbone->sample(true);
      pass("in sampling");
      backbone->train(true);
      pass("in training");
      check_training(*loaded(name + kind), wanted, name + kind);
    }
  }
}

TEST("semantics: a tap stays what its layer returned where training or a branch writes to it") {
  const Tensors wanted = expected("branching");
  const auto backbone = loaded("branching.pt");
  backbone->trace(wanted.at("x").narrow(0, 0, 1));
  check_evaluation(*backbone, wanted, "branching");
  check_training(*backbone, wanted, "branching");
  const at::NoGradGuard no_grad;
  const auto taps = backbone->tap({"other"});
  const Pass bright = backbone->forward(wanted.at("x") + 100, taps.get());
  CHECK(bright.taps[0].abs().max().item<double>() > 1);
  const auto alone = backbone->tap({"last"});
  CHECK(at::allclose(bright.output, backbone->forward(wanted.at("x") + 200, alone.get()).output));  // of the bias alone
}

TEST("semantics: complex parameters and buffers are refused by name") {
  for (const std::string name : {"complex", "complex_buffer"})
    for (const std::string kind : {".pt", ".pt2"}) {
      const auto message = message_of([&] { loaded(name + kind); }, code::kCheckpoint);
      CHECK(mentions(message, "gain") && mentions(message, "ComplexFloat"));
    }
}

TEST("semantics: a file of a fixed batch is listed, probed and used in chunks") {
  const at::NoGradGuard no_grad;
  const Tensors wanted = expected("batch");
  for (const auto& kind : kRecorded) {
    const auto backbone = loaded("batch" + kind);
    for (const Call& call : backbone->trace(wanted.at("x").narrow(0, 0, 1)))
      if (call.name == "conv") CHECK((call.shape == std::vector<int64_t>{1, 2, 4, 5}));
    check_evaluation(*backbone, wanted, "batch" + kind);
    const auto taps = backbone->tap({"conv"});
    const at::Tensor five = at::cat({wanted.at("x"), wanted.at("x"), wanted.at("x").narrow(0, 0, 1)});
    const Pass pass = backbone->forward(five, taps.get());
    const auto repeated = [&](const std::string& key) {
      return at::cat({wanted.at(key), wanted.at(key), wanted.at(key).narrow(0, 0, 1)});
    };
    close("batch" + kind, pass.output, repeated("eval.final"));
    close("batch" + kind, pass.taps[0], repeated("eval.tap.conv"));
    CHECK(backbone->training_batch() == 2);
    backbone->train(true);  // batch norm
    CHECK_THROWS(backbone->forward(five, nullptr), code::kShape);

    const auto mixing = loaded("batch_mixes" + kind);
    mixing->trace(wanted.at("x").narrow(0, 0, 1));
    check_evaluation(*mixing, expected("batch_mixes"), "batch_mixes" + kind);
    CHECK(mentions(message_of([&] { mixing->forward(five, nullptr); }, code::kShape), "batchSize 2"));
  }
}

TEST("semantics: batch norm with momentum None is trained from scripts, and refused by name of what lost it") {
  const Tensors wanted = expected("cumulative");
  check_training(*loaded("cumulative.pt"), wanted, "cumulative");
  for (const auto& kind : kRecorded) {
    const auto backbone = loaded("cumulative" + kind);
    check_evaluation(*backbone, wanted, "cumulative" + kind);
    const auto message = message_of([&] { backbone->train(true); }, code::kOption);
    CHECK(mentions(message, "bn") && mentions(message, "momentum None"));
  }
}

TEST("semantics: momentum None is known in a trace made in training mode, and not taken for another") {
  for (const char* file : {"cumulative_training-traced.pt", "cumulative_fourth-traced.pt"}) {
    const auto message = message_of([&] { loaded(file)->train(true); }, code::kOption);
    CHECK(mentions(message, "bn") && mentions(message, "momentum None"));
  }
  const Tensors wanted = expected("tenth");
  check_ways("tenth-traced.pt", wanted);
  check_training(*loaded("tenth-traced.pt"), wanted, "tenth");
}

TEST("semantics: half, bfloat16 and double weights run in float32, train, and are saved in their type") {
  for (const auto& [name, type] : std::map<std::string, at::ScalarType>{
           {"half", at::kHalf}, {"bfloat16", at::kBFloat16}, {"double", at::kDouble}}) {
    const Tensors wanted = expected(name);
    for (const auto& kind : kRecorded) {
      const std::string file = name + kind;
      check_ways(file, wanted);
      const auto backbone = loaded(file);
      for (const auto& [key, tensor] : state_of(*backbone))
        if (tensor.is_floating_point()) CHECK(tensor.scalar_type() == at::kFloat);
      backbone->train(true);
      torch::autograd::backward({backbone->forward(wanted.at("x"), nullptr).output.square().mean()}, {});
      for (auto& [key, parameter] : backbone->parameters()) {
        CHECK(parameter.grad().scalar_type() == at::kFloat && parameter.grad().isfinite().all().item<bool>());
        const at::NoGradGuard no_grad;
        parameter.copy_(parameter.to(type));
      }
      backbone->train(false);
      const std::string path = std::filesystem::temp_directory_path() / ("le-" + std::to_string(getpid()) + "-" + file);
      backbone->save(path);
      if (kind == ".pt2") {
        const auto config = [](const std::string& of) {
          return Archive(of).text("data/weights/model_weights_config.json", 1 << 20);
        };
        CHECK(config(path) == config(fixture(file)));
      } else {
        for (const auto& parameter : torch::jit::load(path).named_parameters())
          CHECK(parameter.value.scalar_type() == type);
      }
      const auto again = loaded(path);
      std::filesystem::remove(path);
      const at::NoGradGuard no_grad;
      close(file + " saved", again->forward(wanted.at("x"), nullptr).output,
            backbone->forward(wanted.at("x"), nullptr).output, type == at::kDouble ? 1e-6 : 1e-2);
    }
  }
}

TEST("semantics: spectral norm is that of evaluation, and refused where it would be trained, or was recorded so") {
  const Tensors wanted = expected("spectral");
  for (const auto& kind : kRecorded) {
    check_ways("spectral" + kind, wanted);
    const auto backbone = loaded("spectral" + kind);
    const auto message = message_of([&] { backbone->train(true); }, code::kOption);
    CHECK(mentions(message, "spectral norm (conv") && mentions(message, "torch.jit.script"));
    const auto recorded = message_of([&] { loaded("spectral_training" + kind); }, code::kCheckpoint);
    CHECK(mentions(recorded, "spectral norm") && mentions(recorded, "model.eval()"));
  }
}

TEST("semantics: what training alone does is refused where a recording cannot tell it from evaluation") {
  for (const std::string what : {"depth", "noise", "mean"})
    for (const std::string normed : {"bare", "normed"})
      for (const auto& kind : kRecorded) {
        const auto message = message_of([&] { loaded(what + "_" + normed + "_training" + kind); }, code::kCheckpoint);
        CHECK(mentions(message, "model.eval()"));
        CHECK(mentions(message, what == "mean" ? "mean" : what == "noise" ? "randn_like" : "bernoulli_"));
      }
  check_ways("depth_training.pt", expected("depth_training"));
}

TEST("semantics: weights by a parametrization are PyTorch's, and no layer's output") {
  const Tensors wanted = expected("axes");
  for (const auto& kind : kRecorded) {
    check_ways("axes" + kind, wanted);
    const auto layers = layers_of(*loaded("axes" + kind));
    for (const char* name : {"one.parametrizations.weight", "one.parametrizations.weight.0"})
      CHECK(!layers.at(name).tappable && mentions(layers.at(name).why_not, "does not depend on the image"));
    for (const char* name : {"conv", "norm", "mix", "volume", "one", "last"}) CHECK(layers.at(name).tappable);
    check_training(*loaded("axes" + kind), wanted, "axes" + kind);
  }
}

TEST("semantics: attention's and recurrent layers' dropout is that of the mode, whichever a file was made in") {
  const Tensors attention = expected("attention_training"), recurrent = expected("recurrent");
  for (const auto& kind : kRecorded) {
    check_ways("attention_training" + kind, attention);
    check_training(*loaded("attention_training" + kind), attention, "attention_training" + kind);
    check_ways("recurrent" + kind, recurrent);
    check_training(*loaded("recurrent" + kind), recurrent, "recurrent" + kind);
  }
}

TEST("semantics: a network that addresses memory by strides stays contiguous") {
  const Tensors wanted = expected("addressed");
  for (const auto& kind : kAll) {
    check_ways("addressed" + kind, wanted);
    const auto backbone = loaded("addressed" + kind);
    backbone->to(c10::kCPU, true);
    backbone->trace(wanted.at("x"));
    check_training(*backbone, wanted, "addressed" + kind);
  }
}

TEST("semantics: an operation that bfloat16 lacks runs in float, or is named together with the cure") {
  const Tensors wanted = expected("no_half");
  for (const auto& kind : kAll) {
    const auto backbone = loaded("no_half" + kind);
    backbone->trace(wanted.at("x").narrow(0, 0, 1));
    const auto evaluate = [&] {
      const c10::InferenceMode inference;
      backbone->begin_inference(at::kBFloat16);
      const Autocast autocast(c10::kCPU, at::kBFloat16);
      check_evaluation(*backbone, wanted, "no_half" + kind, 0.05);
    };
    if (kind == ".pt2") {
      evaluate();
    } else {
      const auto message = message_of(evaluate, code::kOption);
      CHECK(mentions(message, "precision 'fp32'") && mentions(message, "BFloat16"));
    }
    backbone->end_inference();
    check_evaluation(*backbone, wanted, "no_half" + kind + " in float");
    // What is wrong with the image is still said of the image.
    const Autocast autocast(c10::kCPU, at::kBFloat16);
    CHECK_THROWS(backbone->forward(at::ones({1, 3, 4, 5}), nullptr), code::kShape);
  }
}
