#pragma once
// Networks that come as files: TorchScript (script/) and torch.export (exported/). make_backbone() takes them as
//
//   {"kind": "torchscript" | "exported" | "file", "file": path, and the options below}
//
// where "file" means: look what it is. config() of the result names the format found, and every option as it was
// resolved.
#include <ATen/core/function_schema.h>

#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"

namespace le {

// What a file leaves open.
struct ImportOptions {
  std::string file;
  // The argument of forward that takes the image: its name, or its index from 0 (self not counted). Empty: the first.
  std::string image;
  // Values for the other arguments, by name or index: numbers, booleans, strings, null, or arrays of these. An argument
  // that has neither a value here nor a default is an error that names it.
  Json::Object inputs;
  // Where the network's own output ("final") is in what forward returns: a path of keys and indices, such as ["out"] or
  // [0, 1]. Empty: the tensor itself; of a dictionary what own_output() says, of anything else the first tensor.
  Json::Array output;
  // Channels and spatial axes of the image; 0: as the file says or its first convolution shows, and an error that asks
  // for the option where neither does.
  int64_t in_channels = 0, spatial_axes = 0;

  // {"file", "image", "inputs", "output", "inChannels", "spatialAxes"}; other keys but "kind" are ERR_LE_OPTION.
  static ImportOptions from(const Json& config);
  // All but "kind", as given to from().
  Json::Object json() const;
};

// Which of the keys of a dictionary that forward returns is the network's own output: "out" or "logits", or the only
// one that is no auxiliary classifier's ("aux…"). ERR_LE_OPTION where there are several.
size_t own_output(const std::vector<std::string>& keys);

// Whether an operator draws random numbers, other than by a mode or probability that is switched with the network's.
bool draws_always(const c10::FunctionSchema& schema);

// By config's "kind", or what the file is where that says "file".
std::unique_ptr<Backbone> load_imported(const Json& config);

// ERR_LE_CHECKPOINT for a file that is damaged, hostile or of a kind that cannot be tapped, with what to export
// instead; ERR_LE_OPTION for options that do not fit the network.
std::unique_ptr<Backbone> load_script(const ImportOptions& options);
std::unique_ptr<Backbone> load_exported(const ImportOptions& options);

}  // namespace le
