#include "training/optim.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "check.h"
#include "error.h"
#include "training_fixtures.h"

using namespace le;

namespace {

Json optimizer_options(const char* text) { return Json::parse(text, code::kOption); }

at::Tensor numbers(const Json& array) {
  std::vector<double> values;
  for (const Json& value : array.array("numbers")) values.push_back(value.number("number"));
  return at::tensor(values, at::kFloat);
}

// The fixture's six numbers as two parameters, and a third that never gets a gradient.
struct Parameters {
  at::Tensor a, b, idle;
  NamedTensors named;

  explicit Parameters(const at::Tensor& start) {
    a = start.slice(0, 0, 4).view({2, 2}).clone().set_requires_grad(true);
    b = start.slice(0, 4, 6).clone().set_requires_grad(true);
    idle = at::ones({3}).set_requires_grad(true);
    named = {{"a", a}, {"b", b}, {"idle", idle}};
  }
  void set_gradients(const at::Tensor& gradient) {
    a.mutable_grad() = gradient.slice(0, 0, 4).view({2, 2}).clone();
    b.mutable_grad() = gradient.slice(0, 4, 6).clone();
  }
  at::Tensor values() const {
    at::Tensor all = at::zeros({6});
    all.slice(0, 0, 4).copy_(a.detach().flatten());
    all.slice(0, 4, 6).copy_(b.detach());
    return all;
  }
};

std::map<std::string, at::Tensor> copy_of(const NamedTensors& state) {
  std::map<std::string, at::Tensor> copy;
  for (const auto& [name, tensor] : state) copy.emplace(name, tensor.clone());
  return copy;
}

}  // namespace

TEST("optim: every step equals PyTorch's, fused and by operations") {
  const Json fixture = Json::parse(test::kOptimizerFixtures, code::kCheckpoint);
  const auto rates = fixture.numbers_or("rates", {});
  const auto momenta = fixture.numbers_or("momenta", {});
  const auto& gradients = fixture.at("gradients").array("gradients");
  for (const Json& example : fixture.at("cases").array("cases")) {
    for (const auto& [fused, after] :
         {std::pair{true, "after"}, {false, "after"}, {true, "afterCycled"}, {false, "afterCycled"}}) {
      Json::Object options = example.at("options").object("options");
      options["fused"] = fused;
      Parameters parameters(numbers(fixture.at("start")));
      const auto optimizer = make_optimizer(options, parameters.named);
      for (size_t step = 0; step < rates.size(); ++step) {
        parameters.set_gradients(numbers(gradients[step]));
        if (after == std::string_view("afterCycled")) optimizer->set_momentum(momenta[step]);
        optimizer->step(rates[step]);
        const at::Tensor expected = numbers(example.at(after).array(after)[step]);
        const double error =
            ((parameters.values() - expected).abs() / expected.abs().clamp_min(0.1)).max().item<double>();
        if (!(error <= 1e-6))
          test::failed(__FILE__, __LINE__, Json(options).dump(), " differs by ", error, " ", after, " step ", step);
        optimizer->zero_grad();
        CHECK(!parameters.a.grad().defined());
      }
      CHECK(at::equal(parameters.idle, at::ones({3})));
    }
  }
}

TEST("optim: state that is saved and loaded goes on to the same bits") {
  const Json fixture = Json::parse(test::kOptimizerFixtures, code::kCheckpoint);
  const auto& gradients = fixture.at("gradients").array("gradients");
  for (const Json& example : fixture.at("cases").array("cases")) {
    Parameters unbroken(numbers(fixture.at("start"))), resumed = unbroken;
    const auto first = make_optimizer(example.at("options"), unbroken.named);
    for (size_t step = 0; step < 2; ++step) {
      unbroken.set_gradients(numbers(gradients[step]));
      first->step(0.1);
    }
    resumed = Parameters(unbroken.values());
    const auto second = make_optimizer(example.at("options"), resumed.named);
    second->load_state(copy_of(first->state()));
    for (size_t step = 2; step < gradients.size(); ++step) {
      unbroken.set_gradients(numbers(gradients[step]));
      resumed.set_gradients(numbers(gradients[step]));
      first->step(0.1);
      second->step(0.1);
    }
    CHECK(at::equal(unbroken.values(), resumed.values()));
  }
}

TEST("optim: a state that does not fit changes nothing") {
  Parameters parameters(at::ones({6}));
  for (const char* options : {R"({"name": "adam"})", R"({"name": "sgd", "momentum": 0.9})"}) {
    const auto optimizer = make_optimizer(optimizer_options(options), parameters.named);
    parameters.set_gradients(at::ones({6}));
    optimizer->step(0.1);
    const auto before = copy_of(optimizer->state());
    CHECK(!before.empty());
    auto missing = before, reshaped = before;
    for (auto& [name, tensor] : missing) tensor = tensor + 1;
    for (auto& [name, tensor] : reshaped) tensor = tensor + 1;
    missing.erase(std::prev(missing.end()));
    reshaped.rbegin()->second = at::zeros({7});
    CHECK_THROWS(optimizer->load_state(missing), "ERR_LE_CHECKPOINT");
    CHECK_THROWS(optimizer->load_state(reshaped), "ERR_LE_CHECKPOINT");
    CHECK_THROWS(optimizer->load_state({}), "ERR_LE_CHECKPOINT");
    for (const auto& [name, tensor] : optimizer->state()) CHECK(at::equal(tensor, before.at(name)));
  }
}

TEST("optim: clipping equals PyTorch's, and leaves small gradients alone") {
  const Json fixture = Json::parse(test::kOptimizerFixtures, code::kCheckpoint);
  const auto& gradients = fixture.at("gradients").array("gradients");
  Parameters parameters(at::ones({6}));
  parameters.set_gradients(numbers(gradients.back()));
  const Json& clip = fixture.at("clip");
  CHECK_NEAR(clip_gradients(parameters.named, 0.5), clip.at("norm").number("norm"), 1e-6);
  const at::Tensor clipped = numbers(clip.at("clipped"));
  CHECK((parameters.a.grad().flatten() - clipped.slice(0, 0, 4)).abs().max().item<double>() < 1e-7);
  CHECK((parameters.b.grad() - clipped.slice(0, 4, 6)).abs().max().item<double>() < 1e-7);
  const at::Tensor before = parameters.a.grad().clone();
  CHECK_NEAR(clip_gradients(parameters.named, 10), 0.5, 1e-5);
  CHECK(at::equal(parameters.a.grad(), before));
  Parameters none(at::ones({6}));
  CHECK(clip_gradients(none.named, 1) == 0);
}

TEST("optim: a step without gradients changes nothing") {
  for (const char* name : {R"({"name": "adam"})", R"({"name": "adamw"})", R"({"name": "sgd", "momentum": 0.5})"}) {
    Parameters parameters(at::ones({6}));
    make_optimizer(optimizer_options(name), parameters.named)->step(0.1);
    CHECK(at::equal(parameters.values(), at::ones({6})));
  }
}

TEST("optim: options that do not fit") {
  for (const char* bad : {R"({"name": "lion"})", R"({})", R"({"name": "adam", "betas": [0.9]})",
                          R"({"name": "adam", "betas": [0.9, 1]})", R"({"name": "adam", "eps": -1})",
                          R"({"name": "adamw", "weightDecay": -0.1})", R"({"name": "sgd", "momentum": 1})",
                          R"({"name": "sgd", "nesterov": true})", R"({"name": "adam", "fused": "yes"})"})
    CHECK_THROWS(make_optimizer(optimizer_options(bad), {}), "ERR_LE_OPTION");
}
