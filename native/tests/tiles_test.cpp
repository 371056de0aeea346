// Tiles: their plan, their sums, and what is restored from them.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

#include "check.h"
#include "tiles/accumulate.h"
#include "tiles/plan.h"
#include "tiles/restore.h"

namespace {

using namespace le;

const Control kFree{};

// A tile of an image 1×C×s, with zeros around.
at::Tensor cut(const at::Tensor& image, const TilePlan& plan, int64_t index) {
  std::vector<int64_t> shape = {1, image.size(1)};
  shape.insert(shape.end(), plan.padded.begin(), plan.padded.end());
  at::Tensor padded = at::zeros(shape), inner = padded;
  const std::vector<int64_t> offset = plan.offset(index);
  for (size_t a = 0; a < plan.image.size(); ++a) inner = inner.narrow(a + 2, plan.before[a], plan.image[a]);
  inner.copy_(image);
  for (size_t a = 0; a < plan.tile.size(); ++a) padded = padded.narrow(a + 2, offset[a], plan.tile[a]);
  return padded;
}

at::Tensor halved(const at::Tensor& x) { return x.dim() == 4 ? at::avg_pool2d(x, 2) : at::avg_pool3d(x, 2); }

// The heads of a network that looks at nothing but the pixel: `k` of them, those at half the size as `half` says.
std::vector<at::Tensor> pointwise(const at::Tensor& x, const std::vector<bool>& half) {
  std::vector<at::Tensor> heads;
  for (size_t k = 0; k < half.size(); ++k)
    heads.push_back((half[k] ? halved(x) : x) * (1 + 0.5 * static_cast<double>(k)));
  return heads;
}

// Of all tiles.
std::vector<at::Tensor> means_of(TileSums& sums) {
  std::vector<at::Tensor> means;
  for (const HeadRows& head : sums.settle()) {
    CHECK(head.first == 0 && head.logits.size(2) == head.whole);
    means.push_back(head.logits.contiguous());
  }
  return means;
}

std::vector<at::Tensor> summed(const at::Tensor& image, const TilePlan& plan, TileWeights weights,
                               const std::vector<bool>& half, bool backwards = false) {
  TileSums sums(plan, weights);
  for (int64_t i = 0; i < plan.count(); ++i) {
    const int64_t tile = backwards ? plan.count() - 1 - i : i;
    sums.add(tile, pointwise(cut(image, plan, tile), half));
  }
  return means_of(sums);
}

ReduceOptions everything() {
  ReduceOptions options;
  options.labels = true;
  return options;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Sums are compared as means over the pixels.
void check_same(const Reduced& a, const Reduced& b, double tolerance) {
  CHECK(a.mask.sizes() == b.mask.sizes());
  CHECK(a.mask.equal(b.mask));
  CHECK(a.labels.defined() == b.labels.defined() && (!a.labels.defined() || a.labels.equal(b.labels)));
  CHECK(a.counts.equal(b.counts));
  CHECK(a.intersections.equal(b.intersections));
  CHECK_NEAR(distance(a.probabilities, b.probabilities), 0, tolerance);
  for (unsigned map = 0; map < kMapCount; ++map) CHECK_NEAR(distance(a.maps[map], b.maps[map]), 0, tolerance);
  const auto pixels = static_cast<double>(a.mask.numel());
  CHECK_NEAR(distance(a.summaries, b.summaries), 0, tolerance * pixels);
  CHECK_NEAR(distance(a.class_sums, b.class_sums), 0, tolerance * pixels);
  CHECK_NEAR(distance(a.head_sums, b.head_sums), 0, tolerance * pixels);
}

// By a generator of its own: what other tests draw is not moved.
at::Tensor random(const std::vector<int64_t>& shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed)) * 3;
}

