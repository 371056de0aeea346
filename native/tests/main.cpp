// Runs every TEST; an argument keeps those whose name contains it. Ends with one line: "N passed, N failed".
#include "check.h"
#include "error.h"

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0, failures = 0;
  for (const auto& test : le::test::cases()) {
    if (test.name.find(filter) == std::string::npos) continue;
    try {
      test.run();
      ++passed;
    } catch (const le::Error& error) {
      ++failures;
      std::cout << "FAILED " << test.name << "\n  " << error.what() << "\n  " << error.cause() << "\n";
    } catch (const std::exception& error) {
      ++failures;
      std::cout << "FAILED " << test.name << "\n  " << error.what() << "\n";
    }
  }
  std::cout << passed << " passed, " << failures << " failed" << std::endl;
  return failures || !passed ? 1 : 0;
}
