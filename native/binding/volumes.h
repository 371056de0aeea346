#pragma once
#include "napi_setup.h"

namespace le::binding {

void export_volumes(Napi::Object exports);

}  // namespace le::binding
