#include "files/weights_file.h"

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/slice.h>
#include <ATen/ops/view.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "error.h"
#include "files/archive.h"
#include "files/file.h"
#include "files/file_kind.h"
#include "files/pickle.h"
#include "files/safetensors.h"

namespace le {

namespace {

constexpr size_t kMaxDepth = 8;  // dictionaries one inside another
// torch.save's first value before PyTorch 1.6, little-endian, and the version that follows it.
constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t kLegacyVersion = 1001;

[[noreturn]] void damaged(const std::string& path, const std::string& wanted, const std::string& received) {
  fail(code::kCheckpoint, "Expected ", wanted, " in PyTorch file ", path, " but received ", received, ".");
}

bool has_tensors(const PickleValue& dict) {
  for (size_t i = 1; i < dict.items.size(); i += 2)
    if (dict.items[i]->kind == PickleValue::kTensor && dict.items[i - 1]->kind == PickleValue::kString) return true;
  return false;
}

// What a file without a state dict holds instead.
std::string contents(const PickleValue& value) {
  if (value.kind != PickleValue::kDict) return value.kind_name();
  std::string names;
  size_t shown = 0;
  for (size_t i = 0; i < value.items.size() && shown < 8; i += 2)
    if (value.items[i]->kind == PickleValue::kString) {
      names += (shown++ ? ", '" : " with '") + value.items[i]->text.substr(0, 40) + "' (" +
               value.items[i + 1]->kind_name() + ")";
    }
  return "a dictionary" + (names.empty() ? " without names" : names);
}

// Every dictionary that has tensors, outermost first, with the keys that lead to it.
std::vector<std::pair<std::string, const PickleValue*>> find_state_dicts(const PickleValue& root,
                                                                         const std::string& path) {
  std::vector<std::pair<std::string, const PickleValue*>> found;
  std::unordered_set<const PickleValue*> seen;  // one may be there twice, or inside of itself
  const auto visit = [&](const auto& self, const PickleValue& value, const std::string& keys, size_t depth) -> void {
    if (value.kind != PickleValue::kDict || depth > kMaxDepth || !seen.insert(&value).second) return;
    if (has_tensors(value)) found.emplace_back(keys, &value);
    for (size_t i = 0; i + 1 < value.items.size(); i += 2)
      if (value.items[i]->kind == PickleValue::kString)
        self(self, *value.items[i + 1], keys + value.items[i]->text + ".", depth + 1);
  };
  visit(visit, root, "", 0);
  if (found.empty()) damaged(path, "a dictionary of tensors, or one inside of another,", contents(root));
  return found;
}

struct StorageBytes {
  at::Tensor bytes;
  at::Tensor flags;  // the same as booleans, where some tensor asked for them
};

// A view, so that an expanded tensor takes no memory.
at::Tensor make_tensor(const PickledTensor& described, StorageBytes& storage) {
  at::Tensor elements;
  if (described.type == at::kBool) {
    // Any byte may stand there, and a bool that is neither 0 nor 1 is undefined behaviour.
    if (!storage.flags.defined()) storage.flags = at::ne(storage.bytes, 0);
    elements = storage.flags;
  } else {
    const auto width = static_cast<int64_t>(c10::elementSize(described.type));
    elements = storage.bytes.slice(0, 0, storage.bytes.numel() / width * width).view(described.type);
  }
  return at::as_strided(elements, described.sizes, described.strides, described.offset);
}

using ReadStorage = std::function<at::Tensor(const PickledTensor&)>;

std::vector<StateDict> collect(const Pickle& pickle, const std::string& path, const ReadStorage& read_storage) {
  std::unordered_map<std::string, StorageBytes> storages;
  std::vector<StateDict> result;
  for (const auto& [keys, dict] : find_state_dicts(pickle.value(), path)) {
    StateDict& made = result.emplace_back(StateDict{keys, {}});
    for (size_t i = 0; i < dict->items.size(); i += 2) {
      const PickleValue &name = *dict->items[i], &value = *dict->items[i + 1];
      if (name.kind != PickleValue::kString || value.kind != PickleValue::kTensor) continue;
      const PickledTensor& described = pickle.tensors()[static_cast<size_t>(value.integer)];
      StorageBytes& storage = storages[described.storage];
      if (!storage.bytes.defined()) storage.bytes = read_storage(described);
      // Two descriptions of one storage may differ.
      if (static_cast<uint64_t>(storage.bytes.numel()) != described.storage_bytes)
        damaged(path, std::to_string(described.storage_bytes) + " bytes for weight '" + name.text + "'",
                std::to_string(storage.bytes.numel()));
      made.tensors.insert_or_assign(name.text, make_tensor(described, storage));
    }
  }
  return result;
}

std::vector<StateDict> read_zip(const std::string& path) {
  const Archive archive(path);
  archive.check_all();
  if (archive.find("byteorder") && archive.text("byteorder", 16) != "little")
    damaged(path, "little-endian numbers", "big-endian ones: save it on another machine");
  const std::string text = archive.text("data.pkl", Pickle::kMaxBytes);
  const Pickle pickle(text, path);
  return collect(pickle, path, [&](const PickledTensor& described) {
    const std::string name = "data/" + described.storage;
    // Before memory is asked for.
    const Archive::Entry* entry = archive.find(name);
    if (entry && entry->size != described.storage_bytes)
      damaged(path, std::to_string(described.storage_bytes) + " bytes in entry '" + name + "'",
              std::to_string(entry->size));
    return archive.bytes(name);
  });
}

// The magic number, the version, what the machine was like, the value itself and the keys of its storages, each a
// pickle; then, for each key, a count of elements and their bytes.
std::vector<StateDict> read_legacy(const std::string& path) {
  const InputFile file(path);
  std::string text(std::min(file.size(), Pickle::kMaxBytes), '\0');
  if (!file.read(text.data(), text.size(), 0)) damaged(path, "the whole file", "one that became shorter");
  std::string_view rest = text;
  const auto skip = [&](const Pickle& pickle) { rest.remove_prefix(pickle.size()); };
  const Pickle magic(rest, path);
  if (magic.value().text != kMagic) damaged(path, "the magic number of torch.save", "another value");
  skip(magic);
  const Pickle version(rest, path);
  if (version.value().kind != PickleValue::kInt || version.value().integer != kLegacyVersion)
    damaged(path, "version 1001 of the older format", "another");
  skip(version);
  const Pickle machine(rest, path);
  if (const PickleValue* little = machine.value().get("little_endian"); !little || little->integer != 1)
    damaged(path, "little-endian numbers", "others: save it on another machine");
  skip(machine);
  const Pickle pickle(rest, path);
  skip(pickle);
  const Pickle keys(rest, path);
  skip(keys);
  if (keys.value().kind != PickleValue::kList) damaged(path, "a list of storages", keys.value().kind_name());

  std::unordered_map<std::string, const Pickle::Storage*> described;
  for (const Pickle::Storage& storage : pickle.storages()) described.emplace(storage.key, &storage);
  std::unordered_map<std::string, uint64_t> places;
  uint64_t at = text.size() - rest.size();
  for (const PickleValue* key : keys.value().items) {
    const auto found = described.find(key->text);
    if (key->kind != PickleValue::kString || found == described.end())
      damaged(path, "keys of its storages", "one that no tensor has");
    const uint64_t bytes = found->second->bytes, width = c10::elementSize(found->second->type);
    unsigned char prefix[8];
    if (!file.read(prefix, sizeof prefix, at)) damaged(path, "all of its storages", "a file that is cut short");
    uint64_t elements = 0;
    for (int i = 7; i >= 0; --i) elements = elements << 8 | prefix[i];
    if (elements != bytes / width)
      damaged(path, std::to_string(bytes / width) + " elements in a storage", std::to_string(elements));
    at += sizeof prefix;
    if (bytes > file.size() || at > file.size() - bytes)
      damaged(path, "all of its storages", "a file that is cut short");
    if (!places.emplace(key->text, at).second) damaged(path, "each storage once", "one of them twice");
    at += bytes;
  }
  return collect(pickle, path, [&](const PickledTensor& tensor) {
    const auto place = places.find(tensor.storage);
    if (place == places.end()) damaged(path, "all of its storages", "a tensor without one");
    const uint64_t bytes = described.at(tensor.storage)->bytes;
    at::Tensor result;
    try {
      result = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
    } catch (const c10::Error& error) {
      throw Error(code::kMemory, "Expected memory for the weights of " + path + " but received none.",
                  error.what_without_backtrace());
    }
    if (!file.read(result.mutable_data_ptr(), bytes, place->second))
      damaged(path, "all of its storages", "a file that became shorter while it was read");
    return result;
  });
}

// Before PyTorch 0.1.10: a tar archive, whose name stands at byte 257.
bool is_tar(const std::string& path) {
  const InputFile file(path);
  char name[5];
  return file.read(name, sizeof name, 257) && std::memcmp(name, "ustar", sizeof name) == 0;
}

}  // namespace

std::vector<StateDict> read_state_dicts(const std::string& path) {
  switch (file_kind(path)) {
    case FileKind::kSafetensors:
      return {{"", read_safetensors(path).tensors}};
    case FileKind::kStateDict:
      return Archive::is_archive(path) ? read_zip(path) : read_legacy(path);
    case FileKind::kScript:
    case FileKind::kExported:
      fail(code::kCheckpoint, "Expected weights in ", path,
           " but received a whole network: use Backbone.load for it, or save model.state_dict().");
    case FileKind::kUnknown:
      break;
  }
  if (is_tar(path))
    fail(code::kCheckpoint, "Expected weights in ", path,
         " but received the tar format of PyTorch before 0.1.10: load and save it with a newer PyTorch.");
  fail(code::kCheckpoint, "Expected weights (safetensors, or a state dict by torch.save) in ", path,
       " but received another kind of file.");
}

}  // namespace le
