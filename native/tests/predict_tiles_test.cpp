// Predictions by tiles, against what their definition says step by step.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <numeric>

#include "backbones/backbone.h"
#include "backbones/folded_conv.h"
#include "check.h"
#include "ensemble.h"
#include "prediction/reduce.h"
#include "small_network.h"
#include "taps/statistics.h"
#include "tiles/predict_tiles.h"

namespace {

using namespace le;

const Control kFree{};

at::Tensor random(const std::vector<int64_t>& shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed));
}

// A Layer Ensemble on a network of images, or of volumes.
struct Network {
  Ensemble ensemble;
  explicit Network(int64_t axes, double dropout = 0)
      : ensemble(make_backbone(Json::Object{{"kind", axes == 3 ? "unet3d" : "plain-unet"},
                                            {"inChannels", 1},
                                            {"classes", 3},
                                            {"width", 4},
                                            {"depth", 3},
                                            {"dropout", dropout},
                                            {"seed", 5}}),
                 options(axes)) {
    ensemble.to(c10::kCPU, true);
  }
  static EnsembleOptions options(int64_t axes) {
    EnsembleOptions options;
    options.taps = {"encoder.2", "encoder.1", "encoder.0"};
    options.classes = 3;
    options.input_size.assign(axes, 16);
    return options;
  }
};

TileOptions tiles_of(std::vector<int64_t> size, double overlap = 0.5) {
  return {std::move(size), overlap, TileWeights::kGaussian, {}, {}, {}, 0};
}

// An image whose rows are read as they are asked for, each once and in order.
ImageSource source_of(const at::Tensor& image) {
  auto next = std::make_shared<int64_t>(0);
  return {image.sizes().vec(), [image, next](int64_t begin, int64_t end) {
            CHECK(begin == *next && end > begin && end <= image.size(1));
            *next = end;
            return image.narrow(1, begin, end - begin).clone();
          }};
}

at::Tensor window(at::Tensor of, const std::vector<int64_t>& begin, const std::vector<int64_t>& size) {
  const int64_t leading = of.dim() - static_cast<int64_t>(size.size());
  for (size_t a = 0; a < size.size(); ++a) of = of.narrow(leading + static_cast<int64_t>(a), begin[a], size[a]);
  return of;
}

// The definition, with everything in memory: the image in zeros where the tile is larger; of each tile the logits of
// all its mirrorings, turned back; their weighted mean at each head's own resolution, or at the tile's where the
// offsets fall between its samples; and of the means the part that is the image.
std::vector<at::Tensor> means_by_definition(Ensemble& ensemble, const at::Tensor& image, const TileOptions& tiles) {
  const c10::InferenceMode inference;
  const Evaluation evaluation(ensemble, at::kFloat);
  const std::vector<int64_t> size = image.sizes().slice(1).vec();
  const auto axes = static_cast<int64_t>(size.size());
  const TilePlan plan = plan_tiles(size, tiles.size, tiles.overlap);
  std::vector<int64_t> whole = {1, image.size(0)};
  whole.insert(whole.end(), plan.padded.begin(), plan.padded.end());
  const at::Tensor padded = at::zeros(whole);
  window(padded, plan.before, size).copy_(image);
  std::vector<at::Tensor> sums, weights;
  for (int64_t tile = 0; tile < plan.count(); ++tile) {
    const std::vector<int64_t> offset = plan.offset(tile);
    for (int64_t set = 0; set < int64_t{1} << axes; ++set) {
      std::vector<int64_t> flipped;
      bool asked = true;
      for (int64_t axis = 0; axis < axes; ++axis)
        if (set >> axis & 1) {
          flipped.push_back(axis + 2);
          asked = asked && std::count(tiles.mirror.begin(), tiles.mirror.end(), axis);
        }
      if (!asked) continue;
      const auto logits =
          ensemble.logits(window(padded, offset, plan.tile).flip(flipped).contiguous(ensemble.memory_format()));
      for (size_t k = 0; k < logits.size(); ++k) {
        at::Tensor head = at::hardshrink(logits[k].flip(flipped), kRounding);  // as every prediction
        std::vector<int64_t> samples = head.sizes().slice(2).vec(), begin, all;
        for (int64_t a = 0; a < axes; ++a)
          for (const int64_t start : plan.starts[a])
            if (start * head.size(a + 2) % plan.tile[a]) samples = plan.tile;
        head = interpolate(head, samples);
        for (int64_t a = 0; a < axes; ++a) {
          begin.push_back(offset[a] * samples[a] / plan.tile[a]);
          all.push_back(plan.padded[a] * samples[a] / plan.tile[a]);
        }
        if (k == sums.size()) {
          std::vector<int64_t> shape = {1, head.size(1)};
          shape.insert(shape.end(), all.begin(), all.end());
          sums.push_back(at::zeros(shape, at::kDouble));
          weights.push_back(at::zeros(all, at::kDouble));
        }
        const at::Tensor weight = tile_weights(tiles.weights, samples).to(at::kDouble);
        window(sums[k], begin, samples).add_(head.to(at::kDouble) * weight);
        window(weights[k], begin, samples).add_(weight);
      }
    }
  }
  std::vector<at::Tensor> means;
  for (size_t k = 0; k < sums.size(); ++k) means.push_back((sums[k] / weights[k]).to(at::kFloat));
  return means;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

void check_same(const Reduced& a, const Reduced& b, double tolerance) {
  CHECK(a.mask.sizes() == b.mask.sizes());
  const auto pixels = static_cast<double>(a.mask.numel());
  CHECK((a.mask != b.mask).sum().item<double>() <= 1e-3 * pixels);
  CHECK_NEAR(distance(a.counts, b.counts), 0, 1e-3 * pixels);
  CHECK_NEAR(distance(a.probabilities, b.probabilities), 0, tolerance);
  CHECK_NEAR(distance(a.maps[0], b.maps[0]), 0, tolerance);
  CHECK_NEAR(distance(a.maps[2], b.maps[2]), 0, tolerance);
  CHECK_NEAR(distance(a.class_sums.select(2, 1), b.class_sums.select(2, 1)), 0, tolerance * pixels);
}

}  // namespace

