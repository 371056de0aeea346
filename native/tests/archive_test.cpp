#include "files/archive.h"

#include <ATen/ATen.h>

#include <unistd.h>

#include "error.h"
#include "files/file_kind.h"
#include "folder.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;
using test::Folder;
using test::read_bytes;
using test::write_bytes;

namespace {

void put(std::string& to, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) to += static_cast<char>(value >> (8 * i));
}

// An archive built by hand, with any lie in it.
struct Item {
  std::string name, data;
  uint32_t method = 0, flags = 0;
  int64_t size = -1;            // as claimed; the data's where negative
  std::string local_name = {};  // the name's where empty
  int64_t offset = -1;          // as claimed by the directory
  std::string extra = {};       // of the directory's entry
  uint32_t crc_change = 0;
};

struct End {
  int64_t count = -1, bytes = -1, begin = -1;
  std::string comment = {};
};

std::string build(const std::vector<Item>& items, const End& end = {}) {
  std::string bytes, directory;
  for (const Item& item : items) {
    const uint64_t offset = item.offset < 0 ? bytes.size() : static_cast<uint64_t>(item.offset);
    const uint32_t crc = crc32(item.data.data(), item.data.size()) ^ item.crc_change;
    const uint64_t size = item.size < 0 ? item.data.size() : static_cast<uint64_t>(item.size);
    const auto common = [&](std::string& to, const std::string& name, uint64_t extra) {
      put(to, 20, 2), put(to, item.flags, 2), put(to, item.method, 2), put(to, 0, 4), put(to, crc, 4);
      put(to, item.method == 0 ? size : item.data.size(), 4), put(to, size, 4);
      put(to, name.size(), 2), put(to, extra, 2);
    };
    put(bytes, 0x04034b50, 4);
    const std::string local_name = item.local_name.empty() ? item.name : item.local_name;
    common(bytes, local_name, 0);
    bytes += local_name + item.data;
    put(directory, 0x02014b50, 4), put(directory, 20, 2);
    common(directory, item.name, item.extra.size());
    directory.append(2 + 2 + 2 + 4, '\0'), put(directory, offset, 4);
    directory += item.name + item.extra;
  }
  const auto or_else = [](int64_t value, uint64_t otherwise) { return value < 0 ? otherwise : uint64_t(value); };
  const uint64_t begin = bytes.size();
  bytes += directory;
  put(bytes, 0x06054b50, 4), put(bytes, 0, 4);
  put(bytes, or_else(end.count, items.size()), 2), put(bytes, or_else(end.count, items.size()), 2);
  put(bytes, or_else(end.bytes, directory.size()), 4), put(bytes, or_else(end.begin, begin), 4);
  put(bytes, end.comment.size(), 2);
  return bytes + end.comment;
}

void refused(const Folder& folder, const std::string& bytes) {
  write_bytes(folder.file("refused.zip"), bytes);
  CHECK_THROWS(Archive(folder.file("refused.zip")), code::kCheckpoint);
}

std::string sample(const Folder& folder) {
  ArchiveWriter writer(folder.file("sample.pt"), "net");
  writer.add("data.pkl", "pickle", 6);
  writer.add("data/0", std::string(1000, 'a').data(), 1000);
  writer.add("data/1", "", 0);
  writer.finish();
  return read_bytes(folder.file("sample.pt"));
}

}  // namespace

TEST("archive: the checksum is that of zip, in one part or several") {
  CHECK(crc32("123456789", 9) == 0xcbf43926);
  CHECK(crc32("", 0) == 0);
  CHECK(crc32("56789", 5, crc32("1234", 4)) == 0xcbf43926);
  const std::string long_text(100, 'x');
  CHECK(crc32(long_text.data(), 100) == crc32(long_text.data() + 13, 87, crc32(long_text.data(), 13)));
}

