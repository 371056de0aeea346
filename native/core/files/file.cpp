#include "files/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "error.h"

namespace le {

namespace {
constexpr size_t kMaxChunk = size_t{1} << 30;  // some systems refuse larger reads and writes
}  // namespace

InputFile::InputFile(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) {
    const int reason = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    fail(code::kIo, "Expected a readable file ", path_, " but received: ", std::strerror(reason), ".");
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail(code::kIo, "Expected a regular file ", path_, " but received another kind.");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() { ::close(descriptor_); }

bool InputFile::read(void* to, size_t bytes, uint64_t offset) const {
  auto* out = static_cast<char*>(to);
  while (bytes) {
    const ssize_t n = ::pread(descriptor_, out, std::min(bytes, kMaxChunk), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(code::kIo, "Expected to read ", path_, " but received: ", std::strerror(errno), ".");
    if (n == 0) return false;
    out += n, offset += static_cast<uint64_t>(n), bytes -= static_cast<size_t>(n);
  }
  return true;
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  // A rename would put a file in the place of a device or a pipe.
  struct stat status {};
  if (::stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    fail(code::kIo, "Expected a new or regular file for ", path_, " but received another kind.");
  // Random: in containers every process has the same number.
  std::random_device random;
  char name[17];
  std::snprintf(name, sizeof name, "%08x%08x", random(), random());
  temporary_ = path_ + "." + name + ".tmp";
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refused();
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(const void* from, size_t bytes) {
  const auto* in = static_cast<const char*>(from);
  while (bytes) {
    const ssize_t n = ::write(descriptor_, in, std::min(bytes, kMaxChunk));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) refused();
    in += n, bytes -= static_cast<size_t>(n);
  }
}

void OutputFile::commit() {
  if (::fsync(descriptor_) != 0) refused();
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (!closed || ::rename(temporary_.c_str(), path_.c_str()) != 0) refused();
  temporary_.clear();
  // The rename itself reaches the disk with the folder. Some file systems cannot flush one: the file is whole either
  // way.
  const auto folder = std::filesystem::path(path_).parent_path();
  const int parent = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return;
  ::fsync(parent);
  ::close(parent);
}

void OutputFile::refused() const {
  fail(code::kIo, "Expected to write ", path_, " but received: ", std::strerror(errno), ".");
}

}  // namespace le
