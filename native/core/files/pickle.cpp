#include "files/pickle.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "error.h"

namespace le {

namespace {

using Value = PickleValue;

constexpr uint64_t kMaxSteps = 4'000'000;  // opcodes; each makes at most one value of about 100 bytes
// Sizes, strides and items that are copied. Without a limit, naming one long list again and again would fill the
// memory.
constexpr uint64_t kMaxCopies = 16'000'000;
constexpr size_t kMaxAxes = 64, kMaxKey = 256;

struct NamedType {
  const char* storage;  // torch.<storage>Storage; null where there is none
  const char* dtype;    // torch.<dtype>
  at::ScalarType type;
};
constexpr NamedType kTypes[] = {{"Double", "float64", at::kDouble}, {"Float", "float32", at::kFloat},
                                {"Half", "float16", at::kHalf},     {"BFloat16", "bfloat16", at::kBFloat16},
                                {"Long", "int64", at::kLong},       {"Int", "int32", at::kInt},
                                {"Short", "int16", at::kShort},     {"Char", "int8", at::kChar},
                                {"Byte", "uint8", at::kByte},       {"Bool", "bool", at::kBool},
                                {nullptr, "uint16", at::kUInt16},   {nullptr, "uint32", at::kUInt32},
                                {nullptr, "uint64", at::kUInt64}};

std::optional<at::ScalarType> dtype_of(std::string_view name) {
  if (!name.starts_with("torch.")) return std::nullopt;
  for (const NamedType& type : kTypes)
    if (name.substr(6) == type.dtype) return type.type;
  return std::nullopt;
}

// The type of torch.FloatStorage and its like, or of torch.cuda.FloatStorage, as older versions had it.
std::optional<at::ScalarType> storage_type_of(std::string_view name) {
  if (name.starts_with("torch.cuda."))
    name.remove_prefix(11);
  else if (name.starts_with("torch."))
    name.remove_prefix(6);
  else
    return std::nullopt;
  for (const NamedType& type : kTypes)
    if (type.storage && name == std::string(type.storage) + "Storage") return type.type;
  return std::nullopt;
}

bool is_untyped_storage(std::string_view name) {
  return name == "torch.storage.UntypedStorage" || name == "torch.UntypedStorage";
}

// Functions and classes that call() knows, and names that only appear as arguments. Python 2's names are what
// protocol 2 writes for Python 3's.
constexpr std::string_view kDicts[] = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter",
                                       "builtins.dict", "__builtin__.dict"};
constexpr std::string_view kSets[] = {"builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"};
constexpr std::string_view kTensors[] = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
                                         "torch._utils._rebuild_tensor_v3"};
constexpr std::string_view kParameters[] = {"torch._utils._rebuild_parameter",
                                            "torch._utils._rebuild_parameter_with_state"};
constexpr std::string_view kOpaques[] = {"torch.device",
                                         "_codecs.encode",
                                         "builtins.bytes",
                                         "__builtin__.bytes",
                                         "numpy.dtype",
                                         "numpy.core.multiarray.scalar",
                                         "numpy._core.multiarray.scalar"};
constexpr std::string_view kSize = "torch.Size";
constexpr std::string_view kNamesAlone[] = {"builtins.list",   "__builtin__.list", "builtins.int",
                                            "__builtin__.int", "builtins.float",   "__builtin__.float"};

template <size_t n>
bool is_one_of(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_allowed(std::string_view name) {
  return is_one_of(kDicts, name) || is_one_of(kSets, name) || is_one_of(kTensors, name) ||
         is_one_of(kParameters, name) || is_one_of(kOpaques, name) || is_one_of(kNamesAlone, name) || name == kSize ||
         dtype_of(name) || storage_type_of(name) || is_untyped_storage(name);
}

// For a message.
std::string printable(std::string_view name) {
  std::string result(name.substr(0, 100));
  for (char& letter : result)
    if (static_cast<unsigned char>(letter) < ' ' || letter == 0x7f) letter = '?';
  return result + (name.size() > result.size() ? "..." : "");
}

bool is_container(const Value& value) { return value.kind == Value::kTuple || value.kind == Value::kList; }

}  // namespace

