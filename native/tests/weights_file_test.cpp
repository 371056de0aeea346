#include "files/weights_file.h"

#include <ATen/ATen.h>

#include "error.h"
#include "files/archive.h"
#include "files/pickle.h"
#include "files/safetensors.h"
#include "folder.h"
#include "random.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;
using test::Folder;
using test::read_bytes;
using test::write_bytes;

namespace {

// Of a file with one dictionary of tensors, or its outermost one.
std::map<std::string, at::Tensor> read_weights(const std::string& path) {
  return read_state_dicts(path).front().tensors;
}

// Made by scripts/models/make_weight_fixtures.py.
std::string fixture(const std::string& name) { return std::string(LE_FIXTURES) + "/weights/" + name; }

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == code::kCheckpoint);
    return error.what();
  }
  return "nothing";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool same(const at::Tensor& actual, const at::Tensor& expected) {
  return actual.scalar_type() == expected.scalar_type() && actual.equal(expected);
}

std::string little(uint64_t value, int size) {
  std::string bytes;
  for (int i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

// Pieces of pickles made by hand.
std::string text(const std::string& value) { return "X" + little(value.size(), 4) + value; }
std::string integer(int64_t value) { return "\x8a\x08" + little(static_cast<uint64_t>(value), 8); }
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string storage(const std::string& key, int64_t elements, const std::string& type = "FloatStorage") {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements) + "tQ";
}
std::string tuple(const std::vector<int64_t>& values) {
  std::string result = "(";
  for (const int64_t value : values) result += integer(value);
  return result + "t";
}
std::string tensor(const std::string& from, int64_t offset, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + from + integer(offset) + tuple(sizes) + tuple(strides) +
         "\x89" + global("collections", "OrderedDict") + ")RtR";
}
std::string dict(const std::string& name, const std::string& value) { return "}" + text(name) + value + "s"; }
std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }

// Reads a file with that pickle and one storage "0" of ten floats.
std::map<std::string, at::Tensor> read(const Folder& folder, const std::string& program,
                                       const std::string& byteorder = "little") {
  std::vector<float> data(10);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  ArchiveWriter writer(folder.file("made.pth"), "made");
  writer.add("data.pkl", program.data(), program.size());
  writer.add("byteorder", byteorder.data(), byteorder.size());
  writer.add("data/0", data.data(), data.size() * sizeof(float));
  writer.finish();
  return read_weights(folder.file("made.pth"));
}

void check_fixture(const std::map<std::string, at::Tensor>& read) {
  CHECK(read.size() == 15);
  const at::Tensor shared = at::arange(12, at::kFloat);
  CHECK(same(read.at("float"), at::arange(6, at::kFloat).reshape({2, 3}) / 4));
  CHECK(same(read.at("transposed"), shared.reshape({3, 4}).t()));
  CHECK(same(read.at("part"), shared.slice(0, 5, 9)));
  CHECK(same(read.at("expanded"), at::full({2, 5}, 7.0)));
  CHECK(same(read.at("scalar"), at::scalar_tensor(2.5, at::kDouble)));
  CHECK(read.at("empty").sizes() == at::IntArrayRef({0, 4}));
  for (const auto& [name, type] : std::map<std::string, at::ScalarType>{{"float16", at::kHalf},
                                                                        {"bfloat16", at::kBFloat16},
                                                                        {"int64", at::kLong},
                                                                        {"int32", at::kInt},
                                                                        {"int16", at::kShort},
                                                                        {"int8", at::kChar},
                                                                        {"uint8", at::kByte}})
    CHECK(same(read.at(name), at::arange(3).to(type)));
  CHECK(same(read.at("bool"), at::tensor({1, 0, 1}).to(at::kBool)));
  CHECK(same(read.at("parameter"), at::tensor({1.0f, -1.0f})));
}

}  // namespace

