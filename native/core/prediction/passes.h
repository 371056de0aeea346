#pragma once
// The networks of a prediction, ready to run.
#include <c10/core/InferenceMode.h>

#include <deque>
#include <vector>

#include "ensemble.h"
#include "prediction/predict.h"

namespace le {

// While one lives, its networks evaluate, in the type of the options. For one thread.
class Passes {
 public:
  // ERR_LE_OPTION: members that do not fit together; heads, temperatures; passes of networks without dropout.
  Passes(const Members& members, const PredictOptions& options);

  // The kept heads' logits of a batch N×C×s on the CPU, divided by their temperatures: each N×C×s_k, where the networks
  // are. `statistics`: as of Ensemble::logits().
  std::vector<at::Tensor> logits(const at::Tensor& images, TapStatistics* statistics = nullptr);

  // As le::predict().
  std::vector<Predicted> predict(const std::vector<at::Tensor>& images, const Control& control);

  // ERR_LE_SHAPE where this is not the shape C×s of image `index`.
  void check_shape(at::IntArrayRef shape, size_t index) const;

 private:
  const Members& members_;
  const PredictOptions& options_;
  const std::vector<int64_t> kept_;
  const Autocast autocast_;
  const c10::InferenceMode inference_mode_;
  std::deque<Evaluation> evaluation_;
};

// ERR_LE_VALUE where image `index`, or a piece of it, is not finite.
void check_finite(const at::Tensor& image, size_t index);

}  // namespace le
