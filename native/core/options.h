#pragma once
// The ranges of options, checked and told of in one way. What is outside is ERR_LE_OPTION.
#include <iterator>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

#include "error.h"
#include "files/json.h"

namespace le {

template <class T>
struct Range {
  T low, high;
  bool below = false;  // `high` itself is outside
};
constexpr bool kBelow = true;

// Finite numbers.
template <class T>
Range<T> at_least(T low) {
  using Limits = std::numeric_limits<T>;
  return {low, Limits::has_infinity ? Limits::infinity() : Limits::max(), kBelow};
}

// `value`, which is in `range`. `of` follows the option's name in the error, as " of the loss" does.
template <class T>
T in_range(const char* name, T value, const Range<std::type_identity_t<T>>& range, const char* of = "") {
  if (value >= range.low && (range.below ? value < range.high : value <= range.high)) return value;
  std::ostringstream expected;
  expected << range.low;
  if (range.high == at_least(range.low).high)
    expected << " or more";
  else
    expected << (range.below ? " to below " : " to ") << range.high;
  fail(code::kOption, "Expected ", expected.str(), " for option '", name, "'", of, " but received ", value, ".");
}

// The same of a number that must be in `options`.
template <class T>
T in_range(const Json& options, const char* name, const Range<T>& range, const char* of = "") {
  static_assert(std::is_same_v<T, int64_t> || std::is_same_v<T, double>);
  if constexpr (std::is_same_v<T, double>)
    return in_range(name, options.at(name).number(name), range, of);
  else
    return in_range(name, options.at(name).integer(name), range, of);
}

// The same of one that may be, or `fallback`, whose type is the number's.
template <class T>
T in_range(const Json& options, const char* name, T fallback, const Range<std::type_identity_t<T>>& range,
           const char* of = "") {
  return options.has(name) ? in_range<T>(options, name, range, of) : in_range(name, fallback, range, of);
}

template <class Names>
std::string listed(const Names& names) {
  std::string all;
  for (const auto& name : names) (all += all.empty() ? "" : ", ") += name;
  return all;
}

// The place of `value` among `names`.
template <class Names>
size_t one_of(const char* name, const std::string& value, const Names& names) {
  size_t index = 0;
  for (const auto& known : names) {
    if (value == known) return index;
    ++index;
  }
  fail(code::kOption, "Expected one of ", listed(names), " for option '", name, "' but received '", value, "'.");
}

}  // namespace le
