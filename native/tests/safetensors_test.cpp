#include "files/safetensors.h"

#include <ATen/ATen.h>
#include <sys/stat.h>

#include "error.h"
#include "folder.h"
#include "random.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;
using test::Folder;
using test::read_bytes;
using test::write_bytes;

namespace {

std::string with_header(const std::string& header, size_t data_bytes, int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(n >> (8 * i));
  return bytes + header + std::string(data_bytes, 'x');
}

NamedTensors samples() {
  return {{"a", at::randn({2, 3, 5})},
          {"b.c", at::arange(7, at::kLong)},
          {"scalar", at::scalar_tensor(3.5)},
          {"empty", at::empty({0, 4})},
          {"half", at::randn({3}).to(at::kHalf)},
          {"brain", at::randn({3}).to(at::kBFloat16)},
          {"bytes", at::arange(5, at::kByte)},
          {"flags", at::ones({3}, at::kBool)},
          {"strided", at::randn({4, 6}).t()}};
}

}  // namespace

TEST("safetensors: tensors and metadata survive a round trip") {
  const Folder folder;
  const auto path = folder.file("w.safetensors");
  const NamedTensors tensors = samples();
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "é \"quoted\"\n"}});
  const SafetensorsFile file = read_safetensors(path);
  CHECK(file.tensors.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor& read = file.tensors.at(name);
    CHECK(read.scalar_type() == tensor.scalar_type());
    CHECK(read.sizes() == tensor.sizes());
    CHECK(at::equal(read, tensor));
  }
  CHECK(file.metadata.at("note") == "é \"quoted\"\n");
  CHECK(folder.entries() == 1);
}

TEST("safetensors: the header is aligned and tensors are where their type wants them") {
  const Folder folder;
  const auto path = folder.file("w.safetensors");
  write_safetensors(path, samples());
  const std::string bytes = read_bytes(path);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  CHECK(length % 8 == 0);
  const Json header = Json::parse(bytes.substr(8, length), code::kCheckpoint);
  CHECK(header.at("b.c").at("data_offsets").array("x")[0].integer("x") == 0);
  CHECK(header.at("a").at("data_offsets").array("x")[0].integer("x") % 4 == 0);
}

TEST("safetensors: a file may be replaced while its tensors live") {
  const Folder folder;
  const auto path = folder.file("w.safetensors");
  write_safetensors(path, {{"a", at::ones({1000})}});
  const at::Tensor before = read_safetensors(path).tensors.at("a");
  write_safetensors(path, {{"a", at::zeros({1000})}});
  std::filesystem::resize_file(path, 10);
  CHECK(before.sum().item<double>() == 1000);
}

