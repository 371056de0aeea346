// Imported networks against PyTorch: every model file and expectation in the folder that
// scripts/models/make_model_files.py wrote, given by LAYER_ENSEMBLES_MODEL_FILES. Without it no test is registered.
//
// LAYER_ENSEMBLES_SAVED names a folder to keep what each network saves, for scripts/models/check_saved.py.
//
// Each file gives one line that scripts/models/table.py reads, in errors relative to the largest value:
//   imported NAME VARIANT eval=… taps=… odd=… single=… channels_last=… folded=… train=… grad=… buffer=… saved=…
//   tapped=7/8
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>

#include "backbones/backbone.h"
#include "error.h"
#include "fixture.h"

using namespace le;
using test::Fixture, test::relative_error;

namespace {

constexpr double kForward = 1e-5, kBackward = 1e-4;

// The largest error of each kind, and what it was.
class Errors {
 public:
  void add(const std::string& kind, const std::string& what, double error, double tolerance) {
    const auto [it, fresh] = worst_.try_emplace(kind, error);
    if (fresh) order_.push_back(kind);
    it->second = std::max(it->second, error);
    if (!(error <= tolerance)) {
      std::ostringstream line;
      line << kind << " of " << what << " differs by " << error << " of its largest value";
      failures_.push_back(line.str());
    }
  }
  void fail(std::string what) { failures_.push_back(std::move(what)); }

  std::string line() const {
    std::ostringstream line;
    line.precision(1);
    line << std::scientific;
    for (const auto& kind : order_) line << " " << kind << "=" << worst_.at(kind);
    return line.str();
  }
  void check() const {
    if (failures_.empty()) return;
    std::string all;
    for (size_t i = 0; i < failures_.size() && i < 8; ++i) all += "\n    " + failures_[i];
    test::failed(__FILE__, __LINE__, failures_.size(), " differences:", all);
  }

 private:
  std::map<std::string, double> worst_;
  std::vector<std::string> order_, failures_;
};

struct ImportCase {
  std::string name, path;
  Json json;
  bool has(const std::string& key) const { return json.boolean_or(key, false); }
  bool unused(const std::string& name) const {
    const auto prefixes = json.strings_or("unused", {});
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& p) { return name.starts_with(p); });
  }
};

std::unique_ptr<Backbone> load(const ImportCase& imported, const std::string& file) {
  Json::Object config = imported.json.at("options").object("options");
  config.emplace("kind", "file");
  config.emplace("file", file);
  return make_backbone(config);
}

// The expected taps that this file lets one tap. The others must say why not.
std::vector<std::string> tappable(const ImportCase& imported, Backbone& backbone, Errors& errors) {
  std::map<std::string, Layer> layers;
  for (const Layer& layer : backbone.layers()) layers.emplace(layer.name, layer);
  std::vector<std::string> names;
  for (const std::string& name : imported.json.strings_or("taps", {})) {
    const auto layer = layers.find(name);
    if (layer == layers.end()) {
      errors.fail(name + " is not listed");
    } else if (!layer->second.tappable) {
      std::cout << "  " << name << " cannot be tapped: " << layer->second.why_not << "\n";
      if (layer->second.why_not.empty()) errors.fail(name + " cannot be tapped and does not say why");
    } else {
      names.push_back(name);
    }
  }
  return names;
}

void check_modules(const Fixture& fixture, Backbone& backbone, const std::vector<std::string>& names, Errors& errors) {
  std::map<std::string, std::vector<int64_t>> ran;
  for (const Call& call : backbone.trace(fixture.at("input"))) ran[call.name] = call.shape;
  for (const std::string& name : names)
    if (!ran.contains(name) || at::IntArrayRef(ran.at(name)) != fixture.at("eval/tap/" + name).sizes())
      errors.fail(name + " did not run in trace(), or has another shape there");
}

