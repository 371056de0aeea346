#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <map>
#include <set>
#include <thread>

#include "backbones/zoo/layers.h"
#include "backbones/zoo/native_backbone.h"
#include "error.h"
#include "taps/hooks.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;

namespace {

class Plus final : public UnaryModule {
 public:
  explicit Plus(double amount) : amount_(amount) {}
  const char* type() const override { return "Plus"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override { return x + amount_; }

 private:
  const double amount_;
};

class DoubleInPlace final : public UnaryModule {
 public:
  const char* type() const override { return "DoubleInPlace"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override {
    at::Tensor y = x;
    return y.mul_(2);
  }
};

// y = 2·(x + 1) in place, + 10 twice by one module, and a module that never runs. `kept` is read again at the end.
class Toy final : public UnaryModule {
 public:
  const char* type() const override { return "Toy"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override {
    const at::Tensor kept = kept_(x * weight_);
    return ten_(ten_(in_place_(overwritten_(kept)))) + kept;
  }

 private:
  at::Tensor weight_ = parameter("weight", at::ones({1}));
  Plus& kept_ = child<Plus>("kept", 0);
  Plus& overwritten_ = child<Plus>("overwritten", 1);
  DoubleInPlace& in_place_ = child<DoubleInPlace>("inPlace");
  Plus& ten_ = child<Plus>("ten", 10);
  Plus& idle_ = child<Plus>("idle", 0);
};

std::unique_ptr<NativeBackbone> toy() {
  return std::make_unique<NativeBackbone>(std::make_unique<Toy>(), Json::Object{}, 1);
}

const std::vector<std::string> kNames = {"overwritten", "inPlace", "ten", "idle", "kept"};

void check_toy(const Pass& pass) {
  CHECK((pass.taps[0] == 1).all().item<bool>());  // before the doubling in place
  CHECK((pass.taps[1] == 2).all().item<bool>());
  CHECK((pass.taps[2] == 22).all().item<bool>());  // the last of two calls
  CHECK(!pass.taps[3].defined());
  CHECK((pass.taps[4] == 0).all().item<bool>());
  CHECK((pass.output == 22).all().item<bool>());
}

std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    CHECK(error.code() == code::kTap);
    return error.what();
  }
  test::failed(__FILE__, __LINE__, "nothing was thrown");
}

std::unique_ptr<Backbone> unet() {
  return make_backbone(
      Json::parse(R"({"kind":"unet","inChannels":1,"classes":2,"decoderChannels":[32,16,16,16,16]})", code::kOption));
}

// Copies what every layer returns as it returns it, whether anything overwrites it later or not.
class Copies final : public ForwardHook {
 public:
  bool wants(const Module&) const override { return true; }
  void returned(const Module& module, const at::Tensor& output) override {
    if (output.defined()) by_index_[module.index()] = output.clone();
  }
  // Of these layers, in the order of their names.
  std::vector<at::Tensor> of(const std::vector<std::string>& names, const std::vector<Layer>& layers) const {
    std::vector<at::Tensor> found;
    for (const auto& name : names)
      for (size_t i = 0; i < layers.size(); ++i)
        if (layers[i].name == name) found.push_back(by_index_.at(i + 1));  // the root is the first
    return found;
  }

