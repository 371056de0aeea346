#include "backbones/exported/program.h"

#include <ATen/core/function_schema.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "error.h"

namespace le {

int ExportedNode::position(std::string_view argument) const {
  const auto& arguments = op->schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == argument) return static_cast<int>(i);
  return -1;
}

int ExportedNode::slot_at(int position) const {
  for (const Link& link : links)
    if (link.kind == Link::Kind::kValue && static_cast<int>(link.position) == position) return link.slots[0];
  return -1;
}

at::Tensor weight_in(const at::Tensor& payload, const ExportedWeight& weight) {
  const auto wrong = [&](const char* what) {
    fail(code::kCheckpoint, "Expected ", what, " for ", weight.name, " but received sizes ",
         at::IntArrayRef(weight.sizes), ", strides ", at::IntArrayRef(weight.strides), " and offset ", weight.offset,
         " in ", payload.numel(), " bytes.");
  };
  const int64_t width = static_cast<int64_t>(c10::elementSize(weight.dtype));
  if (weight.sizes.size() != weight.strides.size() || weight.sizes.size() > 64) wrong("a stride for each size");
  int64_t count = 1, end = weight.offset;
  if (weight.offset < 0) wrong("an offset that is not negative");
  for (size_t i = 0; i < weight.sizes.size(); ++i) {
    int64_t reach;
    if (weight.sizes[i] < 0 || weight.strides[i] < 0) wrong("sizes and strides that are not negative");
    if (__builtin_mul_overflow(count, weight.sizes[i], &count) ||
        __builtin_mul_overflow(std::max<int64_t>(weight.sizes[i] - 1, 0), weight.strides[i], &reach) ||
        __builtin_add_overflow(end, reach, &end))
      wrong("sizes that a memory can hold");
  }
  const int64_t available = payload.numel() / width;
  if (count > 0 && end >= available) wrong("a tensor within its bytes");
  const at::NoGradGuard no_grad;
  if (count == 0) return payload.slice(0, 0, 0).view(weight.dtype).reshape(weight.sizes);
  return payload.slice(0, 0, available * width)
      .view(weight.dtype)
      .as_strided(weight.sizes, weight.strides, weight.offset);
}

}  // namespace le
