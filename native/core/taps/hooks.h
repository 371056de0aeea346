#pragma once
// Modules that report what they return, and the hooks that listen. libtorch's own C++ modules have no forward hooks.
//
// Python names a submodule by its path from the root, such as "encoder.layer1.0.relu"; so does this tree, and its
// parameters carry the names of a Python state dict.
#include <ATen/core/Tensor.h>

#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "files/safetensors.h"

namespace le {

class Module;

// Listens to the modules that run on this thread while it lives. Hooks live in the pass and not in the modules, so that
// several threads may run passes of one network with different taps. One at a time per thread.
class ForwardHook {
 public:
  ForwardHook();
  virtual ~ForwardHook();
  ForwardHook(const ForwardHook&) = delete;
  ForwardHook& operator=(const ForwardHook&) = delete;

  // False where the network need not produce this module's own output, because nobody asked for it: the way is then
  // free to fuse it with what follows. A module that is fused away reports nothing.
  virtual bool wants(const Module& module) const = 0;
  // `output` is undefined where the module returned something other than one tensor.
  virtual void returned(const Module& module, const at::Tensor& output) = 0;

  static ForwardHook* current();  // null: nobody listens

 private:
  ForwardHook* const outer_;
};

// Whether `module` must produce its own output in the pass that runs on this thread.
inline bool wanted(const Module& module) {
  const ForwardHook* hook = ForwardHook::current();
  return hook && hook->wants(module);
}

// A node of the tree. It owns its children; parameters and buffers are shared handles, so that moving them to a device
// (set_data) is seen by every holder.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // The class name that Python has for it.
  virtual const char* type() const = 0;
  // Why this module cannot be tapped; null where it can.
  virtual const char* why_not_tappable() const { return nullptr; }
  // Prepares what evaluation may use instead of the parameters (see Backbone::begin_inference), or drops it.
  virtual void begin_inference(at::ScalarType) {}
  virtual void end_inference() {}

  bool training() const { return training_; }
  void train(bool on);
  // Position in named_modules() of the whole network, the root being 0. Set by enumerate().
  size_t index() const { return index_; }

  struct Named {
    std::string name;
    Module* module;
  };
  // This module and everything below, parents first, in registration order; numbers them. The root has an empty name.
  std::vector<Named> enumerate();

  // Makes a submodule. The reference lives as long as this module.
  template <std::derived_from<Module> M, class... Args>
  M& child(std::string name, Args&&... args) {
    auto owned = std::make_unique<M>(std::forward<Args>(args)...);
    M& module = *owned;
    children_.emplace_back(std::move(name), std::move(owned));
    return module;
  }

  // Tells the hook what this module returned, and returns it. Every operator() ends with this, and so does whatever
  // computes a module's output by another way.
  at::Tensor report(at::Tensor output) const {
    if (ForwardHook* hook = ForwardHook::current()) hook->returned(*this, output);
    return output;
  }

  const NamedTensors& own_parameters() const { return parameters_; }
  const NamedTensors& own_buffers() const { return buffers_; }

 protected:
  at::Tensor parameter(std::string name, at::Tensor value);
  at::Tensor buffer(std::string name, at::Tensor value);

 private:
  void collect(const std::string& prefix, std::vector<Named>& all);
  std::vector<std::pair<std::string, std::unique_ptr<Module>>> children_;
  NamedTensors parameters_, buffers_;
  bool training_ = true;
  size_t index_ = 0;
};

// A module from one tensor to one tensor. Callers use operator(), which lets hooks run; forward() is for the class
// alone.
class UnaryModule : public Module {
 public:
  at::Tensor operator()(const at::Tensor& x) { return report(forward(x)); }

 protected:
  virtual at::Tensor forward(const at::Tensor& x) = 0;
};

// Records every call of a pass and finds the outputs that later layers overwrite. It keeps all outputs alive until
// finish(), and reads their version counters: the pass must run on normal tensors (no gradients, but not inference
// mode, whose tensors have no counter).
class Trace final : public ForwardHook {
 public:
  struct Call {
    const Module* module;
    at::Tensor output;  // undefined where it was not one tensor
    uint32_t version;   // of the output when the module returned it
  };
  bool wants(const Module&) const override { return true; }
  void returned(const Module& module, const at::Tensor& output) override;
  const std::vector<Call>& calls() const { return calls_; }

 private:
  std::vector<Call> calls_;
};

// What is known of a module's output.
enum class Fate : uint8_t {
  kUnknown,     // never seen to run
  kKept,        // no later layer wrote to it
  kOverwritten  // a later layer worked in place on it
};

// Brings out the outputs of chosen modules.
class Capture final : public ForwardHook {
 public:
  // slots: for each module index the place of its output, or -1. fates: what is known of each; all but kKept are
  // copied.
  Capture(const std::vector<int>& slots, size_t count, const std::vector<Fate>& fates);
  bool wants(const Module& module) const override { return slots_[module.index()] >= 0; }
  void returned(const Module& module, const at::Tensor& output) override;
  // The last value of each; undefined where the module did not run.
  std::vector<at::Tensor> take() { return std::move(outputs_); }

 private:
  const std::vector<int>& slots_;
  const std::vector<Fate>& fates_;
  std::vector<at::Tensor> outputs_;
};

// The `count` candidates nearest to `name` by edit distance, nearest first: for errors about names.
std::vector<std::string> nearest_names(const std::string& name, const std::vector<std::string>& candidates,
                                       size_t count = 3);

}  // namespace le
