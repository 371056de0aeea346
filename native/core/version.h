#pragma once

namespace le {

// Equal to package.json's (a test compares them).
inline constexpr const char* kVersion = "0.1.0";

}  // namespace le
