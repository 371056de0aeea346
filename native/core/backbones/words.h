#pragma once
#include <functional>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

namespace le {

// The words of a text: a long list of names that is short to read.
inline std::set<std::string, std::less<>> words(const char* text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>()};
}

}  // namespace le
