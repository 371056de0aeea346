#include "files/checkpoint.h"

#include "error.h"

namespace le {

namespace {
constexpr const char* kModel = "model.";
constexpr const char* kOptimizer = "optimizer.";
constexpr const char* kProgress = "training-state";
}  // namespace

void write_training_state(const std::string& path, const TrainingState& state) {
  NamedTensors all;
  for (const auto& [name, tensor] : state.model) all.emplace_back(kModel + name, tensor);
  for (const auto& [name, tensor] : state.optimizer) all.emplace_back(kOptimizer + name, tensor);
  write_safetensors(path, all, {{kProgress, state.progress.dump()}});
}

LoadedTrainingState read_training_state(const std::string& path) {
  SafetensorsFile file = read_safetensors(path);
  const auto progress = file.metadata.find(kProgress);
  if (progress == file.metadata.end())
    fail(code::kCheckpoint, "Expected a training state in ", path, " but received other tensors.");
  LoadedTrainingState state;
  state.progress = Json::parse(progress->second, code::kCheckpoint);
  for (auto& [name, tensor] : file.tensors) {
    if (name.starts_with(kModel))
      state.model.emplace(name.substr(std::string(kModel).size()), std::move(tensor));
    else if (name.starts_with(kOptimizer))
      state.optimizer.emplace(name.substr(std::string(kOptimizer).size()), std::move(tensor));
    else
      fail(code::kCheckpoint, "Expected model and optimizer tensors in ", path, " but received '", name, "'.");
  }
  return state;
}

}  // namespace le
