#pragma once
// TorchScript's graphs, rewritten so that they tell what each submodule returned.
//
// libtorch's script modules run no hooks of ours. But forward is a graph in which every call of a submodule is a node,
// and the submodule a chain of attributes read from self: so every call is replaced by the called graph, and the place
// where it returned is marked. A pass that shall bring out layers stores the value there in a list that it was given.
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "taps/hooks.h"

namespace le::script {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

// One object of the tree. One that is registered under two names is listed once, by the first: so does named_modules().
struct Submodule {
  std::string name, type;
  torch::jit::ModulePtr object;
  std::string why_not;       // it cannot be tapped; empty where it can
  std::string cannot_train;  // why a trace of it means another thing in training; empty where it does not
  int last_call = -1;        // its place among all calls in forward; -1: there is none
};

// Every module, the root (with an empty name) first, in registration order. why_not is left empty.
std::vector<Submodule> named_modules(const torch::jit::Module& root);

// ERR_LE_CHECKPOINT where any function that came with the file uses what is not a computation of libtorch itself:
// operators of other libraries, files, other processes.
void refuse_foreign_operators(const torch::jit::Module& root, const std::string& path);

// A copy of forward's graph in which every call of a method or function is replaced by what it does, and each return
// of a submodule that is known before the pass is marked. Sets why_not. Where a traced file has the mode that it was
// traced in as a constant, the mode of the module that it belongs to is read instead.
std::shared_ptr<Graph> inlined_forward(const torch::jit::Module& root, std::vector<Submodule>& modules);

// A copy with one more input, Tensor?[], whose element slots[m] becomes what module m returned last (slots: -1 for
// those that nobody asked for). Those with a fate other than kKept are copied there.
std::shared_ptr<Graph> with_taps(const Graph& inlined, const std::vector<int>& slots, const std::vector<Fate>& fates);

// A copy with three more inputs: int[], Tensor?[] and int[]. Each return of a submodule appends its index, what it
// returned (None unless one tensor), and the version counter of that.
std::shared_ptr<Graph> with_trace(const Graph& inlined);

// What one traced pass cannot tell, because the mode or what the image shows may decide it: whether what module m
// returned may be written to in place after that (by dropout, or in a branch), and the image at all.
struct Writes {
  std::vector<bool> returned;
  bool image = false;
};
// `image`: index among forward's arguments, self not counted.
Writes possible_writes(const Graph& inlined, const torch::jit::Module& root, size_t modules, size_t image);

// By module: whether anything that it returned may depend on forward's arguments.
std::vector<bool> made_of_inputs(const Graph& inlined, size_t modules);

// What `value` is in every pass, where it is self or read from it by way of attributes that are modules.
std::optional<c10::IValue> known_value(const Value* value, const Graph& graph, const torch::jit::Module& root);

// Whether forward was traced: a list of operations in which what Python decided is fixed.
bool is_traced(const torch::jit::Module& root);

// ERR_LE_CHECKPOINT where a trace may have been made in training mode and does by chance, or to a state of its own,
// what evaluation may not do: an `if self.training` leaves no trace in it.
void refuse_training_only(const Graph& inlined, const torch::jit::Module& root, const std::string& path);

// Whether it reads or sets strides, and so means another thing where tensors lie in memory otherwise.
bool addresses_memory(const Graph& inlined);

// Makes float32 of the graph's own tensors of these types, and of these types where an operation is told one.
void widen_constants(Graph& graph, const std::set<at::ScalarType>& types, const torch::jit::Module& root);

// Moves the tensors that the graph itself holds.
void move_constants(Graph& graph, c10::Device device);

// The weight of the first convolution that `image` reaches with its channels as they came. Undefined: none is found.
at::Tensor first_convolution(const Graph& inlined, const Value* image, const torch::jit::Module& root, int64_t& groups);

}  // namespace le::script
