#include "files/archive.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <unordered_set>

#include "error.h"
#include "files/file.h"

namespace le {

namespace {

constexpr uint64_t kMaxDirectory = 100'000'000;
constexpr uint64_t kMaxUnpacked = 64'000'000, kMaxUnpackedInAll = 256'000'000, kMaxRatio = 1000;
constexpr uint64_t kMaxName = 4096;
constexpr uint64_t kAlignment = 64;  // of an entry's bytes, as PyTorch has it

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr uint32_t kNone16 = 0xffff, kNone32 = 0xffffffff;         // "see the zip64 field"
constexpr uint32_t kUtf8 = 1 << 11, kSizesFollow = 1 << 3;         // flags; the sizes of the second follow the data
constexpr uint32_t kAllowedFlags = kUtf8 | kSizesFollow | 3 << 1;  // those of the compression level mean nothing here
constexpr uint32_t kStored = 0, kDeflated = 8;
constexpr uint16_t kZip64Field = 1;

// tables[k][b]: the CRC of byte b followed by k zeros, so that eight bytes take eight independent look-ups.
constexpr auto kCrcTables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t byte = 0; byte < 256; ++byte)
      tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 255];
  return tables;
}();

// A little-endian number of `size` bytes.
uint64_t number(const char* from, int size) {
  uint64_t value = 0;
  for (int i = size - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(from[i]);
  return value;
}
uint32_t u16(const char* from) { return static_cast<uint32_t>(number(from, 2)); }
uint32_t u32(const char* from) { return static_cast<uint32_t>(number(from, 4)); }
uint64_t u64(const char* from) { return number(from, 8); }

void put(std::string& to, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) to += static_cast<char>(value >> (8 * i));
}

bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxName || name.front() == '/') return false;
  if (name.find_first_of(std::string_view("\0\\", 2)) != name.npos) return false;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, end - at);
    if (part == "." || part == ".." || (part.empty() && end != name.size())) return false;
    at = end + 1;
  }
  return true;
}

}  // namespace

uint32_t crc32(const void* data, size_t bytes, uint32_t before) {
  const auto* at = static_cast<const char*>(data);
  const auto& t = kCrcTables;
  uint32_t crc = ~before;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    const uint32_t a = u32(at) ^ crc, b = u32(at + 4);
    crc = t[7][a & 255] ^ t[6][a >> 8 & 255] ^ t[5][a >> 16 & 255] ^ t[4][a >> 24] ^ t[3][b & 255] ^
          t[2][b >> 8 & 255] ^ t[1][b >> 16 & 255] ^ t[0][b >> 24];
  }
  for (; bytes; --bytes, ++at) crc = crc >> 8 ^ t[0][(crc ^ static_cast<unsigned char>(*at)) & 255];
  return ~crc;
}

bool Archive::is_archive(const std::string& path) {
  const InputFile file(path);
  char signature[4];
  return file.read(signature, sizeof signature, 0) && u32(signature) == kLocal;
}

Archive::Archive(const std::string& path) : path_(path), file_(std::make_unique<InputFile>(path)) {
  read_directory();
  strip_top_folder();
}

Archive::~Archive() = default;
Archive::Archive(Archive&&) noexcept = default;

void Archive::damaged(const std::string& wanted, const std::string& received) const {
  fail(code::kCheckpoint, "Expected ", wanted, " in archive ", path_, " but received ", received, ".");
}

void Archive::read(void* to, uint64_t bytes, uint64_t offset) const {
  if (!file_->read(to, bytes, offset)) damaged("all of its bytes", "a file that became shorter while it was read");
}

