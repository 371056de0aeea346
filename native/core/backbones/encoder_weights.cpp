#include "backbones/encoder_weights.h"

#include <ATen/ops/sum.h>

#include <algorithm>

#include "error.h"

namespace le {

void load_encoder(Backbone& backbone, std::map<std::string, at::Tensor> tensors) {
  const std::string prefix = "encoder.", first = "conv1.weight";
  const NamedTensors parameters = backbone.parameters();
  const auto to = std::find_if(parameters.begin(), parameters.end(),
                               [&](const auto& parameter) { return parameter.first == prefix + first; });
  if (to == parameters.end())
    fail(code::kOption,
         "Expected a network with a ResNet encoder but received another; load its own weights with loadWeights.");
  const bool whole =
      std::any_of(tensors.begin(), tensors.end(), [&](const auto& t) { return t.first.starts_with(prefix); });
  const std::string in_file = whole ? prefix : "";
  std::erase_if(tensors, [&](const auto& t) { return t.first.starts_with(in_file + "fc."); });

  const auto from = tensors.find(in_file + first);
  if (from != tensors.end() && from->second.dim() == 4 && to->second.dim() == 4) {
    const int64_t old_channels = from->second.size(1), channels = to->second.size(1);
    // The sum over the old channels is their mean times their number.
    if (old_channels != channels && old_channels > 0 && from->second.is_floating_point())
      from->second =
          (from->second.to(at::kDouble).sum(1, true).div(static_cast<double>(channels))).expand({-1, channels, -1, -1});
  }
  load_weights(backbone, tensors, true, prefix);
}

}  // namespace le