// `size`: "eval" or "odd". All taps at once, and some alone: what is tapped decides what may be fused.
void check_evaluation(const Fixture& fixture, Backbone& backbone, const std::vector<std::string>& names,
                      const std::string& size, const std::string& kind, Errors& errors) {
  const at::NoGradGuard no_grad;
  backbone.train(false);
  const at::Tensor& input = fixture.at(size == "eval" ? "input" : "odd/input");
  const auto output = [&](const TapSet* taps, const std::string& with) {
    Pass pass = backbone.forward(input, taps);
    errors.add(kind, "the output " + with, relative_error(pass.output, fixture.at(size + "/output")), kForward);
    return pass.taps;
  };
  const std::string tap_kind = kind == "eval" ? "taps" : kind;
  const auto tap = [&](const at::Tensor& actual, const std::string& name, const std::string& with) {
    errors.add(tap_kind, name + with, relative_error(actual, fixture.at(size + "/tap/" + name)), kForward);
  };
  output(nullptr, "without taps");
  const auto taps = output(backbone.tap(names).get(), "with taps");
  for (size_t i = 0; i < names.size(); ++i) tap(taps[i], names[i], "");
  for (size_t i = 0; i < names.size(); i += 3)
    tap(output(backbone.tap({names[i]}).get(), "with " + names[i])[0], names[i], " alone");
}

// A batch of one, which a file that was made of two images may still refuse or take for another shape.
void check_single(const Fixture& fixture, Backbone& backbone, Errors& errors) {
  const at::NoGradGuard no_grad;
  backbone.train(false);
  const auto first = [&](const std::string& name) { return fixture.at(name).narrow(0, 0, 1); };
  errors.add("single", "the output",
             relative_error(backbone.forward(first("input"), nullptr).output, first("eval/output")), kForward);
}

// What it saves is read back, with the weights that it has now.
void check_saved(const ImportCase& imported, const Fixture& fixture, const Backbone& backbone, Errors& errors) {
  const char* kept = std::getenv("LAYER_ENSEMBLES_SAVED");
  const std::filesystem::path folder = kept ? kept : std::filesystem::temp_directory_path();
  const std::string path = (folder / ("saved-" + imported.json.at("file").string("file"))).string();
  backbone.save(path);
  const at::NoGradGuard no_grad;
  const auto again = load(imported, path);
  again->train(false);
  errors.add("saved", "the output",
             relative_error(again->forward(fixture.at("input"), nullptr).output, fixture.at("eval/output")), kForward);
  if (!kept) std::filesystem::remove(path);
}

void check_training(const ImportCase& imported, const Fixture& fixture, Backbone& backbone,
                    const std::vector<std::string>& names, Errors& errors) {
  backbone.train(true);
  const Pass pass = backbone.forward(fixture.at("input"), backbone.tap(names).get());
  errors.add("train", "the output", relative_error(pass.output, fixture.at("train/output")), kForward);
  const auto cotangent = [](const at::Tensor& like) {
    return test::cosines(like) / std::sqrt(static_cast<double>(like.numel()));
  };
  at::Tensor loss = (pass.output * cotangent(pass.output)).sum();
  for (size_t i = 0; i < names.size(); ++i) {
    errors.add("train", names[i], relative_error(pass.taps[i], fixture.at("train/tap/" + names[i])), kForward);
    if (!pass.taps[i].defined()) return;
    loss = loss + (pass.taps[i] * cotangent(pass.taps[i])).sum();
  }
  loss.backward();
  if (names.size() != imported.json.strings_or("taps", {}).size()) return;  // the loss was another

  const auto parameters = backbone.parameters();
  const std::map<std::string, at::Tensor> by_name(parameters.begin(), parameters.end());
  const auto gradients = fixture.under("grad/");
  // A gradient that ought to be zero (of a bias before batch norm) is nothing but rounding: the scale of each is at
  // least a thousandth of the network's largest.
  double largest = 0;
  for (const auto& [name, gradient] : gradients) largest = std::max(largest, gradient.abs().max().item<double>());
  for (const auto& [name, expected] : gradients) {
    if (imported.unused(name)) continue;
    const auto found = by_name.find(name);
    if (found == by_name.end()) {
      errors.fail("there is no parameter " + name);
      continue;
    }
    at::Tensor gradient = found->second.grad();
    if (gradient.defined() && gradient.dim() > 0 && gradient.size(0) > expected.size(0))
      gradient = gradient.narrow(0, 0, expected.size(0));  // of large ones only the first rows were kept
    errors.add("grad", name, relative_error(gradient, expected, largest * 1e-3), kBackward);
  }
  // A shared one counts once, under its first name: an optimiser would step twice otherwise.
  std::map<const void*, std::string> first_name;
  for (const auto& [name, parameter] : parameters) {
    const auto [first, fresh] = first_name.emplace(parameter.unsafeGetTensorImpl(), name);
    if (!fresh) {
      errors.fail(name + " is listed and is the same parameter as " + first->second);
      continue;
    }
    if (!gradients.contains(name) && parameter.grad().defined() && parameter.grad().abs().max().item<double>() > 0)
      errors.fail(name + " has a gradient and should have none");
  }

  const auto all = backbone.buffers();
  const std::map<std::string, at::Tensor> buffers(all.begin(), all.end());
  for (const auto& [name, expected] : fixture.under("buffer/")) {
    if (imported.unused(name)) continue;
    if (const auto found = buffers.find(name); found != buffers.end())
      errors.add("buffer", name, relative_error(found->second, expected), kBackward);
    else
      errors.fail("there is no buffer " + name);
  }
}