void Archive::read_directory() {
  const uint64_t size = file_->size();
  if (size < kEndSize) damaged("a zip directory", "a file of " + std::to_string(size) + " bytes");
  // The end record is followed by a comment of up to 65535 bytes. Other readers take the last signature that they find:
  // a file in which that is not the record would be two archives in one.
  std::string tail(std::min(size, kEndSize + kNone16), '\0');
  read(tail.data(), tail.size(), size - tail.size());
  size_t at = tail.size() - kEndSize;
  while (u32(&tail[at]) != kEnd)
    if (at-- == 0) damaged("a zip directory at its end", "a file that is cut short or no archive");
  const char* end = &tail[at];
  if (at + kEndSize + u16(end + 20) != tail.size()) damaged("nothing after its directory", "more");
  const uint64_t end_offset = size - tail.size() + at;

  uint64_t disk = u16(end + 4), directory_disk = u16(end + 6), disk_count = u16(end + 8), count = u16(end + 10);
  uint64_t bytes = u32(end + 12), begin = u32(end + 16), directory_end = end_offset;
  char locator[kLocatorSize];
  bool has_locator = end_offset >= kLocatorSize;
  if (has_locator) {
    read(locator, sizeof locator, end_offset - kLocatorSize);
    has_locator = u32(locator) == kLocator64;
  }
  if (has_locator) {
    const uint64_t at64 = u64(locator + 8);
    char record[kEnd64Size];
    if (u32(locator + 4) != 0 || u32(locator + 16) != 1 || end_offset < kLocatorSize + kEnd64Size ||
        at64 != end_offset - kLocatorSize - kEnd64Size)
      damaged("one zip64 record before its end", "another place");
    read(record, sizeof record, at64);
    if (u32(record) != kEnd64 || u64(record + 4) != kEnd64Size - 12) damaged("a zip64 record", "other bytes");
    const auto agree = [&](uint64_t& small, uint64_t large, uint64_t none) {
      if (small != none && small != large) damaged("one directory", "two that differ");
      small = large;
    };
    agree(disk, u32(record + 16), kNone16);
    agree(directory_disk, u32(record + 20), kNone16);
    agree(disk_count, u64(record + 24), kNone16);
    agree(count, u64(record + 32), kNone16);
    agree(bytes, u64(record + 40), kNone32);
    agree(begin, u64(record + 48), kNone32);
    directory_end = at64;
  }
  if (disk != 0 || directory_disk != 0 || disk_count != count) damaged("an archive in one part", "several");
  if (bytes > kMaxDirectory) damaged("a directory of at most 100 MB", std::to_string(bytes) + " bytes");
  if (bytes > directory_end || begin != directory_end - bytes) damaged("its directory before its end", "another place");
  if (count > bytes / kCentralSize) damaged("a directory of " + std::to_string(count) + " entries", "a smaller one");

  std::string directory(bytes, '\0');
  read(directory.data(), bytes, begin);
  struct Span {
    uint64_t begin, end;
    size_t entry;
  };
  std::vector<Span> spans;
  uint64_t unpacked = 0;
  const char* from = directory.data();
  const char* const stop = from + bytes;
  for (uint64_t i = 0; i < count; ++i) {
    const auto left = [&] { return static_cast<uint64_t>(stop - from); };
    if (left() < kCentralSize || u32(from) != kCentral) damaged("entry " + std::to_string(i), "other bytes");
    const uint64_t name_size = u16(from + 28), extra_size = u16(from + 30), comment_size = u16(from + 32);
    if (left() < kCentralSize + name_size + extra_size + comment_size)
      damaged("entry " + std::to_string(i) + " inside the directory", "a longer one");
    Entry entry;
    entry.name.assign(from + kCentralSize, name_size);
    if (!is_plain_name(entry.name)) damaged("a plain relative name for entry " + std::to_string(i), "another");
    const uint32_t flags = u16(from + 8), method = u16(from + 10);
    if (flags & ~kAllowedFlags || (method != kStored && method != kDeflated))
      damaged("entry '" + entry.name + "' stored or deflated", "another method");
    entry.compressed = method == kDeflated;
    entry.crc = u32(from + 16);
    entry.packed = u32(from + 20);
    entry.size = u32(from + 24);
    uint64_t entry_disk = u16(from + 34), header = u32(from + 42);

    // What does not fit stands in the zip64 field, in this order.
    std::string_view extra(from + kCentralSize + name_size, extra_size), wide;
    for (bool found = false; extra.size() >= 4;) {
      const uint64_t length = u16(extra.data() + 2);
      if (length > extra.size() - 4) damaged("extra fields inside entry '" + entry.name + "'", "a longer one");
      if (u16(extra.data()) == kZip64Field) {
        if (found) damaged("one zip64 field for '" + entry.name + "'", "two");
        found = true, wide = extra.substr(4, length);
      }
      extra.remove_prefix(4 + length);
    }
    const auto widen = [&](uint64_t& value, uint64_t none, size_t width) {
      if (value != none) return;
      if (wide.size() < width) damaged("the zip64 size or offset of '" + entry.name + "'", "none");
      value = number(wide.data(), static_cast<int>(width));
      wide.remove_prefix(width);
    };
    widen(entry.size, kNone32, 8);
    widen(entry.packed, kNone32, 8);
    widen(header, kNone32, 8);
    widen(entry_disk, kNone16, 4);
    if (entry_disk != 0) damaged("an archive in one part", "several");
    if (!entry.compressed && entry.packed != entry.size)
      damaged("one size for the stored entry '" + entry.name + "'", "two");
    if (entry.compressed) {
      if (entry.size > kMaxUnpacked || entry.size > kMaxRatio * entry.packed)
        damaged("a compressed entry '" + entry.name + "' of at most 64 MB and a thousand times its packed size",
                std::to_string(entry.size) + " bytes of " + std::to_string(entry.packed));
      unpacked += entry.size;
      if (unpacked > kMaxUnpackedInAll) damaged("at most 256 MB of compressed entries", "more");
    }
    if (!by_name_.emplace(entry.name, entries_.size()).second)
      damaged("one entry for each name", "'" + entry.name + "' twice");
    check_local_header(entry, header, flags, begin);
    spans.push_back({header, entry.offset + entry.packed, entries_.size()});
    entries_.push_back(std::move(entry));
    from += kCentralSize + name_size + extra_size + comment_size;
  }
  if (from != stop) damaged(std::to_string(count) + " entries", "a directory that goes on");

  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < spans.size(); ++i)
    if (spans[i].begin < spans[i - 1].end)
      damaged("entries beside each other",
              "'" + entries_[spans[i - 1].entry].name + "' and '" + entries_[spans[i].entry].name + "' overlapping");
}

