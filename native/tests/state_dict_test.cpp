#include "files/state_dict.h"

#include <ATen/ATen.h>

#include "error.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;

namespace {

using Tensors = std::map<std::string, at::Tensor>;

// Of a network a.weight, a.bias, b.weight; each number tells which set it is of.
Tensors numbers(double value) {
  return {
      {"a.weight", at::full({2, 3}, value)}, {"a.bias", at::full({2}, value)}, {"b.weight", at::full({4, 2}, value)}};
}
Tensors named(const std::string& prefix, const Tensors& tensors) {
  Tensors result;
  for (const auto& [name, tensor] : tensors) result.emplace(prefix + name, tensor);
  return result;
}
Tensors with(Tensors one, const Tensors& other) {
  one.insert(other.begin(), other.end());
  return one;
}
bool are(const Match& match, double value) {
  if (match.tensors.size() != 3) return false;
  for (const auto& [name, tensor] : match.tensors)
    if (!at::equal(tensor, at::full_like(tensor, value))) return false;
  return true;
}
std::string refusal(const std::vector<StateDict>& file, const Tensors& wanted, const MatchOptions& options = {}) {
  try {
    match_names(file, wanted, options);
  } catch (const Error& error) {
    return error.code() == code::kCheckpoint ? error.what() : "another code";
  }
  return "nothing";
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST("names: any prefix that all names share is found and said") {
  for (const char* prefix :
       {"", "module.", "model.", "_orig_mod.", "net.", "network.", "state_dict.", "model_ema.", "foo.", "module.model.",
        "_orig_mod.module.", "model.net.", "model_ema.module.", "a.b.c."}) {
    const Match match = match_names({{"", named(prefix, numbers(1))}}, numbers(0), {});
    CHECK(are(match, 1) && match.prefix == prefix && match.unexpected.empty());
    const Match inside = match_names({{"ckpt.", named(prefix, numbers(2))}}, numbers(0), {});
    CHECK(are(inside, 2) && inside.prefix == std::string("ckpt.") + prefix);
  }
  // The network that is wrapped, and the file that is not.
  const Match outer = match_names({{"", numbers(3)}}, named("model.", numbers(0)), {});
  CHECK(outer.tensors.size() == 3 && outer.tensors.contains("model.a.weight"));
}

TEST("names: wrappers inside of names, and a prefix on some of them") {
  const Tensors file = {{"a._orig_mod.weight", at::full({2, 3}, 1.0)},
                        {"a._orig_mod.bias", at::full({2}, 1.0)},
                        {"b.module.weight", at::full({4, 2}, 1.0)}};
  CHECK(are(match_names({{"", file}}, numbers(0), {}), 1));
  for (const char* prefix : {"module.", "model.", "_orig_mod.", "net.", "model.net."}) {
    Tensors some = numbers(1);
    some.emplace(std::string(prefix) + "a.weight", some.at("a.weight"));
    some.erase("a.weight");
    CHECK(are(match_names({{"", some}}, numbers(0), {}), 1));
  }
  // A name that a network has of itself is no wrapper.
  const Match own = match_names({{"", named("module.", numbers(1))}}, named("module.", numbers(0)), {});
  CHECK(own.tensors.contains("module.a.weight") && own.prefix.empty());
}

TEST("names: what another branch has is not taken for what is missing") {
  Tensors file = numbers(1);
  file.erase("b.weight");
  file.emplace("aux.b.weight", at::full({4, 2}, 9.0));
  const Match match = match_names({{"", file}}, numbers(0), {});
  CHECK(!match.tensors.contains("b.weight") && match.unexpected == std::vector<std::string>{"aux.b.weight"});
}

TEST("names: several sets that fit are refused, and the option decides") {
  const std::vector<std::pair<std::vector<StateDict>, std::pair<std::string, std::string>>> files = {
      {{{"model.", numbers(1)}, {"ema.", numbers(2)}}, {"model.", "ema."}},
      {{{"params.", numbers(1)}, {"params_ema.", numbers(2)}}, {"params.", "params_ema."}},
      {{{"state_dict.", with(named("model.", numbers(1)), named("model_ema.module.", numbers(2)))}},
       {"state_dict.model.", "state_dict.model_ema.module."}},
      {{{"", with(named("student.", numbers(1)), named("teacher.", numbers(2)))}}, {"student.", "teacher."}}};
  for (const auto& [file, prefixes] : files) {
    const std::string said = refusal(file, numbers(0));
    CHECK(contains(said, prefixes.first) && contains(said, prefixes.second) && contains(said, "option 'prefix'"));
    MatchOptions options;
    options.prefix = prefixes.first;
    CHECK(are(match_names(file, numbers(0), options), 1));
    options.prefix = prefixes.second;
    CHECK(are(match_names(file, numbers(0), options), 2));
  }
  CHECK(contains(refusal({{"", with(numbers(1), named("module.", numbers(2)))}}, numbers(0)), "option 'prefix'"));
  // The same numbers twice are one set.
  CHECK(are(match_names({{"model.", numbers(1)}, {"ema.", numbers(1)}}, numbers(0), {}), 1));
  CHECK(are(match_names({{"", with(numbers(1), named("module.", numbers(1)))}}, numbers(0), {}), 1));
}

TEST("names: nothing that fits is an error with a few names of both") {
  Tensors foreign;
  for (int i = 0; i < 50; ++i) foreign.emplace("layer" + std::to_string(i) + ".kernel", at::zeros({1}));
  const std::string said = refusal({{"", foreign}}, numbers(0));
  CHECK(contains(said, "none fits") && contains(said, "layer0.kernel") && contains(said, "46 more") &&
        said.size() < 400);
  MatchOptions options;
  options.prefix = "ema.";
  CHECK(contains(refusal({{"model.", numbers(1)}}, numbers(0), options), "'ema.'"));
}
