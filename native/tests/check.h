#pragma once
// A test is a function that throws. CHECK gives the expression and the place; the runner goes on with the next test.
#include <functional>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace le::test {

struct Case {
  std::string name;
  std::function<void()> run;
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
struct Register {
  Register(std::string name, std::function<void()> run) { cases().push_back({std::move(name), std::move(run)}); }
};

template <class... Parts>
[[noreturn]] void failed(const char* file, int line, const Parts&... parts) {
  std::ostringstream message;
  message << file << ":" << line << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace le::test

#define LE_JOIN2(a, b) a##b
#define LE_JOIN(a, b) LE_JOIN2(a, b)
#define TEST(name)                                                                                \
  static void LE_JOIN(test_, __LINE__)();                                                         \
  static const ::le::test::Register LE_JOIN(register_, __LINE__)(name, LE_JOIN(test_, __LINE__)); \
  static void LE_JOIN(test_, __LINE__)()
#undef CHECK  // c10 has one that ends the process
#define CHECK(expression) \
  if (!(expression)) ::le::test::failed(__FILE__, __LINE__, "CHECK(" #expression ")")
#define CHECK_NEAR(actual, expected, tolerance)                                                 \
  if (const double le_a = (actual), le_b = (expected); !(std::abs(le_a - le_b) <= (tolerance))) \
  ::le::test::failed(__FILE__, __LINE__, #actual " = ", le_a, ", expected ", le_b, " within ", (tolerance))
#define CHECK_THROWS(statement, expected_code)                                                             \
  do {                                                                                                     \
    std::string le_code = "nothing";                                                                       \
    try {                                                                                                  \
      statement;                                                                                           \
    } catch (const ::le::Error& error) {                                                                   \
      le_code = error.code();                                                                              \
    }                                                                                                      \
    if (le_code != (expected_code)) ::le::test::failed(__FILE__, __LINE__, #statement " threw ", le_code); \
  } while (false)
