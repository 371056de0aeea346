#pragma once
// One pass for a list of images: logits, fusion, maps and agreement counts.
#include <vector>

#include "control.h"
#include "ensemble.h"
#include "reduce.h"

namespace le {

struct PredictOptions {
  int64_t skip = 0;  // leave out the first T heads
  ReduceOptions reduce;
  int64_t batch_size = 8;
  at::ScalarType dtype = at::kFloat;  // kBFloat16: the network runs in bfloat16, fusion in float

  // {"skip", "fusion": "mean" | "logit-mean" | "vote" | "last", "weights", "maps": [names], "probabilities", "labels",
  //  "batchSize"}
  static PredictOptions from(const Json& options);
};

// images: each C×s float on the CPU; sizes may differ, those of one size share batches. Results are in the order of the
// images, each with a leading axis of 1. ERR_LE_SHAPE, ERR_LE_VALUE (not finite), ERR_LE_OPTION (skip, weights).
std::vector<Reduced> predict(Ensemble& ensemble, const std::vector<at::Tensor>& images, const PredictOptions& options,
                             const Control& control);

// The logits of every head, at the image's own size: for each head a tensor N×C×s, float, on the CPU.
// images: one tensor N×C×s.
std::vector<at::Tensor> forward(Ensemble& ensemble, const at::Tensor& images, at::ScalarType dtype);

// Interpolation of SPEC section 2 from a head's own size to the input's: bilinear or trilinear, align_corners=false.
at::Tensor interpolate(const at::Tensor& logits, at::IntArrayRef size);

}  // namespace le
