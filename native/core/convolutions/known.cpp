#include <algorithm>

#include "convolutions/detours.h"
#include "error.h"

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

bool strided_stem(const ConvolutionCall& call) {
  return call.backward && call.axes == 3 && call.stride[0] > 1 && call.kernel[0] >= 7 && call.padding[0] >= 3 &&
         wide(call)[0] <= call.kernel[0];
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
  return call.backward && !call.bf16 && call.axes <= 2 && (call.input_last || call.weight_last) &&
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
  // The first that applies. The usual layout in float32 is right for every shape that was tried but those of the first.
  static const std::vector<KnownFault> faults{
      {"strided stem over few slices", strided_stem, Detour::kPlain,
       "weight gradients up to 1e36, or a loop without an end: kernels from 7×7×7 with padding from 3, over depths of "
       "up "
       "to the kernel's",
       "libtorch 2.13 with oneDNN 3.12: AVX512_CORE, AVX512_CORE_BF16, AVX512_CORE_FP16"},
      {"map smaller than the kernel", smaller_than_kernel, Detour::kFloatContiguous,
       "bfloat16: output and gradients made of memory that nobody wrote; float32, channels_last: so are weight "
       "gradients of 7×7×7 kernels",
       "libtorch 2.13 with oneDNN 3.12: AVX512_CORE, AVX512_CORE_BF16, AVX512_CORE_FP16, AVX512_CORE_AMX; the output "
       "on "
       "AVX512_CORE_AMX mostly, depth 2 on all but that"},
      {"stride onto a single place", strided_to_one, Detour::kFloatContiguous,
       "bfloat16: output and gradients made of memory that nobody wrote",
       "libtorch 2.13 with oneDNN 3.12: AVX512_CORE_BF16, AVX512_CORE_AMX"},
      {"dilated groups", dilated_groups, Detour::kFloatContiguous, "bfloat16: wrong weight gradients",
       "libtorch 2.13 with oneDNN 3.12: AVX512_CORE_BF16, AVX512_CORE_AMX"},
      {"padding around a kernel of 1", padded_point, Detour::kFloatContiguous,
       "channels_last, also in float32: reads and writes out of bounds where it is strided",
       "libtorch 2.13 with oneDNN 3.12: AVX2, AVX512_CORE, AVX512_CORE_BF16, AVX512_CORE_AMX"},
      {"narrow strided 1×1", narrow_strided_1x1, Detour::kContiguous,
       "float32, channels_last: weight gradients written out of bounds",
       "libtorch 2.13 with oneDNN 3.12: AVX2, AVX512_CORE"},
  };
  return faults;
}

Detour known_detour(const ConvolutionCall& call) {
  for (const KnownFault& fault : known_faults())
    if (fault.applies(call)) return fault.detour;
  return Detour::kNone;
}

}  // namespace le