TEST("archive: what was written is read, aligned, and nothing else remains") {
  const Folder folder;
  const std::string bytes = sample(folder);
  CHECK(folder.entries() == 1);
  CHECK(Archive::is_archive(folder.file("sample.pt")));
  const Archive archive(folder.file("sample.pt"));
  CHECK(archive.entries().size() == 3);
  CHECK(archive.text("data.pkl", 6) == "pickle");
  CHECK(archive.has_folder("data") && !archive.has_folder("dat") && !archive.has_folder("data.pkl"));
  CHECK(archive.find("net/data.pkl") == nullptr);
  const at::Tensor data = archive.bytes("data/0");
  CHECK(data.scalar_type() == at::kByte && data.numel() == 1000 && data.eq('a').all().item<bool>());
  CHECK(archive.bytes("data/1").numel() == 0);
  for (const auto& entry : archive.entries()) CHECK(entry.offset % 64 == 0 && entry.size == entry.packed);
  archive.check_all();
  CHECK_THROWS(archive.text("data.pkl", 5), code::kCheckpoint);
  CHECK_THROWS(archive.text("missing", 5), code::kCheckpoint);
  // The same content makes the same bytes.
  CHECK(sample(folder) == bytes);
}

TEST("archive: a writer that does not finish leaves nothing, and the old file where there was one") {
  const Folder folder;
  write_bytes(folder.file("a.pt"), "old");
  {
    ArchiveWriter writer(folder.file("a.pt"), "a");
    writer.add("x", "new", 3);
    CHECK_THROWS(writer.add("x", "new", 3), code::kInternal);
    CHECK_THROWS(writer.add("../x", "new", 3), code::kInternal);
  }
  CHECK(folder.entries() == 1 && read_bytes(folder.file("a.pt")) == "old");
  CHECK_THROWS(ArchiveWriter(folder.file("none/a.pt"), "a"), code::kIo);
}

TEST("archive: names without a shared top folder are whole") {
  const Folder folder;
  write_bytes(folder.file("a.zip"), build({{"a/x", "1"}, {"a/", ""}, {"b/x", "2"}}));
  const Archive two(folder.file("a.zip"));
  CHECK(two.entries().size() == 2 && two.text("a/x", 1) == "1" && two.text("b/x", 1) == "2");
  write_bytes(folder.file("b.zip"), build({{"x", "1"}}));
  CHECK(Archive(folder.file("b.zip")).find("x"));
  write_bytes(folder.file("c.zip"), build({}));
  CHECK(Archive(folder.file("c.zip")).entries().empty());
}

TEST("archive: a file cut short anywhere is refused, one that is not there is an I/O error") {
  const Folder folder;
  const std::string bytes = sample(folder);
  for (size_t n = 0; n < bytes.size(); ++n) refused(folder, bytes.substr(0, n));
  refused(folder, bytes + "x");
  CHECK_THROWS(Archive(folder.file("none")), code::kIo);
  CHECK_THROWS(Archive::is_archive(folder.file("none")), code::kIo);
  CHECK_THROWS(Archive(folder.file(".")), code::kIo);
}

TEST("archive: no flipped bit is accepted unnoticed, and none does worse than an error") {
  const Folder folder;
  const std::string bytes = sample(folder);
  const std::string path = folder.file("flipped.pt");
  for (size_t at = 0; at < bytes.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
      write_bytes(path, flipped);
      try {
        const Archive archive(path);
        archive.check_all();
        // What may change are fields without meaning here: dates, padding, versions, attributes.
        CHECK(archive.entries().size() == 3);
        CHECK(archive.text("data.pkl", 10) == "pickle");
        CHECK(archive.bytes("data/0").eq('a').all().item<bool>());
      } catch (const Error& error) {
        CHECK(error.code() == code::kCheckpoint);
      }
    }
}

TEST("archive: damaged data is seen when it is read") {
  const Folder folder;
  std::string bytes = sample(folder);
  bytes[bytes.find("aaaa") + 500] = 'b';
  write_bytes(folder.file("damaged.pt"), bytes);
  const Archive archive(folder.file("damaged.pt"));
  CHECK(archive.text("data.pkl", 10) == "pickle");
  CHECK_THROWS(archive.bytes("data/0"), code::kCheckpoint);
  CHECK_THROWS(archive.text("data/0", 1000), code::kCheckpoint);
  CHECK_THROWS(archive.check_all(), code::kCheckpoint);
}

