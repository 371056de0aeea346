#pragma once
// What every kind of backbone does with the names and the images that it is given.
#include <ATen/core/Tensor.h>

#include <functional>
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

// Which values a norm takes its statistics from.
enum class NormKind : uint8_t { kBatch, kInstance, kGroup };
// ERR_LE_SHAPE where each of a norm's statistics would be that of a single value, as PyTorch refuses it: what comes out
// is no number, or does not depend on the input. `groups`: of a group norm.
void check_norm_input(NormKind kind, at::IntArrayRef sizes, int64_t groups = 1);

// One pass for `input` by passes of `batch` images: the last one is filled up by repeating the last image, and what
// comes of those is left out. ERR_LE_SHAPE where an output or tap is not one for each image.
Pass in_batches(const at::Tensor& input, int64_t batch, const std::function<Pass(const at::Tensor&)>& run);

// In float where it is of a wider or narrower type that is not bfloat16: what comes after knows these two.
at::Tensor as_feature(at::Tensor value);

// channels_last for `axes` dimensions in all; contiguous where there is no such format.
at::MemoryFormat layout(int64_t axes, bool channels_last);

}  // namespace le
