#include "files/file_kind.h"

#include <algorithm>
#include <string_view>

#include "files/archive.h"
#include "files/file.h"

namespace le {

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kScript:
      return "torchscript";
    case FileKind::kExported:
      return "exported";
    case FileKind::kStateDict:
      return "state-dict";
    case FileKind::kSafetensors:
      return "safetensors";
    case FileKind::kUnknown:
      break;
  }
  return "unknown";
}

FileKind file_kind(const std::string& path) {
  if (Archive::is_archive(path)) {
    const Archive archive(path);
    const auto is_model = [](const Archive::Entry& entry) {
      const std::string_view name = entry.name;
      return name.substr(0, 7) == "models/" && name.size() > 12 && name.substr(name.size() - 5) == ".json";
    };
    if ((archive.find("archive_format") && archive.text("archive_format", 100) == "pt2") ||
        std::any_of(archive.entries().begin(), archive.entries().end(), is_model))
      return FileKind::kExported;
    if (archive.find("constants.pkl") && archive.has_folder("code")) return FileKind::kScript;
    return archive.find("data.pkl") ? FileKind::kStateDict : FileKind::kUnknown;
  }
  const InputFile file(path);
  char start[32] = {};
  if (!file.read(start, std::min<uint64_t>(sizeof start, file.size()), 0)) return FileKind::kUnknown;
  const std::string_view text(start, sizeof start);
  // A pickle of protocol 2 or more whose first value is torch.save's magic number, as PyTorch wrote before 1.6.
  if (text[0] == '\x80' && text.find("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") != text.npos)
    return FileKind::kStateDict;
  // Eight bytes of length and the header's first.
  return text[8] == '{' && text.substr(4, 4) == std::string_view("\0\0\0\0", 4) ? FileKind::kSafetensors
                                                                                : FileKind::kUnknown;
}

}  // namespace le
