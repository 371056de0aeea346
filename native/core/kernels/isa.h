#pragma once
#include <string>

namespace le {

// "avx512", "avx2" or "generic": what the kernels use on this CPU. LAYER_ENSEMBLES_ISA lowers it, for tests.
// ERR_LE_OPTION for another name there.
std::string chosen_isa();

}  // namespace le
