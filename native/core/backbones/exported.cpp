#include "backbones/imported.h"
#include "error.h"

namespace le {

std::unique_ptr<Backbone> load_exported(const ImportOptions& options) {
  fail(code::kCheckpoint, "torch.export files cannot be read yet: ", options.file);
}

}  // namespace le
