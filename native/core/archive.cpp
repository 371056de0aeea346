#include "archive.h"

#include "backbones/imported.h"

namespace le {

FileKind file_kind(const std::string&) { return FileKind::kUnknown; }

}  // namespace le
