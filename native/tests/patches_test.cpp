// Random patches of samples, and the tiles by which a training on them is validated.
#include "data/patches.h"

#include <ATen/ops/equal.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "ensemble.h"
#include "error.h"
#include "training/train.h"
#include "training/validation.h"

#include "check.h"
#include "folder.h"
#include "small_network.h"

namespace {

using namespace le;

using Size = std::vector<int64_t>;

// Each pixel's value tells where it lies, and is not 0.
Sample numbered(const Size& size, int64_t channels = 1) {
  Sample sample{channels, size, {}, {}};
  sample.image.resize(channels * sample.pixels());
  for (size_t i = 0; i < sample.image.size(); ++i) sample.image[i] = static_cast<float>(i + 1);
  sample.mask.assign(sample.pixels(), 0);
  return sample;
}

Dataset of(std::vector<Sample> samples) {
  Dataset data;
  data.samples = std::move(samples);
  return data;
}

Json parsed(const std::string& text) { return Json::parse(text, code::kOption); }

PatchOptions options(Size size, double foreground = 0, int64_t per_sample = 0) {
  return {std::move(size), foreground, per_sample};
}

bool holds(const Sample& sample, uint8_t label) {
  return std::find(sample.mask.begin(), sample.mask.end(), label) != sample.mask.end();
}

}  // namespace

TEST("patches: a part of a sample is what lies there, and zeros where the sample is not") {
  Sample sample = numbered({3, 4, 5}, 2);
  for (size_t i = 0; i < sample.mask.size(); ++i) sample.mask[i] = static_cast<uint8_t>(1 + i % 7);
  const Size size{4, 3, 6};
  for (const Size& start : {Size{0, 0, 0}, Size{1, 1, 2}, Size{-2, 2, -3}, Size{-4, 0, 0}, Size{0, 4, 0}}) {
    const Sample part = part_of(view_of(sample), start, size);
    CHECK(part.size == size && part.channels == 2);
    size_t at = 0;
    for (int64_t c = 0; c < 2; ++c)
      for (int64_t z = start[0]; z < start[0] + 4; ++z)
        for (int64_t y = start[1]; y < start[1] + 3; ++y)
          for (int64_t x = start[2]; x < start[2] + 6; ++x, ++at) {
            const bool inside = z >= 0 && z < 3 && y >= 0 && y < 4 && x >= 0 && x < 5;
            const int64_t pixel = (z * 4 + y) * 5 + x;
            CHECK(part.image[at] == (inside ? static_cast<float>(c * 60 + pixel + 1) : 0.0f));
            if (c == 0) CHECK(part.mask[at] == (inside ? sample.mask[pixel] : 0));
          }
  }
}

TEST("patches: what one holds hangs on seed, epoch and number alone, and lies within its sample") {
  const Dataset data = of({numbered({9, 10, 11}), numbered({6, 20, 7})});
  const Patches patches(data, options({4, 5, 6}, 0.5, 3), 255, 7), again(data, options({4, 5, 6}, 0.5, 3), 255, 7),
      other(data, options({4, 5, 6}, 0.5, 3), 255, 8);
  CHECK(patches.count() == 6);
  int same_seed = 0, same_epoch = 0;
  for (size_t i = 0; i < patches.count(); ++i) {
    const Sample patch = patches.draw(i, 2);
    CHECK((patch.size == Size{4, 5, 6}));
    CHECK(patches.sample_of(i) == i / 3);
    CHECK(patch.image == again.draw(i, 2).image);
    same_seed += patch.image == other.draw(i, 2).image;
    same_epoch += patch.image == patches.draw(i, 3).image;
    for (const float value : patch.image) CHECK(value > 0);
  }
  CHECK(same_seed < 3 && same_epoch < 3);
}

TEST("patches: every place of a sample is as likely, without a foreground") {
  const Dataset data = of({numbered({7})});
  Dataset images = of({numbered({1, 8})});
  const Patches patches(images, options({1, 3}, 0, 1), 255, 1);
  std::vector<int> begins(6);
  for (int epoch = 0; epoch < 6000; ++epoch) ++begins[std::lround(patches.draw(0, epoch).image[0]) - 1];
  for (const int count : begins) CHECK(std::abs(count - 1000) < 150);
}

