#pragma once
// Volumes over the same extent with other voxels: the definitions of lib/grid/resample.ts, equal to the bit, on all
// intra-op threads.
#include <ATen/core/Tensor.h>

#include <vector>

#include "control.h"

namespace le {

enum class Between { kNearest, kLinear, kCubic };  // how values between voxels are found

// One axis of C×D×H×W, 1 to 3, and how many voxels it is to have.
struct Stretch {
  int64_t axis, size;
  Between between;
};

// `volume`: C×D×H×W on the CPU, float, or bytes where all stretches are to the nearest voxel. One axis after the other,
// rounded to float between them, in the order that is given. Beyond their ends lines go on as their ends are (SciPy's
// zoom with grid_mode=True and mode="nearest"). `control` is checked before each. ERR_LE_SHAPE, ERR_LE_VALUE.
at::Tensor resample(const at::Tensor& volume, const std::vector<Stretch>& stretches, const Control& control);

// Bytes C×D×H×W, by shares: each label's indicator resampled so, none of it cubic, and the label of the largest; of
// equal ones the least.
at::Tensor resample_labels(const at::Tensor& labels, const std::vector<Stretch>& stretches, const Control& control);

}  // namespace le
