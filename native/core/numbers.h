#pragma once
// Weights must be numbers. One that is NaN need not show in what a network gives: a maximum, a clamp or a mask may take
// it away, and what is left looks like an answer.
#include <ATen/core/Tensor.h>

#include <string>

#include "backbones/backbone.h"
#include "files/safetensors.h"

namespace le {

enum class Weight : uint8_t { kParameter, kBuffer };

// What is wrong with a weight's numbers, such as "NaN or infinity"; empty where nothing is. Wrong are NaN and infinity,
// and a variance ("running_var") below zero. A buffer of two or more axes may be a mask of zeros and -infinity.
std::string flaw(const std::string& name, const at::Tensor& tensor, Weight kind);

// "weight 'a.b', which has NaN or infinity, and 3 others": the weights that are no numbers; empty where all are.
std::string flaws(const NamedTensors& parameters, const NamedTensors& buffers = {});

// Raises `code` where any weight is no number. `subject`: whose weights; `advice`: what to do, the end of the sentence.
void check_numbers(const NamedTensors& parameters, const NamedTensors& buffers, const char* code,
                   const std::string& subject, const std::string& advice);

// Of a network that was read: ERR_LE_CHECKPOINT.
void check_numbers(const Backbone& backbone, const std::string& subject);

// What to do about a file whose weights are none.
inline constexpr const char* kDamagedWeights =
    "the training that wrote it diverged, or it is damaged: use an earlier checkpoint";

}  // namespace le
