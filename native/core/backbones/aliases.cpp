#include "backbones/aliases.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <unordered_map>

namespace le {

namespace {

// Files may be made to keep a reader busy: what has more of these is no layer that anybody would look for.
constexpr size_t kMostNames = 1000;  // of one layer, and beside each other
constexpr size_t kMostDepth = 200;

class Finder {
 public:
  Finder(const std::vector<RecordedModule>& modules, const std::vector<std::pair<std::string, const void*>>& weights)
      : modules_(modules), children_(modules.size()), weights_(modules.size()) {
    found_.first.resize(modules.size());
    found_.why_not.resize(modules.size());
    std::iota(found_.first.begin(), found_.first.end(), size_t{0});
    for (size_t m = 0; m < modules.size(); ++m) index_of_.emplace(modules[m].name, m);
    for (size_t m = 0; m < modules.size(); ++m)
      if (const int parent = parent_of(m); parent >= 0) children_[parent].push_back(m);
    note_weights(weights);
  }

  Aliases operator()() {
    by_object();
    by_weights();
    by_order();
    by_parent();
    for (size_t m = 0; m < modules_.size(); ++m) found_.first[m] = first(m);
    return std::move(found_);
  }

 private:
  // Relative names of the weights below a module, with what they are.
  using Weights = std::vector<std::pair<std::string_view, const void*>>;

  bool called(size_t m) const { return modules_[m].last_call >= 0; }
  bool may_be_one(size_t a, size_t b) const {
    const auto ends = [](std::string_view long_name, std::string_view name) {
      return long_name.ends_with(name) &&
             (long_name.size() == name.size() || long_name[long_name.size() - name.size() - 1] == '.');
    };
    const auto &x = modules_[a].type, &y = modules_[b].type;
    return x.empty() || y.empty() || ends(x, y) || ends(y, x);
  }
  int index(std::string_view name) const {
    const auto found = index_of_.find(name);
    return found == index_of_.end() ? -1 : static_cast<int>(found->second);
  }
  int parent_of(size_t m) const {
    const std::string_view name = modules_[m].name;
    if (name.empty()) return -1;
    const size_t dot = name.rfind('.');
    return index(name.substr(0, dot == name.npos ? 0 : dot));
  }
  size_t first(size_t m) {
    size_t& of = found_.first[m];
    return of == m ? m : of = first(of);
  }
  void merge(size_t a, size_t b) {
    const std::pair<size_t, size_t> both = std::minmax({first(a), first(b)});
    found_.first[both.second] = both.first;
  }

  void note_weights(const std::vector<std::pair<std::string, const void*>>& weights) {
    std::unordered_map<const void*, int> names;
    for (const auto& [name, what] : weights) ++names[what];
    for (const auto& [name, what] : weights)
      for (size_t dot = name.find('.'), depth = 0; dot != name.npos && depth < kMostDepth;
           dot = name.find('.', dot + 1), ++depth)
        if (const int m = index(std::string_view(name).substr(0, dot)); m >= 0)
          weights_[m].emplace_back(std::string_view(name).substr(dot + 1), what);
    // A layer with a weight that has no other name has none itself.
    for (size_t m = 0; m < modules_.size(); ++m) {
      Weights& all = weights_[m];
      std::sort(all.begin(), all.end());
      if (!all.empty() && std::all_of(all.begin(), all.end(), [&](const auto& w) { return names[w.second] > 1; }))
        sharing_[all].push_back(m);
    }
  }

  void by_object() {
    std::unordered_map<std::string_view, size_t> objects;
    for (size_t m = 0; m < modules_.size(); ++m)
      if (!modules_[m].object.empty())
        if (const auto [found, fresh] = objects.emplace(modules_[m].object, m); !fresh) merge(found->second, m);
  }

