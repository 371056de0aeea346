#pragma once
// The reader of torch.export programs. Its parts stand where their ideas do: values and weights in reader.cpp, nodes
// and their arguments in nodes.cpp, who shares memory and writes to it in memory.cpp, training and evaluation in
// modes.cpp, calls of modules in modules.cpp.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "backbones/exported/program.h"

namespace le::exported {

using c10::IValue;
using Role = ExportedWeight::Role;

class Reader {
 public:
  explicit Reader(const std::string& file) : program_(std::make_shared<ExportedProgram>()) {
    program_->archive = std::make_shared<const Archive>(file);
  }
  LoadedProgram read();

 private:
  static std::string where(const Json& node);
  int define(const std::string& name, ValueKind kind);
  int use(const std::string& name) const;
  int use_tensor(const Json& argument) const;
  void read_payloads(const std::string& folder, const std::string& config);
  void note_widened();
  void find_other_names();
  at::Tensor load(const ExportedWeight& weight);
  void add_weight(const std::string& name, Role role, int slot);
  Extent extent(const Json& size) const;
  void read_input(const Json& spec);
  void read_user_input(const Json& argument);
  void read_output(const Json& spec);
  at::ScalarType widened(at::ScalarType type) const { return widened_.contains(type) ? at::kFloat : type; }

  void read_node(const Json& json);
  void read_call(ExportedNode& node, const Json::Array& inputs);
  // `type`: what the operator takes; null for a symbol operator, which takes anything.
  void read_argument(ExportedNode& node, size_t position, const c10::Type* type, int32_t count, const Json& argument);
  template <class AddLink, class AddConstant>
  void read_symbols(const AddLink& link, const AddConstant& constant, const std::string& kind, const Json& value,
                    const c10::Type* element, bool typed);
  IValue fixed_value(const std::string& kind, const Json& value) const;
  void read_outputs(ExportedNode& node, const Json::Array& outputs);

  IValue stand_in(const std::string& name, ValueKind kind) const;
  std::optional<std::vector<std::pair<int, int>>> tried(const ExportedNode& node);
  void link_memory(ExportedNode& node);
  void find_writes();

  void find_norms();
  void find_power_iterations();
  void refuse_own_state();
  void find_modes();
  std::string layer_of(const ExportedNode& node) const;

  int find_call(const Json& node);
  void read_modules(const Json::Array& entries);
  void find_outputs();
  void name_inputs(const Json& signature);

  struct Payload {
    ExportedWeight weight;
    bool parameter = false, requires_grad = false;
  };
  std::shared_ptr<ExportedProgram> program_;
  std::vector<at::Tensor> tensors_;
  std::vector<int> announced_;                  // as roots, by what is known alone
  std::unordered_set<at::ScalarType> widened_;  // see note_widened()
  bool made_in_evaluation_ = false;             // for certain: see find_modes()
  const Json::Object* tensor_values_ = nullptr;
  const Json *ranges_ = nullptr, *sym_ints_ = nullptr;
  std::vector<IValue> stand_ins_;  // by slot
  std::unordered_map<std::string, int> slot_of_;
  std::unordered_map<std::string, Payload> payloads_;
  std::unordered_set<std::string> pickled_;
  std::unordered_map<std::string, at::Tensor> loaded_;
  std::unordered_map<int, size_t> weight_of_slot_;
  std::unordered_map<std::string, size_t> weight_of_;
  std::unordered_map<std::string, size_t> found_modules_;
  std::vector<ExportedModule> ordered_modules_;  // as they first ran
  std::map<std::tuple<int, std::string, std::string>, int> call_of_;
};

}  // namespace le::exported