TEST("safetensors: refuses what is not a safetensors file") {
  const Folder folder;
  const auto path = folder.file("bad.safetensors");
  const auto refused = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    try {
      read_safetensors(path);
    } catch (const Error& error) {
      if (error.code() != code::kCheckpoint || std::string(error.what()).find(path) == std::string::npos)
        test::failed(__FILE__, __LINE__, "wrong error: ", error.code(), " ", error.what());
      return;
    }
    test::failed(__FILE__, __LINE__, "accepted: ", bytes.substr(8, 200));
  };
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  refused("");
  refused("1234567");
  refused(std::string(8, '\0'));
  refused(with_header("{}", 0, 100'000'001));
  refused(with_header("{}", 0, std::numeric_limits<int64_t>::max()));
  refused(with_header("{}", 0, 3));
  refused(std::string(16, '\xff'));
  refused(with_header("[]", 0));
  refused(with_header("{}", 4));  // data that no tensor owns
  refused(with_header(std::string(100000, '['), 0));
  refused(with_header("{\"a\":1}", 0));
  refused(with_header("{\"__metadata__\":{\"a\":1}}", 0));
  refused(with_header("{\"__metadata__\":[]}", 0));
  refused(with_header(entry("\"F32\"", "[2]", "[0,4]"), 4));
  refused(with_header(entry("\"F32\"", "[2]", "[0,8]"), 7));
  refused(with_header(entry("\"F32\"", "[2]", "[4,12]"), 12));
  refused(with_header(entry("\"F32\"", "[2]", "[8,0]"), 8));
  refused(with_header(entry("\"F32\"", "[2]", "[-8,0]"), 8));
  refused(with_header(entry("\"F32\"", "[2]", "[0,8,16]"), 16));
  refused(with_header(entry("\"F32\"", "[2]", "[0]"), 8));
  refused(with_header(entry("\"F32\"", "[-2]", "[0,8]"), 8));
  refused(with_header(entry("\"F32\"", "[-1,-2]", "[0,8]"), 8));
  refused(with_header(entry("\"F32\"", "[2.5]", "[0,8]"), 8));
  refused(with_header(entry("\"F32\"", "\"2\"", "[0,8]"), 8));
  refused(with_header(entry("\"F31\"", "[2]", "[0,8]"), 8));
  refused(with_header(entry("4", "[2]", "[0,8]"), 8));
  // 2^62 · 4 bytes is 0 modulo 2^64; so is 2^32 · 2^32.
  refused(with_header(entry("\"F32\"", "[4611686018427387904]", "[0,0]"), 0));
  refused(with_header(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0));
  refused(with_header(entry("\"U8\"", "[9223372036854775807,3]", "[0,8]"), 8));
  refused(with_header(entry("\"F32\"", "[2]", "[0,9223372036854775807]"), 8));
  refused(with_header(entry("\"F32\"", "[2]", "[18446744073709551608,8]"), 8));
  std::string axes = "[1";
  for (int i = 0; i < 100; ++i) axes += ",1";
  refused(with_header(entry("\"F32\"", axes + "]", "[0,4]"), 4));
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  refused(with_header("{" + a + "," + a + "}", 8));                                                   // twice
  refused(with_header("{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12));   // overlap
  refused(with_header("{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));     // the same
  refused(with_header("{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})", 20));  // gap
}

TEST("safetensors: an empty shape that is huge elsewhere is refused or harmless") {
  const Folder folder;
  const auto path = folder.file("w.safetensors");
  write_bytes(path, with_header(R"({"a":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]}})", 0));
  CHECK(read_safetensors(path).tensors.at("a").sizes() == at::IntArrayRef({0, 9}));
  write_bytes(
      path,
      with_header(R"({"a":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}})",
                  0));
  CHECK_THROWS(read_safetensors(path), code::kCheckpoint);
}

TEST("safetensors: thousands of damaged files end in a typed error or in tensors of the file's size") {
  const Folder folder;
  const auto path = folder.file("w.safetensors"), damaged = folder.file("damaged.safetensors");
  write_safetensors(path, samples(), {{"format", "pt"}});
  const std::string good = read_bytes(path);
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<unsigned char>(good[i]);
  Random random(3, 4);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good;
    if (random.chance(0.2)) bytes.resize(random.below(bytes.size()));
    for (uint64_t n = random.below(4); n > 0 && !bytes.empty(); --n)
      bytes[random.below(std::min<uint64_t>(bytes.size(), header + 8))] =
          random.chance(0.7) ? "0123456789,[]{}\":-"[random.below(18)] : static_cast<char>(random.below(256));
    write_bytes(damaged, bytes);
    try {
      size_t total = 0;
      for (const auto& [name, tensor] : read_safetensors(damaged).tensors) total += tensor.nbytes();
      CHECK(total < bytes.size());
    } catch (const Error& error) {
      CHECK(error.code() == code::kCheckpoint);
      ++refused;
    }
  }
  CHECK(refused > 1000);
}

TEST("safetensors: the file system's refusals") {
  const Folder folder;
  CHECK_THROWS(read_safetensors(folder.file("none.safetensors")), code::kIo);
  CHECK_THROWS(read_safetensors(folder.file("")), code::kIo);  // a folder
  CHECK_THROWS(write_safetensors(folder.file("none/w.safetensors"), samples()), code::kIo);
  std::filesystem::create_directory(folder.file("taken"));
  CHECK_THROWS(write_safetensors(folder.file("taken"), samples()), code::kIo);
  CHECK(::mkfifo(folder.file("pipe").c_str(), 0600) == 0);
  CHECK_THROWS(write_safetensors(folder.file("pipe"), samples()), code::kIo);
  CHECK(std::filesystem::is_fifo(folder.file("pipe")));
  CHECK(folder.entries() == 2);  // no temporary file is left
  CHECK_THROWS(write_safetensors(folder.file("w"), {{"a", at::ones({1})}, {"a", at::ones({1})}}), code::kInternal);
  CHECK_THROWS(write_safetensors(folder.file("w"), {{"__metadata__", at::ones({1})}}), code::kInternal);
  CHECK(folder.entries() == 2);
}

TEST("safetensors: a full disk leaves the old file as it was") {
  const Folder folder;
  const auto path = folder.file("w.safetensors");
  write_safetensors(path, {{"a", at::ones({4})}});
  {
    const test::SmallDisk disk;
    CHECK_THROWS(write_safetensors(path, {{"a", at::zeros({100000})}}), code::kIo);
  }
  CHECK(folder.entries() == 1);
  CHECK(read_safetensors(path).tensors.at("a").sum().item<double>() == 4);
}
