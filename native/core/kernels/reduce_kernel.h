#pragma once
// The fused pass over the heads, compiled once per instruction set. This header and the kernel's source use no library
// templates: an inline function compiled for AVX-512 could otherwise be the copy that the linker keeps for everyone.
#include <cstdint>

#include "kernels/axis.h"

namespace le::kernel {

// One item of work: kBand rows of kTile columns of one plane of one image. A tile's width is the bits of a word, in
// which head and class keep their pixels for the agreement counts; what an item touches stays in the first caches.
inline constexpr int kTile = 64, kBand = 32;
inline constexpr int kMaps = 6;  // in the order of the bits of le::Map

// What the fused probabilities are made of.
enum class Fused { kMean, kWeightedMean, kLogitMean, kVote, kLast };

struct Head {
  const void* data;
  bool bfloat16;                                  // else float
  int64_t image_stride, class_stride, stride[3];  // in elements; axes are depth, height, width
  Axis axis[3];                                   // their arrays go on to a multiple of kTile
  float share;                                    // weight / sum of weights
};

struct Task {
  int64_t heads, classes;
  int64_t size[3];  // depth (1 for 2D), height, width of the output
  const Head* head;
  Fused fused;
  float* probabilities;  // N×C×S, or null
  float* maps[kMaps];    // N×S, or null where not asked for
  uint8_t* mask;         // N×S
  uint8_t* labels;       // N×K×S, or null
};

// Internal to each translation unit, for the reason above.
static inline int64_t tiles_of(const Task& task) { return (task.size[2] + kTile - 1) / kTile; }
static inline int64_t bands_of(const Task& task) { return (task.size[1] + kBand - 1) / kBand; }
static inline int64_t items_per_image(const Task& task) { return task.size[0] * bands_of(task) * tiles_of(task); }
// Channels that are interpolated: two classes need only the difference of their logits.
static inline int64_t channels_of(const Task& task) { return task.classes == 2 ? 1 : task.classes; }
// Numbers of Partial::sums.
static inline int64_t head_sums_of(const Task& task) { return task.heads * channels_of(task) * 2; }
static inline int64_t sums_of(const Task& task) { return 2 * kMaps + 3 * task.classes + head_sums_of(task); }

// A row of the tile of one head, as a mix of two of its rows that were brought to the output's width.
struct Row {
  const float *upper, *lower;  // channels × kTile
  float upper_weight, lower_weight;
};

// Working memory of one thread; every array begins at a multiple of 64 bytes, and all begin as zeros.
struct Scratch {
  float* wide;          // heads × 2 × channels × kTile: rows at the output's width
  int64_t* cached;      // heads × 2: which source rows those are
  Row* rows;            // heads
  float* samples;       // classes × (widest source row + kTile): a piece of a source row as it lies in memory
  float* next;          // the same: that of the next plane
  float* segment;       // widest source row + kTile: one channel of it
  float* lanes;         // (5 × classes + 2 × (kMaps + classes)) × 16: vectors per class; sums of a row, lane by lane
  double* totals;       // 2 × (kMaps + classes) × 16: sums of the item, lane by lane
  int64_t* counts;      // classes
  float* head_lanes;    // heads × channels × 2 × 16: sums of each head over a few rows, lane by lane
  double* head_totals;  // the same of the item
  float* edge;          // (kMaps + classes) × kTile: results of a tile that ends within a vector
  uint8_t* edge_bytes;  // (1 + heads) × kTile
  uint64_t* words;      // heads × classes × kBand: whose pixels are whose
};

// What an item gives. `sums` is set: 6×2 of maps, then C×3 of classes, as in le::Reduced, then those of heads: for more
// than two classes K×C×2, as there; for two K×2, the probability of the less likely class, and that where m_k = 1, from
// which the others follow. `pairs` is added to: K×K×C pixels where head i and head j ≤ i both say c; for C = 2 class 1
// alone, from which class 0 follows. `not_finite` is set to 1 for a head with a logit that is NaN or infinite.
struct Partial {
  double* sums;
  int64_t* pairs;
  uint8_t* not_finite;
};

using Run = void (*)(const Task& task, int64_t item, const Scratch& scratch, const Partial& partial);
void run_generic(const Task& task, int64_t item, const Scratch& scratch, const Partial& partial);
#if defined(__x86_64__)
void run_avx2(const Task& task, int64_t item, const Scratch& scratch, const Partial& partial);
void run_avx512(const Task& task, int64_t item, const Scratch& scratch, const Partial& partial);
#endif

}  // namespace le::kernel
