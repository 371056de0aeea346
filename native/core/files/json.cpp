#include "files/json.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <locale>
#include <sstream>

#include "error.h"

namespace le {

namespace {

constexpr int kMaxDepth = 64;

class Parser {
 public:
  Parser(std::string_view text, const char* on_error) : text_(text), on_error_(on_error) {}

  Json document() {
    Json result = value(0);
    skip_space();
    if (at_ != text_.size()) expected("the end of the text");
    return result;
  }

 private:
  [[noreturn]] void expected(const char* what) const {
    fail(on_error_, "Expected ", what, " at byte ", at_, " of JSON but received ",
         at_ < text_.size() ? "something else." : "its end.");
  }

  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  bool take(char c) {
    if (peek() != static_cast<unsigned char>(c)) return false;
    ++at_;
    return true;
  }
  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }
  static bool digit(int c) { return c >= '0' && c <= '9'; }

  Json value(int depth) {
    if (depth > kMaxDepth) expected("at most 64 levels of nesting");
    skip_space();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return string();
      case 't':
        return literal("true", true);
      case 'f':
        return literal("false", false);
      case 'n':
        return literal("null", nullptr);
      default:
        return number();
    }
  }

  Json literal(std::string_view word, Json result) {
    if (text_.substr(at_, word.size()) != word) expected("a value");
    at_ += word.size();
    return result;
  }

  Json object(int depth) {
    ++at_;
    Json::Object result;
    skip_space();
    if (take('}')) return result;
    do {
      skip_space();
      if (peek() != '"') expected("a key");
      std::string key = string();
      skip_space();
      if (!take(':')) expected("':'");
      if (!result.emplace(std::move(key), value(depth + 1)).second) expected("distinct keys");
      skip_space();
    } while (take(','));
    if (!take('}')) expected("',' or '}'");
    return result;
  }

  Json array(int depth) {
    ++at_;
    Json::Array result;
    skip_space();
    if (take(']')) return result;
    do {
      result.push_back(value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) expected("',' or ']'");
    return result;
  }

  std::string string() {
    ++at_;
    std::string result;
    while (!take('"')) {
      const int c = peek();
      if (c < 0x20) expected("a closing quote");
      if (c == '\\') {
        ++at_;
        escape(result);
      } else if (c < 0x80) {
        result += text_[at_++];
      } else {
        utf8(result);
      }
    }
    return result;
  }

  void escape(std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const int c = peek();
    if (c == 'u') {
      ++at_;
      uint32_t point = hex4();
      if (point >= 0xDC00 && point < 0xE000) expected("a high surrogate first");
      if (point >= 0xD800 && point < 0xDC00) {
        if (!take('\\') || !take('u')) expected("a low surrogate");
        const uint32_t low = hex4();
        if (low < 0xDC00 || low > 0xDFFF) expected("a low surrogate");
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
      }
      append(out, point);
      return;
    }
    const size_t index = c < 0 ? std::string_view::npos : kNames.find(static_cast<char>(c));
    if (index == std::string_view::npos) expected("an escape");
    out += kValues[index];
    ++at_;
  }

  uint32_t hex4() {
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int c = peek();
      if (digit(c))
        result = result * 16 + (c - '0');
      else if (c >= 'a' && c <= 'f')
        result = result * 16 + (c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        result = result * 16 + (c - 'A' + 10);
      else
        expected("four hexadecimal digits");
    }
    return result;
  }

  static void append(std::string& out, uint32_t point) {
    if (point < 0x80) {
      out += static_cast<char>(point);
      return;
    }
    const int tail = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    out += static_cast<char>((0xFF00 >> (tail + 1)) | (point >> (6 * tail)));
    for (int i = tail - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((point >> (6 * i)) & 0x3F));
  }

  // One multi-byte character, in its shortest form and no surrogate (RFC 3629).
  void utf8(std::string& out) {
    const uint32_t lead = peek();
    const int tail = lead >= 0xF0 && lead < 0xF5 ? 3 : lead >= 0xE0 && lead < 0xF0 ? 2 : lead >= 0xC2 ? 1 : 0;
    if (!tail || lead >= 0xF5 || text_.size() - at_ <= static_cast<size_t>(tail)) expected("UTF-8");
    uint32_t point = lead & (0x3F >> tail);
    for (int i = 1; i <= tail; ++i) {
      const uint32_t c = static_cast<unsigned char>(text_[at_ + i]);
      if ((c & 0xC0) != 0x80) expected("UTF-8");
      point = point << 6 | (c & 0x3F);
    }
    static constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (point < kLeast[tail] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) expected("UTF-8");
    out += text_.substr(at_, tail + 1);
    at_ += tail + 1;
  }

  Json number() {
    const size_t start = at_;
    const bool negative = take('-');
    if (!digit(peek())) {
      at_ = start;
      expected("a value");
    }
    if (!take('0'))
      while (digit(peek())) ++at_;
    bool integral = true;
    if (take('.')) {
      integral = false;
      if (!digit(peek())) expected("a digit");
      while (digit(peek())) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (!take('+')) take('-');
      if (!digit(peek())) expected("a digit");
      while (digit(peek())) ++at_;
    }
    const std::string_view token = text_.substr(start, at_ - start);
    if (integral) {
      int64_t result = 0;
      const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), result);
      if (error == std::errc() && !(negative && result == 0)) return result;  // -0 is a double
    }
    // Not from_chars or strtod: the one is missing in libc++ for double, the other reads the process's locale.
    std::istringstream stream{std::string(token)};
    stream.imbue(std::locale::classic());
    double result = 0;
    stream >> result;
    if (!std::isfinite(result) || (stream.fail() && result != 0)) {
      at_ = start;
      expected("a number that a double can hold");
    }
    return result;
  }

  const std::string_view text_;
  const char* const on_error_;
  size_t at_ = 0;
};

