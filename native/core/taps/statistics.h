#pragma once
// What is kept of a tapped feature map: how strong each channel is, and how much it varies over the image (SPEC 16).
#include <ATen/core/Tensor.h>

#include <string>

namespace le {

// Of features N×C×s, float or another floating type, in any memory format: N×2C float on their device, first the means
// over space and then the standard deviations (divisor: the number of places, so that a single place has 0).
// Accumulated in float and double on the CPU, by library operations in float elsewhere.
at::Tensor tap_statistics(const at::Tensor& features);

// The same by library operations, in double: what the kernel is tested against.
at::Tensor tap_statistics_reference(const at::Tensor& features);

// How the values of images N×C×s are distributed, whatever their scale: tap_statistics() of 9C maps, max(0, t - u) for
// each channel's standardised values u (all 0 where they are one) and each threshold t in turn. N×18C float on their
// device.
at::Tensor input_statistics(const at::Tensor& images);
at::Tensor input_statistics_reference(const at::Tensor& images);

// How fine the images N×C×s are, whatever the scale of their values: tap_statistics() of 2AC maps, A the axes of s: of
// each channel's values over their standard deviation (0 where they are one) the absolute differences of neighbours
// along each axis, then the absolute second differences. Of an axis too short for any there are zeros. N×4AC float on
// their device.
at::Tensor texture_statistics(const at::Tensor& images);
at::Tensor texture_statistics_reference(const at::Tensor& images);

// What is known of what goes in, by the names that stand in place of a layer's; null for others.
using ImageStatistics = at::Tensor (*)(const at::Tensor& images);
ImageStatistics image_statistics(const std::string& name);

}  // namespace le
