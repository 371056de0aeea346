#pragma once
// Which modules of a recorded network are one layer under several names, as those of nnU-Net's blocks:
//
//   self.conv, self.norm, self.nonlin = …
//   self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)    # the one that forward calls
//
// A file knows the names that calls were made by. Under its other names a layer stands there as a module of its own
// that never runs, and is known by the weights that it shares.
#include <string>
#include <utility>
#include <vector>

namespace le {

struct RecordedModule {
  std::string name;
  std::string type;    // with whatever is known of it: "Conv2d" may be any "….Conv2d"; empty: not known
  std::string object;  // what all names of one object have in common, and no other; empty: not known
  int last_call = -1;  // its place among all calls; -1: never called
};

struct Aliases {
  std::vector<size_t> first;         // by module: the first of its names; itself where it has no other before
  std::vector<std::string> why_not;  // by module: why its layer cannot be told; empty where it can, or is not called
};

// `modules` in registration order, the root (with an empty name) first. `weights`: every name of each, and something
// that its names share.
Aliases find_aliases(const std::vector<RecordedModule>& modules,
                     const std::vector<std::pair<std::string, const void*>>& weights);

}  // namespace le
