#pragma once
// Weights from any file that Python users keep them in: safetensors, or a PyTorch state dict (torch.save).
#include <map>
#include <string>

#include "safetensors.h"

namespace le {

// Tensors by state-dict name. safetensors as read_safetensors; a torch.save file, zip or legacy, holding a dict of
// tensors, or one under "state_dict", "model_state_dict" or "model"; what stands beside the tensors is ignored. A
// "module." prefix of every name is dropped. Tensors that share memory in the file share it here: to be copied from.
// The pickle is read by a small machine that can make tensors, numbers, strings and plain containers and nothing else:
// nothing is imported, nothing executed, and a pickle that asks for more is refused by the name of what it asks for.
// ERR_LE_CHECKPOINT naming the file and what is wrong with it; ERR_LE_IO.
std::map<std::string, at::Tensor> read_weights(const std::string& path);

}  // namespace le
