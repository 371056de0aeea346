#include <algorithm>

#include "error.h"
#include "kernels/detours.h"

namespace le {

namespace {

// What a convolution goes from: its transpose goes the other way, by the same kernels.
ConvolutionCall::Axes wide(const ConvolutionCall& call) { return call.transposed ? call.output_size() : call.size; }
ConvolutionCall::Axes narrow(const ConvolutionCall& call) { return call.transposed ? call.size : call.output_size(); }

template <class Test>
bool any_axis(Test test) {
  return test(0) || test(1) || test(2);
}

bool smaller_than_kernel(const ConvolutionCall& call) {
  const ConvolutionCall::Axes from = wide(call);
  return any_axis([&](int axis) { return from[axis] < call.kernel[axis]; });
}

bool strided_to_one(const ConvolutionCall& call) {
  const ConvolutionCall::Axes to = narrow(call);
  return any_axis([&](int axis) { return call.stride[axis] > 1 && to[axis] == 1; });
}

bool dilated_groups(const ConvolutionCall& call) {
  return call.groups > 1 && any_axis([&](int axis) { return call.dilation[axis] > 1; });
}

bool padded_point(const ConvolutionCall& call) {
  return any_axis([&](int axis) { return call.kernel[axis] == 1 && call.padding[axis] > 0; });
}

bool narrow_strided_1x1(const ConvolutionCall& call) {
  return call.backward && !call.bf16 && call.axes == 2 && (call.input_last || call.weight_last) &&
         call.kernel == ConvolutionCall::Axes{1, 1, 1} && std::min(call.in_channels, call.out_channels) < 16 &&
         any_axis([&](int axis) { return call.stride[axis] > 1; });
}

}  // namespace

const char* detour_name(Detour detour) {
  switch (detour) {
    case Detour::kNone:
      return "none";
    case Detour::kContiguous:
      return "contiguous";
    case Detour::kFloat:
      return "float32";
    case Detour::kFloatContiguous:
      return "float32 contiguous";
    case Detour::kPlain:
      return "plain";
  }
  return "none";
}

Detour detour_named(const std::string& name) {
  for (const Detour detour : kDetours)
    if (name == detour_name(detour)) return detour;
  fail(code::kOption, "Expected the name of a detour but received '", name, "'.");
}

bool makes_a_difference(Detour detour, const ConvolutionCall& call) {
  const bool last = call.input_last || call.weight_last || call.gradient_last;
  return detour == Detour::kContiguous        ? last
         : detour == Detour::kFloat           ? call.bf16
         : detour == Detour::kFloatContiguous ? call.bf16 && last
                                              : true;
}

const std::vector<KnownFault>& known_faults() {
  static const std::vector<KnownFault> faults{
      {"small map", smaller_than_kernel, Detour::kFloatContiguous, "", ""},
      {"strided to one", strided_to_one, Detour::kFloatContiguous, "", ""},
      {"dilated groups", dilated_groups, Detour::kFloatContiguous, "", ""},
      {"padded point", padded_point, Detour::kFloatContiguous, "", ""},
      {"narrow strided 1×1", narrow_strided_1x1, Detour::kContiguous, "", ""},
  };
  return faults;
}

Detour known_detour(const ConvolutionCall& call) {
  for (const KnownFault& fault : known_faults())
    if (fault.applies(call)) return fault.detour;
  return Detour::kNone;
}

}  // namespace le
