#include "files/state_dict.h"

#include <ATen/ops/equal.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "error.h"

namespace le {

namespace {

using Wanted = std::map<std::string, at::Tensor>;

// Modules that wrap another one, by the name under which they hold it: DataParallel, torch.compile, FSDP,
// checkpointing.
constexpr std::array<std::string_view, 4> kWrappers = {"module", "_orig_mod", "_fsdp_wrapped_module",
                                                       "_checkpoint_wrapped_module"};
// Where a trainer keeps the network. Only at the beginning of a name.
constexpr std::array<std::string_view, 4> kHolders = {"model", "net", "network", "state_dict"};

bool is_counter(const std::string& name) { return name.ends_with("num_batches_tracked"); }

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (size_t dot; (dot = name.find('.')) != name.npos; name.remove_prefix(dot + 1))
    parts.push_back(name.substr(0, dot));
  parts.push_back(name);
  return parts;
}

// Without the wrappers that the network itself does not have.
std::string unwrapped(const std::string& name, const std::set<std::string_view>& own) {
  std::string result;
  for (const std::string_view part : parts_of(name))
    if (std::find(kWrappers.begin(), kWrappers.end(), part) == kWrappers.end() || own.contains(part))
      result.append(result.empty() ? "" : ".").append(part);
  return result;
}

// One way to read a dictionary: which of its names is which of the network's.
struct Reading {
  const StateDict* dict = nullptr;
  std::string prefix;                          // of the names without wrappers
  std::map<std::string, std::string> targets;  // the network's name by the file's
  std::vector<std::string> twice;              // two names of one weight, with other numbers
  size_t fitting = 0, named = 0;               // names that fit in name and shape; in name
  bool better_than(const Reading& other) const {
    return std::pair(fitting, named) > std::pair(other.fitting, other.named);
  }
};

class Matcher {
 public:
  Matcher(const std::vector<StateDict>& file, const Wanted& wanted, const MatchOptions& options)
      : file_(file), wanted_(wanted), options_(options) {
    for (const auto& [name, tensor] : wanted_)
      for (const std::string_view part : parts_of(name)) own_.insert(part);
    for (const StateDict& dict : file_) {
      if (options_.prefix) {
        if (options_.prefix->starts_with(dict.path))
          readings_.push_back(read(dict, options_.prefix->substr(dict.path.size())));
        continue;
      }
      for (const std::string& prefix : prefixes(dict)) readings_.push_back(read(dict, prefix));
    }
    for (const Reading& reading : readings_)
      if (reading.named > 0 && (!best_ || reading.better_than(*best_))) best_ = &reading;
  }

  bool any() const { return best_; }

  Match match() const {
    for (const Reading& other : readings_)
      if (&other != best_ && rivals(other)) ambiguous();
    if (!best_->twice.empty())
      fail(code::kCheckpoint, "Expected each weight once but received '", best_->twice[0], "' and '", best_->twice[1],
           "', which are one weight with different numbers: choose by option 'prefix'.");
    return made_of(*best_);
  }

  [[noreturn]] void nothing_fits() const {
    std::vector<std::string> theirs, ours;
    for (const StateDict& dict : file_)
      for (const auto& [name, tensor] : dict.tensors) theirs.push_back(dict.path + name);
    for (const auto& [name, tensor] : wanted_) ours.push_back(name);
    fail(code::kCheckpoint, "Expected weights of this network (", shortened(ours), ")",
         options_.prefix ? " below '" + *options_.prefix + "' (option 'prefix')" : "",
         " but received names of which none fits: ", shortened(theirs), ".");
  }

 private:
  bool fits(const std::string& name, const at::Tensor& tensor) const {
    return options_.fits ? options_.fits(name, tensor) : wanted_.at(name).sizes() == tensor.sizes();
  }

