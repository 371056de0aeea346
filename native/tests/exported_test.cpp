// torch.export programs against what PyTorch computes with the same networks: scripts/models/make_exported_fixtures.py
// made the files.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backbones/imported.h"
#include "check.h"
#include "error.h"
#include "files/archive.h"
#include "files/safetensors.h"

using namespace le;

namespace {

std::string fixture(const std::string& name) { return std::string(LE_FIXTURES) + "/exported/" + name; }

ImportOptions options(const std::string& file, Json::Object more = {}) {
  more["kind"] = "exported";
  more["file"] = file;
  return ImportOptions::from(more);
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return 1e9;
  if (a.numel() == 0) return 0;
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return (x - y).abs().max().item<double>() / (y.abs().max().item<double>() + 1e-12);
}

void compare(const std::string& what, const at::Tensor& actual, const at::Tensor& wanted, double tolerance) {
  const double error = difference(actual, wanted);
  if (!(error <= tolerance)) test::failed(__FILE__, __LINE__, what, ": relative error ", error, " above ", tolerance);
}

using Tensors = std::map<std::string, at::Tensor>;

// Names of the layers that both sides know, and those that Python tapped but this side calls untappable.
std::pair<std::vector<std::string>, std::vector<std::string>> tappable(const Backbone& backbone, const Tensors& wanted,
                                                                       const std::string& prefix) {
  std::map<std::string, bool> here;
  for (const Layer& layer : backbone.layers()) here[layer.name] = layer.tappable;
  std::vector<std::string> names, missing;
  for (const auto& [key, tensor] : wanted) {
    if (!key.starts_with(prefix)) continue;
    const std::string name = key.substr(prefix.size());
    (here.contains(name) && here[name] ? names : missing).push_back(name);
  }
  return {names, missing};
}

void check_evaluation(Backbone& backbone, const Tensors& wanted, double tolerance) {
  const at::NoGradGuard no_grad;
  const auto [names, missing] = tappable(backbone, wanted, "tap/");
  const auto taps = backbone.tap(names);
  const Pass pass = backbone.forward(wanted.at("input"), taps.get());
  compare("output", pass.output, wanted.at("output"), tolerance);
  for (size_t i = 0; i < names.size(); ++i) compare(names[i], pass.taps[i], wanted.at("tap/" + names[i]), tolerance);
}

void check_training(Backbone& backbone, const Tensors& wanted, double tolerance) {
  backbone.train(true);
  at::manual_seed(0);
  const auto [names, missing] = tappable(backbone, wanted, "train/tap/");
  const auto taps = backbone.tap(names);
  const Pass pass = backbone.forward(wanted.at("input"), taps.get());
  compare("output in training", pass.output, wanted.at("train/output"), tolerance);
  at::Tensor loss = pass.output.square().mean();
  for (size_t i = 0; i < names.size(); ++i) {
    compare(names[i] + " in training", pass.taps[i], wanted.at("train/tap/" + names[i]), tolerance);
    loss = loss + pass.taps[i].square().mean();
  }
  for (const auto& [name, buffer] : backbone.buffers())
    compare("buffer " + name, buffer, wanted.at("train/buffer/" + name), tolerance);
  if (!missing.empty()) return;  // the loss is then another
  torch::autograd::backward({loss}, {});
  for (const auto& [name, parameter] : backbone.parameters())
    compare("gradient of " + name, parameter.grad(), wanted.at("train/grad/" + name), tolerance);
}

void check_all(const std::string& name, Json::Object more = {}, bool train = true) {
  const Tensors wanted = read_safetensors(fixture(name + ".safetensors")).tensors;
  const auto backbone = load_exported(options(fixture(name + ".pt2"), std::move(more)));
  backbone->trace(wanted.at("input"));
  check_evaluation(*backbone, wanted, 1e-5);
  {
    const at::NoGradGuard no_grad;
    backbone->begin_inference(at::kFloat);
    check_evaluation(*backbone, wanted, 1e-5);
    backbone->end_inference();
    backbone->to(at::kCPU, true);
    backbone->trace(wanted.at("input"));
    check_evaluation(*backbone, wanted, 1e-5);
    backbone->begin_inference(at::kFloat);
    check_evaluation(*backbone, wanted, 1e-5);
    backbone->to(at::kCPU, false);
  }
  if (train) check_training(*backbone, wanted, 1e-4);
}

}  // namespace

