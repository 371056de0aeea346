#include "tiles/predict_tiles.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "options.h"
#include "prediction/passes.h"
#include "prediction/second_pass.h"
#include "tiles/accumulate.h"
#include "tiles/restore.h"

namespace le {

namespace {

// Numbers of an image that are read at a time.
constexpr int64_t kReadNumbers = int64_t{1} << 21;

// In the order of TileWeights.
constexpr const char* kWeightNames[] = {"constant", "gaussian"};

void check_axes(const char* option, const std::vector<int64_t>& axes, int64_t spatial_axes) {
  for (size_t i = 0; i < axes.size(); ++i)
    if (axes[i] < 0 || axes[i] >= spatial_axes ||
        std::find(axes.begin(), axes.begin() + i, axes[i]) != axes.begin() + i)
      fail(code::kOption, "Expected spatial axes from 0 to ", spatial_axes - 1, ", each once, for option '", option,
           "' but received ", at::IntArrayRef(axes), ".");
}

// The sets of some axes, as those of a tensor N×C×s; the empty set first.
std::vector<std::vector<int64_t>> sets_of(const std::vector<int64_t>& axes) {
  std::vector<std::vector<int64_t>> sets(1);
  for (const int64_t axis : axes)
    for (size_t i = 0, count = sets.size(); i < count; ++i) {
      sets.push_back(sets[i]);
      sets.back().push_back(axis + 2);
    }
  return sets;
}

// The rows of one row of tiles, with zeros around where the plan has them; each row is read once.
class Band {
 public:
  Band(const ImageSource& image, const TilePlan& plan, size_t number) : image_(image), plan_(plan), number_(number) {
    std::vector<int64_t> size = {image.shape[0], plan.tile[0]};
    size.insert(size.end(), plan.padded.begin() + 1, plan.padded.end());
    rows_ = at::zeros(size, at::kFloat);
  }

  void move_to(int64_t start) {
    const int64_t height = plan_.tile[0], kept = start_ < 0 ? 0 : std::max<int64_t>(0, start_ + height - start),
                  row = rows_.stride(1);
    auto* const data = rows_.mutable_data_ptr<float>();
    for (int64_t c = 0; c < rows_.size(0); ++c) {
      float* const plane = data + c * height * row;
      std::memmove(plane, plane + (height - kept) * row, kept * row * sizeof(float));
      std::fill(plane + kept * row, plane + height * row, 0.0f);
    }
    start_ = start;
    // In rows of the image.
    const int64_t first = start - plan_.before[0], begin = std::max<int64_t>(0, first + kept),
                  end = std::min(plan_.image[0], first + height);
    // A few megabytes at a time: what reads them, and looks at them, takes as much again.
    const int64_t together = std::max<int64_t>(1, kReadNumbers / (image_.shape[0] * row));
    for (int64_t from = begin; from < end; from += together) {
      const int64_t to = std::min(end, from + together);
      const at::Tensor read = image_.read(from, to);
      check_finite(read, number_);
      at::Tensor inner = rows_.narrow(1, from - first, to - from);
      for (size_t axis = 1; axis < plan_.image.size(); ++axis)
        inner = inner.narrow(static_cast<int64_t>(axis) + 1, plan_.before[axis], plan_.image[axis]);
      inner.copy_(read);
    }
  }

  // A tile that begins in this row.
  at::Tensor tile(const std::vector<int64_t>& offset) const {
    at::Tensor part = rows_;
    for (size_t axis = 1; axis < offset.size(); ++axis)
      part = part.narrow(static_cast<int64_t>(axis) + 1, offset[axis], plan_.tile[axis]);
    return part;
  }

 private:
  const ImageSource& image_;
  const TilePlan& plan_;
  const size_t number_;
  at::Tensor rows_;
  int64_t start_ = -1;
};

// Statistics of features of several passes, each of as many places.
class PooledStatistics {
 public:
  explicit PooledStatistics(const std::vector<std::string>& taps) : of_pass{taps, {}}, means_(taps.size()) {}
  TapStatistics of_pass;