  // The beginnings of names whose ends the network has: those of the most names.
  std::vector<std::string> prefixes(const StateDict& dict) const {
    std::map<std::string, size_t> counts;
    for (const auto& [name, tensor] : dict.tensors) {
      const std::string bare = unwrapped(name, own_);
      for (size_t at = 0;; ++at) {
        const auto target = wanted_.find(bare.substr(at));
        if (target != wanted_.end())
          counts[bare.substr(0, at)] += is_counter(target->first) ? 0 : 1 + fits(target->first, tensor);
        if ((at = bare.find('.', at)) == bare.npos) break;
      }
    }
    std::vector<std::pair<std::string, size_t>> ranked(counts.begin(), counts.end());
    std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    constexpr size_t kTried = 8;
    std::vector<std::string> found;
    for (size_t i = 0; i < std::min(kTried, ranked.size()); ++i) found.push_back(ranked[i].first);
    return found;
  }

  Reading read(const StateDict& dict, const std::string& prefix) const {
    Reading reading{&dict, prefix, {}, {}, 0, 0};
    std::map<std::string, std::string> taken;  // the file's name by the network's
    const auto take = [&](const std::string& name, const std::string& target) {
      const auto [before, fresh] = taken.emplace(target, name);
      if (!fresh) {
        if (!at::equal(dict.tensors.at(before->second), dict.tensors.at(name)))
          reading.twice = {dict.path + before->second, dict.path + name};
        return;
      }
      reading.targets.emplace(name, target);
      if (is_counter(target)) return;
      ++reading.named;
      reading.fitting += fits(target, dict.tensors.at(name));
    };
    const bool alone = options_.prefix || options_.part;  // what is not below the prefix is left alone
    std::vector<std::pair<std::string, std::string>> left;
    for (const auto& [name, tensor] : dict.tensors) {
      const std::string bare = options_.prefix && name.starts_with(prefix) ? name : unwrapped(name, own_);
      if (const bool below = bare.starts_with(prefix); below && wanted_.contains(bare.substr(prefix.size())))
        take(name, bare.substr(prefix.size()));
      else if (below && wanted_.contains(unwrapped(bare.substr(prefix.size()), own_)))
        take(name, unwrapped(bare.substr(prefix.size()), own_));
      else if (!alone)
        left.emplace_back(name, bare);
    }
    if (!prefix.empty()) {
      // Names without the prefix belong too, but only beside more of those that have it: else it is another branch's.
      std::erase_if(left, [&](const auto& item) { return !wanted_.contains(item.second); });
      if (left.size() < reading.named)
        for (const auto& [name, bare] : left) take(name, bare);
      return reading;
    }
    // Some names with a trainer's prefix and some without: what is missing may be below it.
    for (const auto& [name, bare] : left) {
      std::string_view rest = bare;
      for (size_t dot; (dot = rest.find('.')) != rest.npos &&
                       std::find(kHolders.begin(), kHolders.end(), rest.substr(0, dot)) != kHolders.end();) {
        rest.remove_prefix(dot + 1);
        const std::string target(rest);
        if (!wanted_.contains(target)) continue;
        if (!taken.contains(target) && fits(target, dict.tensors.at(name))) take(name, target);
        break;
      }
    }
    return reading;
  }

  // Whether a reading is as good as the best one, of other numbers. Names that are the network's as they stand are not
  // read as something else's behind a prefix.
  bool rivals(const Reading& other) const {
    const bool as_it_stands = best_->dict == other.dict && best_->prefix.empty() &&
                              std::all_of(other.targets.begin(), other.targets.end(),
                                          [&](const auto& item) { return best_->targets.contains(item.first); });
    return !best_->better_than(other) && !as_it_stands && !same(*best_, other);
  }

