#include "backbones/encoder_weights.h"

#include <ATen/ops/sum.h>

#include <algorithm>

#include "error.h"

namespace le {

LoadReport load_encoder(Backbone& backbone, const std::vector<StateDict>& file,
                        const std::optional<std::string>& prefix) {
  const std::string part = "encoder.", first = "conv1.weight";
  const auto wanted = weights_below(backbone, part);
  const auto to = wanted.find(first);
  if (to == wanted.end())
    fail(code::kOption,
         "Expected a network with a ResNet encoder but received another; load its own weights with loadWeights.");
  MatchOptions how;
  how.part = true;
  how.prefix = prefix;
  how.fits = [&](const std::string& name, const at::Tensor& tensor) {
    const at::Tensor& weight = wanted.at(name);
    return tensor.sizes() == weight.sizes() ||
           (name == first && tensor.dim() == 4 && weight.dim() == 4 && tensor.size(0) == weight.size(0) &&
            tensor.sizes().slice(2) == weight.sizes().slice(2));
  };
  Match match = match_names(file, wanted, how);
  // The classifier of the network that it was.
  std::erase_if(match.unexpected,
                [](const std::string& name) { return name.ends_with("fc.weight") || name.ends_with("fc.bias"); });

  const auto from = match.tensors.find(first);
  if (from != match.tensors.end() && from->second.dim() == 4 && to->second.dim() == 4) {
    const int64_t old_channels = from->second.size(1), channels = to->second.size(1);
    // The sum over the old channels is their mean times their number.
    if (old_channels != channels && old_channels > 0 && from->second.is_floating_point())
      from->second =
          (from->second.to(at::kDouble).sum(1, true).div(static_cast<double>(channels))).expand({-1, channels, -1, -1});
  }
  LoadOptions options;
  options.part = part;
  return load_match(backbone, std::move(match), options);
}

}  // namespace le