TEST("weights: state dicts of torch.save, in every format and protocol") {
  for (const char* name : {"zip.pth", "legacy.pth", "protocol3.pth", "protocol4.pth", "protocol5.pth", "legacy4.pth"})
    check_fixture(read_weights(fixture(name)));
  CHECK(same(read_weights(fixture("uint16.pth")).at("wide"), at::arange(3).to(at::kUInt16)));
}

TEST("weights: one wrong bit in any entry is refused, also where nothing reads it") {
  const std::string bytes = read_bytes(fixture("zip.pth"));
  const Folder folder;
  const Archive archive(fixture("zip.pth"));
  for (const auto& entry : archive.entries()) {
    if (entry.size == 0) continue;
    std::string flipped = bytes;
    flipped[entry.offset + entry.size / 2] ^= 4;
    write_bytes(folder.file("flipped.pth"), flipped);
    CHECK_THROWS(read_weights(folder.file("flipped.pth")), code::kCheckpoint);
  }
}

TEST("weights: every state dict inside of a checkpoint, with the keys that lead to it, names as they are") {
  for (const auto& [name, keys] : {std::pair("checkpoint.pth", "state_dict."), std::pair("model.pth", "model.")}) {
    const auto dicts = read_state_dicts(fixture(name));
    const auto found =
        std::find_if(dicts.begin(), dicts.end(), [&](const StateDict& dict) { return dict.path == keys; });
    CHECK(found != dicts.end() && found->tensors.size() == 2);
    const Match match = match_names(dicts, {{"weight", at::zeros({3, 2})}, {"bias", at::zeros({3})}}, {});
    CHECK(match.prefix.starts_with(keys) && match.unexpected.empty());
    CHECK(same(match.tensors.at("weight"), at::full({3, 2}, 0.5)) &&
          same(match.tensors.at("bias"), at::full({3}, 0.25)));
  }
  const Folder folder;
  const std::string one = tensor(storage("0", 10), 0, {2}, {1});
  const auto mixed = read(folder, pickle("}(" + text("module.a") + one + text("b") + one + text("epoch") + "K\x03u"));
  CHECK(mixed.size() == 2 && mixed.contains("module.a") && mixed.contains("b"));
}

TEST("weights: safetensors by content, whatever the name") {
  const Folder folder;
  write_safetensors(folder.file("weights.pth"), {{"a", at::ones({2})}});
  CHECK(same(read_weights(folder.file("weights.pth")).at("a"), at::ones({2})));
}

TEST("weights: what holds no state dict is refused with what it is") {
  const auto reading = [](const std::string& path) { return message_of([&] { read_weights(path); }); };
  for (const char* name : {"module.pth", "legacy_module.pth"})
    CHECK(contains(reading(fixture(name)), "save model.state_dict() instead of model"));
  CHECK(contains(reading(fixture("none.pth")), "'optimizer' (a dictionary), 'epoch' (an integer)"));
  CHECK(contains(reading(fixture("tensor.pth")), "received a tensor"));
  CHECK(contains(reading(fixture("complex.pth")), "ComplexFloatStorage"));
  CHECK(contains(reading(fixture("script.pt")), "use Backbone.load"));
  const Folder folder;
  write_bytes(folder.file("tar"), std::string(257, '\0') + "ustar" + std::string(250, '\0'));
  CHECK(contains(reading(folder.file("tar")), "before 0.1.10"));
  write_bytes(folder.file("text"), "hello");
  CHECK(contains(reading(folder.file("text")), "another kind of file"));
  CHECK_THROWS(read_weights(folder.file("none")), code::kIo);
  const std::string big = pickle(dict("a", tensor(storage("0", 10), 0, {2}, {1})));
  CHECK(contains(message_of([&] { read(folder, big, "big"); }), "big-endian"));
}

