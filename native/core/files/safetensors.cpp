#include "files/safetensors.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>

#include "error.h"
#include "files/file.h"

namespace le {

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr const char* kMetadata = "__metadata__";

struct Type {
  const char* name;
  at::ScalarType type;
};
constexpr Type kTypes[] = {{"F64", at::kDouble}, {"F32", at::kFloat},  {"F16", at::kHalf},   {"BF16", at::kBFloat16},
                           {"I64", at::kLong},   {"I32", at::kInt},    {"I16", at::kShort},  {"I8", at::kChar},
                           {"U8", at::kByte},    {"U16", at::kUInt16}, {"U32", at::kUInt32}, {"U64", at::kUInt64},
                           {"BOOL", at::kBool}};

// What one entry of the header says, checked.
struct Entry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  uint64_t begin, end;
};

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path) {}

  SafetensorsFile read() {
    const uint64_t size = file_.size();
    unsigned char prefix[8];
    if (size < sizeof prefix) damaged("a header length", "a file of " + std::to_string(size) + " bytes");
    fill(prefix, sizeof prefix, 0);
    uint64_t length = 0;  // little-endian
    for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
    if (length > kMaxHeader) damaged("a header of at most 100 MB", std::to_string(length) + " bytes");
    if (length > size - sizeof prefix) damaged("the whole header", "a file that is cut short");

    std::string text(length, '\0');
    fill(text.data(), length, sizeof prefix);
    const uint64_t data = sizeof prefix + length;
    SafetensorsFile result;
    for (const Entry& entry : entries(text, size - data, result.metadata)) {
      at::Tensor tensor = allocate(entry);
      fill(tensor.mutable_data_ptr(), entry.end - entry.begin, data + entry.begin);
      result.tensors.emplace(entry.name, std::move(tensor));
    }
    return result;
  }

 private:
  [[noreturn]] void damaged(const std::string& wanted, const std::string& received) const {
    fail(code::kCheckpoint, "Expected ", wanted, " in safetensors file ", path_, " but received ", received, ".");
  }

  void fill(void* to, size_t bytes, uint64_t offset) const {
    if (!file_.read(to, bytes, offset)) damaged("all of its bytes", "a file that became shorter while it was read");
  }

  at::Tensor allocate(const Entry& entry) const {
    try {
      return at::empty(entry.shape, at::TensorOptions().dtype(entry.type));
    } catch (const c10::Error& error) {
      throw Error(code::kMemory, "Expected memory for tensor '" + entry.name + "' of " + path_ + " but received none.",
                  error.what_without_backtrace());
    }
  }

  std::vector<Entry> entries(const std::string& text, uint64_t data_size,
                             std::map<std::string, std::string>& metadata) const {
    Json header;
    try {
      header = Json::parse(text, code::kCheckpoint);
      if (!header.is_object()) damaged("an object as header", "another value");
      std::vector<Entry> all;
      for (const auto& [name, value] : header.object("header")) {
        if (name == kMetadata)
          for (const auto& [key, text_value] : value.object(name)) metadata.emplace(key, text_value.string(key));
        else
          all.push_back(entry(name, value, data_size));
      }
      // The format leaves no gaps: every byte belongs to exactly one tensor.
      std::sort(all.begin(), all.end(),
                [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
      uint64_t at = 0;
      for (const Entry& item : all) {
        if (item.begin != at) damaged("tensors side by side", "a gap or an overlap at '" + item.name + "'");
        at = item.end;
      }
      if (at != data_size) damaged(std::to_string(at) + " bytes of data", std::to_string(data_size));
      return all;
    } catch (const Error& error) {
      // JSON's own errors do not know the file.
      if (std::string(error.what()).find(path_) != std::string::npos) throw;
      throw Error(code::kCheckpoint, "Expected a safetensors header in " + path_ + " but received a damaged one.",
                  error.what());
    }
  }

  Entry entry(const std::string& name, const Json& value, uint64_t data_size) const {
    Entry result{name, at::kFloat, {}, 0, 0};
    const std::string& type = value.at("dtype").string("dtype");
    const auto known =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& t) { return type == t.name; });
    if (known == std::end(kTypes)) damaged("a known type for tensor '" + name + "'", "'" + type + "'");
    result.type = known->type;

    uint64_t bytes = c10::elementSize(result.type);
    bool empty = false, overflow = false;
    for (const Json& item : value.at("shape").array("shape")) {
      const int64_t side = item.integer("shape");
      if (side < 0) damaged("sides of at least 0 for tensor '" + name + "'", std::to_string(side));
      result.shape.push_back(side);
      empty |= side == 0;
      overflow |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(std::max<int64_t>(side, 1)), &bytes);
    }
    if (result.shape.size() > 64) damaged("at most 64 axes for tensor '" + name + "'", "more");
    if (overflow || bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      damaged("a shape that fits in memory for tensor '" + name + "'", "a larger one");
    if (empty) bytes = 0;

    const Json::Array& offsets = value.at("data_offsets").array("data_offsets");
    if (offsets.size() != 2) damaged("two data_offsets for tensor '" + name + "'", std::to_string(offsets.size()));
    const int64_t begin = offsets[0].integer("data_offsets"), end = offsets[1].integer("data_offsets");
    if (begin < 0 || end < begin || static_cast<uint64_t>(end) > data_size)
      damaged("data_offsets inside the file for tensor '" + name + "'",
              std::to_string(begin) + " to " + std::to_string(end) + " of " + std::to_string(data_size) + " bytes");
    if (static_cast<uint64_t>(end - begin) != bytes)
      damaged(std::to_string(bytes) + " bytes for tensor '" + name + "'", std::to_string(end - begin));
    result.begin = static_cast<uint64_t>(begin);
    result.end = static_cast<uint64_t>(end);
    return result;
  }

  const std::string path_;
  const InputFile file_;
};

const char* type_name(const at::Tensor& tensor, const std::string& name) {
  for (const Type& type : kTypes)
    if (type.type == tensor.scalar_type()) return type.name;
  fail(code::kInternal, "Expected a type that safetensors has for tensor '", name, "' but received ",
       c10::toString(tensor.scalar_type()), ".");
}

}  // namespace

SafetensorsFile read_safetensors(const std::string& path) { return Reader(path).read(); }

void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  NamedTensors sorted;
  for (const auto& [name, tensor] : tensors) sorted.emplace_back(name, tensor.detach().cpu().contiguous());
  // Larger elements first, so that every tensor is aligned in the file.
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  Json::Object header;
  if (!metadata.empty()) header.emplace(kMetadata, Json::Object(metadata.begin(), metadata.end()));
  int64_t offset = 0;
  for (const auto& [name, tensor] : sorted) {
    const auto sides = tensor.sizes();
    const auto end = offset + static_cast<int64_t>(tensor.nbytes());
    Json::Object entry{{"dtype", type_name(tensor, name)},
                       {"shape", Json::Array(sides.begin(), sides.end())},
                       {"data_offsets", Json::Array{offset, end}}};
    if (name == kMetadata || !header.emplace(name, std::move(entry)).second)
      fail(code::kInternal, "Expected distinct tensor names but received '", name, "' twice.");
    offset = end;
  }
  std::string text = Json(std::move(header)).dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  char prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i));

  OutputFile file(path);
  file.write(prefix, sizeof prefix);
  file.write(text.data(), text.size());
  for (const auto& [name, tensor] : sorted) file.write(tensor.const_data_ptr(), tensor.nbytes());
  file.commit();
}

}  // namespace le
