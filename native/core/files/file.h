#pragma once
// Files as the readers and writers of weights need them: read at any offset, or written whole or not at all.
#include <cstddef>
#include <cstdint>
#include <string>

namespace le {

// A regular file, open for reading. Several threads may read one.
class InputFile {
 public:
  // ERR_LE_IO naming the path where it cannot be opened or is not a regular file. Never waits, as a pipe would make it.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  // When it was opened.
  uint64_t size() const { return size_; }
  // Fills `to`. False where the file ends before; ERR_LE_IO where the system refuses.
  [[nodiscard]] bool read(void* to, size_t bytes, uint64_t offset) const;

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_ = 0;
};

// A file written to a temporary name in the same folder, which commit() flushes to the disk and renames: a reader sees
// the old file or the new one, never half. Without commit() nothing remains; what a killed process leaves is called
// NAME.<16 hexadecimal digits>.tmp, as lib/data/files.ts has it.
class OutputFile {
 public:
  // ERR_LE_IO naming the path and the reason, as for write() and commit(); also where a folder, device, pipe or socket
  // is at the path. A link to a regular file is replaced, not followed.
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* from, size_t bytes);
  void commit();

 private:
  [[noreturn]] void refused() const;
  std::string path_, temporary_;
  int descriptor_;
};

}  // namespace le
