#pragma once
// The only place that includes napi.h: Node-API 9 and C++ exceptions are set for the target in CMakeLists.txt.
#include <napi.h>
