#pragma once
// Weights from any file that Python users keep them in: safetensors, or a PyTorch state dict (torch.save).
#include <string>
#include <vector>

#include "files/state_dict.h"

namespace le {

// The dictionaries of tensors in a file, outermost first: of safetensors one; of a torch.save file, zip or legacy,
// every one that string keys lead to, so that a checkpoint's "state_dict", "ema" and so on are each there. What stands
// beside the tensors is ignored. Tensors that share memory in the file share it here: to be copied from. The pickle is
// read by a small machine that can make tensors, numbers, strings and plain containers and nothing else: nothing is
// imported, nothing executed, and a pickle that asks for more is refused by the name of what it asks for.
// ERR_LE_CHECKPOINT naming the file and what is wrong with it; ERR_LE_IO.
std::vector<StateDict> read_state_dicts(const std::string& path);

}  // namespace le
