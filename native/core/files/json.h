#pragma once
// A small JSON value: options from the binding, headers of safetensors files, run state. Integers stay exact to 64
// bits.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace le {

class Json {
 public:
  using Array = std::vector<Json>;
  // Insertion order does not matter to any reader, so a sorted map keeps output deterministic.
  using Object = std::map<std::string, Json>;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(static_cast<int64_t>(value)) {}
  Json(int64_t value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}

  // Throws Error(on_error) with the byte offset for anything but one complete value. Depth is limited to 64, so that a
  // hostile header cannot exhaust the stack; duplicate keys are refused. Non-finite numbers cannot be written in JSON:
  // dump() writes them as null.
  static Json parse(std::string_view text, const char* on_error);
  std::string dump() const;

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_number() const { return std::holds_alternative<int64_t>(value_) || std::holds_alternative<double>(value_); }

  // Typed access. `what` names the value in the error: "Expected an integer for option 'epochs' but received a string".
  // integer() accepts a double with an integral value, because JavaScript numbers are doubles.
  bool boolean(std::string_view what) const;
  int64_t integer(std::string_view what) const;
  double number(std::string_view what) const;
  const std::string& string(std::string_view what) const;
  const Array& array(std::string_view what) const;
  const Object& object(std::string_view what) const;

  // Object lookups: has() is false for a missing key and for null.
  bool has(const std::string& key) const;
  const Json& at(const std::string& key) const;  // Error(ERR_LE_OPTION) naming the key when it is missing
  bool boolean_or(const std::string& key, bool fallback) const;
  int64_t integer_or(const std::string& key, int64_t fallback) const;
  double number_or(const std::string& key, double fallback) const;
  std::string string_or(const std::string& key, std::string fallback) const;
  std::vector<int64_t> integers_or(const std::string& key, std::vector<int64_t> fallback) const;
  std::vector<double> numbers_or(const std::string& key, std::vector<double> fallback) const;
  std::vector<std::string> strings_or(const std::string& key, std::vector<std::string> fallback) const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

}  // namespace le
