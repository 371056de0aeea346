#include "interpolation.h"

#include <algorithm>
#include <cmath>

namespace le {

AxisPlan::AxisPlan(int64_t source, int64_t size, int64_t padding) : source(source), size(size) {
  const int64_t padded = (size + padding - 1) / padding * padding;
  const float scale = static_cast<float>(source) / static_cast<float>(size);
  for (int64_t i = 0; i < padded; ++i) {
    const float at = std::fma(scale, static_cast<float>(std::min(i, size - 1)) + 0.5f, -0.5f);
    const float position = std::max(at, 0.0f);
    const int64_t below = std::min(static_cast<int64_t>(position), source - 1);
    index.push_back(static_cast<int32_t>(below));
    weight.push_back(below == source - 1 ? 0.0f : std::min(position - static_cast<float>(below), 1.0f));
  }
}

}  // namespace le
