#include "backbones/imported.h"
#include "error.h"

namespace le {

std::unique_ptr<Backbone> load_script(const ImportOptions& options) {
  fail(code::kCheckpoint, "TorchScript files cannot be read yet: ", options.file);
}

}  // namespace le
