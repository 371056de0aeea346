#pragma once
// The order in which convolutions like their numbers.
#include <ATen/core/Tensor.h>

namespace le {

// The tensor with its channels innermost: N×C×H×W as channels_last, N×C×D×H×W as channels_last_3d, others as they are.
// One channel is laid out the same either way, and only the strides say which: they are made to say it, or else
// everything up to the first mixed operation would run in the slower layout.
at::Tensor with_channels_last(const at::Tensor& x);

}  // namespace le
