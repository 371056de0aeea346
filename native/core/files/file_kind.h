#pragma once
// What a file of a network is.
#include <string>

namespace le {

enum class FileKind { kScript, kExported, kStateDict, kSafetensors, kUnknown };
// "torchscript", "exported", "state-dict", "safetensors" or "unknown".
const char* kind_name(FileKind kind);
// By content, never by name. ERR_LE_IO where it cannot be read.
FileKind file_kind(const std::string& path);

}  // namespace le