  void add() {
    for (size_t t = 0; t < of_pass.values.size(); ++t) {
      const at::Tensor values = of_pass.values[t].cpu().to(at::kDouble);
      const int64_t channels = values.size(1) / 2;
      for (int64_t n = 0; n < values.size(0); ++n) {
        const at::Tensor mean = values[n].narrow(0, 0, channels), deviation = values[n].narrow(0, channels, channels);
        Mean& all = means_[t];
        if (!all.mean.defined()) {
          all.mean = at::zeros_like(mean);
          all.square = at::zeros_like(mean);
        }
        // Welford's, for parts of one size.
        const at::Tensor from = mean - all.mean;
        ++all.count;
        all.mean = all.mean + from / all.count;
        all.square = all.square + deviation * deviation + from * (mean - all.mean);
      }
    }
  }

  std::vector<at::Tensor> values() const {
    std::vector<at::Tensor> all;
    for (const Mean& of : means_)
      all.push_back(at::cat({of.mean, (of.square / of.count).sqrt()}).to(at::kFloat).unsqueeze(0));
    return all;
  }

 private:
  struct Mean {
    at::Tensor mean, square;
    double count = 0;
  };
  std::vector<Mean> means_;
};

}  // namespace

TileOptions TileOptions::from(const Json& options) {
  TileOptions result;
  result.size = options.integers_or("size", {});
  result.overlap = options.number_or("overlap", result.overlap);
  result.weights = static_cast<TileWeights>(one_of("weights", options.string_or("weights", "gaussian"), kWeightNames));
  result.mirror = options.integers_or("mirror", {});
  result.output = options.integers_or("output", {});
  result.nearest = options.integers_or("nearest", {});
  result.image = options.integer_or("image", 0);
  return result;
}

namespace {

// The passes of the networks over the tiles of an image.
class PassesOfTiles {
 public:
  PassesOfTiles(const Members& members, const ImageSource& image, const TileOptions& tiles,
                const PredictOptions& options, const Control& control)
      : image_(image),
        tiles_(tiles),
        batch_size_(options.batch_size),
        control_(control),
        number_(static_cast<size_t>(tiles.image)),
        passes_(members, options),
        plan_(plan(image, tiles, passes_)),
        mirrored_(sets_of(tiles.mirror)) {
    check_axes("mirror", tiles.mirror, static_cast<int64_t>(plan_.image.size()));
  }

  const TilePlan& plan() const { return plan_; }
  int64_t count() const { return plan_.count() * static_cast<int64_t>(mirrored_.size()); }
  bool one() const { return count() == 1 && plan_.padded == plan_.image; }

  // Where one() is all: the image.
  at::Tensor whole() const {
    at::Tensor all = image_.read(0, plan_.image[0]);
    check_finite(all, number_);
    return all;
  }
  Passes& passes() { return passes_; }

  // Adds the logits of all tiles, and calls `after` where a row of tiles is done.
  void add_to(TileSums& sums, PooledStatistics& statistics, const std::function<void()>& after) {
    Band band(image_, plan_, number_);
    const int64_t in_band = plan_.count() / static_cast<int64_t>(plan_.starts[0].size());
    for (int64_t first = 0; first < plan_.count(); first += in_band) {
      band.move_to(plan_.offset(first)[0]);
      for (int64_t begin = first; begin < first + in_band; begin += batch_size_) {
        const int64_t end = std::min(first + in_band, begin + batch_size_);
        std::vector<at::Tensor> batch;
        for (int64_t tile = begin; tile < end; ++tile) batch.push_back(band.tile(plan_.offset(tile)));
        const at::Tensor images = at::stack(batch);
        for (const auto& axes : mirrored_) {
          control_.check();
          const auto logits = passes_.logits(axes.empty() ? images : images.flip(axes), &statistics.of_pass);
          statistics.add();
          for (int64_t tile = begin; tile < end; ++tile) {
            std::vector<at::Tensor> of_tile;
            for (const at::Tensor& head : logits) {
              const at::Tensor one = head.narrow(0, tile - begin, 1);
              of_tile.push_back(axes.empty() ? one : one.flip(axes));
            }
            sums.add(tile, of_tile);
          }
        }
        if (control_.report) control_.report(Json::Object{{"stage", "tiles"}, {"done", end}, {"of", plan_.count()}});
      }
      after();
    }
  }

