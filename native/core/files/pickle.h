#pragma once
// The part of Python's pickle format (protocols 2 to 5) that PyTorch's state dicts need, read by a machine that can
// make numbers, strings, plain containers and descriptions of tensors. It imports nothing and executes nothing.
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace le {

// A tensor as the pickle describes it, checked to lie inside its storage, whose bytes are elsewhere in the file.
struct PickledTensor {
  at::ScalarType type;
  std::string storage;     // its key
  uint64_t storage_bytes;  // as the pickle says
  int64_t offset;          // in elements, as the strides
  std::vector<int64_t> sizes, strides;
};

struct PickleValue {
  enum Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kBytes,
    kTuple,
    kList,
    kSet,
    kDict,
    kTensor,
    kStorage,
    kGlobal,  // a name that may be asked for; text
    kOpaque   // something harmless that is not looked into: a large integer (text holds its bytes), a device, a scalar
  };
  Kind kind = kNone;
  int64_t integer = 0;  // of kBool and kInt; the index in tensors() or storages()
  double real = 0;
  std::string text;
  std::vector<const PickleValue*> items;  // of a dict: key, value, key, value

  // The last value of that key of a dict, or null.
  const PickleValue* get(std::string_view key) const;
  const char* kind_name() const;
};

// One pickle. Values live as long as it does.
class Pickle {
 public:
  struct Storage {
    std::string key;
    at::ScalarType type;
    bool untyped;  // its type comes with the tensor
    uint64_t bytes;
  };

  // The longest pickle that is read: a state dict takes some 150 bytes for each tensor.
  static constexpr uint64_t kMaxBytes = 32'000'000;

  // Reads the pickle with which `text` begins; more may follow it. ERR_LE_CHECKPOINT naming `path` where it is damaged,
  // asks for a name that is not on the list, or is beyond the limits.
  Pickle(std::string_view text, std::string path);
  Pickle(const Pickle&) = delete;
  Pickle& operator=(const Pickle&) = delete;

  const PickleValue& value() const { return *result_; }
  const std::vector<PickledTensor>& tensors() const { return tensors_; }
  const std::vector<Storage>& storages() const { return storages_; }
  // Bytes of `text` that it took.
  size_t size() const { return at_; }

 private:
  [[noreturn]] void damaged(const std::string& wanted, const std::string& received) const;
  [[noreturn]] void refused(const std::string& full_name) const;

  void run();
  void copies(uint64_t items);
  std::string_view take(uint64_t bytes);
  uint64_t number(int bytes);
  std::string line();

  PickleValue* make(PickleValue::Kind kind);
  PickleValue* make_text(PickleValue::Kind kind, std::string_view text);
  PickleValue* make_integer(std::string_view bytes);
  PickleValue* make_global(const std::string& module, const std::string& name);
  PickleValue* call(const PickleValue& function, const PickleValue& arguments);
  PickleValue* make_tensor(const std::string& function, const std::vector<const PickleValue*>& arguments);
  PickleValue* make_storage(const PickleValue& id);

  void push(PickleValue* value);
  PickleValue* pop();
  PickleValue& top();
  // What was pushed since the last mark, which goes too.
  std::vector<const PickleValue*> pop_to_mark();
  void remember(uint64_t index);
  void recall(uint64_t index);
  void set_items(PickleValue& dict, const std::vector<const PickleValue*>& items);

  const std::string_view text_;
  const std::string path_;
  size_t at_ = 0;
  uint64_t copied_ = 0;
  std::deque<PickleValue> values_;  // in an arena: a pickle can make values that hold each other in circles
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, PickleValue*> memo_;
  std::vector<PickledTensor> tensors_;
  std::vector<Storage> storages_;
  const PickleValue* result_ = nullptr;
};

}  // namespace le
