#pragma once
// The losses of SPEC section 12. Each takes logits N×C×S (float32, with gradient) and a target N×S of class indices
// (int64), and gives a scalar, the mean over the batch. Targets equal to ignore_index count nowhere.
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "json.h"

namespace le {

using Loss = std::function<at::Tensor(const at::Tensor& logits, const at::Tensor& target)>;

// {"name": "softDice" | "crossEntropy" | "diceCrossEntropy" | "focal" | "tversky" | "jaccard", plus that loss's options:
//  includeBackground (false), smooth (1e-5), classWeights ([C]), labelSmoothing (0), gamma (2), alpha (0.5), beta (0.5)}
// Unknown names and values out of range: ERR_LE_OPTION. An image whose pixels are all ignored contributes 0.
Loss make_loss(const Json& options, int64_t ignore_index);

}  // namespace le