  static bool same(const Reading& a, const Reading& b) {
    std::map<std::string, at::Tensor> first;
    for (const auto& [name, target] : a.targets) first.insert_or_assign(target, a.dict->tensors.at(name));
    std::set<std::string> second;
    for (const auto& [name, target] : b.targets) {
      second.insert(target);
      const at::Tensor& tensor = b.dict->tensors.at(name);
      const auto found = first.find(target);
      if (found == first.end() || found->second.scalar_type() != tensor.scalar_type() ||
          !at::equal(found->second, tensor))
        return false;
    }
    return second.size() == first.size();
  }

  // What stands before the network's names in the file, as the most names have it.
  static std::string written_prefix(const Reading& reading) {
    std::map<std::string, size_t> counts;
    for (const auto& [name, target] : reading.targets)
      if (name.ends_with(target)) ++counts[name.substr(0, name.size() - target.size())];
    const auto most = std::max_element(counts.begin(), counts.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    return reading.dict->path + (most == counts.end() ? reading.prefix : most->first);
  }

  Match made_of(const Reading& reading) const {
    Match match;
    match.prefix = written_prefix(reading);
    for (const auto& [name, tensor] : reading.dict->tensors) {
      const auto target = reading.targets.find(name);
      if (target != reading.targets.end()) {
        match.tensors.emplace(target->second, tensor);
        continue;
      }
      const bool below = unwrapped(name, own_).starts_with(reading.prefix) || name.starts_with(reading.prefix);
      if (below || !(options_.part || options_.prefix)) match.unexpected.push_back(name);
    }
    return match;
  }

  [[noreturn]] void ambiguous() const {
    std::vector<std::string> prefixes;
    for (const Reading& reading : readings_)
      if (&reading == best_ || rivals(reading)) prefixes.push_back("'" + written_prefix(reading) + "'");
    fail(code::kCheckpoint, "Expected one set of weights of this network but received several, which begin with ",
         shortened(prefixes), ": choose one by option 'prefix'.");
  }

  const std::vector<StateDict>& file_;
  const Wanted& wanted_;
  const MatchOptions& options_;
  std::set<std::string_view> own_;  // parts of the network's names
  std::vector<Reading> readings_;
  const Reading* best_ = nullptr;
};

// The part with which all names begin, with its dot; empty where there is none.
std::string common_part(const Wanted& wanted) {
  std::string part;
  for (const auto& [name, tensor] : wanted) {
    const size_t dot = name.find('.');
    if (dot == name.npos || (!part.empty() && !name.starts_with(part))) return {};
    if (part.empty()) part = name.substr(0, dot + 1);
  }
  return part;
}

}  // namespace

Match match_names(const std::vector<StateDict>& file, const Wanted& wanted, const MatchOptions& options) {
  const Matcher matcher(file, wanted, options);
  if (matcher.any()) return matcher.match();
  // It may be the network that is wrapped.
  Wanted inner = wanted;
  std::string outer;
  for (std::string part; !(part = common_part(inner)).empty();) {
    outer += part;
    Wanted shorter;
    for (const auto& [name, tensor] : inner) shorter.emplace(name.substr(part.size()), tensor);
    inner = std::move(shorter);
    MatchOptions of_inner = options;
    if (options.fits)
      of_inner.fits = [&](const std::string& name, const at::Tensor& tensor) {
        return options.fits(outer + name, tensor);
      };
    const Matcher unwrapping(file, inner, of_inner);
    if (!unwrapping.any()) continue;
    Match match = unwrapping.match();
    std::map<std::string, at::Tensor> renamed;
    for (auto& [name, tensor] : match.tensors) renamed.emplace(outer + name, std::move(tensor));
    match.tensors = std::move(renamed);
    return match;
  }
  matcher.nothing_fits();
}

std::string shortened(const std::vector<std::string>& names) {
  if (names.empty()) return "none";
  constexpr size_t kShown = 4;
  std::string all;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) all += (i ? ", " : "") + names[i];
  if (names.size() > kShown) all += " and " + std::to_string(names.size() - kShown) + " more";
  return all;
}

}  // namespace le
