#pragma once
// Reading and writing the safetensors format (https://github.com/huggingface/safetensors, "Format").
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "files/json.h"

namespace le {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct SafetensorsFile {
  std::map<std::string, at::Tensor> tensors;    // on the CPU, contiguous, owning their memory's mapping
  std::map<std::string, std::string> metadata;  // the header's __metadata__
};

// Every offset, shape and size is checked before memory is touched; a file that is cut short, overlaps, has a type that
// is not known or a header above 100 MB raises ERR_LE_CHECKPOINT naming the file; one that cannot be opened, ERR_LE_IO.
// The tensors are copied out of the file, so that it may be replaced or truncated while they live.
SafetensorsFile read_safetensors(const std::string& path);

// Writes to a temporary name in the same folder, flushes it to the disk and renames it: a reader sees the old file or
// the new one, never half. On any failure the temporary file is removed and ERR_LE_IO names the path and the reason.
void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace le