TEST("exported: outputs, taps, gradients and buffers are PyTorch's") { check_all("dynamic"); }
TEST("exported: made in training mode") { check_all("made_in_training"); }
TEST("exported: modules that run twice") { check_all("shared"); }
TEST("exported: recorded module signatures") { check_all("preserved"); }
TEST("exported: core ATen in evaluation") { check_all("core", {}, false); }
TEST("exported: core ATen in training") { check_all("core_training"); }
TEST("exported: arithmetic on sizes, a dict as result, dropout") { check_all("sizes"); }
TEST("exported: dropout after a norm") { check_all("dropping"); }
TEST("exported: instance norm with running statistics, whose counter stays") { check_all("instance"); }
TEST("exported: volumes") { check_all("volume"); }
TEST("exported: several inputs") {
  check_all("two", {{"inputs", Json::Object{{"scale", 0.5}, {"extra", nullptr}}}, {"output", Json::Array{1}}});
  // A number that is part of the program, an input without a value, and names that are not there.
  CHECK_THROWS(load_exported(options(fixture("two.pt2"))), code::kOption);
  const auto with = [](Json::Object inputs) { return options(fixture("two.pt2"), {{"inputs", std::move(inputs)}}); };
  CHECK_THROWS(load_exported(with({{"scale", 0.5}, {"extra", 3}})), code::kOption);
  CHECK_THROWS(load_exported(with({{"scale", 0.5}, {"gain", 2}})), code::kOption);
  CHECK_THROWS(load_exported(with({{"scale", "half"}})), code::kOption);
  CHECK(load_exported(with({{"scale", Json::Array{0.5, 0.5}}}))->config().at("output").dump() == "[0]");
}

namespace {

Layer layer_of(const Backbone& backbone, const std::string& name) {
  for (const Layer& layer : backbone.layers())
    if (layer.name == name) return layer;
  test::failed(__FILE__, __LINE__, "no layer ", name);
}

// A copy of a fixture with one entry changed, in a file of its own that goes away again.
class Changed {
 public:
  Changed(const std::string& name, const std::string& entry, const std::string& from, const std::string& to)
      : path_((std::filesystem::temp_directory_path() / ("le-exported-" + std::to_string(::getpid()) + ".pt2"))
                  .string()) {
    const Archive archive(fixture(name));
    ArchiveWriter writer(path_, "archive");
    for (const auto& each : archive.entries()) {
      std::string text = archive.text(each.name, 1 << 20);
      if (each.name == entry) {
        const size_t at = text.find(from);
        if (at == std::string::npos) test::failed(__FILE__, __LINE__, "no ", from, " in ", entry);
        text.replace(at, from.size(), to);
      }
      writer.add(each.name, text.data(), text.size());
    }
    writer.finish();
  }
  ~Changed() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// The message with which a changed file is refused.
std::string refusal(const std::string& name, const std::string& entry, const std::string& from, const std::string& to) {
  const Changed file(name, entry, from, to);
  try {
    load_exported(options(file.path()));
  } catch (const Error& error) {
    if (error.code() != code::kCheckpoint)
      test::failed(__FILE__, __LINE__, to, " gave ", error.code(), ": ", error.what());
    return error.what();
  }
  test::failed(__FILE__, __LINE__, "loaded in spite of ", to);
}
bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST("exported: layers come in registration order, with types, parameters and reasons") {
  const auto dynamic = load_exported(options(fixture("dynamic.pt2")));
  std::vector<std::string> names;
  for (const Layer& layer : dynamic->layers()) names.push_back(layer.name);
  CHECK((names == std::vector<std::string>{"stem", "stem.0", "stem.1", "stem.2", "conv", "bn", "relu", "head"}));
  CHECK(layer_of(*dynamic, "stem").type == "Sequential");
  CHECK(layer_of(*dynamic, "stem").parameters == 2 * 2 * 9 + 4);
  CHECK(layer_of(*dynamic, "conv").type == "Conv2d");

  const auto shared = load_exported(options(fixture("shared.pt2")));
  CHECK(mentions(layer_of(*shared, "pair").why_not, "preserve_module_call_signature=('pair',)"));
  CHECK(!layer_of(*shared, "pass_on").tappable);
  CHECK_THROWS(shared->tap({"pair"}), code::kTap);
  CHECK_THROWS(shared->tap({"konv"}), code::kTap);
  CHECK_THROWS(shared->tap({"conv", "conv"}), code::kTap);
  size_t runs = 0;
  for (const Call& call : shared->trace(at::randn({2, 2, 5, 4}))) runs += call.name == "conv";
  CHECK(runs == 2);
  const auto preserved = load_exported(options(fixture("preserved.pt2")));
  CHECK(mentions(layer_of(*preserved, "pair").why_not, "other than one tensor"));
}

TEST("exported: sizes outside of the recorded range are refused with the range") {
  const at::NoGradGuard no_grad;
  const auto dynamic = load_exported(options(fixture("dynamic.pt2")));
  CHECK(dynamic->in_channels() == 2 && dynamic->spatial_axes() == 2);
  CHECK((dynamic->forward(at::randn({1, 2, 7, 9}), nullptr).output.sizes() == at::IntArrayRef({1, 3, 7, 9})));
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{2, 3, 8, 8}, {2, 2, 3, 8}, {2, 2, 513, 8}, {2, 8, 8}, {0, 2, 8, 8}})
    CHECK_THROWS(dynamic->forward(at::randn(sizes), nullptr), code::kShape);
  try {
    dynamic->forward(at::randn({2, 2, 3, 8}), nullptr);
  } catch (const Error& error) {
    CHECK(mentions(error.what(), "4 to 512") && mentions(error.what(), "2×2×3×8"));
  }
  const auto fixed = load_exported(options(fixture("volume.pt2")));
  CHECK((fixed->example_size() == std::vector<int64_t>{2, 2, 4}) && fixed->spatial_axes() == 3);
  CHECK_THROWS(fixed->forward(at::randn({2, 1, 4, 4, 4}), nullptr), code::kShape);
  // A pass that failed leaves nothing behind.
  CHECK(fixed->forward(at::randn({2, 1, 2, 2, 4}), nullptr).output.dim() == 5);
}

