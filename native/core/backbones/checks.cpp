#include "backbones/checks.h"

#include "backbones/layout.h"
#include "error.h"
#include "taps/hooks.h"

namespace le {

std::vector<int> tap_slots(const std::vector<std::string>& names, const std::vector<Layer>& layers) {
  std::vector<int> slots(layers.size(), -1);
  for (size_t i = 0; i < names.size(); ++i) {
    size_t index = 0;
    while (index < layers.size() && layers[index].name != names[i]) ++index;
    if (index == layers.size()) {
      std::vector<std::string> candidates;
      for (const Layer& layer : layers)
        if (layer.tappable) candidates.push_back(layer.name);
      std::string nearest;
      for (const auto& name : nearest_names(names[i], candidates)) nearest += (nearest.empty() ? "" : ", ") + name;
      fail(code::kTap, "Expected the name of a layer for tap but received '", names[i], "'. Nearest: ", nearest, ".");
    }
    if (!layers[index].tappable)
      fail(code::kTap, "Expected a layer that can be tapped but received '", names[i], "': ", layers[index].why_not,
           ".");
    if (slots[index] >= 0) fail(code::kTap, "Expected distinct taps but received '", names[i], "' twice.");
    slots[index] = static_cast<int>(i);
  }
  return slots;
}

at::MemoryFormat layout(int64_t axes, bool channels_last) {
  if (!channels_last) return at::MemoryFormat::Contiguous;
  return axes == 4   ? at::MemoryFormat::ChannelsLast
         : axes == 5 ? at::MemoryFormat::ChannelsLast3d
                     : at::MemoryFormat::Contiguous;
}

at::Tensor checked_input(const at::Tensor& input, int64_t in_channels, int64_t spatial_axes, c10::Device device,
                         bool channels_last) {
  if (!input.defined() || input.dim() != spatial_axes + 2 || input.size(1) != in_channels || input.numel() == 0)
    fail(code::kShape, "Expected an input of N×", in_channels, spatial_axes == 3 ? "×D" : "", "×H×W but received ",
         input.defined() ? input.sizes() : at::IntArrayRef(), ".");
  if (!input.is_floating_point())
    fail(code::kShape, "Expected floating-point numbers for the input but received ",
         c10::toString(input.scalar_type()), ".");
  const at::Tensor x = input.to(device);
  return channels_last ? with_channels_last(x) : x;
}

}  // namespace le
