#include "backbones/exported/schema.h"

#include <limits>
#include <map>

#include "error.h"

namespace le::exported {

at::ScalarType scalar_type(int64_t code) {
  using T = at::ScalarType;
  static const std::map<int64_t, T> types = {{1, T::Byte},
                                             {2, T::Char},
                                             {3, T::Short},
                                             {4, T::Int},
                                             {5, T::Long},
                                             {6, T::Half},
                                             {7, T::Float},
                                             {8, T::Double},
                                             {9, T::ComplexHalf},
                                             {10, T::ComplexFloat},
                                             {11, T::ComplexDouble},
                                             {12, T::Bool},
                                             {13, T::BFloat16},
                                             {28, T::UInt16},
                                             {29, T::Float8_e4m3fn},
                                             {30, T::Float8_e5m2},
                                             {31, T::Float8_e4m3fnuz},
                                             {32, T::Float8_e5m2fnuz},
                                             {33, T::Float8_e8m0fnu},
                                             {34, T::UInt32},
                                             {35, T::UInt64}};
  const auto found = types.find(code);
  if (found == types.end()) fail(code::kCheckpoint, "Expected a known number type but received code ", code, ".");
  return found->second;
}

std::pair<const std::string&, const Json&> variant(const Json& json, const char* what) {
  const Json::Object& object = json.object(what);
  if (object.size() != 1) fail(code::kCheckpoint, "Expected one kind for ", what, " but received ", object.size(), ".");
  return *object.begin();
}

double number(const Json& json) {
  if (!json.is_string()) return json.number("number");
  const std::string& text = json.string("number");
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  fail(code::kCheckpoint, "Expected a number but received '", text, "'.");
}

int64_t fixed_size(const Json& json) {
  const auto [kind, value] = variant(json, "size");
  if (kind != "as_int") fail(code::kCheckpoint, "Expected fixed sizes for a weight but received a symbol.");
  return value.integer("size");
}

std::string module_name(std::string path) {
  if (path.starts_with("getattr(") && path.ends_with("')")) {
    const size_t comma = path.rfind(", '");
    if (comma != std::string::npos) {
      const std::string base = module_name(path.substr(8, comma - 8)),
                        leaf = path.substr(comma + 3, path.size() - comma - 5);
      return base.empty() ? leaf : base + '.' + leaf;
    }
  }
  for (const std::string root : {"L['self']", "L__self__", "self"})
    if (path == root || path.starts_with(root + ".") || path.starts_with(root + "[")) {
      path.erase(0, root.size());
      break;
    }
  std::string out;
  for (size_t i = 0; i < path.size();) {
    if (path.compare(i, 10, "._modules[") == 0) {
      i += 9;
    } else if (path[i] == '[') {
      const size_t end = path.find(']', i);
      if (end == std::string::npos) return path;
      std::string key = path.substr(i + 1, end - i - 1);
      if (key.size() >= 2 && (key.front() == '\'' || key.front() == '"')) key = key.substr(1, key.size() - 2);
      (out += '.') += key;
      i = end + 1;
    } else {
      out += path[i++];
    }
  }
  return out.starts_with('.') ? out.substr(1) : out;
}

std::optional<ValueKind> symbol_kind(const std::string& kind) {
  if (kind == "as_sym_int") return ValueKind::kInt;
  if (kind == "as_sym_float") return ValueKind::kFloat;
  if (kind == "as_sym_bool") return ValueKind::kBool;
  return std::nullopt;
}

namespace {

Json tree(const Json& node) {
  if (!node.has("type")) return nullptr;
  Json::Array items;
  for (const Json& child : node.at("children_spec").array("children_spec")) items.push_back(tree(child));
  if (!node.has("context")) return items;
  Json keys;
  try {
    keys = node.at("context").is_string() ? Json::parse(node.at("context").string("context"), code::kCheckpoint)
                                          : node.at("context");
  } catch (const Error&) {
    return items;  // the type's own notation
  }
  if (!keys.is_array() || keys.array("keys").size() != items.size()) return items;
  for (const Json& key : keys.array("keys"))
    if (!key.is_string() && !key.is_number()) return items;
  return Json::Object{{"keys", keys}, {"items", items}};
}

}  // namespace

Json treespec(const std::string& text) {
  const Json json = Json::parse(text, code::kCheckpoint);
  const Json::Array& parts = json.array("treespec");
  if (parts.size() != 2) fail(code::kCheckpoint, "Expected a tree of version 1 for the result but received another.");
  return tree(parts[1]);
}

}  // namespace le::exported
