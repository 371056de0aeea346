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

#include "archive.h"
#include "backbones/backbone.h"
#include "ensemble.h"
#include "error.h"
#include "safetensors.h"
#include "train.h"
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

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::vector<std::string> kAll{".pt", "-traced.pt", ".pt2"}, kRecorded{"-traced.pt", ".pt2"};

}  // namespace

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
  check_evaluation(*backbone->clone(), wanted, "a copy of counting");
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