void run(const ImportCase& imported) {
  at::set_num_threads(2);
  const Fixture fixture(imported.path);
  Errors errors;
  const auto report = [&](const std::string& more) {
    std::cout << "imported " << imported.name << " " << imported.json.at("variant").string("variant") << errors.line()
              << more << std::endl;
  };
  try {
    const auto folder = std::filesystem::path(imported.path).parent_path();
    const std::string file = (folder / imported.json.at("file").string("file")).string();
    const auto backbone = load(imported, file);
    const auto names = tappable(imported, *backbone, errors);
    const auto trained = load(imported, file);
    check_evaluation(fixture, *backbone, names, "eval", "eval", errors);
    check_modules(fixture, *backbone, names, errors);
    check_evaluation(fixture, *backbone, names, "eval", "eval",
                     errors);  // trace() may have taught it what is overwritten
    if (imported.has("odd")) check_evaluation(fixture, *backbone, names, "odd", "odd", errors);
    if (imported.has("single")) check_single(fixture, *backbone, errors);
    for (const bool channels_last : {false, true}) {
      backbone->to(at::kCPU, channels_last);
      if (channels_last) check_evaluation(fixture, *backbone, names, "eval", "channels_last", errors);
      backbone->train(false);
      backbone->begin_inference(at::kFloat);
      check_evaluation(fixture, *backbone, names, "eval", "folded", errors);
      if (imported.has("odd")) check_evaluation(fixture, *backbone, names, "odd", "folded", errors);
      backbone->end_inference();
    }
    check_saved(imported, fixture, *backbone, errors);
    if (imported.has("trainable")) check_training(imported, fixture, *trained, names, errors);
    report(" tapped=" + std::to_string(names.size()) + "/" +
           std::to_string(imported.json.strings_or("taps", {}).size()));
  } catch (const std::exception& error) {
    std::string message = error.what();
    report(" failed: " + message.substr(0, message.find('\n')));
    throw;
  }
  errors.check();
}

const bool registered = [] {
  const char* folder = std::getenv("LAYER_ENSEMBLES_MODEL_FILES");
  if (!folder) return false;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    const std::string name = std::filesystem::path(path).stem();
    const Json cases = Json::parse(Fixture(path).metadata("cases"), code::kCheckpoint);
    for (const Json& one : cases.array("cases"))
      test::Register("imported parity " + name + "." + one.at("variant").string("variant"),
                     [imported = ImportCase{name, path, one}] { run(imported); });
  }
  return true;
}();

}  // namespace