  void by_weights() {
    for (const auto& [weights, group] : sharing_) {
      for (const size_t m : group) {
        if (group.size() > kMostNames) {
          found_.why_not[m] = "it shares its weights with more than " + std::to_string(kMostNames) + " others";
          continue;
        }
        std::vector<size_t> candidates;  // called ones, one for each layer, the latest name of it
        for (const size_t other : group) {
          if (!called(other) || other == m || !may_be_one(m, other)) continue;
          const auto same = std::find_if(candidates.begin(), candidates.end(),
                                         [&](size_t candidate) { return first(candidate) == first(other); });
          if (same == candidates.end())
            candidates.push_back(other);
          else if (modules_[*same].last_call < modules_[other].last_call)
            *same = other;
        }
        if (!called(m)) {
          if (candidates.empty())
            for (const size_t other : group)
              if (!called(other) && may_be_one(m, other)) merge(other, m);
          if (candidates.size() == 1) merge(candidates[0], m);
          if (candidates.size() > 1)
            found_.why_not[m] = "it is never called by this name, and several layers have its weights (" +
                                modules_[candidates[0]].name + ", " + modules_[candidates[1]].name + ")";
          continue;
        }
        // Two names of one layer, whose last call counts, or two layers that share all weights.
        for (const size_t other : candidates)
          if (first(other) != first(m) && (modules_[m].object.empty() || modules_[other].object.empty()) &&
              modules_[other].last_call > modules_[m].last_call)
            found_.why_not[m] = "'" + modules_[other].name +
                                "' has the same weights and is called after it: the file does not say whether the two "
                                "are one layer; tap that one, or use torch.jit.trace or torch.export with strict=True";
      }
    }
  }

  // Layers without weights, where a module's parts are one by one those that stand beside it and never run.
  void by_order() {
    for (size_t parent = 0; parent < modules_.size(); ++parent) {
      if (children_[parent].size() > kMostNames) continue;
      for (const size_t container : children_[parent]) {
        const auto& parts = children_[container];
        if (!called(container) || parts.empty()) continue;
        std::vector<size_t> beside;
        for (const size_t child : children_[parent])
          if (child != container && !called(child) &&
              (weights_[child].empty() ||
               std::any_of(parts.begin(), parts.end(), [&](size_t part) { return first(part) == first(child); })))
            beside.push_back(child);
        if (beside.size() != parts.size()) continue;
        bool any = false, all = true;
        for (size_t i = 0; i < parts.size(); ++i) {
          const bool same = first(beside[i]) == first(parts[i]);
          any |= same;
          all &= same || (weights_[beside[i]].empty() && weights_[parts[i]].empty() && may_be_one(beside[i], parts[i]));
        }
        for (size_t i = 0; any && all && i < parts.size(); ++i) merge(beside[i], parts[i]);
      }
    }
  }

  // What lies in a layer has the names that this has, each with its own behind.
  void by_parent() {
    std::map<size_t, std::vector<size_t>> names;  // by first name
    for (size_t m = 0; m < modules_.size(); ++m) names[first(m)].push_back(m);
    for (size_t m = 0; m < modules_.size(); ++m) {
      if (!weights_[m].empty()) continue;
      for (int outer = parent_of(m); outer >= 0; outer = parent_of(static_cast<size_t>(outer))) {
        const std::string_view rest = std::string_view(modules_[m].name).substr(modules_[outer].name.size());
        if (called(m) && !found_.why_not[outer].empty() && found_.why_not[m].empty())
          found_.why_not[m] = "it is part of '" + modules_[outer].name + "': " + found_.why_not[outer];
        if (called(m)) continue;
        for (const size_t other : names[first(outer)])
          if (const int twin = index(modules_[other].name + std::string(rest));
              twin >= 0 && weights_[twin].empty() && may_be_one(m, twin))
            merge(twin, m);
      }
    }
  }

  const std::vector<RecordedModule>& modules_;
  std::unordered_map<std::string_view, size_t> index_of_;
  std::vector<std::vector<size_t>> children_;
  std::vector<Weights> weights_;
  std::map<Weights, std::vector<size_t>> sharing_;
  Aliases found_;
};

}  // namespace

Aliases find_aliases(const std::vector<RecordedModule>& modules,
                     const std::vector<std::pair<std::string, const void*>>& weights) {
  return Finder(modules, weights)();
}

}  // namespace le
