#pragma once
// Whose weights a file has: its names beside a network's, where wrappers, optimisers and exporters put others before
// them.
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace le {

// One dictionary of tensors in a file, and the keys that lead to it, each with a dot behind: "" or "state_dict.".
struct StateDict {
  std::string path;
  std::map<std::string, at::Tensor> tensors;
};

struct MatchOptions {
  // What stands before the network's names, keys of the file included: "ema." or "state_dict.model.". Names that do not
  // begin so are no business of this load. Absent: found.
  std::optional<std::string> prefix;
  // The network's names are those of a part of it: what is not below the prefix is of other parts.
  bool part = false;
  // Whether a tensor is as the network's weight of that name wants it. Absent: whether their shapes agree.
  std::function<bool(const std::string& name, const at::Tensor& tensor)> fits;
};

struct Match {
  std::map<std::string, at::Tensor> tensors;  // by the network's names; shapes may differ
  std::vector<std::string> unexpected;        // the file's names that the network has not
  std::string prefix;                         // what stands before (most of) its names, keys of the file included
};

// Finds which names of a file are which of the network's, `wanted`. A name is taken as it is; or without the parts that
// wrappers put into it anywhere ("module.", "_orig_mod.", …); or without the one prefix under which the most names have
// the network's name and shape. ERR_LE_CHECKPOINT where nothing fits, naming some of both; where several prefixes fit
// equally well and their numbers differ; and where two names are the same weight.
Match match_names(const std::vector<StateDict>& file, const std::map<std::string, at::Tensor>& wanted,
                  const MatchOptions& options);

// "a, b, c and 5 more", or "none".
std::string shortened(const std::vector<std::string>& names);

}  // namespace le
