#pragma once
// What every backbone is to the rest of the core, whichever format it came from.
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "files/json.h"
#include "files/safetensors.h"
#include "files/state_dict.h"

namespace le {

// One submodule. Names are PyTorch's named_modules() paths; the root itself (empty name) is not listed.
struct Layer {
  std::string name, type;
  int64_t parameters = 0;  // trainable numbers in this module and below
  bool tappable = true;
  std::string why_not;   // where not tappable
  std::string alias_of;  // the layer that this is another name of; empty: of none
};

// One module call seen in a forward pass, in the order in which calls returned.
struct Call {
  std::string name;
  std::vector<int64_t> shape;  // empty where the output is not a single tensor
};

// The names that a forward pass shall bring out, resolved once. Made by Backbone::tap, valid for that backbone only.
class TapSet {
 public:
  explicit TapSet(std::vector<std::string> names) : names(std::move(names)) {}
  virtual ~TapSet() = default;
  const std::vector<std::string> names;
};

struct Pass {
  at::Tensor output;             // the backbone's own output
  std::vector<at::Tensor> taps;  // in the order of TapSet::names; undefined where that module did not run
};

class Backbone {
 public:
  virtual ~Backbone() = default;

  // The configuration that makes this backbone again (without its weights).
  virtual Json config() const = 0;
  virtual int64_t in_channels() const = 0;
  // Of the input: 2 for N×C×H×W, 3 for N×C×D×H×W.
  virtual int64_t spatial_axes() const { return 2; }
  // Spatial size that the network was recorded with; empty where any will do.
  virtual std::vector<int64_t> example_size() const { return {}; }
  // In registration order.
  virtual std::vector<Layer> layers() const = 0;
  // Runs one pass without gradients and without changing buffers (evaluation mode), and says which modules ran.
  virtual std::vector<Call> trace(const at::Tensor& input) = 0;
  // ERR_LE_TAP, with the nearest names, for a name that is unknown or cannot be tapped.
  virtual std::shared_ptr<TapSet> tap(std::vector<std::string> names) = 0;
  // `taps` may be null. A tap is the value that its module returned (the last one where it ran more than once), and
  // stays that value when a later layer works in place on the same memory.
  virtual Pass forward(const at::Tensor& input, const TapSet* taps) = 0;

  // Live references, under Python's state-dict names, in registration order.
  virtual NamedTensors parameters() const = 0;
  virtual NamedTensors buffers() const = 0;
  // Further names of listed tensors, as a weight has that several modules share: {other name, listed name}.
  virtual std::vector<std::pair<std::string, std::string>> other_names() const { return {}; }
  virtual void train(bool on) = 0;
  // The batch that every pass of training needs, because the network was recorded with it; 0: any.
  virtual int64_t training_batch() const { return 0; }
  // Whether passes in training may draw from libtorch's default generator (dropout): whoever needs the same numbers
  // again then seeds it. True where it cannot be known.
  virtual bool draws_in_training() const { return true; }
  // Lets the network's dropout draw in evaluation (Monte Carlo dropout), until sample(false) or train(). It draws from
  // libtorch's default generator. Returns whether there is any dropout.
  virtual bool sample(bool on) = 0;
  // Moves parameters and buffers; convolution weights become channels_last where asked.
  virtual void to(c10::Device device, bool channels_last) = 0;
  // Lets evaluation passes use derived weights (batch norm folded into the convolution before it, cast to `dtype`)
  // until end_inference(). Outputs and taps stay the same up to rounding. A backbone that has none does nothing.
  virtual void begin_inference(at::ScalarType dtype) { (void)dtype; }
  virtual void end_inference() {}
  // Writes the network with its present weights in the format that it came from, atomically. ERR_LE_OPTION for the
  // networks of the zoo, which have no format of their own: their weights are saved as safetensors.
  virtual void save(const std::string& path) const;
};

// {"kind": "unet" | "resnet18" | "unet3d" | ..., ...}: see zoo/zoo.h. Weights are initialised from config.seed without
// touching libtorch's global generator's later draws. Or {"kind": "torchscript" | "exported" | "file", "file": path,
// ...}: see imported.h.
std::unique_ptr<Backbone> make_backbone(const Json& config);

// Parameters, buffers, and both again under their other names: Python's state dict.
NamedTensors state_of(const Backbone& backbone);

struct LoadOptions {
  bool strict = true;
  // Load only what lies below this name of the network's, such as "encoder.", by names relative to it.
  std::string part;
  std::optional<std::string> prefix;  // as in MatchOptions
};

struct LoadReport {
  std::vector<std::string> missing, unexpected;
  std::string prefix;  // what stood before the names in the file
  size_t loaded = 0;   // weights that were taken
};
// Copies tensors into parameters and buffers by name, as match_names() finds them. ERR_LE_CHECKPOINT, and then nothing
// is changed: where no name fits at all; for a tensor of another shape or kind of numbers, or with NaN or infinity;
// and, when strict, for any missing or unexpected name. num_batches_tracked may be missing.
LoadReport load_weights(Backbone& backbone, const std::vector<StateDict>& file, const LoadOptions& options = {});
// Copies `match` of `file` as load_weights() does, which is this after match_names().
LoadReport load_match(Backbone& backbone, Match match, const LoadOptions& options);
// The weights below `part`, by names relative to it.
std::map<std::string, at::Tensor> weights_below(const Backbone& backbone, const std::string& part);

}  // namespace le
