// Source of the kernel; included once per instruction set, with LE_LANES (floats in a vector) and LE_RUN (its name).
//
// Per item: each head's source rows are made ready for a row of the output (reduce_kernel_rows.h), whose pixels are
// then reduced (reduce_kernel_pixels.h) and counted.
#include "kernels/reduce_kernel_pixels.h"
#include "kernels/reduce_kernel_rows.h"

namespace le::kernel {
namespace {

int64_t common(const uint64_t* a, const uint64_t* b) {
  int64_t n = 0;
  for (int y = 0; y < kBand; ++y) n += __builtin_popcountll(a[y] & b[y]);
  return n;
}

// Adds the item's pixels where heads i and j ≤ i both say c. With two classes only class 1 has words.
void count_pairs(const Task& task, const uint64_t* words, int64_t* pairs) {
  const int64_t heads = task.heads, classes = task.classes, head_words = classes * kBand;
  for (int64_t c = classes == 2; c < classes; ++c) {
    for (int64_t i = 0; i < heads; ++i) {
      const uint64_t* own = words + i * head_words + c * kBand;
      const int64_t pixels = common(own, own);
      if (pixels == 0) continue;
      pairs[(i * heads + i) * classes + c] += pixels;
      for (int64_t j = 0; j < i; ++j)
        pairs[(i * heads + j) * classes + c] += common(own, words + j * head_words + c * kBand);
    }
  }
}

void add_lanes(const float* row, int64_t n, double* totals) {
  for (int64_t i = 0; i < n; ++i) totals[i] += row[i];
}

// Rows whose sums stay in single precision: 32 additions a lane.
constexpr int64_t kRows = kLanes / 2;

double sum_of_lanes(const double* lanes) {
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace

void LE_RUN(const Task& task, int64_t item, const Scratch& s, const Partial& partial) {
  const int64_t height = task.size[1], width = task.size[2], plane = height * width, volume = task.size[0] * plane;
  const int64_t tile = item % tiles_of(task), band = item / tiles_of(task) % bands_of(task),
                z = item / (tiles_of(task) * bands_of(task)) % task.size[0], image = item / items_per_image(task);
  const int64_t x = tile * kTile, columns = least(kTile, width - x);
  const int64_t top = band * kBand, bottom = least(top + kBand, height);
  const int64_t heads = task.heads, classes = task.classes, sums = 2 * (kMaps + classes),
                head_sums = head_sums_of(task);
  const RowFunction row = row_function(task);

  for (int64_t i = 0; i < 2 * heads; ++i) s.cached[i] = -1;
  for (int64_t i = 0; i < heads * classes * kBand; ++i) s.words[i] = 0;
  for (int64_t i = 0; i < sums * kLanes; ++i) s.totals[i] = 0;
  for (int64_t i = 0; i < head_sums * kLanes; ++i) s.head_totals[i] = s.head_lanes[i] = 0;
  for (int64_t c = 0; c < classes; ++c) s.counts[c] = 0;

  for (int64_t y = top; y < bottom; ++y) {
    prepare_rows(task, image, z, y, x, columns, s, partial.not_finite);
    // A vector may reach over the image's border: there, results go to `edge` and what is valid is copied.
    const bool cut = columns % kLanes != 0;
    const int64_t pixel = z * plane + y * width + x, at = image * volume + pixel;
    float* const probabilities = task.probabilities ? task.probabilities + image * classes * volume + pixel : nullptr;
    uint8_t* const labels = task.labels ? task.labels + image * heads * volume + pixel : nullptr;
    Output out;
    for (int map = 0; map < kMaps; ++map)
      out.maps[map] = !task.maps[map] ? nullptr : cut ? s.edge + map * kTile : task.maps[map] + at;
    out.probabilities = probabilities && cut ? s.edge + kMaps * kTile : probabilities;
    out.class_stride = cut ? kTile : volume;
    out.mask = cut ? s.edge_bytes : task.mask + at;
    out.labels = labels && cut ? s.edge_bytes + kTile : labels;
    out.head_stride = cut ? kTile : volume;
    out.words = s.words + (y - top);
    out.sums = s.lanes + 5 * classes * kLanes;
    out.counts = s.counts;
    out.head_sums = s.head_lanes;
    for (int64_t i = 0; i < sums * kLanes; ++i) out.sums[i] = 0;
    row(task, s, out, columns);
    add_lanes(out.sums, sums * kLanes, s.totals);
    if ((y - top) % kRows == kRows - 1 || y == bottom - 1) {
      add_lanes(s.head_lanes, head_sums * kLanes, s.head_totals);
      for (int64_t i = 0; i < head_sums * kLanes; ++i) s.head_lanes[i] = 0;
    }
    if (cut) {
      const size_t floats = static_cast<size_t>(columns) * sizeof(float), bytes = static_cast<size_t>(columns);
      for (int map = 0; map < kMaps; ++map)
        if (task.maps[map]) memcpy(task.maps[map] + at, out.maps[map], floats);
      for (int64_t c = 0; probabilities && c < classes; ++c)
        memcpy(probabilities + c * volume, out.probabilities + c * kTile, floats);
      memcpy(task.mask + at, out.mask, bytes);
      for (int64_t k = 0; labels && k < heads; ++k) memcpy(labels + k * volume, out.labels + k * kTile, bytes);
    }
  }

  for (int64_t i = 0; i < 2 * kMaps; ++i) partial.sums[i] = sum_of_lanes(s.totals + i * kLanes);
  for (int64_t c = 0; c < classes; ++c) {
    double* of_class = partial.sums + 2 * kMaps + 3 * c;
    const double* lanes = s.totals + 2 * (kMaps + c) * kLanes;
    of_class[0] = static_cast<double>(s.counts[c]);
    of_class[1] = sum_of_lanes(lanes);
    of_class[2] = sum_of_lanes(lanes + kLanes);
  }
  double* const of_heads = partial.sums + 2 * kMaps + 3 * classes;
  for (int64_t i = 0; i < head_sums; ++i) of_heads[i] = sum_of_lanes(s.head_totals + i * kLanes);
  count_pairs(task, s.words, partial.pairs);
}

}  // namespace le::kernel
