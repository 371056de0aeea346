#pragma once
// One pass for a list of images: logits, fusion, maps and agreement counts.
#include <vector>

#include "control.h"
#include "ensemble.h"
#include "prediction/reduce.h"

namespace le {

struct PredictOptions {
  std::vector<int64_t> heads;        // which to keep, by index and in increasing order; empty: all
  std::vector<double> temperatures;  // τ of each kept head: softmax(z / τ); empty: all 1
  // Monte Carlo dropout: so many passes of each image with dropout, each giving all heads; 0: one pass without.
  int64_t passes = 0;
  uint64_t seed = 0;  // of the dropout; an image's passes draw the same whatever shares its batch
  ReduceOptions reduce;
  int64_t batch_size = 8;
  at::ScalarType dtype = at::kFloat;        // kBFloat16: the network runs in bfloat16, fusion in float
  std::vector<std::string> tap_statistics;  // layers of the first network whose features are measured

  // {"heads", "fusion": "mean" | "logit-mean" | "vote" | "last" | "staple", "weights", "temperatures", "temperature",
  //  "maps": [names], "probabilities", "labels", "batchSize", "passes", "seed", "tapStatistics": [names]}
  static PredictOptions from(const Json& options);
};

// The networks whose heads make one prediction, in order: several for a deep ensemble. They agree in classes, in the
// image's channels and axes, and in their device.
using Members = std::vector<Ensemble*>;

struct Predicted : Reduced {
  // By PredictOptions::tap_statistics: 1×2C float, see taps/statistics.h. Of several networks those of the first, whose
  // features stand for the others'; of several passes their mean, in which what dropout changes evens out.
  std::vector<at::Tensor> tap_statistics;
};

// images: each C×s float on the CPU; sizes may differ, those of one size share batches. Results are in the order of the
// images, each with a leading axis of 1. Heads are in the order of the members, of a member's passes, and of its heads.
// ERR_LE_SHAPE, ERR_LE_VALUE (not finite), ERR_LE_OPTION (heads, weights; passes of networks without dropout),
// ERR_LE_TAP (tap_statistics).
std::vector<Predicted> predict(const Members& members, const std::vector<at::Tensor>& images,
                               const PredictOptions& options, const Control& control);
inline std::vector<Predicted> predict(Ensemble& ensemble, const std::vector<at::Tensor>& images,
                                      const PredictOptions& options, const Control& control) {
  return predict(Members{&ensemble}, images, options, control);
}

// The logits of every head, at the image's own size: for each head a tensor N×C×s, float, on the CPU.
// images: one tensor N×C×s. passes, seed: as in PredictOptions. ERR_LE_VALUE for an image that is not finite, as for
// logits that are not; else as predict().
std::vector<at::Tensor> forward(const Members& members, const at::Tensor& images, at::ScalarType dtype,
                                int64_t passes = 0, uint64_t seed = 0);

}  // namespace le