TEST("weights: nothing but tensors and plain containers can be asked for") {
  const Folder folder;
  const auto asked = [&](const std::string& body) { return message_of([&] { read(folder, pickle(body)); }); };
  for (const auto& [module, name] : std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                                                     {"posix", "system"},
                                                                                     {"builtins", "eval"},
                                                                                     {"builtins", "getattr"},
                                                                                     {"__builtin__", "exec"},
                                                                                     {"torch", "load"},
                                                                                     {"torch.hub", "load"},
                                                                                     {"torch", "float8_e4m3fn"},
                                                                                     {"torch", "ComplexFloatStorage"},
                                                                                     {"subprocess", "Popen"}}) {
    const std::string expected = "asks for `" + module + "." + name + "`";
    CHECK(contains(asked(global(module, name) + "(" + text("echo") + "tR"), expected));
    CHECK(contains(asked(text(module) + text(name) + "\x93"), expected));
    CHECK(contains(asked(dict("state_dict", global(module, name))), expected));
  }
  CHECK(contains(asked(global("__main__", "Net") + ")\x81"), "model.state_dict()"));
  CHECK(contains(asked(global("torch.nn.modules.linear", "Linear") + ")\x81"), "instead of model"));
  // A name that is on the list, but is no function.
  CHECK(contains(asked(global("builtins", "list") + ")R"), "asks for `builtins.list`"));
  CHECK(asked(global("torch", "float32") + ")R") != "nothing");
  // The message stays short and on one line.
  const std::string message = asked(global("os\rx", std::string(100'000, 'x')));
  CHECK(message.size() < 600 && !contains(message, "\r"));
}

TEST("weights: tensors lie inside their storages") {
  const Folder folder;
  const auto made = [&](int64_t offset, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                        int64_t elements = 10, const std::string& type = "FloatStorage") {
    return read(folder, pickle(dict("a", tensor(storage("0", elements, type), offset, sizes, strides)))).at("a");
  };
  CHECK(same(made(1, {2, 2}, {5, 3}), at::tensor({1.f, 4.f, 6.f, 9.f}).reshape({2, 2})));
  CHECK(made(10, {0}, {1}).numel() == 0);
  // Expanded: no memory of its own.
  CHECK(made(3, {1'000'000, 1'000'000}, {0, 0}).numel() == 1'000'000'000'000);
  CHECK(made(3, {1'000'000, 1'000'000}, {0, 0}, 40, "BoolStorage").numel() == 1'000'000'000'000);
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (const auto& [offset, sizes, strides] :
       std::vector<std::tuple<int64_t, std::vector<int64_t>, std::vector<int64_t>>>{{1, {10}, {1}},
                                                                                    {0, {11}, {1}},
                                                                                    {0, {2, 2}, {9, 1}},
                                                                                    {0, {2}, {-1}},
                                                                                    {-1, {2}, {1}},
                                                                                    {11, {0}, {1}},
                                                                                    {0, {-2}, {1}},
                                                                                    {0, {2}, {huge}},
                                                                                    {huge, {1}, {1}},
                                                                                    {huge, {2}, {1}},
                                                                                    {0, {huge, 3}, {0, 0}},
                                                                                    {0, {huge}, {0}},
                                                                                    {0, {2, 2}, {1}}})
    CHECK_THROWS(made(offset, sizes, strides), code::kCheckpoint);
  CHECK_THROWS(made(0, std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1)), code::kCheckpoint);
  // A storage that is not what the file has.
  for (const int64_t elements : {int64_t{9}, int64_t{11}, huge, int64_t{-1}})
    CHECK_THROWS(made(0, {1}, {1}, elements), code::kCheckpoint);
  CHECK_THROWS(made(0, {1}, {1}, 10, "DoubleStorage"), code::kCheckpoint);
  CHECK(made(4, {4}, {1}, 40, "BoolStorage").sum().item<int64_t>() == 2);  // 1.0f is 00 00 80 3f
  CHECK_THROWS(read(folder, pickle(dict("a", tensor(storage("1", 10), 0, {1}, {1})))), code::kCheckpoint);
  CHECK_THROWS(read(folder, pickle(dict("a", tensor(storage("../data/0", 10), 0, {1}, {1})))), code::kCheckpoint);
}

TEST("weights: malformed pickles are refused") {
  const Folder folder;
  const std::string good = tensor(storage("0", 10), 0, {2}, {1});
  const std::vector<std::string> programs = {
      "",
      "\x80",
      "\x80\x01N.",
      "\x80\x06N.",
      "(dp0\n.",     // protocol 0
      pickle(""),    // nothing on the stack
      pickle("("),   // a mark alone
      pickle("NN"),  // two values
      pickle("(N"),  // an open mark
      pickle("t"),   // no mark
      pickle("u"),
      pickle("}(" + text("a") + "u"),   // a key without a value
      pickle("N(" + text("a") + "Nu"),  // items of None
      pickle("}(NNN0000"),              // below the mark
      pickle("]}a"),                    // fine as a list, but no state dict
      pickle("}Na"),                    // append to a dictionary
      pickle("hA"),                     // never remembered
      pickle("R"),
      pickle("NNR"),
      pickle(good + "b"),  // attributes of a tensor
      pickle(global("torch._utils", "_rebuild_tensor_v2") + ")R"),
      pickle(global("torch._utils", "_rebuild_tensor_v2") + "(" + good + "NNNNNtR"),
      pickle(global("torch._utils", "_rebuild_parameter") + ")R"),
      pickle("NQ"),
      pickle("(" + text("storage") + "tQ"),
      pickle("(" + text("module") + "NNNtQ"),
      pickle("(" + text("storage") + global("torch", "Size") + text("0") + text("cpu") + "K\x0atQ"),
      pickle("P0\n"),  // a persistent id as text
      pickle("i"),
      pickle("X\xff\xff\xff\xff"),
      pickle("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"),
      pickle("\x95\xff"),
      pickle("cos"),
      pickle("}"),
      pickle("N"),
  };
  for (const std::string& program : programs) CHECK_THROWS(read(folder, program), code::kCheckpoint);
  // A list that holds itself, and one that is not looked into: neither harms.
  const auto odd = read(folder, pickle("}(" + text("self") + "]q\x01h\x01" + "a" + text("a") + good + "u"));
  CHECK(odd.size() == 1);
}

TEST("weights: pickles that want more than the file has are refused early") {
  const Folder folder;
  // One list of 1 000 values, copied by each of 60 000 calls.
  std::string copies = "(" + std::string(1000, 'N') + "lq\x01" + "0" + global("torch", "Size") + "q\x02" + "0";
  for (int i = 0; i < 60'000; ++i) copies += "h\x02h\x01\x85R0";
  CHECK(contains(message_of([&] { read(folder, pickle(copies + "N")); }), "again and again"));
  CHECK(contains(message_of([&] { read(folder, pickle(std::string(5'000'000, 'N'))); }), "steps"));
  CHECK_THROWS(read(folder, pickle(std::string(33'000'000, 'N'))), code::kCheckpoint);
  // A million lists, one inside the other, are freed again without recursion.
  CHECK_THROWS(read(folder, pickle(std::string(1'000'000, ']') + std::string(999'999, 'a'))), code::kCheckpoint);
}

TEST("weights: a legacy file cut short or with any bit flipped is refused or read, never worse") {
  const Folder folder;
  for (const char* name : {"legacy.pth", "legacy4.pth", "zip.pth"}) {
    const std::string bytes = read_bytes(fixture(name)), path = folder.file("damaged.pth");
    for (size_t n = 0; n < bytes.size(); n += 3) {
      write_bytes(path, bytes.substr(0, n));
      CHECK_THROWS(read_weights(path), code::kCheckpoint);
    }
    Random random(1, 0);
    for (int i = 0; i < 3000; ++i) {
      std::string flipped = bytes;
      const auto at = static_cast<size_t>(random.below(bytes.size()));
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << random.below(8));
      write_bytes(path, flipped);
      try {
        for (const auto& [tensor_name, tensor] : read_weights(path))
          if (tensor.numel() < 1000) tensor.contiguous();
      } catch (const Error& error) {
        CHECK(error.code() == code::kCheckpoint);
      }
    }
  }
}