TEST("exported: evaluation changes no buffer and no input") {
  const at::NoGradGuard no_grad;
  for (const char* name : {"made_in_training", "core_training"}) {
    const auto backbone = load_exported(options(fixture(std::string(name) + ".pt2")));
    std::vector<at::Tensor> before;
    for (const auto& [key, buffer] : backbone->buffers()) before.push_back(buffer.clone());
    const at::Tensor input = at::randn({2, 2, 5, 4}), copy = input.clone();
    backbone->forward(input, nullptr);
    backbone->trace(input);
    CHECK(at::equal(input, copy));
    for (size_t i = 0; i < before.size(); ++i) CHECK(at::equal(before[i], backbone->buffers()[i].second));
  }
  const auto core = load_exported(options(fixture("core.pt2")));
  CHECK_THROWS(core->train(true), code::kOption);
}

TEST("exported: made in training mode with a state of its own is refused by the buffer's name") {
  try {
    load_exported(options(fixture("own_state.pt2")));
    test::failed(__FILE__, __LINE__, "loaded");
  } catch (const Error& error) {
    CHECK(error.code() == code::kCheckpoint && mentions(error.what(), "average") &&
          mentions(error.what(), "model.eval()"));
  }
}

TEST("exported: changed weights show in derived ones and in saved files") {
  const at::NoGradGuard no_grad;
  const auto backbone = load_exported(options(fixture("dynamic.pt2")));
  const at::Tensor input = at::randn({2, 2, 8, 8});
  backbone->begin_inference(at::kFloat);
  const at::Tensor before = backbone->forward(input, nullptr).output;
  for (const auto& [name, parameter] : backbone->parameters()) parameter.mul_(1.5);
  backbone->begin_inference(at::kFloat);
  const at::Tensor after = backbone->forward(input, nullptr).output;
  CHECK(difference(after, before) > 1e-2);
  const std::string path = (std::filesystem::temp_directory_path() / "le-exported-saved.pt2").string();
  backbone->save(path);
  compare("the saved file", load_exported(options(path))->forward(input, nullptr).output, after, 1e-5);
  std::filesystem::remove(path);
  // In bfloat16 to its own precision.
  backbone->begin_inference(at::kBFloat16);
  const at::Tensor half = backbone->forward(input, nullptr).output;
  CHECK(half.scalar_type() == at::kBFloat16);
  compare("bfloat16", half, after, 3e-2);
}

