#pragma once
// Every convolution that libtorch runs on the CPU, and every gradient of one, passes through here, whoever asked for
// it: networks of this package, graphs from files, heads. Where its kernel is known or was found to be wrong, it takes
// a detour.
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "convolutions/convolution.h"
#include "convolutions/detours.h"

namespace le {

// Puts the guard in the way, once per process. Everything here needs it; so does every training and prediction.
void guard_convolutions();

// The detour of a call: as found, else as known.
Detour detour_of(const ConvolutionCall& call);

// Remembers for the whole process what a check found. kNone: the kernel is right, whatever is known of its kind.
void remember_detour(const ConvolutionCall& call, Detour detour);

// While it lives, this thread's calls take this detour, whatever an outer one says: for checks.
class ForcedDetour {
 public:
  explicit ForcedDetour(Detour detour);
  ~ForcedDetour();
  ForcedDetour(const ForcedDetour&) = delete;
  ForcedDetour& operator=(const ForcedDetour&) = delete;

 private:
  const std::optional<Detour> before_;
};

// While it lives, this thread's convolutions and their gradients are written down, each kind once, instead of computed:
// they give zeros. The passes of a network then say which kernels it would use, without the use of one.
class Recording {
 public:
  Recording();
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  const std::vector<ConvolutionCall>& calls() const { return calls_; }
  void add(const ConvolutionCall& call);
  // Whether this thread is recording.
  static bool active();

 private:
  Recording* const before_;
  std::vector<ConvolutionCall> calls_;
};

}  // namespace le
