#pragma once
// The losses of SPEC section 12. Each takes logits N×C×S (float, bfloat16 or double, with gradient) and a target N×S of
// class indices (int64 or uint8), and gives a scalar, the mean over the batch. Targets equal to ignore_index count
// nowhere. Logits of another spatial size than the target's are interpolated to it (bilinear or trilinear,
// align_corners=false); on the CPU that is part of the loss's own passes, ten times faster than interpolating first.
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "files/json.h"

namespace le {

using Loss = std::function<at::Tensor(const at::Tensor& logits, const at::Tensor& target)>;

// {"name": "softDice" | "crossEntropy" | "diceCrossEntropy" | "focal" | "tversky" | "jaccard" | "lovaszSoftmax" |
// "boundary", plus that loss's options:
//  includeBackground (false), smooth (1e-5), classWeights (C numbers), labelSmoothing (0), gamma (2), alpha (0.5), of
//  false positives, beta (0.5), of false negatives}
// Unknown names and values out of range: ERR_LE_OPTION. An image whose pixels are all ignored contributes 0.
Loss make_loss(const Json& options, int64_t ignore_index);

}  // namespace le