TEST("exported: hostile and foreign programs are refused by name") {
  const std::string model = "models/model.json", weights = "data/weights/model_weights_config.json";
  const auto change = [&](const std::string& from, const std::string& to) {
    return refusal("dynamic.pt2", model, from, to);
  };
  CHECK(mentions(change(R"("major":8)", R"("major":9)"), "schema version 8"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "torch.ops.aten.from_file.default"), "safe to run"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "torch.ops.aten.set_.default"), "safe to run"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "torch.ops.mylib.relu.default"), "mylib"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "torch.ops.aten.relu_.other"), "relu_.other"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "torch.ops.higher_order.cond"), "cond"));
  CHECK(mentions(change("torch.ops.aten.relu_.default", "os.system"), "os.system"));
  // A value that is not there, a type that does not fit, an argument that does not exist, another kind of result.
  change(R"("name":"input","arg":{"as_tensor":{"name":"x"}})", R"("name":"input","arg":{"as_tensor":{"name":"y"}})");
  change(R"("name":"input","arg":{"as_tensor":{"name":"x"}})", R"("name":"input","arg":{"as_string":"x"})");
  change(R"("name":"input","arg":{"as_tensor":{"name":"x"}})", R"("name":"input","arg":{"as_ints":[1]})");
  change(R"("name":"input","arg":{"as_tensor":{"name":"x"}})", R"("name":"outputs","arg":{"as_none":true})");
  change(R"("name":"padding","arg":{"as_ints":[1,1]})", R"("name":"padding","arg":{"as_string":"same"})");
  change(R"("name":"padding","arg":{"as_ints":[1,1]})", R"("name":"padding","arg":{"as_graph":{}})");
  change(R"("outputs":[{"as_tensor":{"name":"conv2d"}}])", R"("outputs":[{"as_sym_int":{"as_name":"conv2d"}}])");
  change(R"("outputs":[{"as_tensor":{"name":"conv2d"}}])", R"("outputs":[{"as_tensors":[{"name":"conv2d"}]}])");
  // Weights that are elsewhere than their bytes.
  const auto weight = [&](const std::string& from, const std::string& to) {
    return refusal("dynamic.pt2", weights, from, to);
  };
  CHECK(mentions(weight(R"("storage_offset":{"as_int":0})", R"("storage_offset":{"as_int":9000000})"),
                 "within its bytes"));
  weight(R"("storage_offset":{"as_int":0})", R"("storage_offset":{"as_int":-1})");
  weight(R"("sizes":[{"as_int":2})", R"("sizes":[{"as_int":9223372036854775807})");
  weight(R"("strides":[{"as_int":)", R"("strides":[{"as_int":9223372036854775)");
  CHECK(mentions(weight(R"("use_pickle":false)", R"("use_pickle":true)"), "pickled"));
  weight(R"("path_name":"weight_0")", R"("path_name":"weight_99")");
  CHECK_THROWS(load_exported(options(fixture("higher_order.pt2"))), code::kCheckpoint);
  CHECK_THROWS(load_exported(options(fixture("dynamic.safetensors"))), code::kCheckpoint);
  CHECK_THROWS(load_exported(options(fixture("nothing.pt2"))), code::kIo);
}

// Files too large for the repository: LAYER_ENSEMBLES_EXPORTED names a folder of pairs as in test/fixtures/exported.
TEST("exported: files of LAYER_ENSEMBLES_EXPORTED") {
  const char* folder = std::getenv("LAYER_ENSEMBLES_EXPORTED");
  if (!folder) return;
  std::string failures;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".pt2") continue;
    auto expected = entry.path();
    const Tensors wanted = read_safetensors(expected.replace_extension(".safetensors").string()).tensors;
    try {
      const auto backbone = load_exported(options(entry.path().string()));
      size_t known = 0, untappable = 0;
      for (const Layer& layer : backbone->layers()) ++known, untappable += !layer.tappable;
      const auto [names, missing] = tappable(*backbone, wanted, "tap/");
      std::cout << entry.path().filename().string() << ": " << known << " layers, " << names.size()
                << " taps compared, " << missing.size() << " of Python's missing";
      for (size_t i = 0; i < missing.size() && i < 4; ++i) std::cout << " " << missing[i];
      std::cout << std::endl;
      check_evaluation(*backbone, wanted, 1e-5);
      backbone->begin_inference(at::kFloat);
      check_evaluation(*backbone, wanted, 1e-4);
      if (wanted.contains("train/output")) check_training(*backbone, wanted, 1e-4);
    } catch (const Error& error) {
      failures += entry.path().filename().string() + ": " + error.what() + " | " + error.cause().substr(0, 300) + "\n";
    } catch (const std::exception& error) {
      failures += entry.path().filename().string() + ": " + error.what() + "\n";
    }
  }
  if (!failures.empty()) test::failed(__FILE__, __LINE__, failures);
}
