#pragma once
// Losses of the order of the pixels' errors and of their distance from the truth's boundary.
#include <ATen/core/Tensor.h>

namespace le {

// Berman et al. 2018, the Lovász extension of the Jaccard loss: the mean over images of the mean over the classes that
// an image's truth has, class 0 too. `p`: N×C×S probabilities, S flat; `target`: N×S, int64. Pixels of `ignore_index`
// count nowhere; an image without another pixel contributes 0.
at::Tensor lovasz_softmax(const at::Tensor& p, const at::Tensor& target, int64_t ignore_index);

// Kervadec et al. 2019: for each class the distance of a pixel from the nearest pixel of the truth's other side, in
// pixels: positive outside the class, 0 on its innermost rim and negative inside. 0 everywhere where one of the sides
// has no pixel. Ignored pixels are on neither side, and 0. `target`: N × S of 2 or 3 axes, int64, on any device; gives
// N × classes × S, double, on the CPU.
at::Tensor signed_distance(const at::Tensor& target, int64_t classes, int64_t ignore_index);

}  // namespace le