TEST("predict tiles: several tiles are what the definition says, step by step") {
  struct {
    std::vector<int64_t> image, tile;
    double overlap;
    std::vector<int64_t> mirror, output;
  } const cases[] = {{{40, 56}, {16, 16}, 0.5, {}, {}},          // every head at its own resolution
                     {{41, 61}, {16, 24}, 0.5, {0}, {}},         // between samples: at the tile's
                     {{40, 50}, {16, 16}, 0.25, {}, {}},         // the one along the rows alone
                     {{9, 37}, {16, 16}, 0.4, {0, 1}, {}},       // smaller than a tile
                     {{16, 16, 24}, {8, 16, 16}, 0.5, {2}, {}},  // volumes
                     {{13, 13, 18}, {8, 16, 8}, 0.3, {0, 1}, {}}, {{16, 16, 24}, {8, 16, 16}, 0.5, {}, {40, 13, 9}}};
  for (const auto& one : cases) {
    Network network(static_cast<int64_t>(one.image.size()));
    std::vector<int64_t> shape = {1};
    shape.insert(shape.end(), one.image.begin(), one.image.end());
    const at::Tensor image = random(shape, 3);
    const auto weights = &one - cases == 0 || &one - cases == 5 ? TileWeights::kConstant : TileWeights::kGaussian;
    const TileOptions tiles{one.tile, one.overlap, weights, one.mirror, one.output, {}, 0};
    PredictOptions options;
    options.reduce.labels = true;
    const TilesPredicted tiled = predict_tiles({&network.ensemble}, source_of(image), tiles, options, kFree);
    const TilePlan plan = plan_tiles(one.image, one.tile, one.overlap);
    CHECK(tiled.passes == plan.count() << one.mirror.size());
    const std::vector<int64_t> output = one.output.empty() ? one.image : one.output;
    // Interpolated to all that the tiles cover, of which the image is a part.
    const auto means = means_by_definition(network.ensemble, image, tiles);
    if (output == one.image) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& head : means)
        parts.push_back(window(interpolate(head, plan.padded), plan.before, one.image).contiguous());
      check_same(tiled, reduce(parts, one.image, options.reduce), 2e-5);
      const auto logits = forward_tiles({&network.ensemble}, source_of(image), tiles, options, kFree);
      CHECK(logits.size() == parts.size());
      for (size_t k = 0; k < parts.size(); ++k) CHECK_NEAR(distance(logits[k], parts[k]), 0, 2e-5);
    } else if (plan.padded == one.image) {
      check_same(tiled, reduce(means, output, options.reduce), 2e-5);
    }
    CHECK(tiled.mask.sizes().slice(1) == output);
    if (one.image.size() == 3) continue;
    // Of the kept heads alone, several tiles in a pass.
    options.heads = {1, 3};
    options.temperatures = {1.5, 1};
    options.batch_size = 3;
    const TilesPredicted some = predict_tiles({&network.ensemble}, source_of(image), tiles, options, kFree);
    CHECK(some.labels.size(1) == 2);
    CHECK((some.labels[0][1] != tiled.labels[0][3]).sum().item<double>() <= 1e-3 * some.mask.numel());
  }
}

