#pragma once
// The vocabulary of model.json (torch/_export/serde/schema.py), read without trust: ERR_LE_CHECKPOINT or ERR_LE_OPTION.
#include <ATen/core/jit_type.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "backbones/exported/program.h"
#include "files/json.h"

namespace le::exported {

at::ScalarType scalar_type(int64_t code);

// A union of the schema: an object with one key.
std::pair<const std::string&, const Json&> variant(const Json& json, const char* what);

double number(const Json& json);

// A size of a tensor that must be known: {"as_int": n}.
int64_t fixed_size(const Json& json);

// What a symbol of this kind holds; nothing for what is no symbol.
std::optional<ValueKind> symbol_kind(const std::string& kind);

// "L['self'].layer1", "getattr(L['self'].layer1, '0')" and "self.layer1" as named_modules() has it.
std::string module_name(std::string path);

// [1, {"type", "context", "children_spec"}] as the tree that ExportedProgram::result describes.
Json treespec(const std::string& text);

inline bool is_tensor(const c10::Type& type) { return type.kind() == c10::TypeKind::TensorType; }

}  // namespace le::exported