 private:
  std::map<size_t, at::Tensor> by_index_;
};

// Each tappable layer that ran, once.
std::vector<std::string> tappable(Backbone& backbone, const at::Tensor& x) {
  std::set<std::string> names;
  for (const auto& call : backbone.trace(x))
    if (!call.shape.empty()) names.insert(call.name);
  return {names.begin(), names.end()};
}

}  // namespace

TEST("taps: value at return, last call, and modules that did not run, in every mode") {
  const auto backbone = toy();
  const at::Tensor x = at::zeros({2, 1, 3, 3});
  const auto taps = backbone->tap(kNames);
  for (const bool traced : {false, true}) {
    if (traced) backbone->trace(x);
    check_toy(backbone->forward(x, taps.get()));
    {
      const at::NoGradGuard no_grad;
      check_toy(backbone->forward(x, taps.get()));
    }
    {
      const c10::InferenceMode inference;
      check_toy(backbone->forward(x, taps.get()));
      check_toy(backbone->forward(at::zeros({2, 1, 3, 3}), taps.get()));
    }
  }
}

TEST("taps: only what is overwritten is copied once that is known") {
  const at::NoGradGuard no_grad;
  const auto backbone = unet();
  backbone->train(false);
  const at::Tensor image = at::randn({1, 1, 32, 32});
  // The head's Identity returns the network's own output, which nothing overwrites.
  const auto taps = backbone->tap({"segmentation_head.1"});
  Pass pass = backbone->forward(image, taps.get());
  CHECK(!pass.taps[0].is_alias_of(pass.output));
  backbone->trace(image);
  pass = backbone->forward(image, taps.get());
  CHECK(pass.taps[0].is_alias_of(pass.output));
}

TEST("taps: a trace works in inference mode, and leaves mode, statistics and gradients alone") {
  const auto backbone = unet();
  backbone->train(true);
  const auto before = backbone->buffers().front().second.clone();
  std::vector<Call> calls;
  {
    const c10::InferenceMode inference;
    calls = backbone->trace(at::randn({1, 1, 40, 33}));
  }
  CHECK(at::equal(before, backbone->buffers().front().second));
  CHECK(calls.front().name == "encoder.conv1" && calls.back().name == "segmentation_head");
  CHECK((calls.front().shape == std::vector<int64_t>{1, 64, 20, 17}));
  int relu_calls = 0;
  for (const auto& call : calls) relu_calls += call.name == "encoder.layer1.0.relu";
  CHECK(relu_calls == 2);
  const at::Tensor y = backbone->forward(at::randn({2, 1, 64, 64}), nullptr).output;
  CHECK(y.requires_grad());  // still training
  CHECK(!at::equal(before, backbone->buffers().front().second));
}

TEST("taps: every layer's tap is the value it returned, traced or not, folded or not, in any mode") {
  const auto backbone = unet();
  backbone->to(at::kCPU, true);
  const at::Tensor x = at::randn({1, 1, 64, 48});
  backbone->train(true);
  for (int i = 0; i < 2; ++i) backbone->forward(at::randn({4, 1, 64, 48}), nullptr);
  backbone->train(false);
  // Of another network, so that this one is not traced yet.
  const auto names = tappable(*unet(), x);
  std::vector<at::Tensor> expected;
  {
    const Copies copies;
    backbone->forward(x, nullptr);
    expected = copies.of(names, backbone->layers());
  }
  const auto check = [&](const std::vector<at::Tensor>& taps, size_t first, size_t step) {
    for (size_t i = 0, k = first; k < names.size(); ++i, k += step) {
      const double error =
          ((taps[i] - expected[k]).abs().max() / expected[k].abs().max().clamp_min(1e-3)).item<double>();
      if (!(error < 1e-4)) test::failed(__FILE__, __LINE__, names[k], " differs by ", error);
    }
  };
  check(backbone->forward(x, backbone->tap(names).get()).taps, 0, 1);
  backbone->trace(x);
  check(backbone->forward(x, backbone->tap(names).get()).taps, 0, 1);
  backbone->begin_inference(at::kFloat);
  const c10::InferenceMode inference;
  check(backbone->forward(x, backbone->tap(names).get()).taps, 0, 1);
  // Subsets leave different pairs free to fuse.
  for (const size_t step : {2, 3, 7, 11})
    for (size_t first = 0; first < step; ++first) {
      std::vector<std::string> some;
      for (size_t k = first; k < names.size(); k += step) some.push_back(names[k]);
      check(backbone->forward(x, backbone->tap(some).get()).taps, first, step);
    }
}

TEST("taps: gradients flow through taps that later layers overwrite") {
  const auto backbone = toy();
  const at::Tensor x = at::ones({1, 1, 2, 2});
  backbone->trace(x);
  const Pass pass = backbone->forward(x, backbone->tap({"overwritten", "ten"}).get());
  (pass.taps[0].sum() * 100 + pass.taps[1].sum()).backward();
  // d(w·x + 1)/dw = x, over 4 pixels; d(2(w·x + 1) + 20)/dw = 2x.
  CHECK(backbone->parameters().front().second.grad().item<double>() == 4 * 100 + 4 * 2);
}

TEST("taps: names that do not exist or cannot be tapped") {
  const auto backbone = unet();
  CHECK(message_of([&] { backbone->tap({"encoder.layer1.0.rel"}); }).find("encoder.layer1.0.relu") !=
        std::string::npos);
  CHECK(message_of([&] { backbone->tap({"decoder.blocks"}); }).find("ModuleList") != std::string::npos);
  CHECK(message_of([&] { backbone->tap({"encoder"}); }).find("several") != std::string::npos);
  CHECK_THROWS(backbone->tap({""}), code::kTap);
  CHECK_THROWS(backbone->tap({"encoder.conv1", "encoder.conv1"}), code::kTap);
  CHECK(backbone->tap({})->names.empty());
  const auto other = toy();
  CHECK_THROWS(backbone->forward(at::zeros({1, 1, 32, 32}), other->tap({"ten"}).get()), code::kInternal);
}

TEST("taps: passes on several threads do not see each other's taps") {
  const auto backbone = unet();
  backbone->train(false);
  const at::Tensor x = at::randn({1, 1, 32, 32});
  const auto names = tappable(*backbone, x);
  const at::Tensor expected = backbone->forward(x, nullptr).output.detach();
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const at::NoGradGuard no_grad;
      for (int i = 0; i < 5; ++i) {
        const auto& name = names[(t * 5 + i) * 7 % names.size()];
        const Pass pass = backbone->forward(x, backbone->tap({name}).get());
        wrong += pass.taps.size() != 1 || !pass.taps[0].defined() || !at::allclose(pass.output, expected, 1e-4, 1e-5);
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST("taps: a failed pass leaves no hook behind") {
  const auto backbone = unet();
  CHECK_THROWS(backbone->forward(at::zeros({1, 2, 8, 8}), backbone->tap({"encoder.conv1"}).get()), code::kShape);
  CHECK(ForwardHook::current() == nullptr);
}

TEST("taps: nearest names") {
  CHECK((nearest_names("relu1", {"conv", "relu", "relu2", "bn"}, 2) == std::vector<std::string>{"relu", "relu2"}));
  CHECK(nearest_names("x", {}, 3).empty());
}
