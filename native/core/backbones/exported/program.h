#pragma once
// A torch.export program (.pt2): models/model.json and its weights, read without trust and checked as a whole, so that
// what runs it (run.h) need not check again. Schema: torch/_export/serde/schema.py, major version 8.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "backbones/checks.h"
#include "backbones/exported/symbols.h"
#include "files/archive.h"
#include "files/json.h"

namespace le {

// What a slot holds. Every value is checked against it when it is made, so that readers may rely on it.
enum class ValueKind : uint8_t { kTensor, kInt, kFloat, kBool, kNone };

// An argument that is filled in at run time.
struct Link {
  enum class Kind : uint8_t {
    kValue,            // the slot as it is
    kFloat,            // a number as a float
    kWrapped,          // a number as the tensor that PyTorch's argument parser makes of it
    kTensors,          // Tensor[]
    kOptionalTensors,  // Tensor?[]
    kInts,             // int[]
    kFloats,           // float[]
    kBools,            // bool[]
    kArray,            // the list of a symbol operator
    kDevice            // wherever the network is
  };
  Kind kind;
  size_t position = 0;
  std::vector<int> slots;          // -1: the value at the same place in `fixed`
  std::vector<c10::IValue> fixed;  // empty, or as long as `slots`
};

struct ExportedNode {
  std::string name, target;
  std::optional<c10::OperatorHandle> op;
  Symbolic symbolic = nullptr;  // where `op` is absent
  std::vector<c10::IValue> arguments;
  std::vector<Link> links;
  std::vector<std::pair<int, ValueKind>> outputs;  // slot -1: dropped
  bool list_output = false;                        // one list, whose items are the outputs
  int call = -1;                                   // the innermost module call that it belongs to
  std::vector<int> writes;                         // slots whose memory it changes
  bool may_write_parameter = false;                // one of `writes` may be a parameter's memory: look in the pass

  // The argument that says whether the network is training, and its value in either mode.
  struct Mode {
    size_t position;
    c10::IValue training, evaluating;
    bool dropout = true;  // else a norm
  };
  std::optional<Mode> mode;
  // The argument that holds what a norm takes its statistics from, if this is a norm, and the one that says whether it
  // takes them from there (-1: always).
  struct Norm {
    NormKind kind;
    size_t input;
    int flag;
    int64_t groups = 1;
  };
  std::optional<Norm> norm;
  // The weight that counts the batches seen, where the program does not count them itself; or -1.
  int counter = -1;
  bool only_training = false;  // changes buffers and nothing else

  // Position of a named argument of `op`, or -1.
  int position(std::string_view argument) const;
  // The slot that fills a position by itself, or -1.
  int slot_at(int position) const;
};

// One call of a module, found in the nodes' metadata.
struct ModuleCall {
  size_t module = 0;
  std::string key;  // module's name, with "@1" and so on for later calls
  int parent = -1;
  int first = -1, last = -1;  // nodes
  int output = -1;            // slot; -1: not known to be a single tensor
  bool several = false;       // known to be something else
};

struct ExportedModule {
  std::string name, type;
  std::vector<int> calls;  // in execution order
  std::string object;      // the same for all names of one object; empty: not known
};

// A size of the image that is recorded: fixed, or a multiple of a symbol in a range.
struct Extent {
  int64_t recorded = 0;
  std::string symbol;  // empty: fixed
  int64_t factor = 1, least = 0, most = INT64_MAX;
  bool fixed() const { return symbol.empty(); }
};

struct ExportedInput {
  std::string name;
  int slot = -1;
  ValueKind kind = ValueKind::kTensor;
  bool constant = false;  // its value is part of the program
  c10::IValue value;      // of a constant
  std::vector<Extent> extents;
  at::ScalarType dtype = at::kFloat;
};

struct ExportedWeight {
  enum class Role : uint8_t { kParameter, kBuffer, kOther };  // kOther: not part of the state dict
  std::string name;
  Role role = Role::kOther;
  int slot = -1;
  // Where it lies in the file.
  std::string entry;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
  at::ScalarType dtype = at::kFloat;  // in the file
};

struct ExportedProgram {
  std::shared_ptr<const Archive> archive;
  std::vector<ExportedNode> nodes;
  std::vector<ModuleCall> calls;
  std::vector<ExportedModule> modules;  // in registration order; the root is not among them
  std::unordered_map<std::string, size_t> module_of;

  std::vector<std::string> slot_names;
  std::vector<ValueKind> slot_kinds;
  std::vector<std::string> slot_shapes;  // as recorded, to be compared; empty: unknown
  // Slots with the same root may share memory.
  std::vector<int> roots;

  std::vector<ExportedInput> inputs;  // in the order of the call
  std::vector<ExportedWeight> weights;
  std::vector<std::pair<std::string, size_t>> other_names;  // that the file has for weights, beside theirs
  std::vector<int> outputs;  // slots of the flattened result, -1 for what is not a tensor
  Json result;               // tree of the result: null for a leaf, arrays, and objects {"keys": […], "items": […]}

  // Values that training writes back into buffers at the end of a pass: slot, weight.
  std::vector<std::pair<int, size_t>> mutations;
  // Weights that nodes write to, of which evaluation gives them a copy; and inputs, which are their caller's always.
  std::vector<int> written, written_inputs;
  std::string cannot_train;  // why; empty where it can
  // It addresses memory by strides, which were recorded of contiguous tensors: another layout means another thing.
  bool addresses_memory = false;

  const std::string& file() const { return archive->path(); }
};

struct LoadedProgram {
  std::shared_ptr<const ExportedProgram> program;
  std::vector<at::Tensor> weights;  // in the order of program->weights
};

// ERR_LE_CHECKPOINT naming the operator or field that is wrong, unknown or refused; ERR_LE_IO.
LoadedProgram read_exported(const std::string& file);

// What `node` is called with, mode aside, on `stack`. `values`: by slot. `last`: null, or one for each slot of the
// links in order, not zero where that value is used for the last time: it is moved then.
void bind_arguments(const ExportedNode& node, std::vector<c10::IValue>& values, c10::Device device, const uint8_t* last,
                    torch::jit::Stack& stack);

// The tensor of a weight within its payload.
at::Tensor weight_in(const at::Tensor& payload, const ExportedWeight& weight);

}  // namespace le