const Value* PickleValue::get(std::string_view key) const {
  if (kind != kDict) return nullptr;
  for (size_t i = items.size(); i >= 2; i -= 2)
    if (items[i - 2]->kind == kString && items[i - 2]->text == key) return items[i - 1];
  return nullptr;
}

const char* PickleValue::kind_name() const {
  static constexpr const char* names[] = {"None",     "a boolean", "an integer", "a number",      "a string",
                                          "bytes",    "a tuple",   "a list",     "a set",         "a dictionary",
                                          "a tensor", "a storage", "a name",     "another object"};
  return names[kind];
}

Pickle::Pickle(std::string_view text, std::string path) : text_(text.substr(0, kMaxBytes)), path_(std::move(path)) {
  run();
}

void Pickle::damaged(const std::string& wanted, const std::string& received) const {
  fail(code::kCheckpoint, "Expected ", wanted, " in PyTorch file ", path_, " but received ", received, ".");
}

void Pickle::refused(const std::string& full_name) const {
  const std::string name = printable(full_name);
  if (name.starts_with("torch.nn.") || name.starts_with("torchvision.models."))
    fail(code::kCheckpoint, "Expected a state dict in PyTorch file ", path_,
         " but received a whole network (it asks for `", name, "`): save model.state_dict() instead of model.");
  fail(code::kCheckpoint, "PyTorch file ", path_, " asks for `", name,
       "`: only tensors and plain containers are read. Save the network's model.state_dict() alone.");
}

void Pickle::copies(uint64_t items) {
  copied_ += items;
  if (copied_ > kMaxCopies) damaged("a state dict", "a pickle that copies one list again and again");
}

std::string_view Pickle::take(uint64_t bytes) {
  if (bytes > text_.size() - at_)
    damaged("a whole pickle of at most " + std::to_string(kMaxBytes / 1'000'000) + " MB", "one that is cut short");
  const std::string_view taken = text_.substr(at_, bytes);
  at_ += bytes;
  return taken;
}

uint64_t Pickle::number(int bytes) {
  const std::string_view from = take(static_cast<uint64_t>(bytes));
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(from[static_cast<size_t>(i)]);
  return value;
}

std::string Pickle::line() {
  const size_t end = text_.find('\n', at_);
  if (end == std::string_view::npos) damaged("a whole name", "one that is cut short");
  const std::string_view result = text_.substr(at_, end - at_);
  at_ = end + 1;
  return std::string(result);
}

Value* Pickle::make(Value::Kind kind) {
  values_.emplace_back().kind = kind;
  return &values_.back();
}

Value* Pickle::make_text(Value::Kind kind, std::string_view text) {
  Value* value = make(kind);
  value->text = text;
  return value;
}

// Little-endian, two's complement, of any length.
Value* Pickle::make_integer(std::string_view bytes) {
  if (bytes.size() > 8) return make_text(Value::kOpaque, bytes);
  uint64_t bits = !bytes.empty() && bytes.back() & 0x80 ? ~uint64_t{0} : 0;
  for (size_t i = bytes.size(); i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[i]);
  Value* value = make(Value::kInt);
  value->integer = static_cast<int64_t>(bits);
  return value;
}

Value* Pickle::make_global(const std::string& module, const std::string& name) {
  const std::string full = module + "." + name;
  if (!is_allowed(full)) refused(full);
  return make_text(Value::kGlobal, full);
}

