#include "data/patches.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "options.h"
#include "tiles/plan.h"

namespace le {

namespace {

// Depth, height and width; an image is one plane.
std::array<int64_t, 3> in_space(const std::vector<int64_t>& of_axes, int64_t otherwise) {
  std::array<int64_t, 3> all;
  all.fill(otherwise);
  std::copy(of_axes.rbegin(), of_axes.rend(), all.rbegin());
  return all;
}

// What of `from` (leading×s) lies from `start` on, into `to`, whose values are 0.
template <class T>
void copy_part(const T* from, int64_t leading, const std::array<int64_t, 3>& size, const std::array<int64_t, 3>& start,
               std::vector<T>& to, const std::array<int64_t, 3>& part) {
  std::array<int64_t, 3> begin, end;  // within the part
  for (size_t axis = 0; axis < 3; ++axis) {
    begin[axis] = std::max<int64_t>(0, -start[axis]);
    end[axis] = std::min(part[axis], size[axis] - start[axis]);
    if (begin[axis] >= end[axis]) return;
  }
  for (int64_t c = 0; c < leading; ++c)
    for (int64_t z = begin[0]; z < end[0]; ++z)
      for (int64_t y = begin[1]; y < end[1]; ++y) {
        const T* const row = from + ((c * size[0] + z + start[0]) * size[1] + y + start[1]) * size[2] + start[2];
        std::copy(row + begin[2], row + end[2], to.begin() + ((c * part[0] + z) * part[1] + y) * part[2] + begin[2]);
      }
}

}  // namespace

PatchOptions PatchOptions::from(const Json& options) {
  PatchOptions result;
  result.size = options.integers_or("patch", {});
  for (const int64_t side : result.size) in_range("patch", side, at_least<int64_t>(1));
  if (!result.any()) return result;
  result.foreground = in_range(options, "patchForeground", Range<double>{0, 1});
  if (options.has("patchesPerCase")) result.per_sample = in_range(options, "patchesPerCase", at_least<int64_t>(1));
  return result;
}

Sample part_of(const SampleView& sample, const std::vector<int64_t>& start, const std::vector<int64_t>& size) {
  Sample part{sample.channels, size, {}, {}};
  part.image.assign(static_cast<size_t>(sample.channels * part.pixels()), 0.0f);
  part.mask.assign(static_cast<size_t>(part.pixels()), 0);
  const auto whole = in_space(sample.size, 1), from = in_space(start, 0), extent = in_space(size, 1);
  copy_part(sample.image, sample.channels, whole, from, part.image, extent);
  copy_part(sample.mask, 1, whole, from, part.mask, extent);
  return part;
}

Patches::Patches(const Dataset& data, const PatchOptions& options, int64_t ignore_index, uint64_t seed)
    : data_(data), options_(options), ignore_index_(ignore_index), seed_(seed) {
  double all = 0;
  for (size_t i = 0; i < data.size(); ++i) {
    const SampleView sample = data.view(i);
    if (sample.size.size() != options.size.size())
      fail(code::kOption, "Expected ", sample.size.size(),
           " numbers, one per spatial axis, for option 'patch' but received ", options.size.size(), ".");
    places_.push_back(places_of(sample));
    all += static_cast<double>(sample.pixels());
  }
  const double patches = all / static_cast<double>(data.size()) / static_cast<double>(pixels(options.size));
  per_sample_ = options.per_sample > 0 ? static_cast<size_t>(options.per_sample)
                                       : static_cast<size_t>(std::max<int64_t>(1, std::llrint(patches)));
}

Patches::Places Patches::places_of(const SampleView& sample) const {
  const int64_t rows = sample.size[0], row = sample.pixels() / rows;
  std::array<Upto, 256> upto;
  std::array<int64_t, 256> count{};
  for (int64_t r = 0; r < rows; ++r) {
    for (const uint8_t *label = sample.mask + r * row, *end = label + row; label != end; ++label) ++count[*label];
    for (size_t label = 0; label < upto.size(); ++label) {
      if (count[label] == 0) continue;
      upto[label].resize(rows);
      upto[label][r] = count[label];
    }
  }
  Places places;
  const bool ignores = ignore_index_ >= 0 && ignore_index_ < 256 && count[ignore_index_] > 0;
  if (ignores && count[ignore_index_] < sample.pixels())
    for (int64_t r = 0; r < rows; ++r) places.counted.push_back((r + 1) * row - upto[ignore_index_][r]);
  for (size_t label = 1; label < upto.size(); ++label) {
    if (count[label] == 0 || static_cast<int64_t>(label) == ignore_index_) continue;
    places.labels.push_back(static_cast<uint8_t>(label));
    places.of_label.push_back(std::move(upto[label]));
  }
  return places;
}

std::vector<int64_t> Patches::start_of(const SampleView& sample, const Places& places, Random& random) const {
  const std::vector<int64_t>& size = options_.size;
  // The pixel, of those that `is` takes, which a draw falls on; per axis.
  const auto pixel = [&](const Upto& upto, const auto& is) {
    const auto nth = static_cast<int64_t>(random.below(upto.back()));
    const int64_t in_row = sample.pixels() / sample.size[0],
                  r = std::upper_bound(upto.begin(), upto.end(), nth) - upto.begin();
    const uint8_t* const row = sample.mask + r * in_row;
    int64_t left = nth - (r > 0 ? upto[r - 1] : 0), at = 0;
    while (!is(row[at]) || left-- > 0) ++at;
    std::vector<int64_t> place(size.size());
    place[0] = r;
    for (size_t axis = size.size(); axis-- > 1;) {
      place[axis] = at % sample.size[axis];
      at /= sample.size[axis];
    }
    return place;
  };
  std::vector<int64_t> middle;
  if (random.chance(options_.foreground) && !places.labels.empty()) {
    const uint64_t which = random.below(places.labels.size());
    middle = pixel(places.of_label[which], [label = places.labels[which]](uint8_t is) { return is == label; });
  } else if (!places.counted.empty()) {
    middle = pixel(places.counted, [this](uint8_t is) { return is != ignore_index_; });
  }
  std::vector<int64_t> start(size.size());
  for (size_t axis = 0; axis < size.size(); ++axis) {
    const int64_t room = sample.size[axis] - size[axis];
    start[axis] = room < 0         ? -(-room / 2)
                  : middle.empty() ? static_cast<int64_t>(random.below(room + 1))
                                   : std::clamp<int64_t>(middle[axis] - size[axis] / 2, 0, room);
  }
  return start;
}

Sample Patches::draw(size_t number, int64_t epoch) const {
  Random random(seed_, kPatch, static_cast<uint64_t>(epoch), number);
  const size_t index = sample_of(number);
  const SampleView sample = data_.view(index);
  return part_of(sample, start_of(sample, places_[index], random), options_.size);
}

std::vector<JudgedTile> judged_tiles(const Dataset& data, const std::vector<int64_t>& size, double overlap) {
  std::vector<JudgedTile> tiles;
  for (size_t i = 0; i < data.size(); ++i) {
    if (size.empty()) {
      tiles.push_back({i, {}, {}, {}, {}});
      continue;
    }
    const std::vector<int64_t> whole = data.view(i).size;
    const TilePlan plan = plan_tiles(whole, size, overlap);
    for (int64_t t = 0; t < plan.count(); ++t) {
      JudgedTile& tile = tiles.emplace_back(JudgedTile{i, plan.offset(t), size, {}, {}});
      for (size_t axis = 0; axis < whole.size(); ++axis) {
        const std::vector<int64_t>& starts = plan.starts[axis];
        const auto at = std::find(starts.begin(), starts.end(), tile.start[axis]);
        // Half of what two neighbours share is each one's.
        const auto border = [&](int64_t before, int64_t next) { return (before + size[axis] + next) / 2; };
        const int64_t first = at == starts.begin() ? plan.before[axis] : border(at[-1], at[0]);
        const int64_t last = at + 1 == starts.end() ? plan.before[axis] + whole[axis] : border(at[0], at[1]);
        tile.from.push_back(first - *at);
        tile.to.push_back(last - *at);
        tile.start[axis] -= plan.before[axis];
      }
    }
  }
  return tiles;
}

}  // namespace le