// Counts what is taken from the CPU allocator while it lives.
class Counted final : public c10::Allocator {
 public:
  Counted() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 255); }
  ~Counted() override { c10::SetCPUAllocator(inner_, 255); }
  c10::DataPtr allocate(size_t bytes) override {
    const int64_t live = live_ += static_cast<int64_t>(bytes);
    int64_t peak = peak_;
    while (live > peak && !peak_.compare_exchange_weak(peak, live)) {
    }
    c10::DataPtr inner = inner_->allocate(bytes);
    void* const data = inner.get();
    return {data, new Block{std::move(inner), static_cast<int64_t>(bytes), this}, &Counted::give_back,
            c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
  int64_t live() const { return live_; }
  // The peak from here on is above what lives now.
  int64_t reset() { return peak_ = live_.load(); }
  int64_t peak() const { return peak_; }

 private:
  struct Block {
    c10::DataPtr inner;
    int64_t bytes;
    Counted* owner;
  };
  static void give_back(void* block) {
    auto* const of = static_cast<Block*>(block);
    of->owner->live_ -= of->bytes;
    delete of;
  }
  c10::Allocator* const inner_;
  std::atomic<int64_t> live_{0}, peak_{0};
};

TEST("tiles: outputs that take the nearest voxel of an image are those of the image, at the nearest voxels") {
  // Heads at several resolutions, of an image of 6×9×10 in 8×12×10.
  const std::vector<at::Tensor> logits = {at::randn({1, 3, 8, 12, 10}), at::randn({1, 3, 4, 6, 5})};
  const std::vector<Part> parts = {{1, 6, 8}, {2, 9, 12}, {0, 10, 10}};
  const Reduced own = restore(logits, parts, {6, 9, 10}, everything(), kFree);
  for (const int64_t planes : {3, 6, 7, 17}) {
    std::vector<Part> nearest = parts;
    nearest[0].nearest = true;
    std::vector<int64_t> at;
    for (int64_t i = 0; i < planes; ++i)
      at.push_back(static_cast<int64_t>(std::floor((static_cast<double>(i) + 0.5) * 6 / static_cast<double>(planes))));
    const at::Tensor picked = at::tensor(at, at::kLong);
    for (const int64_t rows : {0, 1, 2}) {
      const Reduced made = restore(logits, nearest, {planes, 9, 10}, everything(), kFree, rows);
      CHECK(made.mask.equal(own.mask.index_select(1, picked)));
      CHECK((made.probabilities - own.probabilities.index_select(2, picked)).abs().max().item<double>() < 1e-6);
    }
  }
}

}  // namespace

TEST("tiles: the first and the last are flush with the borders, and none is further from the next than asked") {
  const TilePlan plan = plan_tiles({100, 33, 7}, {32, 32, 10}, 0.5);
  CHECK((plan.starts == std::vector<std::vector<int64_t>>{{0, 14, 27, 41, 54, 68}, {0, 1}, {0}}));
  CHECK((plan.padded == std::vector<int64_t>{100, 33, 10}) && (plan.before == std::vector<int64_t>{0, 0, 1}));
  CHECK(plan.count() == 12 && (plan.offset(3) == std::vector<int64_t>{14, 1, 0}));
  // A step below one pixel.
  CHECK((plan_tiles({5, 4}, {3, 4}, 0.99).starts[0] == std::vector<int64_t>{0, 1, 2}));
  CHECK_THROWS(plan_tiles({8, 8}, {8}, 0.5), code::kOption);
  CHECK_THROWS(plan_tiles({8, 8}, {8, 0}, 0.5), code::kOption);
  CHECK_THROWS(plan_tiles({8, 8}, {8, 8}, 1), code::kOption);
  CHECK_THROWS(plan_tiles({8, 8}, {8, 8}, -0.1), code::kOption);
}

TEST("tiles: Gaussian weights are symmetric, highest in the middle and never near zero") {
  const at::Tensor w = tile_weights(TileWeights::kGaussian, {9, 16});
  CHECK(w.equal(w.flip({0, 1})));
  CHECK_NEAR(w[4][7].item<double>(), std::exp(-0.5 * 0.25 * 0.25), 1e-6);
  CHECK_NEAR(w[4][4].item<double>(), std::exp(-0.5 * 1.75 * 1.75), 1e-6);
  CHECK_NEAR(w.min().item<double>(), 1e-3, 1e-9);
}

TEST("tiles: a network that looks at the pixel alone gives the whole image's result, in odd sizes too") {
  for (const auto weights : {TileWeights::kConstant, TileWeights::kGaussian}) {
    for (const std::vector<int64_t>& size : {std::vector<int64_t>{13, 17, 11}, {37, 75}}) {
      std::vector<int64_t> shape = {1, 3};
      shape.insert(shape.end(), size.begin(), size.end());
      const at::Tensor image = random(shape, 1);
      const TilePlan plan = plan_tiles(size, std::vector<int64_t>(size.size(), 8), 0.5);
      CHECK(plan.count() > 8);
      const Reduced tiled =
          restore(summed(image, plan, weights, {false, false}), plan.parts(), size, everything(), kFree);
      check_same(tiled, reduce(pointwise(image, {false, false}), size, everything()), 5e-6);
    }
  }
}