Value* Pickle::call(const Value& function, const Value& arguments) {
  if (function.kind != Value::kGlobal || arguments.kind != Value::kTuple)
    damaged("a function and its arguments", std::string(function.kind_name()) + " and " + arguments.kind_name());
  const std::string& name = function.text;
  const auto& given = arguments.items;
  if (is_one_of(kTensors, name)) return make_tensor(name, given);
  if (is_one_of(kParameters, name)) {
    if (given.empty() || given[0]->kind != Value::kTensor) damaged("a tensor for a parameter", "something else");
    Value* value = make(Value::kTensor);
    value->integer = given[0]->integer;
    return value;
  }
  if (is_one_of(kDicts, name)) {
    Value* value = make(Value::kDict);
    // Python 2 wrote a list of pairs; of defaultdict there is the class of its values.
    if (given.size() == 1 && is_container(*given[0]))
      for (const Value* pair : given[0]->items) {
        if (!is_container(*pair) || pair->items.size() != 2) damaged("pairs for a dictionary", pair->kind_name());
        copies(2);
        set_items(*value, pair->items);
      }
    return value;
  }
  if (is_one_of(kSets, name) || name == kSize) {
    Value* value = make(name == kSize ? Value::kTuple : Value::kSet);
    if (given.size() > 1 || (given.size() == 1 && !is_container(*given[0])))
      damaged("a list or tuple for " + name, "something else");
    if (given.empty()) return value;
    copies(given[0]->items.size());
    value->items = given[0]->items;
    return value;
  }
  if (is_one_of(kOpaques, name)) return make(Value::kOpaque);
  refused(name);
}

Value* Pickle::make_tensor(const std::string& function, const std::vector<const Value*>& arguments) {
  const bool has_type = function.ends_with("_v3");
  const size_t least = function.ends_with("_v2") ? 6 : has_type ? 7 : 4;
  if (arguments.size() < least || arguments[0]->kind != Value::kStorage || arguments[1]->kind != Value::kInt ||
      !is_container(*arguments[2]) || !is_container(*arguments[3]))
    damaged("a storage, an offset, sizes and strides for a tensor", "something else");
  const Storage& storage = storages_[static_cast<size_t>(arguments[0]->integer)];
  PickledTensor tensor{storage.type, storage.key, storage.bytes, arguments[1]->integer, {}, {}};
  if (has_type) {
    const auto type = dtype_of(arguments[6]->text);
    if (arguments[6]->kind != Value::kGlobal || !type) damaged("a type for a tensor", arguments[6]->kind_name());
    tensor.type = *type;
  } else if (storage.untyped) {
    damaged("a type for a tensor", "none");
  }
  const auto numbers = [&](const Value& from, std::vector<int64_t>& to) {
    if (from.items.size() > kMaxAxes) damaged("at most 64 axes for a tensor", std::to_string(from.items.size()));
    copies(from.items.size());
    for (const Value* item : from.items) {
      if (item->kind != Value::kInt || item->integer < 0) damaged("sizes and strides of at least 0", "others");
      to.push_back(item->integer);
    }
  };
  numbers(*arguments[2], tensor.sizes);
  numbers(*arguments[3], tensor.strides);
  if (tensor.sizes.size() != tensor.strides.size()) damaged("a stride for each size of a tensor", "another number");
  if (tensor.offset < 0) damaged("an offset of at least 0 for a tensor", std::to_string(tensor.offset));

  // One past the last element, and the number of elements.
  int64_t end = tensor.offset, elements = 1;
  bool overflow = false, empty = false;
  for (size_t axis = 0; axis < tensor.sizes.size(); ++axis) {
    int64_t reach = 0;
    empty |= tensor.sizes[axis] == 0;
    const int64_t size = std::max<int64_t>(tensor.sizes[axis], 1);
    overflow |= __builtin_mul_overflow(size - 1, tensor.strides[axis], &reach);
    overflow |= __builtin_add_overflow(end, reach, &end);
    overflow |= __builtin_mul_overflow(elements, size, &elements);
  }
  const auto capacity = static_cast<int64_t>(tensor.storage_bytes / c10::elementSize(tensor.type));
  // Eight bytes is the largest element.
  if (overflow || elements > std::numeric_limits<int64_t>::max() / 8 ||
      (empty ? tensor.offset > capacity : end >= capacity))
    damaged("tensors inside their storages", "one that reaches beyond");
  Value* value = make(Value::kTensor);
  value->integer = static_cast<int64_t>(tensors_.size());
  tensors_.push_back(std::move(tensor));
  return value;
}

