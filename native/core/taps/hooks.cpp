#include "taps/hooks.h"

#include <ATen/ops/clone.h>

#include <algorithm>
#include <numeric>

namespace le {

namespace {
thread_local ForwardHook* current_hook = nullptr;
}

ForwardHook::ForwardHook() : outer_(current_hook) { current_hook = this; }
ForwardHook::~ForwardHook() { current_hook = outer_; }
ForwardHook* ForwardHook::current() { return current_hook; }

void Module::train(bool on) {
  training_ = on;
  for (auto& [name, module] : children_) module->train(on);
}

at::Tensor Module::parameter(std::string name, at::Tensor value) {
  value.set_requires_grad(true);
  return parameters_.emplace_back(std::move(name), std::move(value)).second;
}

at::Tensor Module::buffer(std::string name, at::Tensor value) {
  return buffers_.emplace_back(std::move(name), std::move(value)).second;
}

void Module::collect(const std::string& prefix, std::vector<Named>& all) {
  index_ = all.size();
  all.push_back({prefix, this});
  for (auto& [name, module] : children_) module->collect(prefix.empty() ? name : prefix + "." + name, all);
}

std::vector<Module::Named> Module::enumerate() {
  std::vector<Named> all;
  collect("", all);
  return all;
}

void Trace::returned(const Module& module, const at::Tensor& output) {
  calls_.push_back({&module, output, output.defined() ? static_cast<uint32_t>(output._version()) : 0});
}

Capture::Capture(const std::vector<int>& slots, size_t count, const std::vector<Fate>& fates)
    : slots_(slots), fates_(fates), outputs_(count) {}

void Capture::returned(const Module& module, const at::Tensor& output) {
  const int slot = slots_[module.index()];
  if (slot < 0) return;
  const bool shared = fates_[module.index()] == Fate::kKept;
  outputs_[slot] = shared || !output.defined() ? output : output.clone();
}

std::vector<std::string> nearest_names(const std::string& name, const std::vector<std::string>& candidates,
                                       size_t count) {
  std::vector<std::pair<size_t, const std::string*>> ranked;
  for (const std::string& candidate : candidates) {
    // Levenshtein 1966, one row at a time.
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t replace = diagonal + (name[i - 1] != candidate[j - 1]);
        diagonal = row[j];
        row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
      }
    }
    ranked.emplace_back(row.back(), &candidate);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> result;
  for (size_t i = 0; i < std::min(count, ranked.size()); ++i) result.push_back(*ranked[i].second);
  return result;
}

}  // namespace le
