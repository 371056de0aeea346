#pragma once
// What every kind of backbone does with the names and the images that it is given.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "backbones/backbone.h"

namespace le {

// For each layer its place in `names`, or -1. ERR_LE_TAP for a name that is unknown (with the nearest ones), given
// twice or of a layer that cannot be tapped.
std::vector<int> tap_slots(const std::vector<std::string>& names, const std::vector<Layer>& layers);

// `input` on `device` and in the layout asked for. ERR_LE_SHAPE unless it is N×C and `spatial_axes` more, and of
// floating-point numbers.
at::Tensor checked_input(const at::Tensor& input, int64_t in_channels, int64_t spatial_axes, c10::Device device,
                         bool channels_last);

// channels_last for `axes` dimensions in all; contiguous where there is no such format.
at::MemoryFormat layout(int64_t axes, bool channels_last);

}  // namespace le