// ("storage", type, key, location, elements) and in older files a view, None.
Value* Pickle::make_storage(const Value& id) {
  const auto& parts = id.items;
  if (id.kind != Value::kTuple || parts.empty() || parts[0]->kind != Value::kString)
    damaged("the description of a storage", id.kind_name());
  if (parts[0]->text == "module") refused("torch.nn.Module");
  const bool has_view = parts.size() == 6;
  if (parts[0]->text != "storage" || (parts.size() != 5 && !has_view) || parts[1]->kind != Value::kGlobal ||
      parts[2]->kind != Value::kString || parts[4]->kind != Value::kInt || parts[4]->integer < 0)
    damaged("type, key, place and size of a storage", "something else");
  if (has_view && parts[5]->kind != Value::kNone)
    damaged("storages that are whole", "a view of one: load and save it with PyTorch 1.6 or newer");
  if (parts[2]->text.size() > kMaxKey) damaged("a short key for a storage", "a long one");
  const std::string& name = parts[1]->text;
  const auto type = storage_type_of(name);
  if (!type && !is_untyped_storage(name)) damaged("the type of a storage", "`" + name + "`");
  Storage storage{parts[2]->text, type.value_or(at::kByte), !type, static_cast<uint64_t>(parts[4]->integer)};
  if (__builtin_mul_overflow(storage.bytes, c10::elementSize(storage.type), &storage.bytes))
    damaged("a storage that fits in memory", "a larger one");
  Value* value = make(Value::kStorage);
  value->integer = static_cast<int64_t>(storages_.size());
  storages_.push_back(std::move(storage));
  return value;
}

void Pickle::push(Value* value) { stack_.push_back(value); }

Value* Pickle::pop() {
  Value* value = &top();
  stack_.pop_back();
  return value;
}

Value& Pickle::top() {
  // Below a mark lie values of another container.
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged("a value on the stack", "none");
  return *stack_.back();
}

std::vector<const Value*> Pickle::pop_to_mark() {
  if (marks_.empty()) damaged("a mark on the stack", "none");
  const std::vector<const Value*> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

void Pickle::remember(uint64_t index) { memo_[index] = &top(); }

void Pickle::recall(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) damaged("a value that was remembered", "number " + std::to_string(index));
  push(found->second);
}

void Pickle::set_items(Value& dict, const std::vector<const Value*>& items) {
  if (dict.kind != Value::kDict || items.size() % 2) damaged("a dictionary with keys and values", dict.kind_name());
  dict.items.insert(dict.items.end(), items.begin(), items.end());
}