TEST("patches: a share lies about the foreground, its classes as often whatever their sizes") {
  Sample sample = numbered({20, 30, 40});
  const auto at = [](int64_t z, int64_t y, int64_t x) { return (z * 30 + y) * 40 + x; };
  for (int64_t z = 12; z < 16; ++z)
    for (int64_t y = 3; y < 9; ++y)
      for (int64_t x = 30; x < 38; ++x) sample.mask[at(z, y, x)] = 1;
  sample.mask[at(2, 25, 4)] = 3;  // one voxel; there is no class 2
  const Dataset data = of({sample, numbered({20, 30, 40})});
  const Size size{6, 7, 8};
  const auto found = [&](double foreground) {
    const Patches patches(data, options(size, foreground, 1), 255, 5);
    std::vector<int> count(4);
    for (int epoch = 0; epoch < 600; ++epoch) {
      const Sample patch = patches.draw(0, epoch);
      for (uint8_t label = 1; label < 4; ++label) count[label] += holds(patch, label);
      CHECK(!holds(patches.draw(1, epoch), 1));  // of a sample without foreground
    }
    return count;
  };
  const auto always = found(1), third = found(1.0 / 3), never = found(0);
  CHECK(always[1] + always[3] == 600 && always[2] == 0);
  CHECK(std::abs(always[1] - 300) < 60);
  CHECK(never[3] < 20);
  CHECK(std::abs(third[3] - 100) < 40 && third[1] > never[1] + 30);
  // The pixel is in the middle as far as the borders let it be.
  const Patches patches(data, options(size, 1, 1), 255, 5);
  for (int epoch = 0; epoch < 40; ++epoch) {
    const Sample patch = patches.draw(0, epoch);
    if (!holds(patch, 3)) continue;
    CHECK(patch.image[0] == static_cast<float>(at(0, 22, 0) + 1));  // 2 - 3 and 4 - 4 and 25 - 3
  }
}

TEST("patches: pixels of a class are as likely as each other, and of what is partly labelled some counts") {
  Sample sample = numbered({5, 9});
  sample.mask.assign(45, 255);
  for (const int pixel : {2, 20, 24, 44}) sample.mask[pixel] = pixel == 20 ? 0 : 1;
  const Dataset data = of({sample});
  const Patches about(data, options({1, 1}, 1, 1), 255, 3), anywhere(data, options({1, 1}, 0, 1), 255, 3);
  std::vector<int> foreground(45), counted(45);
  for (int epoch = 0; epoch < 4000; ++epoch) {
    ++foreground[std::lround(about.draw(0, epoch).image[0]) - 1];
    ++counted[std::lround(anywhere.draw(0, epoch).image[0]) - 1];
  }
  for (int pixel = 0; pixel < 45; ++pixel) {
    const uint8_t label = sample.mask[pixel];
    CHECK(label == 1 ? std::abs(foreground[pixel] - 1333) < 150 : foreground[pixel] == 0);
    CHECK(label != 255 ? std::abs(counted[pixel] - 1000) < 150 : counted[pixel] == 0);
  }
}

TEST("patches: a smaller sample lies in the middle, and an epoch has its pixels once where nothing is said") {
  const Dataset data = of({numbered({2, 9}), numbered({30, 40})});
  const Patches patches(data, options({5, 6}), 255, 1);
  CHECK(patches.count() == 2 * 20);  // (18 + 1200) / 2 / 30 = 20.3
  const Sample patch = patches.draw(0, 0);
  for (int64_t y = 0; y < 5; ++y)
    for (int64_t x = 0; x < 6; ++x) CHECK((patch.image[y * 6 + x] > 0) == (y == 1 || y == 2));
  CHECK(Patches(of({numbered({2, 2})}), options({64, 64}), 255, 1).count() == 1);
  CHECK_THROWS(Patches(data, options({5, 6, 7}), 255, 1), "ERR_LE_OPTION");
  CHECK_THROWS(PatchOptions::from(parsed(R"({"patch": [0, 4], "patchForeground": 0.3})")), "ERR_LE_OPTION");
  CHECK_THROWS(PatchOptions::from(parsed(R"({"patch": [4, 4], "patchForeground": 1.3})")), "ERR_LE_OPTION");
  CHECK_THROWS(PatchOptions::from(parsed(R"({"patch": [4, 4], "patchForeground": 1, "patchesPerCase": 0})")),
               "ERR_LE_OPTION");
}

TEST("patches: in validation each pixel of a sample is judged in one tile, where that lies in its sample") {
  const Dataset data = of({numbered({13, 9, 4}), numbered({5, 30, 12})});
  for (const double overlap : {0.0, 0.25, 0.5}) {
    const auto tiles = judged_tiles(data, {6, 8, 5}, overlap);
    std::vector<std::vector<int>> seen{std::vector<int>(13 * 9 * 4), std::vector<int>(5 * 30 * 12)};
    for (size_t i = 0; i < tiles.size(); ++i) {
      const JudgedTile& tile = tiles[i];
      const JudgedBatch batch = judged_batch(data, tiles, i, i + 1, 255, false);
      CHECK(batch.sample[0] == static_cast<int64_t>(tile.sample));
      for (int64_t z = 0; z < 6; ++z)
        for (int64_t y = 0; y < 8; ++y)
          for (int64_t x = 0; x < 5; ++x) {
            const int64_t judged = batch.judged[0][z][y][x].item<int64_t>();
            const float value = batch.images[0][0][z][y][x].item<float>();
            if (judged == 255) continue;
            CHECK(judged == 0 && value > 0);
            ++seen[tile.sample][std::lround(value) - 1];
          }
    }
    for (const auto& sample : seen)
      for (const int count : sample) CHECK(count == 1);
  }
  CHECK(judged_tiles(data, {}, 0.25).size() == 2);
}