TEST("tiles: a head is summed at its own resolution where its stride divides the offsets, else at the tile's") {
  const at::Tensor image = random({1, 2, 16, 24}, 2);
  const TilePlan even = plan_tiles({16, 24}, {8, 8}, 0.5);
  const auto means = summed(image, even, TileWeights::kGaussian, {true, false});
  CHECK(means[0].sizes() == at::IntArrayRef({1, 2, 8, 12}) && means[1].sizes() == at::IntArrayRef({1, 2, 16, 24}));
  CHECK_NEAR(distance(means[0], halved(image)), 0, 5e-6);
  const TilePlan odd = plan_tiles({15, 24}, {8, 8}, 0.5);
  const auto others = summed(image.narrow(2, 0, 15), odd, TileWeights::kGaussian, {true, false});
  CHECK(others[0].sizes() == at::IntArrayRef({1, 2, 15, 24}));
  // One tile: whatever its heads' sizes.
  TileSums one(plan_tiles({15, 24}, {15, 24}, 0.5), TileWeights::kConstant);
  const at::Tensor head = random({1, 2, 4, 7}, 3);
  one.add(0, {head});
  CHECK(means_of(one)[0].equal(head));
}

TEST("tiles: their order does not matter") {
  const at::Tensor image = random({1, 3, 18, 30}, 4);
  const TilePlan plan = plan_tiles({18, 30}, {8, 8}, 0.7);
  const auto forwards = summed(image, plan, TileWeights::kGaussian, {true, false}),
             backwards = summed(image, plan, TileWeights::kGaussian, {true, false}, true);
  ReduceOptions options = everything();
  check_same(restore(forwards, plan.parts(), {18, 30}, options, kFree),
             restore(backwards, plan.parts(), {18, 30}, options, kFree), 1e-6);
}

TEST("tiles: the thickness of the slabs does not matter, whatever the fusion") {
  for (const auto fusion : {Fusion::kMean, Fusion::kLogitMean, Fusion::kVote, Fusion::kStaple}) {
    for (const int64_t classes : {2, 5}) {
      for (const std::vector<int64_t>& size : {std::vector<int64_t>{11, 23, 19}, {71, 90}}) {
        std::vector<int64_t> shape = {1, classes}, low = shape;
        for (const int64_t n : size) shape.push_back(n), low.push_back((n + 2) / 3);
        const std::vector<at::Tensor> logits = {random(low, 5), random(shape, 6), random(low, 7)};
        ReduceOptions options = everything();
        options.fusion = fusion;
        options.temperature = classes == 2 ? 1 : 1.5;
        const std::vector<Part> parts(size.size());
        const Reduced whole = reduce(logits, size, options);
        for (const int64_t rows : {0, 1, 4, 1000})
          check_same(restore(logits, parts, size, options, kFree, rows), whole, 1e-6);
      }
    }
  }
}

TEST("tiles: an image smaller than a tile is restored from its part of it, at any spacing") {
  // Logits that rise by 1/4 a pixel of the image along each axis: interpolation gives them everywhere within.
  const TilePlan plan = plan_tiles({5, 9}, {8, 12}, 0.5);
  const at::Tensor y = at::arange(8, at::kFloat).view({8, 1}) - 1, x = at::arange(12, at::kFloat).view({1, 12}) - 1;
  const at::Tensor ramp = (y + x) / 4;
  TileSums sums(plan, TileWeights::kGaussian);
  sums.add(0, {at::stack({at::zeros_like(ramp), ramp}).unsqueeze(0)});
  const auto means = means_of(sums);
  for (const auto& size : {std::vector<int64_t>{5, 9}, {8, 12}, {10, 27}, {4, 6}}) {
    const Reduced restored = restore(means, plan.parts(), size, everything(), kFree, 3);
    const auto along = [&](int axis, int64_t n) {
      return (at::arange(size[axis], at::kDouble) + 0.5) * static_cast<double>(n) / static_cast<double>(size[axis]) -
             0.5;
    };
    const at::Tensor expected = ((along(0, 5).unsqueeze(1) + along(1, 9)) / 4).sigmoid();
    CHECK_NEAR(distance(restored.probabilities[0][1], expected), 0, 2e-6);
  }
}

TEST("tiles: what is wrong is refused") {
  const TilePlan plan = plan_tiles({8, 12}, {8, 8}, 0.5);
  const at::Tensor fine = random({1, 2, 8, 8}, 8);
  TileSums sums(plan, TileWeights::kConstant);
  at::Tensor bad = fine.clone();
  bad[0][1][3][3] = NAN;
  CHECK_THROWS(sums.add(0, {fine, bad}), code::kValue);
  sums.add(0, {fine, fine});
  CHECK_THROWS(sums.add(1, {fine}), code::kShape);
  CHECK_THROWS(sums.add(1, {fine, halved(fine)}), code::kShape);
  CHECK_THROWS(sums.add(2, {fine, fine}), code::kValue);
  CHECK(sums.settle()[0].logits.size(2) == 0);  // tile 1 is missing
  CHECK_THROWS(restore({fine}, {{4, 8, 8}, {}}, {8, 8}, {}, kFree), code::kValue);
  CHECK_THROWS(restore({fine}, {{}}, {8, 8}, {}, kFree), code::kShape);
  CHECK_THROWS(restore({bad}, {{}, {}}, {2, 2}, {}, kFree), code::kValue);
}