void dump_string(const std::string& text, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (byte < 0x20)
      ((out += "\\u00") += kHex[byte >> 4]) += kHex[byte & 15];
    else
      out += c;
  }
  out += '"';
}

void dump_to(const Json& json, std::string& out);

template <class... Fs>
struct Overload : Fs... {
  using Fs::operator()...;
};

const char* kind_of(const Json& json) {
  if (json.is_null()) return "nothing";
  if (json.is_object()) return "an object";
  if (json.is_array()) return "an array";
  if (json.is_string()) return "a string";
  return json.is_number() ? "a number" : "a boolean";
}

[[noreturn]] void wrong_type(const char* wanted, std::string_view what, const Json& value) {
  fail(code::kOption, "Expected ", wanted, " for option '", what, "' but received ", kind_of(value), ".");
}

template <class T, class Read>
std::vector<T> list_or(const Json& json, const std::string& key, std::vector<T> fallback, Read read) {
  if (!json.has(key)) return fallback;
  std::vector<T> result;
  for (const Json& item : json.at(key).array(key)) result.push_back(read(item));
  return result;
}

}  // namespace

Json Json::parse(std::string_view text, const char* on_error) { return Parser(text, on_error).document(); }

std::string Json::dump() const {
  std::string out;
  std::visit(Overload{
                 [&](std::monostate) { out = "null"; },
                 [&](bool value) { out = value ? "true" : "false"; },
                 [&](int64_t value) { out = std::to_string(value); },
                 [&](double value) {
                   if (!std::isfinite(value)) {
                     out = "null";
                     return;
                   }
                   char digits[32];
                   const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
                   out.assign(digits, end);
                 },
                 [&](const std::string& value) { dump_string(value, out); },
                 [&](const Array& values) {
                   out = "[";
                   for (const Json& value : values) {
                     if (out.size() > 1) out += ',';
                     dump_to(value, out);
                   }
                   out += ']';
                 },
                 [&](const Object& values) {
                   out = "{";
                   for (const auto& [key, value] : values) {
                     if (out.size() > 1) out += ',';
                     dump_string(key, out);
                     out += ':';
                     dump_to(value, out);
                   }
                   out += '}';
                 },
             },
             value_);
  return out;
}

namespace {
void dump_to(const Json& json, std::string& out) { out += json.dump(); }
}  // namespace

bool Json::boolean(std::string_view what) const {
  if (const bool* value = std::get_if<bool>(&value_)) return *value;
  wrong_type("true or false", what, *this);
}

int64_t Json::integer(std::string_view what) const {
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return *value;
  if (const double* value = std::get_if<double>(&value_)) {
    if (std::trunc(*value) == *value && *value >= -0x1p63 && *value < 0x1p63) return static_cast<int64_t>(*value);
    fail(code::kOption, "Expected an integer for option '", what, "' but received ", *value, ".");
  }
  wrong_type("an integer", what, *this);
}

double Json::number(std::string_view what) const {
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return static_cast<double>(*value);
  if (const double* value = std::get_if<double>(&value_)) return *value;
  wrong_type("a number", what, *this);
}

const std::string& Json::string(std::string_view what) const {
  if (const std::string* value = std::get_if<std::string>(&value_)) return *value;
  wrong_type("a string", what, *this);
}

const Json::Array& Json::array(std::string_view what) const {
  if (const Array* value = std::get_if<Array>(&value_)) return *value;
  wrong_type("an array", what, *this);
}

const Json::Object& Json::object(std::string_view what) const {
  if (const Object* value = std::get_if<Object>(&value_)) return *value;
  wrong_type("an object", what, *this);
}

bool Json::has(const std::string& key) const {
  const Object* object = std::get_if<Object>(&value_);
  if (!object) return false;
  const auto found = object->find(key);
  return found != object->end() && !found->second.is_null();
}

const Json& Json::at(const std::string& key) const {
  if (const Object* object = std::get_if<Object>(&value_))
    if (const auto found = object->find(key); found != object->end()) return found->second;
  fail(code::kOption, "Expected option '", key, "' but received ",
       is_object() ? "an object without it." : kind_of(*this));
}

bool Json::boolean_or(const std::string& key, bool fallback) const {
  return has(key) ? at(key).boolean(key) : fallback;
}
int64_t Json::integer_or(const std::string& key, int64_t fallback) const {
  return has(key) ? at(key).integer(key) : fallback;
}
double Json::number_or(const std::string& key, double fallback) const {
  return has(key) ? at(key).number(key) : fallback;
}
std::string Json::string_or(const std::string& key, std::string fallback) const {
  return has(key) ? at(key).string(key) : fallback;
}
std::vector<int64_t> Json::integers_or(const std::string& key, std::vector<int64_t> fallback) const {
  return list_or(*this, key, std::move(fallback), [&](const Json& item) { return item.integer(key); });
}
std::vector<double> Json::numbers_or(const std::string& key, std::vector<double> fallback) const {
  return list_or(*this, key, std::move(fallback), [&](const Json& item) { return item.number(key); });
}
std::vector<std::string> Json::strings_or(const std::string& key, std::vector<std::string> fallback) const {
  return list_or(*this, key, std::move(fallback), [&](const Json& item) { return item.string(key); });
}

}  // namespace le