namespace {

// A bright cube in each sample, whose sizes differ.
Dataset cubes(int count, bool one_size = false) {
  Dataset data;
  for (int n = 0; n < count; ++n) {
    const int64_t depth = one_size ? 8 : 7 + n % 3, side = one_size ? 8 : 9 + n % 5;
    Sample sample{1, {depth, side, side}, {}, {}};
    for (int64_t z = 0; z < depth; ++z)
      for (int64_t y = 0; y < side; ++y)
        for (int64_t x = 0; x < side; ++x) {
          const bool inside = z > 1 && z < 6 && y > n % 3 && y < 5 + n % 3 && x > 1 && x < 7;
          sample.mask.push_back(inside);
          sample.image.push_back((inside ? 1.0f : -0.4f) + 0.1f * std::sin(static_cast<float>(z + 3 * y + 7 * x + n)));
        }
    data.samples.push_back(std::move(sample));
  }
  return data;
}

std::unique_ptr<Ensemble> of_volumes() {
  EnsembleOptions options;
  options.taps = {"encoder.1", "encoder.0"};
  options.input_size = {8, 8, 8};
  return std::make_unique<Ensemble>(make_backbone(Json::Object{{"kind", "unet3d"},
                                                               {"inChannels", 1},
                                                               {"classes", 2},
                                                               {"width", 4},
                                                               {"depth", 2},
                                                               {"norm", "instance"},
                                                               {"seed", 3}}),
                                    options);
}

TrainOptions training(const std::string& patch, int64_t epochs) {
  return TrainOptions::from(
      parsed(R"({"epochs": )" + std::to_string(epochs) +
             R"(, "batchSize": 3, "accumulate": 1, "checkpointEvery": 1, "learningRate": 0.01, "loss": {"name":
      "diceCrossEntropy"}, "optimizer": {"name": "adamw"}, "schedule": {"name": "constant"}, "headGradient": 1, "clipNorm": 1,
      "earlyStopping": 0, "augment": {"rotation": 10, "noise": 0.05}, "seed": 4, "ignoreIndex": 255, "restoreBest": false)" +
             patch + "}"));
}

constexpr const char* kByPatches = R"(, "patch": [6, 6, 6], "patchForeground": 0.33, "patchesPerCase": 2)";

bool same(const Ensemble& a, const Ensemble& b) {
  const NamedTensors one = a.state(), other = b.state();
  for (size_t i = 0; i < one.size(); ++i)
    if (!at::equal(one[i].second, other[i].second)) return false;
  return true;
}

}  // namespace

TEST("patches: a training of volumes of several sizes learns, and a stopped run goes on to the same weights") {
  const Dataset data = cubes(5), held = cubes(3);
  const auto whole = of_volumes(), stopped = of_volumes();
  int64_t images = 0;
  const Control control{{}, [&](const Json& event) {
                          if (event.at("type").string("type") == "batch")
                            images = event.at("batches").integer("batches");
                        }};
  const Json history = train(*whole, data, &held, training(kByPatches, 6), std::nullopt, control);
  CHECK(images == 4);  // 5 samples, 2 patches of each, in batches of 3 at most
  const Json::Array epochs = history.at("epochs").array("epochs");
  const auto loss = [&](size_t epoch) { return epochs[epoch].at("loss").number("loss"); };
  CHECK(loss(5) < loss(0));
  const Json& fused = epochs[5].at("validation").at("fused");
  CHECK(fused.at("dice").number("dice") > 0.5);

  const test::Folder folder;
  const std::string run = folder.file("run");
  std::filesystem::create_directories(run);
  TrainOptions half = training(kByPatches, 3);
  half.run = run;
  train(*stopped, data, &held, half, std::nullopt, {});
  TrainOptions rest = training(kByPatches, 6);
  rest.run = run;
  rest.resume = true;
  const auto resumed = of_volumes();
  train(*resumed, data, &held, rest, std::nullopt, {});
  CHECK(same(*whole, *resumed));
  TrainOptions other = training(R"(, "patch": [6, 6, 7], "patchForeground": 0.33, "patchesPerCase": 2)", 6);
  other.run = run;
  other.resume = true;
  CHECK_THROWS(train(*of_volumes(), data, &held, other, std::nullopt, {}), "ERR_LE_CHECKPOINT");
  CHECK_THROWS(train(*of_volumes(), data, &held, training("", 1), std::nullopt, {}), "ERR_LE_SHAPE");
}

TEST("patches: validation by one tile is that of the whole samples") {
  const Dataset data = cubes(4, true), held = cubes(3, true);
  const auto validation = [&](const std::string& patch) {
    TrainOptions options = training(patch, 1);
    options.learning_rate = 0;
    const Json history = train(*of_volumes(), data, &held, options, std::nullopt, {});
    return history.at("epochs").array("epochs")[0].at("validation").dump();
  };
  CHECK(validation(R"(, "patch": [8, 8, 8], "patchForeground": 0)") == validation(""));
}
