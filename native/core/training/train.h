#pragma once
// The training loop: the sum over heads of w_k · L(z_k, y), all heads and the backbone together. SPEC section 2.
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "control.h"
#include "convolutions/convolution.h"
#include "data/patches.h"
#include "ensemble.h"
#include "training/losses.h"

namespace le {

// JavaScript says them all (lib/ensemble/fit-options.ts), but for `run` and `resume`: there are no defaults here.
struct TrainOptions {
  int64_t epochs, batch_size;
  int64_t accumulate;  // batches per optimiser step
  double learning_rate;
  Json loss, optimizer, schedule;    // see losses.h, optim.h, schedule.h
  std::vector<double> head_weights;  // w_k, one per head; empty: all 1
  double head_gradient;              // see Ensemble::logits
  double clip_norm;                  // 0: no clipping
  int64_t early_stopping;            // epochs without a better validation loss; 0: off
  AugmentOptions augmentation;
  PatchOptions patches;  // what is trained on in the place of whole samples
  uint64_t seed;
  int64_t ignore_index;
  at::ScalarType dtype = at::kFloat;  // kBFloat16: autocast
  std::string run;                    // folder for checkpoints; empty: none are written
  int64_t checkpoint_every;           // epochs between checkpoints
  bool resume = false;                // go on from run/state.safetensors where that exists
  Json decisive;                      // the options as given, without those that a resumed run may change
  bool restore_best;                  // end with the weights of the best validation loss

  static TrainOptions from(const Json& options);
};

// Trains in place, on the calling thread. `validation` may be empty. `custom_loss` replaces options.loss where given.
//
// By patches an epoch is as many as Patches::count(), and "images" are patches. Validation is by tiles of their size
// then, over the samples whole: its loss is the mean over tiles, its Dice and nll are of samples, each pixel judged in
// one tile.
//
// Events go to control.report: {"type": "start", "epoch", "epochs", "before": [epoch events
// of the run that is resumed]} once, {"type": "batch", "epoch", "batch", "batches", "loss",
// "losses": {head: value}, "learningRate", "imagesPerSecond", "secondsLeft"} at most ten times a second, and {"type":
// "epoch", "epoch", "loss", "losses", "validation": {"loss", "heads": {name: {"dice", "nll"}}, "fused": {"dice",
// "nll"}}, "learningRate", "seconds", "imagesPerSecond", "secondsLeft", "best", "improved"} after each.
//
// Returns {"epochs": [every epoch event], "best": {"epoch", "loss"}, "stopped": "epochs" | "early"}.
// Errors: ERR_LE_ABORTED, ERR_LE_DIVERGED, ERR_LE_CHECKPOINT, ERR_LE_IO, and those of Dataset::validate.
Json train(Ensemble& ensemble, const Dataset& training, const Dataset* validation, const TrainOptions& options,
           const std::optional<Loss>& custom_loss, const Control& control);

// The convolutions that train() would run, validation counted, each kind once, without running one; none where they are
// not the CPU's. Of a custom loss options.loss is a stand-in. The network is as before; errors as train().
std::vector<ConvolutionCall> training_kernels(Ensemble& ensemble, const Dataset& training, const Dataset* validation,
                                              const TrainOptions& options, const Control& control);

// How long one batch takes forward and back, the shortest of some, in each type of numbers.
struct StepSeconds {
  double fp32 = std::numeric_limits<double>::infinity(), bf16 = std::numeric_limits<double>::infinity();
};

// Runs a few steps of train() that leave the network as before. Errors as train().
StepSeconds time_steps(Ensemble& ensemble, const Dataset& training, const TrainOptions& options,
                       const Control& control);

// A loss computed elsewhere: `compute` gets the logits at the target's size and gives the value and the gradient with
// respect to them.
using LossAndGradient = std::pair<double, at::Tensor>;
Loss external_loss(std::function<LossAndGradient(const at::Tensor& logits, const at::Tensor& target)> compute);

}  // namespace le
