#pragma once
// The functions that JavaScript calls: one per operation of the core. No mathematics here.
#include "napi_setup.h"

namespace le::binding {

void export_models(Napi::Object exports);

}  // namespace le::binding
