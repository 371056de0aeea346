#pragma once
// The zip archives in which PyTorch stores models and weights, read without trust.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace le {

class InputFile;

// The CRC-32 of zip archives, of `bytes` bytes that follow those whose CRC is `before`.
uint32_t crc32(const void* data, size_t bytes, uint32_t before = 0);

// One archive, its directory read and checked. PyTorch puts every entry below one top folder, whose name it takes from
// the file; names here are without it. Where the entries share no top folder, names are whole: PyTorch made no such
// archive. Entries for folders themselves are left out.
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
  // (a compressed entry that claims to unpack to more than 64 MB or to a thousand times its size, or all of them to
  // more than 256 MB).
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
  // Checks what another reader has got of an entry against its size and CRC.
  void check(const Entry& entry, const void* data, uint64_t size) const;
  // Checks the CRC of every stored entry.
  void check_all() const;

 private:
  [[noreturn]] void damaged(const std::string& wanted, const std::string& received) const;
  void read(void* to, uint64_t bytes, uint64_t offset) const;
  void read_directory();
  void check_local_header(Entry& entry, uint64_t begin, uint32_t flags, uint64_t end) const;
  void strip_top_folder();
  const Entry& stored(const std::string& name) const;
  std::string path_;
  std::unique_ptr<InputFile> file_;
  std::vector<Entry> entries_;                       // in the order of the directory
  std::unordered_map<std::string, size_t> by_name_;  // index in entries_
};

// Writes a stored zip archive as PyTorch does: below one top folder, each entry's bytes aligned to 64, with zip64 where
// sizes ask for it. To a temporary name that finish() flushes and renames; without finish() nothing remains. ERR_LE_IO
// where the system refuses.
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
