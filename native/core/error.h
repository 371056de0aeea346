#pragma once
// The one exception type of the core. Its code is stable and is what a JavaScript caller sees as `error.code`.
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace le {

// Every code that the core can raise; lib/errors.ts has the same list and those of the loader.
namespace code {
inline constexpr const char* kShape = "ERR_LE_SHAPE";    // an array's shape does not fit
inline constexpr const char* kValue = "ERR_LE_VALUE";    // NaN, a label out of range, a number out of range
inline constexpr const char* kOption = "ERR_LE_OPTION";  // an option that is unknown or of the wrong type
inline constexpr const char* kTap = "ERR_LE_TAP";        // a tap that does not exist or did not run
inline constexpr const char* kCheckpoint =
    "ERR_LE_CHECKPOINT";                         // a weight or state file that is cut short, foreign or damaged
inline constexpr const char* kIo = "ERR_LE_IO";  // the file system said no
inline constexpr const char* kAborted = "ERR_LE_ABORTED";    // the caller's AbortSignal
inline constexpr const char* kDisposed = "ERR_LE_DISPOSED";  // used after dispose()
inline constexpr const char* kDevice = "ERR_LE_DEVICE";      // a device that is not there
inline constexpr const char* kMemory = "ERR_LE_MEMORY";      // out of memory
inline constexpr const char* kDiverged = "ERR_LE_DIVERGED";  // a loss that is no longer a number
inline constexpr const char* kInternal = "ERR_LE_INTERNAL";  // libtorch refused; its message is the cause
}  // namespace code

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message, std::string cause = {})
      : std::runtime_error(message), code_(std::move(code)), cause_(std::move(cause)) {}
  const std::string& code() const noexcept { return code_; }
  // What libtorch or the system said, without a backtrace. Empty where there is none.
  const std::string& cause() const noexcept { return cause_; }

 private:
  std::string code_, cause_;
};

// fail(code::kShape, "Expected 3 axes for image but received ", n)
template <class... Parts>
[[noreturn]] void fail(const char* code, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(code, message.str());
}

}  // namespace le
