#pragma once
// The zip archives in which PyTorch stores models and weights, read without trust.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace le {

// One archive, its directory read and checked. PyTorch puts every entry below one top folder, whose name it takes from
// the file; names here are without it.
class Archive {
 public:
  struct Entry {
    std::string name;
    uint64_t size = 0, packed = 0;  // uncompressed, and as stored
    bool compressed = false;
    uint32_t crc = 0;
    uint64_t offset = 0;  // of its bytes in the file
  };

  // Whether the file begins as a zip archive does. ERR_LE_IO where it cannot be read.
  static bool is_archive(const std::string& path);

  // ERR_LE_IO where the file cannot be opened; ERR_LE_CHECKPOINT naming it where the directory is damaged, entries
  // overlap, lie outside the file or have one name, a local header contradicts the directory, or the sizes are absurd
  // (a compressed entry that claims to unpack to more than 64 MB or to a thousand times its size).
  explicit Archive(const std::string& path);
  ~Archive();
  Archive(Archive&&) noexcept;

  const std::string& path() const { return path_; }
  const std::vector<Entry>& entries() const { return entries_; }
  // Null where there is none.
  const Entry* find(const std::string& name) const;
  bool has_folder(const std::string& name) const;  // any entry below name + "/"

  // The bytes of a stored (uncompressed) entry, its CRC checked: ERR_LE_CHECKPOINT where it is missing, compressed,
  // damaged, or larger than `limit`.
  std::string text(const std::string& name, uint64_t limit) const;
  at::Tensor bytes(const std::string& name) const;  // uint8, owning its memory
  // Checks the CRC of every stored entry.
  void check_all() const;

 private:
  struct File;
  [[noreturn]] void damaged(const std::string& wanted, const std::string& received) const;
  std::string path_;
  std::unique_ptr<File> file_;
  std::vector<Entry> entries_;
};

// Writes a stored zip archive as PyTorch does: below one top folder, each entry's bytes aligned to 64, with zip64 where
// sizes ask for it. To a temporary name that finish() flushes and renames; without finish() nothing remains.
class ArchiveWriter {
 public:
  ArchiveWriter(std::string path, std::string top_folder);
  ~ArchiveWriter();
  void add(const std::string& name, const void* data, uint64_t size);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace le
