#pragma once
// What is known of operators by their names.
#include <string>

namespace le::exported {

// Operators that read or write files, give a tensor memory of its choosing, or have kernels that trust their caller.
bool is_refused(const std::string& name);

// Checks that compare what the network was recorded with: other numbers and devices are allowed here.
bool is_ignored(const std::string& target);

// Compositions that make new memory always: most have no implementation without data in C++, to be tried with.
bool returns_fresh(const std::string& name);

}  // namespace le::exported