TEST("tiles: a stop is heard between slabs, and progress is told") {
  Control control;
  std::vector<int64_t> done;
  control.report = [&](const Json& event) {
    done.push_back(event.at("done").integer("done"));
    if (done.size() == 2) control.stop = true;
  };
  const std::vector<at::Tensor> logits = {random({1, 2, 9, 8, 8}, 9)};
  const std::vector<Part> parts(3);
  CHECK_THROWS(restore(logits, parts, {9, 8, 8}, {}, control, 2), code::kAborted);
  CHECK((done == std::vector<int64_t>{2, 4}));
}

TEST("tiles: rows come out as they settle, and are what all tiles together give") {
  struct {
    std::vector<int64_t> image, tile, output;
  } const cases[] = {{{50, 24}, {8, 8}, {50, 24}},           {{51, 24}, {8, 8}, {51, 24}},
                     {{48, 16}, {16, 16}, {131, 40}},        {{48, 16}, {16, 16}, {13, 11}},
                     {{40, 9, 12}, {8, 8, 16}, {40, 9, 12}}, {{5, 20, 9}, {8, 8, 8}, {17, 6, 30}}};
  for (const auto& one : cases) {
    std::vector<int64_t> shape = {1, 3};
    shape.insert(shape.end(), one.image.begin(), one.image.end());
    const at::Tensor image = random(shape, 13);
    const TilePlan plan = plan_tiles(one.image, one.tile, 0.5);
    const std::vector<bool> heads = {true, false, true};
    const Reduced all =
        restore(summed(image, plan, TileWeights::kGaussian, heads), plan.parts(), one.output, everything(), kFree);
    TileSums sums(plan, TileWeights::kGaussian);
    Restoration restoration(plan.parts(), one.output, everything());
    CHECK(sums.settle().empty() && sums.bytes() == 0);
    const int64_t in_band = plan.count() / static_cast<int64_t>(plan.starts[0].size());
    int64_t bytes = 0;
    for (int64_t tile = 0; tile < plan.count(); ++tile) {
      sums.add(tile, pointwise(cut(image, plan, tile), heads));
      if (tile == 0) bytes = sums.bytes();
      if ((tile + 1) % in_band) continue;
      restoration.take(sums.settle(), kFree);
      sums.forget(restoration.needed());
      if (tile + 1 < plan.count()) CHECK_THROWS(sums.add(tile, pointwise(cut(image, plan, tile), heads)), code::kValue);
    }
    // No row of tiles took more memory than the first.
    if (one.output == one.image) CHECK(sums.bytes() == bytes);
    check_same(std::move(restoration).result(), all, 1e-6);
  }
  Restoration none({{}, {}}, {4, 4}, everything());
  CHECK_THROWS(std::move(none).result(), code::kValue);
}

TEST("tiles: memory is what the headers say") {
  Counted counted;  // first of all: what it gave is gone before it
  const int64_t K = 3, C = 4, rows = 2;
  const std::vector<int64_t> size = {60, 96, 96};
  const TilePlan plan = plan_tiles({96, 48, 48}, {16, 16, 16}, 0.5);
  const std::vector<at::Tensor> tile = {random({1, C, 8, 8, 8}, 10), random({1, C, 16, 16, 16}, 11),
                                        random({1, C, 8, 8, 8}, 12)};
  const int64_t before = counted.reset();
  TileSums sums(plan, TileWeights::kGaussian);
  ReduceOptions options = everything();
  Restoration restoration(plan.parts(), size, options, rows);
  // Rows of a tile, and a few: not the 96 of the image.
  const int64_t full = 18 * 48 * 48, half = 10 * 24 * 24, T = 16 * 16 * 16;
  const int64_t held = 4 * (C * (full + 2 * half) + full + half);
  const int64_t pixels = 60 * 96 * 96, P = rows * 96 * 96, a_pixel = 4 * (C + kMapCount) + 1 + K;
  const int64_t scratch = int64_t{2} << 20;
  for (int64_t i = 0; i < plan.count(); ++i) {
    const int64_t now = counted.reset();
    sums.add(i, tile);
    CHECK(sums.bytes() == held);
    CHECK(counted.peak() - now <= (i == 0 ? held : 0) + 8 * (C + 1) * T + 4 * 2 * T);
    if ((i + 1) % 25) continue;
    restoration.take(sums.settle(), kFree);
    sums.forget(restoration.needed());
    CHECK(counted.peak() - before <= held + pixels * a_pixel + P * a_pixel + scratch * at::get_num_threads());
  }
  const Reduced restored = std::move(restoration).result();
  CHECK(counted.live() - before >= held + pixels * a_pixel);
}
