// Source of the kernel; included once per instruction set, with LE_LANES (floats in a vector) and LE_NAME (its suffix).
#include <cstdint>
#include <cstring>

#include "kernels/loss_kernel.h"
#include "kernels/vector_math.h"

namespace le::kernel {
namespace {

inline Ints load(const int32_t* p) {
  Ints x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void add(float* p, V x) { store(p, load(p) + x); }
inline V at_most(V x, float limit) { return x > limit ? set(limit) : x; }  // NaN stays NaN
inline V largest(V a, V b) { return a > b ? a : b; }
inline V where(Ints mask, V x) { return as_floats(mask & as_ints(x)); }
inline float total(const float* lanes) {
  float sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// e^-x for x ≥ 0, no less than e^-87.
inline V bounded_exp_of_minus(V x) { return exp_of_minus(at_most(x, 87.0f)); }

// x^γ for 0 < x ≤ 1, between e^-87 and e^87.
inline V power(V x, float gamma) {
  if (gamma == 0) return set(1.0f);
  if (gamma == 1) return x;
  if (gamma == 2) return x * x;
  const V minus_log = largest(-ln(x), set(0.0f));
  return gamma > 0 ? bounded_exp_of_minus(minus_log * gamma) : 1.0f / bounded_exp_of_minus(minus_log * -gamma);
}

// Working memory of an item.
struct Work {
  const LossTask& task;
  int64_t image, channels, padded;
  float* logits;    // channels × padded: the row being looked at
  float* wide;      // 2 × channels × padded: source rows at the output's width, at the parity of their index
  float* gathered;  // 2 × channels × padded: the gradients of two such rows
  float* gradient;  // channels × padded
  float* p;         // C × padded
  int32_t* label;   // padded
  float* lanes;     // sums × kLossPadding
  float* segment;   // w + 1
  int64_t kept[2] = {-1, -1};

  Work(const LossTask& t, int64_t item, float* scratch)
      : task(t), image(item / t.bands), channels(t.channels()), padded(t.padded()) {
    const auto take = [&](int64_t count) {
      float* at = scratch;
      scratch += count;
      return at;
    };
    logits = take(channels * padded);
    wide = take(2 * channels * padded);
    gathered = take(2 * channels * padded);
    gradient = take(channels * padded);
    p = take(t.classes * padded);
    label = reinterpret_cast<int32_t*>(take(padded));
    lanes = take(t.sums() * kLossPadding);
    segment = take(t.columns.source + 1);
  }

  const float* source(int64_t c, int64_t y) const {
    return task.logits + ((image * task.classes + c) * task.rows.source + y) * task.columns.source;
  }

  // A channel of a source row: logits, or their difference.
  void read(int64_t channel, int64_t y, float* to) const {
    const int64_t count = task.columns.source;
    if (channels != 1) {
      memcpy(to, source(channel, y), count * sizeof(float));
      return;
    }
    const float *one = source(1, y), *zero = source(0, y);
    for (int64_t i = 0; i < count; ++i) to[i] = one[i] - zero[i];
  }

  const float* widened(int64_t y) {
    float* to = wide + (y & 1) * channels * padded;
    if (kept[y & 1] == y) return to;
    kept[y & 1] = y;
    const int32_t* index = task.columns.index;
    const float* weight = task.columns.weight;
    for (int64_t k = 0; k < channels; ++k) {
      read(k, y, segment);
      segment[task.columns.source] = 0;  // the last sample's neighbour, taken with weight 0
      float* row = to + k * padded;
      for (int64_t i = 0; i < padded; ++i)
        row[i] = (1 - weight[i]) * segment[index[i]] + weight[i] * segment[index[i] + 1];
    }
    return to;
  }

  // Logits and labels of output row `y`; labels beyond its end are the ignored one.
  void prepare(int64_t y) {
    const int64_t width = task.columns.size, offset = (image * task.rows.size + y) * width;
    if (task.byte_target) {
      const uint8_t* from = static_cast<const uint8_t*>(task.target) + offset;
      for (int64_t i = 0; i < width; ++i) label[i] = from[i];
    } else {
      const int64_t* from = static_cast<const int64_t*>(task.target) + offset;
      for (int64_t i = 0; i < width; ++i) label[i] = static_cast<int32_t>(from[i]);
    }
    for (int64_t i = width; i < padded; ++i) label[i] = task.ignore_index;
    if (task.same) {
      for (int64_t k = 0; k < channels; ++k) {
        read(k, y, logits + k * padded);
        for (int64_t i = width; i < padded; ++i) logits[k * padded + i] = 0;
      }
      return;
    }
    const float share = task.rows.weight[y];
    const int64_t above = task.rows.index[y];
    const float *upper = widened(above), *lower = share != 0 ? widened(above + 1) : upper;
    for (int64_t i = 0; i < channels * padded; ++i) logits[i] = (1 - share) * upper[i] + share * lower[i];
  }

  // Probabilities of LE_LANES pixels into `p`, and -ln and 1 - of the probability of the label where asked for.
  void softmax(int64_t i, bool logarithm, V& nll, V& others) const {
    const Ints y = load(label + i);
    if (channels == 1) {
      const V d = load(logits + i), far = d < 0.0f ? -d : d, t = bounded_exp_of_minus(far), larger = 1.0f / (1.0f + t);
      const V smaller = t * larger;
      const Ints up = d > 0.0f;
      const V p1 = up ? larger : smaller, p0 = up ? smaller : larger;
      store(p + i, p0);
      store(p + padded + i, p1);
      if (!logarithm) return;
      const V against = y == 1 ? -d : d;
      nll = largest(against, set(0.0f)) + ln_1p(t);
      others = y == 1 ? p0 : p1;
      return;
    }
    V most = load(logits + i), of_label = most;
    for (int64_t c = 1; c < task.classes; ++c) most = largest(most, load(logits + c * padded + i));
    V sum = set(0.0f), rest = set(0.0f);
    for (int64_t c = 0; c < task.classes; ++c) {
      const V z = load(logits + c * padded + i), e = bounded_exp_of_minus(most - z);
      const Ints here = y == static_cast<int32_t>(c);
      sum += e;
      rest += where(~here, e);
      of_label = here ? z : of_label;
      store(p + c * padded + i, e);
    }
    const V scale = 1.0f / sum;
    for (int64_t c = 0; c < task.classes; ++c) store(p + c * padded + i, load(p + c * padded + i) * scale);
    if (!logarithm) return;
    nll = (most - of_label) + ln(sum);
    others = rest * scale;
  }

  // -ln p of one class, from the logits: p itself may have become 0.
  V minus_log(int64_t c, int64_t i) const {
    if (channels == 1) {
      const V d = load(logits + i), far = d < 0.0f ? -d : d, against = c == 1 ? -d : d;
      return largest(against, set(0.0f)) + ln_1p(bounded_exp_of_minus(far));
    }
    V most = load(logits + i), sum = set(0.0f);
    for (int64_t k = 1; k < task.classes; ++k) most = largest(most, load(logits + k * padded + i));
    for (int64_t k = 0; k < task.classes; ++k) sum += bounded_exp_of_minus(most - load(logits + k * padded + i));
    return (most - load(logits + c * padded + i)) + ln(sum);
  }

  V weight_of(Ints y) const {
    V w = set(0.0f);
    for (int64_t c = 0; c < task.classes; ++c) w += where(y == static_cast<int32_t>(c), set(task.class_weights[c]));
    return w;
  }

  void sum_row(double* sums) const {
    const int64_t classes = task.classes;
    float* const row = lanes;
    memset(row, 0, task.sums() * kLossPadding * sizeof(float));
    const auto sum = [&](int64_t which) { return row + which * kLossPadding; };
    const bool logarithm = task.nll || task.focal;
    const V one = set(1.0f);
    for (int64_t i = 0; i < padded; i += kLanes) {
      V nll = set(0.0f), others = nll;
      softmax(i, logarithm, nll, others);
      const Ints y = load(label + i), counts = y != task.ignore_index;
      for (int64_t c = 0; c < classes; ++c) {
        const V pc = load(p + c * padded + i);
        const Ints here = y == static_cast<int32_t>(c);
        add(sum(c), where(here, pc));
        add(sum(classes + c), where(counts, pc));
        add(sum(2 * classes + c), where(here, one));
      }
      add(sum(3 * classes), where(counts, one));
      if (logarithm) {
        const V weighted = weight_of(y) * nll;
        add(sum(3 * classes + 1), where(counts, weighted));
        if (task.focal)
          add(sum(3 * classes + 3), where(counts, weighted * power(largest(others, set(1e-30f)), task.gamma)));
      }
      if (task.all_nll) {
        V all = set(0.0f);
        for (int64_t c = 0; c < classes; ++c) all += task.class_weights[c] * minus_log(c, i);
        add(sum(3 * classes + 2), where(counts, all));
      }
    }
    for (int64_t j = 0; j < task.sums(); ++j) sums[j] += static_cast<double>(total(sum(j)));
  }

  // The gradient with respect to the row's logits. With p the softmax: of Σ_j g_j p_j it is p_c (g_c - Σ_j g_j p_j), of
  // -ln p_y it is p_c - [y = c], of -(1 - p_y)^γ ln p_y the same times (1 - p_y)^γ - γ p_y (1 - p_y)^(γ-1) ln p_y.
  void differentiate_row(const float* coefficients) const {
    const int64_t classes = task.classes;
    const float *hits = coefficients, *predicted = hits + classes;
    const float by_nll = predicted[classes], by_all = predicted[classes + 1], by_focal = predicted[classes + 2];
    float weights = 0;
    for (int64_t c = 0; c < classes; ++c) weights += task.class_weights[c];
    for (int64_t i = 0; i < padded; i += kLanes) {
      V nll = set(0.0f), others = nll;
      softmax(i, task.focal, nll, others);
      const Ints y = load(label + i), counts = y != task.ignore_index;
      V factor = set(by_nll);
      if (task.focal) {
        others = largest(others, set(1e-30f));
        const V slope =
            task.gamma == 0 ? set(0.0f) : power(others, task.gamma - 1) * (1.0f - others) * nll * task.gamma;
        factor += by_focal * (power(others, task.gamma) + slope);
      }
      if (task.nll || task.focal) factor *= weight_of(y);
      V mean = set(0.0f);
      for (int64_t c = 0; c < classes; ++c) {
        const Ints here = y == static_cast<int32_t>(c);
        mean += load(p + c * padded + i) * (predicted[c] + where(here, set(hits[c])));
      }
      for (int64_t c = classes - channels; c < classes; ++c) {
        const Ints here = y == static_cast<int32_t>(c);
        const V pc = load(p + c * padded + i);
        V g = pc * (predicted[c] + where(here, set(hits[c])) - mean) + factor * (pc - where(here, set(1.0f)));
        if (task.all_nll) g += by_all * (weights * pc - task.class_weights[c]);
        store(gradient + (c + channels - classes) * padded + i, where(counts, g));
      }
    }
  }

  // Brings the gathered gradient of a source row from the output's width to its own, and adds it to `out`.
  void narrow(int64_t y, int64_t first_source, int64_t rows, float* out) {
    const int64_t width = task.columns.size, count = task.columns.source;
    const int32_t* index = task.columns.index;
    const float* weight = task.columns.weight;
    float* from = gathered + (y & 1) * channels * padded;
    for (int64_t k = 0; k < channels; ++k, from += padded) {
      float* to = out + ((task.classes - channels + k) * rows + y - first_source) * count;
      for (int64_t i = 0; i < width;) {
        const int32_t at = index[i];
        float here = 0, next = 0;
        for (; i < width && index[i] == at; ++i) {
          here += (1 - weight[i]) * from[i];
          next += weight[i] * from[i];
        }
        to[at] += here;
        if (at + 1 < count) to[at + 1] += next;
      }
      memset(from, 0, padded * sizeof(float));
    }
    if (channels == 1) {
      const float* one = out + (rows + y - first_source) * count;
      float* zero = out + (y - first_source) * count;
      for (int64_t i = 0; i < count; ++i) zero[i] = -one[i];
    }
  }

  void gather(int64_t y, float share) const {
    float* to = gathered + (y & 1) * channels * padded;
    for (int64_t i = 0; i < channels * padded; ++i) to[i] += share * gradient[i];
  }

  void write_row(int64_t y, float* out) const {
    const int64_t width = task.columns.size, plane = task.rows.size * width;
    float* to = out + image * task.classes * plane + y * width;
    if (channels == 1) {
      for (int64_t i = 0; i < width; ++i) to[i] = -gradient[i];
      to += plane;
    }
    for (int64_t k = 0; k < channels; ++k) memcpy(to + k * plane, gradient + k * padded, width * sizeof(float));
  }
};

}  // namespace

void LE_NAME(loss_forward)(const LossTask& task, int64_t item, float* scratch, double* sums) {
  Work work(task, item, scratch);
  const int64_t band = item % task.bands;
  for (int64_t j = 0; j < task.sums(); ++j) sums[j] = 0;
  for (int64_t y = task.first_row(band); y < task.first_row(band + 1); ++y) {
    work.prepare(y);
    work.sum_row(sums);
  }
}

void LE_NAME(loss_backward)(const LossTask& task, int64_t item, const float* coefficients, float* scratch, float* out) {
  Work work(task, item, scratch);
  const int64_t band = item % task.bands, begin = task.first_row(band), end = task.first_row(band + 1);
  coefficients += work.image * task.coefficients();
  const int64_t first = task.first_source(band), rows = task.last_source(band) - first + 1;
  memset(work.gathered, 0, 2 * work.channels * work.padded * sizeof(float));
  int64_t open[2] = {-1, -1};  // source rows whose gradients are being gathered, at the parity of their index
  const auto close = [&](int64_t slot) {
    if (open[slot] >= 0) work.narrow(open[slot], first, rows, out);
    open[slot] = -1;
  };
  for (int64_t y = begin; y < end; ++y) {
    work.prepare(y);
    work.differentiate_row(coefficients);
    if (task.same) {
      work.write_row(y, out);
      continue;
    }
    const float share = task.rows.weight[y];
    const int64_t above = task.rows.index[y];
    for (int64_t source = above; source <= above + (share != 0); ++source) {
      if (open[source & 1] != source) close(source & 1);
      open[source & 1] = source;
      work.gather(source, source == above ? 1 - share : share);
    }
  }
  close(0);
  close(1);
}

}  // namespace le::kernel