TEST("archive: hostile directories are refused") {
  const Folder folder;
  // Names.
  for (const char* name : {"/etc/x", "a/../x", "..", "a//x", "./x", "a\\x"}) refused(folder, build({{name, "1"}}));
  refused(folder, build({{std::string("a\0b", 3), "1"}}));
  refused(folder, build({{"", "1"}}));
  refused(folder, build({{std::string(5000, 'n'), "1"}}));
  refused(folder, build({{"a/x", "1"}, {"a/x", "2"}}));
  Item other_name{"a/x", "1"};
  other_name.local_name = "a/y";
  refused(folder, build({other_name}));
  // Two entries that share bytes: the trick by which a small archive unpacks to a large one.
  const std::string inner = build({{"a/y", "2"}});
  Item inside{"a/y", "2"};
  inside.offset = 30 + 3;  // where the data of the first entry begin, which hold the second whole
  refused(folder, build({{"a/x", inner}, inside}));
  // Sizes and places.
  Item long_entry{"a/x", "1"};
  long_entry.size = 1000;
  refused(folder, build({long_entry}));
  long_entry.size = 0xfffffffe;
  refused(folder, build({long_entry}));
  long_entry.size = 0xffffffff;  // and no zip64 field
  refused(folder, build({long_entry}));
  put(long_entry.extra, 1, 2), put(long_entry.extra, 16, 2);
  put(long_entry.extra, ~uint64_t{0} - 20, 8), put(long_entry.extra, ~uint64_t{0} - 20, 8);
  refused(folder, build({long_entry}));
  Item outside{"a/x", "1"};
  outside.offset = 0x7fffffff;
  refused(folder, build({outside}));
  Item bad_extra{"a/x", "1"};
  put(bad_extra.extra, 7, 2), put(bad_extra.extra, 60000, 2);
  refused(folder, build({bad_extra}));
  // Methods and flags: encrypted, patched, an unknown method.
  for (const uint32_t flag : {1u, 1u << 5, 1u << 6, 1u << 13}) {
    Item flagged{"a/x", "1"};
    flagged.flags = flag;
    refused(folder, build({flagged}));
  }
  Item unknown{"a/x", "1"};
  unknown.method = 12;
  refused(folder, build({unknown}));
  // The end record.
  End end;
  end.count = 65534;
  refused(folder, build({{"a/x", "1"}}, end));
  end.count = 0;
  refused(folder, build({{"a/x", "1"}}, end));
  end = {}, end.bytes = 0xfffffff0;
  refused(folder, build({{"a/x", "1"}}, end));
  end = {}, end.begin = 0;
  refused(folder, build({{"a/x", "1"}}, end));
  // A second archive in the comment of the first.
  end = {}, end.comment = build({{"a/other", "2"}});
  refused(folder, build({{"a/x", "1"}}, end));
  end.comment = "only a comment";
  write_bytes(folder.file("comment.zip"), build({{"a/x", "1"}}, end));
  CHECK(Archive(folder.file("comment.zip")).text("x", 1) == "1");
}