void Pickle::run() {
  if (number(1) != 0x80) damaged("a pickle of protocol 2 to 5", "other bytes");
  if (const uint64_t protocol = number(1); protocol < 2 || protocol > 5)
    damaged("a pickle of protocol 2 to 5", "protocol " + std::to_string(protocol));
  const auto tuple = [&](size_t size) {
    Value* value = make(Value::kTuple);
    value->items.resize(size);
    while (size--) value->items[size] = pop();
    push(value);
  };
  const auto sequence = [&](Value::Kind kind) {
    std::vector<const Value*> items = pop_to_mark();
    Value* value = make(kind);
    value->items = std::move(items);
    push(value);
  };
  const auto append = [&](Value::Kind kind, const std::vector<const Value*>& items) {
    Value& to = top();
    if (to.kind != kind) damaged("a list or set to add to", to.kind_name());
    to.items.insert(to.items.end(), items.begin(), items.end());
  };
  const auto small = [&](Value::Kind kind, int64_t integer) {
    Value* value = make(kind);
    value->integer = integer;
    push(value);
  };

  for (uint64_t steps = 0;; ++steps) {
    if (steps > kMaxSteps) damaged("at most " + std::to_string(kMaxSteps) + " steps of a pickle", "more");
    const auto opcode = static_cast<unsigned char>(number(1));
    switch (opcode) {
      case '.':  // STOP
        result_ = pop();
        if (!stack_.empty() || !marks_.empty()) damaged("one value", "several");
        stack_ = {}, memo_ = {};
        return;
      case 0x95:  // FRAME: how much follows, for readers that fetch in parts
        number(8);
        break;
      case '(':  // MARK
        marks_.push_back(stack_.size());
        break;
      case '0':  // POP
        pop();
        break;
      case '1':  // POP_MARK
        pop_to_mark();
        break;
      case 'N':
        push(make(Value::kNone));
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        small(Value::kBool, opcode == 0x88);
        break;
      case 'J':  // BININT
        small(Value::kInt, static_cast<int32_t>(number(4)));
        break;
      case 'K':  // BININT1
        small(Value::kInt, static_cast<int64_t>(number(1)));
        break;
      case 'M':  // BININT2
        small(Value::kInt, static_cast<int64_t>(number(2)));
        break;
      case 0x8a:  // LONG1
        push(make_integer(take(number(1))));
        break;
      case 0x8b:  // LONG4
        push(make_integer(take(number(4))));
        break;
      case 'G': {  // BINFLOAT: big-endian
        uint64_t bits = 0;
        for (const char byte : take(8)) bits = bits << 8 | static_cast<unsigned char>(byte);
        Value* value = make(Value::kFloat);
        value->real = std::bit_cast<double>(bits);
        push(value);
        break;
      }
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING
        push(make_text(Value::kString, take(number(4))));
        break;
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
        push(make_text(Value::kString, take(number(1))));
        break;
      case 0x8d:  // BINUNICODE8
        push(make_text(Value::kString, take(number(8))));
        break;
      case 'C':  // SHORT_BINBYTES
        push(make_text(Value::kBytes, take(number(1))));
        break;
      case 'B':  // BINBYTES
        push(make_text(Value::kBytes, take(number(4))));
        break;
      case 0x8e:  // BINBYTES8
      case 0x96:  // BYTEARRAY8
        push(make_text(Value::kBytes, take(number(8))));
        break;
      case ')':  // EMPTY_TUPLE
        tuple(0);
        break;
      case 0x85:  // TUPLE1
      case 0x86:
      case 0x87:
        tuple(opcode - 0x84u);
        break;
      case 't':
        sequence(Value::kTuple);
        break;
      case ']':  // EMPTY_LIST
        push(make(Value::kList));
        break;
      case 'l':
        sequence(Value::kList);
        break;
      case 0x91:  // FROZENSET
        sequence(Value::kSet);
        break;
      case 'a':  // APPEND
        append(Value::kList, {pop()});
        break;
      case 'e':  // APPENDS
        append(Value::kList, pop_to_mark());
        break;
      case 0x8f:  // EMPTY_SET
        push(make(Value::kSet));
        break;
      case 0x90:  // ADDITEMS
        append(Value::kSet, pop_to_mark());
        break;
      case '}':  // EMPTY_DICT
        push(make(Value::kDict));
        break;
      case 'd': {  // DICT
        const std::vector<const Value*> items = pop_to_mark();
        Value* value = make(Value::kDict);
        set_items(*value, items);
        push(value);
        break;
      }
      case 's': {  // SETITEM
        const Value* value = pop();
        const Value* key = pop();
        set_items(top(), {key, value});
        break;
      }
      case 'u': {  // SETITEMS
        const std::vector<const Value*> items = pop_to_mark();
        set_items(top(), items);
        break;
      }
      case 'c': {  // GLOBAL
        const std::string module = line();
        push(make_global(module, line()));
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const Value* name = pop();
        const Value* module = pop();
        if (name->kind != Value::kString || module->kind != Value::kString) damaged("a name", name->kind_name());
        push(make_global(module->text, name->text));
        break;
      }
      case 'R':     // REDUCE
      case 0x81: {  // NEWOBJ
        const Value* arguments = pop();
        const Value* function = pop();
        push(call(*function, *arguments));
        break;
      }
      case 'b': {  // BUILD: attributes, such as the _metadata of a state dict, which nothing here needs
        pop();
        if (top().kind != Value::kDict && top().kind != Value::kOpaque) damaged("a dictionary's attributes", "others");
        break;
      }
      case 'Q':  // BINPERSID
        push(make_storage(*pop()));
        break;
      case 'q':  // BINPUT
        remember(number(1));
        break;
      case 'r':  // LONG_BINPUT
        remember(number(4));
        break;
      case 0x94:  // MEMOIZE
        remember(memo_.size());
        break;
      case 'h':  // BINGET
        recall(number(1));
        break;
      case 'j':  // LONG_BINGET
        recall(number(4));
        break;
      default:
        damaged("opcodes of a state dict", "number " + std::to_string(opcode));
    }
  }
}

}  // namespace le