// Sets the entry's offset. `end`: where the directory begins. A reader that trusts the local header must find what one
// that trusts the directory finds.
void Archive::check_local_header(Entry& entry, uint64_t begin, uint32_t flags, uint64_t end) const {
  const auto inside = [&](uint64_t bytes) { return begin <= end && bytes <= end - begin; };
  if (!inside(kLocalSize + entry.name.size())) damaged("entry '" + entry.name + "' inside the file", "another place");
  std::string local(kLocalSize + entry.name.size(), '\0');
  read(local.data(), local.size(), begin);
  const char* at = local.data();
  const uint64_t header = local.size() + u16(at + 28);
  const bool later = flags & kSizesFollow;
  const auto agrees = [&](uint64_t value, uint64_t expected, bool wide) {
    return value == expected || (later && value == 0) || (wide && value == kNone32);
  };
  if (u32(at) != kLocal || u16(at + 6) != flags || u16(at + 8) != (entry.compressed ? kDeflated : kStored) ||
      !agrees(u32(at + 14), entry.crc, false) || !agrees(u32(at + 18), entry.packed, true) ||
      !agrees(u32(at + 22), entry.size, true) || u16(at + 26) != entry.name.size() ||
      local.compare(kLocalSize, std::string::npos, entry.name) != 0)
    damaged("a local header of '" + entry.name + "' that agrees with the directory", "another");
  if (!inside(header) || entry.packed > end - begin - header)
    damaged("entry '" + entry.name + "' inside the file", "a longer one");
  entry.offset = begin + header;
}

void Archive::strip_top_folder() {
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.name.back() == '/'; }),
                 entries_.end());
  const size_t slash = entries_.empty() ? std::string::npos : entries_.front().name.find('/');
  const std::string top = slash == std::string::npos ? "" : entries_.front().name.substr(0, slash + 1);
  const bool shared = std::all_of(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.name.compare(0, top.size(), top) == 0; });
  by_name_.clear();
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (shared) entries_[i].name.erase(0, top.size());
    by_name_.emplace(entries_[i].name, i);
  }
}

const Archive::Entry* Archive::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

bool Archive::has_folder(const std::string& name) const {
  const std::string prefix = name + "/";
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return entry.name.compare(0, prefix.size(), prefix) == 0; });
}

const Archive::Entry& Archive::stored(const std::string& name) const {
  const Entry* entry = find(name);
  if (!entry) damaged("an entry '" + name + "'", "none");
  if (entry->compressed) damaged("entry '" + name + "' stored, as PyTorch does", "a compressed one");
  return *entry;
}

void Archive::check(const Entry& entry, const void* data, uint64_t size) const {
  if (size != entry.size || crc32(data, size) != entry.crc) damaged("the checksum of '" + entry.name + "'", "another");
}

std::string Archive::text(const std::string& name, uint64_t limit) const {
  const Entry& entry = stored(name);
  if (entry.size > limit)
    damaged("entry '" + name + "' of at most " + std::to_string(limit) + " bytes", std::to_string(entry.size));
  std::string result(entry.size, '\0');
  read(result.data(), entry.size, entry.offset);
  check(entry, result.data(), entry.size);
  return result;
}

at::Tensor Archive::bytes(const std::string& name) const {
  const Entry& entry = stored(name);
  at::Tensor result;
  try {
    result = at::empty({static_cast<int64_t>(entry.size)}, at::TensorOptions().dtype(at::kByte));
  } catch (const c10::Error& error) {
    throw Error(code::kMemory, "Expected memory for entry '" + name + "' of " + path_ + " but received none.",
                error.what_without_backtrace());
  }
  read(result.mutable_data_ptr(), entry.size, entry.offset);
  check(entry, result.const_data_ptr(), entry.size);
  return result;
}