TEST("archive: compressed entries are listed within limits and not unpacked") {
  const Folder folder;
  Item packed{"a/code/x.py", "12345678"};
  packed.method = 8, packed.size = 400;
  write_bytes(folder.file("packed.zip"), build({packed}));
  const Archive archive(folder.file("packed.zip"));
  const Archive::Entry* entry = archive.find("code/x.py");
  CHECK(entry && entry->compressed && entry->size == 400 && entry->packed == 8);
  CHECK_THROWS(archive.text("code/x.py", 1000), code::kCheckpoint);
  CHECK_THROWS(archive.bytes("code/x.py"), code::kCheckpoint);
  archive.check_all();
  packed.size = 8001;
  refused(folder, build({packed}));
  packed.data = std::string(200'000, 'x'), packed.size = 65'000'000;
  refused(folder, build({packed}));
  std::vector<Item> many;
  packed.data = std::string(60'001, 'x'), packed.size = 60'000'000;
  for (int i = 0; i < 5; ++i) {
    many.push_back(packed);
    many.back().name += std::to_string(i);
  }
  refused(folder, build(many));
}

TEST("archive: entries above 4 GB, and many") {
  const Folder folder;
  {
    ArchiveWriter writer(folder.file("many.pt"), "many");
    for (int i = 0; i < 70'000; ++i) writer.add("entry " + std::to_string(i), "x", 1);
    writer.finish();
  }
  CHECK(Archive(folder.file("many.pt")).entries().size() == 70'000);
  // A sparse file stands for a large one: 5 GB of zeros between two entries, with a zip64 directory made by hand.
  const std::string path = folder.file("large.pt");
  const uint64_t size = 5'000'000'000;
  std::string head, tail;
  put(head, 0x04034b50, 4), put(head, 45, 2), put(head, 8, 2), put(head, 0, 2), put(head, 0, 4), put(head, 0, 4);
  put(head, 0, 4), put(head, 0, 4), put(head, 3, 2), put(head, 0, 2);
  head += "a/x";
  std::string local = head;
  local.back() = 'y';
  tail += local;
  const auto entry = [&](char name, uint64_t bytes, uint64_t offset) {
    put(tail, 0x02014b50, 4), put(tail, 45, 2), put(tail, 45, 2), put(tail, 8, 2), put(tail, 0, 2), put(tail, 0, 4);
    put(tail, 0, 4), put(tail, 0xffffffff, 4), put(tail, 0xffffffff, 4), put(tail, 3, 2), put(tail, 28, 2);
    tail.append(10, '\0'), put(tail, 0xffffffff, 4);
    tail += std::string("a/") + name;
    put(tail, 1, 2), put(tail, 24, 2), put(tail, bytes, 8), put(tail, bytes, 8), put(tail, offset, 8);
  };
  const uint64_t second = head.size() + size, begin = second + local.size();
  entry('x', size, 0), entry('y', 0, second);
  const uint64_t bytes = tail.size() - local.size();
  put(tail, 0x06064b50, 4), put(tail, 44, 8), put(tail, 45, 4), put(tail, 0, 8), put(tail, 2, 8), put(tail, 2, 8);
  put(tail, bytes, 8), put(tail, begin, 8);
  put(tail, 0x07064b50, 4), put(tail, 0, 4), put(tail, begin + bytes, 8), put(tail, 1, 4);
  put(tail, 0x06054b50, 4), put(tail, 0, 4), put(tail, 0xffff, 2), put(tail, 0xffff, 2), put(tail, 0xffffffff, 4);
  put(tail, 0xffffffff, 4), put(tail, 0, 2);
  write_bytes(path, head);
  CHECK(::truncate(path.c_str(), static_cast<off_t>(second)) == 0);
  std::ofstream(path, std::ios::binary | std::ios::app).write(tail.data(), static_cast<std::streamsize>(tail.size()));
  const Archive archive(path);
  CHECK(archive.entries().size() == 2 && archive.find("x")->size == size && archive.find("x")->offset == head.size());
  CHECK(archive.bytes("y").numel() == 0);
}

TEST("archive: what kind of file it is shows by its content") {
  const Folder folder;
  const auto kind = [&](const std::string& bytes) {
    write_bytes(folder.file("file"), bytes);
    return file_kind(folder.file("file"));
  };
  CHECK(kind(build({{"m/models/model.json", "{}"}, {"m/data.pkl", ""}})) == FileKind::kExported);
  CHECK(kind(build({{"m/archive_format", "pt2"}, {"m/x", ""}})) == FileKind::kExported);
  CHECK(kind(build({{"m/archive_format", "other"}, {"m/x", ""}})) == FileKind::kUnknown);
  CHECK(kind(build({{"m/code/a.py", ""}, {"m/constants.pkl", ""}, {"m/data.pkl", ""}})) == FileKind::kScript);
  CHECK(kind(build({{"m/code/a.py", ""}, {"m/data.pkl", ""}})) == FileKind::kStateDict);
  CHECK(kind(build({{"m/data.pkl", ""}, {"m/data/0", ""}})) == FileKind::kStateDict);
  CHECK(kind(build({{"m/word/document.xml", ""}})) == FileKind::kUnknown);
  CHECK(kind(std::string("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 15)) == FileKind::kStateDict);
  CHECK(kind(std::string("\x02\0\0\0\0\0\0\0{}", 10)) == FileKind::kSafetensors);
  CHECK(kind("") == FileKind::kUnknown);
  CHECK(kind("some text that is no network at all, longer than any magic number") == FileKind::kUnknown);
  CHECK_THROWS(kind(build({{"m/data.pkl", ""}}).substr(0, 40)), code::kCheckpoint);
  CHECK_THROWS(file_kind(folder.file("none")), code::kIo);
}
