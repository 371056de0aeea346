#pragma once
// Every native object that JavaScript can hold carries one of these tags. A method called with a foreign object then
// throws a TypeError, where an unchecked pointer would crash the process.
#include "napi_setup.h"

namespace le::binding {

inline constexpr napi_type_tag kBackboneTag = {0x6c61796572656e73, 0x0000000000000001};
inline constexpr napi_type_tag kEnsembleTag = {0x6c61796572656e73, 0x0000000000000002};
inline constexpr napi_type_tag kDatasetTag = {0x6c61796572656e73, 0x0000000000000003};
inline constexpr napi_type_tag kControlTag = {0x6c61796572656e73, 0x0000000000000004};

}  // namespace le::binding
