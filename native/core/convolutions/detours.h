#pragma once
// What is done where a kernel of libtorch is wrong, and the shapes for which that is known.
#include <string>
#include <vector>

#include "convolutions/convolution.h"

namespace le {

// In the order in which they are tried: the cheapest first.
enum class Detour : uint8_t {
  kNone,
  kContiguous,       // the usual layout instead of channels_last
  kFloat,            // float32 instead of bfloat16
  kFloatContiguous,  // both
  kPlain,            // no convolution of oneDNN: see plain.h
};
inline constexpr Detour kDetours[] = {Detour::kNone, Detour::kContiguous, Detour::kFloat, Detour::kFloatContiguous,
                                      Detour::kPlain};

const char* detour_name(Detour detour);  // "none", "contiguous", "float32", "float32 contiguous", "plain"
Detour detour_named(const std::string& name);

// Whether it changes anything for this call.
bool makes_a_difference(Detour detour, const ConvolutionCall& call);

// One kind of shape that is wrong in some libtorch.
struct KnownFault {
  const char* name;
  bool (*applies)(const ConvolutionCall& call);
  Detour detour;
  const char* symptom;
  const char* seen;  // versions of libtorch and oneDNN, and instruction sets as ONEDNN_MAX_CPU_ISA calls them
};

// They hold for every libtorch and CPU: a detour gives the same result, and shapes this small take little time.
const std::vector<KnownFault>& known_faults();

// kNone where nothing is known.
Detour known_detour(const ConvolutionCall& call);

}  // namespace le
