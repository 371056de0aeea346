#include "kernels/isa.h"

#include <cstdlib>
#include <vector>

#include "error.h"

namespace le {

std::string chosen_isa() {
  std::vector<std::string> usable;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    usable.push_back("avx512");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt"))
    usable.push_back("avx2");
#endif
  usable.push_back("generic");
  const char* wanted = std::getenv("LAYER_ENSEMBLES_ISA");
  if (!wanted || !*wanted) return usable.front();
  bool found = false;
  for (const char* name : {"avx512", "avx2", "generic"}) {
    found = found || name == std::string(wanted);
    for (const std::string& isa : usable)
      if (found && isa == name) return isa;
  }
  fail(code::kOption, "Expected avx512, avx2 or generic for LAYER_ENSEMBLES_ISA but received '", wanted, "'.");
}

}  // namespace le