 private:
  static TilePlan plan(const ImageSource& image, const TileOptions& tiles, const Passes& passes) {
    passes.check_shape(image.shape, static_cast<size_t>(tiles.image));
    return plan_tiles(std::vector<int64_t>(image.shape.begin() + 1, image.shape.end()), tiles.size, tiles.overlap);
  }

  const ImageSource& image_;
  const TileOptions& tiles_;
  const int64_t batch_size_;
  const Control& control_;
  const size_t number_;
  Passes passes_;
  const TilePlan plan_;
  const std::vector<std::vector<int64_t>> mirrored_;
};

}  // namespace

TilesPredicted predict_tiles(const Members& members, const ImageSource& image, const TileOptions& tiles,
                             const PredictOptions& options, const Control& control) {
  PassesOfTiles passes(members, image, tiles, options, control);
  const std::vector<int64_t>& size = passes.plan().image;
  const std::vector<int64_t> output = tiles.output.empty() ? size : tiles.output;
  if (output.size() != size.size())
    fail(code::kOption, "Expected ", size.size(), " numbers, one per spatial axis, for the output's size but received ",
         at::IntArrayRef(output), ".");
  check_axes("nearest", tiles.nearest, static_cast<int64_t>(size.size()));
  std::vector<Part> parts = passes.plan().parts();
  for (const int64_t axis : tiles.nearest) parts[axis].nearest = true;

  TilesPredicted result;
  result.passes = passes.count();
  if (passes.one() && output == size) {
    static_cast<Predicted&>(result) = passes.passes().predict({passes.whole()}, control)[0];
    return result;
  }
  PooledStatistics statistics(options.tap_statistics);
  const HeardInside heard(control);
  static_cast<Reduced&>(result) = in_passes(options.reduce, [&](const ReduceOptions& of_first) {
    TileSums sums(passes.plan(), tiles.weights);
    Restoration restoration(parts, output, of_first);
    passes.add_to(sums, statistics, [&] {
      restoration.take(sums.settle(), control);
      sums.forget(restoration.needed());
    });
    return std::move(restoration).result();
  });
  result.tap_statistics = statistics.values();
  return result;
}

std::vector<at::Tensor> forward_tiles(const Members& members, const ImageSource& image, const TileOptions& tiles,
                                      const PredictOptions& options, const Control& control) {
  PassesOfTiles passes(members, image, tiles, options, control);
  const TilePlan& plan = passes.plan();
  const HeardInside heard(control);
  if (passes.one()) {
    std::vector<at::Tensor> logits = passes.passes().logits(passes.whole().unsqueeze(0));
    for (size_t k = 0; k < logits.size(); ++k) {
      logits[k] = interpolate(logits[k], plan.image).cpu();
      check_finite_logits(logits[k], k);
    }
    return logits;
  }
  PooledStatistics statistics({});
  TileSums sums(plan, tiles.weights);
  passes.add_to(sums, statistics, [] {});
  std::vector<at::Tensor> logits;
  for (const HeadRows& head : sums.settle()) {
    at::Tensor inner = interpolate(head.logits, plan.padded);
    for (size_t axis = 0; axis < plan.image.size(); ++axis)
      inner = inner.narrow(static_cast<int64_t>(axis) + 2, plan.before[axis], plan.image[axis]);
    logits.push_back(inner.contiguous());
  }
  return logits;
}

}  // namespace le