TEST("predict tiles: one tile that is the image is a prediction of it") {
  Network network(2);
  const at::Tensor image = random({1, 32, 24}, 1);
  PredictOptions options;
  options.tap_statistics = {"encoder.1"};
  const Predicted plain = predict(network.ensemble, {image}, options, kFree)[0];
  const TilesPredicted tiled = predict_tiles({&network.ensemble}, source_of(image), tiles_of({32, 24}), options, kFree);
  CHECK(tiled.passes == 1);
  CHECK(tiled.probabilities.equal(plain.probabilities) && tiled.mask.equal(plain.mask));
  CHECK(tiled.tap_statistics[0].equal(plain.tap_statistics[0]));
  const auto heads = forward_tiles({&network.ensemble}, source_of(image), tiles_of({32, 24}), options, kFree),
             whole = forward({&network.ensemble}, image.unsqueeze(0), at::kFloat);
  for (size_t k = 0; k < whole.size(); ++k) CHECK(heads[k].equal(whole[k]));
  // Where it is summed, for it is brought out at another size, rounding alone is between them.
  const TileOptions twice{{32, 24}, 0.5, TileWeights::kGaussian, {}, {64, 48}, {}, 0};
  const TilesPredicted larger = predict_tiles({&network.ensemble}, source_of(image), twice, options, kFree);
  CHECK_NEAR(distance(larger.tap_statistics[0], plain.tap_statistics[0]), 0, 1e-6);
  check_same(larger, reduce(means_by_definition(network.ensemble, image, twice), {64, 48}, {}), 2e-5);
}

TEST("predict tiles: statistics of features are those of all passes together") {
  Network network(2);
  const at::Tensor image = random({1, 40, 24}, 2);
  const TileOptions tiles{{16, 16}, 0.4, TileWeights::kGaussian, {1}, {}, {}, 0};
  PredictOptions options;
  options.tap_statistics = {"encoder.1", "encoder.2"};
  options.batch_size = 2;
  const TilesPredicted tiled = predict_tiles({&network.ensemble}, source_of(image), tiles, options, kFree);
  const TilePlan plan = plan_tiles({40, 24}, {16, 16}, 0.4);
  const auto taps = network.ensemble.backbone().tap(options.tap_statistics);
  std::vector<at::Tensor> features[2];
  {
    const c10::InferenceMode inference;
    const Evaluation evaluation(network.ensemble, at::kFloat);
    for (int64_t tile = 0; tile < plan.count(); ++tile)
      for (const bool flipped : {false, true}) {
        at::Tensor part = window(image.unsqueeze(0), plan.offset(tile), plan.tile);
        if (flipped) part = part.flip({3});
        const Pass pass = network.ensemble.backbone().forward(part.contiguous(), taps.get());
        for (int t = 0; t < 2; ++t) features[t].push_back(pass.taps[t].clone());
      }
  }
  for (int t = 0; t < 2; ++t)
    CHECK_NEAR(distance(tiled.tap_statistics[t], tap_statistics_reference(at::cat(features[t], 3))), 0, 2e-5);
}

