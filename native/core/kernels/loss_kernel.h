#pragma once
// What the losses need of a batch, in one pass over its pixels, and the gradient in another; the interpolation of the
// logits is part of both. Compiled once per instruction set, and so free of library templates: an inline function
// compiled for AVX-512 could otherwise be the copy that the linker keeps for everyone.
#include <cstdint>

#include "kernels/axis.h"

namespace le::kernel {

inline constexpr int64_t kLossPadding = 16;  // floats in the longest vector

struct LossTask {
  int64_t classes;
  Axis rows, columns;   // columns: its arrays go on to a multiple of kLossPadding
  bool same;            // the logits have the target's size: nothing to interpolate
  const float* logits;  // N×C×h×w
  const void* target;   // N×H×W
  bool byte_target;     // uint8, else int64
  int32_t ignore_index;
  const float* class_weights;  // C
  bool nll, all_nll, focal;    // which of these sums are wanted
  float gamma;
  int64_t bands;  // pieces of work per image

  // Two classes need only the difference of their logits.
  int64_t channels() const { return classes == 2 ? 1 : classes; }
  int64_t padded() const { return (columns.size + kLossPadding - 1) / kLossPadding * kLossPadding; }
  int64_t first_row(int64_t band) const { return rows.size * band / bands; }
  // The source rows that a band reads: [first, last].
  int64_t first_source(int64_t band) const { return rows.index[first_row(band)]; }
  int64_t last_source(int64_t band) const {
    const int64_t row = first_row(band + 1) - 1;
    return rows.index[row] + (rows.weight[row] != 0);
  }
  // Per image: hits C, predicted C, truth C, counted, nll, nll of all classes, focal.
  int64_t sums() const { return 3 * classes + 4; }
  // Per image, the derivatives by hits C, predicted C, nll, nll of all classes, focal.
  int64_t coefficients() const { return 2 * classes + 3; }
  int64_t scratch() const {  // floats
    return (6 * channels() + classes + 1) * padded() + sums() * kLossPadding + columns.source + 1;
  }
};

// Item i is band i % bands of image i / bands. `sums` is set to those of the item.
using LossForward = void (*)(const LossTask& task, int64_t item, float* scratch, double* sums);
// `gradient`: N×C×H×W, of which the item's rows are set, where the sizes are the same; else that of the item's source
// rows, C × rows × w, which is zero before.
using LossBackward = void (*)(const LossTask& task, int64_t item, const float* coefficients, float* scratch,
                              float* gradient);

void loss_forward_generic(const LossTask&, int64_t, float*, double*);
void loss_backward_generic(const LossTask&, int64_t, const float*, float*, float*);
#if defined(__x86_64__)
void loss_forward_avx2(const LossTask&, int64_t, float*, double*);
void loss_backward_avx2(const LossTask&, int64_t, const float*, float*, float*);
void loss_forward_avx512(const LossTask&, int64_t, float*, double*);
void loss_backward_avx512(const LossTask&, int64_t, const float*, float*, float*);
#endif

}  // namespace le::kernel
