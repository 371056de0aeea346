#pragma once
// What a training run writes: weights.safetensors (the best so far) and state.safetensors (all that resuming needs).
#include <map>
#include <string>

#include "files/json.h"
#include "files/safetensors.h"

namespace le {

struct TrainingState {
  NamedTensors model;      // parameters and buffers
  NamedTensors optimizer;  // moments and step counts
  Json progress;           // epoch, step, schedule, best, fingerprint of the options
};

// Atomic, as write_safetensors.
void write_training_state(const std::string& path, const TrainingState& state);

struct LoadedTrainingState {
  std::map<std::string, at::Tensor> model, optimizer;
  Json progress;
};
// ERR_LE_CHECKPOINT for a file that is not a training state.
LoadedTrainingState read_training_state(const std::string& path);

}  // namespace le
