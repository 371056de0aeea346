#include "backbones/layout.h"

namespace le {

at::Tensor with_channels_last(const at::Tensor& x) {
  if (x.dim() != 4 && x.dim() != 5) return x;
  at::Tensor y = x.contiguous(x.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d);
  if (y.size(1) != 1) return y;
  auto strides = y.strides().vec();
  strides[1] = 1;
  for (int64_t axis = y.dim() - 1, step = 1; axis > 0; --axis) {
    if (axis == 1) break;
    strides[axis] = step;
    step *= y.size(axis);
    strides[0] = step;
  }
  return y.as_strided(y.sizes(), strides, y.storage_offset());
}

}  // namespace le