void Archive::check_all() const {
  std::string chunk(1 << 20, '\0');
  for (const Entry& entry : entries_) {
    if (entry.compressed) continue;
    uint32_t crc = 0;
    for (uint64_t done = 0; done < entry.size; done += chunk.size()) {
      const uint64_t bytes = std::min<uint64_t>(chunk.size(), entry.size - done);
      read(chunk.data(), bytes, entry.offset + done);
      crc = crc32(chunk.data(), bytes, crc);
    }
    if (crc != entry.crc) damaged("the checksum of '" + entry.name + "'", "another");
  }
}

struct ArchiveWriter::State {
  struct Written {
    std::string name;
    uint64_t size, header;
    uint32_t crc;
  };
  OutputFile file;
  std::string top;
  std::vector<Written> entries;
  std::unordered_set<std::string> names;
  uint64_t offset = 0;

  void write(const void* data, uint64_t size) {
    file.write(data, size);
    offset += size;
  }
};

ArchiveWriter::ArchiveWriter(std::string path, std::string top_folder)
    : state_(new State{OutputFile(std::move(path)), std::move(top_folder) + "/", {}, {}}) {}

ArchiveWriter::~ArchiveWriter() = default;

namespace {

uint64_t narrow(uint64_t value) { return std::min<uint64_t>(value, kNone32); }

// From "version needed" to the CRC and sizes: what the local header and the directory have in common.
void put_common(std::string& to, uint32_t crc, uint64_t size, bool zip64) {
  put(to, zip64 ? 45 : 20, 2);
  put(to, kUtf8, 2);
  put(to, kStored, 2);
  put(to, 0, 2);       // time
  put(to, 0x0021, 2);  // date: 1980-01-01, so that one network makes one file
  put(to, crc, 4);
  put(to, narrow(size), 4);
  put(to, narrow(size), 4);
}

}  // namespace

void ArchiveWriter::add(const std::string& name, const void* data, uint64_t size) {
  const std::string full = state_->top + name;
  if (!is_plain_name(full) || full.back() == '/' || !state_->names.insert(full).second)
    fail(code::kInternal, "Expected a new plain relative name for an archive's entry but received '", full, "'.");
  const bool zip64 = size >= kNone32;
  const uint64_t header = state_->offset;
  const uint32_t crc = crc32(data, size);
  std::string extra;
  if (zip64) {
    put(extra, kZip64Field, 2);
    put(extra, 16, 2);
    put(extra, size, 8);
    put(extra, size, 8);
  }
  const uint64_t unaligned = header + kLocalSize + full.size() + extra.size() + 4;
  const uint64_t padding = (kAlignment - unaligned % kAlignment) % kAlignment;
  extra += "FB";
  put(extra, padding, 2);
  extra.append(padding, 'Z');
  std::string local;
  put(local, kLocal, 4);
  put_common(local, crc, size, zip64);
  put(local, full.size(), 2);
  put(local, extra.size(), 2);
  local += full + extra;
  state_->write(local.data(), local.size());
  state_->write(data, size);
  state_->entries.push_back({full, size, header, crc});
}

void ArchiveWriter::finish() {
  std::string directory;
  for (const auto& entry : state_->entries) {
    std::string wide;
    if (entry.size >= kNone32) {
      put(wide, entry.size, 8);
      put(wide, entry.size, 8);
    }
    if (entry.header >= kNone32) put(wide, entry.header, 8);
    put(directory, kCentral, 4);
    put(directory, wide.empty() ? 20 : 45, 2);  // version made by
    put_common(directory, entry.crc, entry.size, !wide.empty());
    put(directory, entry.name.size(), 2);
    put(directory, wide.empty() ? 0 : wide.size() + 4, 2);
    directory.append(2 + 2 + 2 + 4, '\0');  // comment, disk, attributes
    put(directory, narrow(entry.header), 4);
    directory += entry.name;
    if (wide.empty()) continue;
    put(directory, kZip64Field, 2);
    put(directory, wide.size(), 2);
    directory += wide;
  }
  const uint64_t begin = state_->offset, size = directory.size(), count = state_->entries.size();
  if (begin >= kNone32 || count >= kNone16) {
    put(directory, kEnd64, 4);
    put(directory, kEnd64Size - 12, 8);
    put(directory, 45, 2);
    put(directory, 45, 2);
    put(directory, 0, 4 + 4);
    put(directory, count, 8);
    put(directory, count, 8);
    put(directory, size, 8);
    put(directory, begin, 8);
    put(directory, kLocator64, 4);
    put(directory, 0, 4);
    put(directory, begin + size, 8);
    put(directory, 1, 4);
  }
  put(directory, kEnd, 4);
  put(directory, 0, 2 + 2);
  put(directory, std::min<uint64_t>(count, kNone16), 2);
  put(directory, std::min<uint64_t>(count, kNone16), 2);
  put(directory, size, 4);
  put(directory, narrow(begin), 4);
  put(directory, 0, 2);
  state_->write(directory.data(), directory.size());
  state_->file.commit();
}

}  // namespace le