TEST("predict tiles: members, passes of dropout and a second pass over the pixels go through tiles as well") {
  Network first(2), second(2, 0.5);
  const at::Tensor image = random({1, 32, 20}, 4);
  const TileOptions tiles{{16, 16}, 0.5, TileWeights::kConstant, {}, {}, {}, 0};
  PredictOptions options;
  const auto both = predict_tiles({&first.ensemble, &second.ensemble}, source_of(image), tiles, options, kFree);
  CHECK(both.counts.size(1) == 8);
  options.heads = {0, 1, 2, 3};
  const auto of_first = predict_tiles({&first.ensemble, &second.ensemble}, source_of(image), tiles, options, kFree);
  const auto alone = predict_tiles({&first.ensemble}, source_of(image), tiles, {}, kFree);
  CHECK_NEAR(distance(of_first.probabilities, alone.probabilities), 0, 1e-6);

  // A pass is one network: the same draws for every tile, whatever shares a batch.
  PredictOptions sampled;
  sampled.passes = 3;
  sampled.seed = 11;
  sampled.reduce.labels = true;
  const auto one = predict_tiles({&second.ensemble}, source_of(image), tiles, sampled, kFree);
  sampled.batch_size = 1;
  const auto again = predict_tiles({&second.ensemble}, source_of(image), tiles, sampled, kFree);
  CHECK(one.counts.size(1) == 12);
  CHECK_NEAR(distance(one.probabilities, again.probabilities), 0, 1e-5);
  CHECK(one.passes == again.passes);
  const at::Tensor same = at::ones({1, 16, 32});
  const auto of_same = predict_tiles({&second.ensemble}, source_of(same), tiles_of({16, 16}, 0), sampled, kFree);
  CHECK_NEAR(distance(of_same.probabilities.narrow(3, 0, 16), of_same.probabilities.narrow(3, 16, 16)), 0, 0.35);
  const auto means = of_same.labels.to(at::kFloat);
  CHECK(means.narrow(3, 2, 12).equal(means.narrow(3, 18, 12)));

  const TileOptions odd{{16, 16}, 0.5, TileWeights::kGaussian, {}, {}, {}, 0};
  for (const char* fusion : {"staple", "vote", "logit-mean"}) {
    PredictOptions fused = PredictOptions::from(Json(Json::Object{{"fusion", fusion}, {"temperature", 1.5}}));
    const auto tiled = predict_tiles({&first.ensemble}, source_of(image), odd, fused, kFree);
    const auto means = means_by_definition(first.ensemble, image, odd);
    std::vector<at::Tensor> all;
    for (const at::Tensor& head : means) all.push_back(interpolate(head, {32, 20}));
    check_same(tiled, reduce(all, {32, 20}, fused.reduce), 1e-3);
    CHECK(tiled.confusion.defined() == (std::string(fusion) == "staple"));
  }
}

TEST("predict tiles: a stop is heard, progress is told, and what is wrong is refused") {
  Network network(2);
  const at::Tensor image = random({1, 40, 24}, 6);
  const TileOptions tiles{{16, 16}, 0.5, TileWeights::kGaussian, {}, {}, {}, 0};
  Control control;
  std::vector<int64_t> done, rows;
  control.report = [&](const Json& event) {
    const bool of_tiles = event.at("stage").string("stage") == "tiles";
    (of_tiles ? done : rows).push_back(event.at("done").integer("done"));
    CHECK(event.at("of").integer("of") == (of_tiles ? 8 : 40));
  };
  PredictOptions options;
  options.batch_size = 1;
  predict_tiles({&network.ensemble}, source_of(image), tiles, options, control);
  CHECK((done == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  CHECK(rows.size() > 2 && rows.back() == 40 && rows.front() < 16);
  control.report = [&](const Json&) { control.stop = true; };
  CHECK_THROWS(predict_tiles({&network.ensemble}, source_of(image), tiles, options, control), code::kAborted);

  const auto attempt = [&](const at::Tensor& of, const TileOptions& with) {
    predict_tiles({&network.ensemble}, source_of(of), with, {}, kFree);
  };
  at::Tensor bad = image.clone();
  bad[0][33][7] = NAN;
  CHECK_THROWS(attempt(bad, tiles), code::kValue);
  CHECK_THROWS(attempt(random({2, 40, 24}, 1), tiles), code::kShape);
  CHECK_THROWS(attempt(image, tiles_of({16})), code::kOption);
  CHECK_THROWS(attempt(image, tiles_of({16, 16}, 1)), code::kOption);
  CHECK_THROWS(attempt(image, {{16, 16}, 0.5, TileWeights::kGaussian, {2}, {}, {}, 0}), code::kOption);
  CHECK_THROWS(attempt(image, {{16, 16}, 0.5, TileWeights::kGaussian, {1, 1}, {}, {}, 0}), code::kOption);
  CHECK_THROWS(attempt(image, {{16, 16}, 0.5, TileWeights::kGaussian, {}, {40}, {}, 0}), code::kOption);
  CHECK_THROWS(attempt(image, {{16, 16}, 0.5, TileWeights::kGaussian, {}, {0, 24}, {}, 0}), code::kShape);
  CHECK_THROWS(attempt(image, {{16, 16}, 0.5, TileWeights::kGaussian, {}, {}, {2}, 0}), code::kOption);
  CHECK_THROWS(TileOptions::from(Json(Json::Object{{"weights", "triangle"}})), code::kOption);
}
