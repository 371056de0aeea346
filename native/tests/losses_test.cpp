#include "training/losses.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>

#include "check.h"
#include "error.h"
#include "kernels/isa.h"
#include "training/loss_sums.h"
#include "training/region_losses.h"
#include "training_fixtures.h"

using namespace le;

namespace {

constexpr int64_t kIgnore = 255;

Loss loss_of(const char* options) { return make_loss(Json::parse(options, code::kOption), kIgnore); }

at::Tensor numbers(const Json& array) {
  std::vector<double> values;
  for (const Json& value : array.array("numbers")) values.push_back(value.number("number"));
  return at::tensor(values, at::kDouble);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

struct Result {
  double value;
  at::Tensor gradient;
};
Result differentiate(const Loss& loss, const at::Tensor& logits, const at::Tensor& target) {
  const at::Tensor z = logits.detach().clone(at::MemoryFormat::Preserve).requires_grad_(true);
  const at::Tensor value = loss(z, target);
  value.backward();
  return {value.item<double>(), z.grad()};
}

at::Generator generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

at::Tensor random_logits(at::IntArrayRef shape, uint64_t seed) {
  return 3 * at::randn(shape, generator(seed), at::kFloat);
}

// Labels with some pixels ignored.
at::Tensor random_target(int64_t classes, at::IntArrayRef shape, uint64_t seed) {
  at::Tensor y = at::randint(0, classes, shape, generator(seed), at::kLong);
  y.flatten(1).narrow(1, 0, y.flatten(1).size(1) / 5).fill_(kIgnore);
  return y;
}

const std::vector<const char*> kLosses = {
    R"({"name": "softDice"})",
    R"({"name": "softDice", "includeBackground": true, "smooth": 1})",
    R"({"name": "jaccard"})",
    R"({"name": "tversky", "alpha": 0.3, "beta": 0.7})",
    R"({"name": "crossEntropy"})",
    R"({"name": "crossEntropy", "labelSmoothing": 0.1})",
    R"({"name": "diceCrossEntropy"})",
    R"({"name": "focal"})",
    R"({"name": "focal", "gamma": 0})",
    R"({"name": "focal", "gamma": 0.5})",
    R"({"name": "focal", "gamma": 3.5})",
};

// Those that no kernel computes: they look at more than a pixel at a time.
const std::vector<const char*> kWholeLosses = {
    R"({"name": "lovaszSoftmax"})",
    R"({"name": "boundary"})",
    R"({"name": "boundary", "includeBackground": true})",
};

// The kernel's value and gradient against those of library operations in double precision.
void compare_with_operations(const at::Tensor& logits, const at::Tensor& target, double tolerance) {
  for (const char* options : kLosses) {
    const Loss loss = loss_of(options);
    const Result fused = differentiate(loss, logits, target);
    const Result reference = differentiate(loss, logits.to(at::kDouble), target);
    if (!(std::abs(fused.value - reference.value) <= tolerance * std::max(1.0, std::abs(reference.value))))
      test::failed(__FILE__, __LINE__, options, " of ", logits.sizes(), " is ", fused.value, ", expected ",
                   reference.value);
    CHECK(fused.gradient.scalar_type() == logits.scalar_type());
    CHECK(fused.gradient.sizes() == logits.sizes());
    const double scale = reference.gradient.abs().max().item<double>();
    const double error = largest_difference(fused.gradient, reference.gradient);
    if (!(error <= 10 * tolerance * scale))
      test::failed(__FILE__, __LINE__, "gradient of ", options, " of ", logits.sizes(), " differs by ", error / scale,
                   " of its largest value");
  }
}

class EnvironmentValue {
 public:
  EnvironmentValue(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~EnvironmentValue() {
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST("losses: values and gradients equal PyTorch's, interpolation included") {
  const Json fixture = Json::parse(test::kLossFixtures, code::kCheckpoint);
  const auto shape = fixture.integers_or("shape", {}), size = fixture.integers_or("size", {});
  const at::Tensor logits = numbers(fixture.at("logits")).view(shape);
  const at::Tensor target = numbers(fixture.at("target")).to(at::kLong).view({shape[0], size[0], size[1]});
  for (const Json& example : fixture.at("cases").array("cases")) {
    const Loss loss = make_loss(example.at("options"), kIgnore);
    const at::Tensor expected = numbers(example.at("gradient")).view(shape);
    const double value = example.at("value").number("value"), scale = expected.abs().max().item<double>();
    const Result exact = differentiate(loss, logits, target);
    CHECK_NEAR(exact.value, value, 1e-10);
    // Weights of the interpolation are single precision in the kernel alone.
    CHECK_NEAR(largest_difference(exact.gradient, expected), 0, 1e-8 * scale);
    const Result fused = differentiate(loss, logits.to(at::kFloat), target);
    CHECK_NEAR(fused.value, value, 2e-6);
    CHECK_NEAR(largest_difference(fused.gradient, expected), 0, 5e-6 * scale);
  }
}

TEST("losses: gradients agree with finite differences") {
  const at::Tensor logits = random_logits({2, 3, 3, 4}, 1).to(at::kDouble);
  const at::Tensor target = random_target(3, {2, 5, 7}, 2);
  for (const char* options : kLosses) {
    const Loss loss = loss_of(options);
    const at::Tensor gradient = differentiate(loss, logits, target).gradient.flatten();
    for (int64_t i = 0; i < logits.numel(); ++i) {
      const double step = 1e-5;
      at::Tensor more = logits.clone(), less = logits.clone();
      more.view(-1)[i] += step;
      less.view(-1)[i] -= step;
      const double slope = (loss(more, target).item<double>() - loss(less, target).item<double>()) / (2 * step);
      CHECK_NEAR(gradient[i].item<double>(), slope, 1e-7);
    }
  }
}

TEST("losses: those of whole images have gradients that agree with finite differences, in float and bfloat16 too") {
  for (const std::vector<int64_t>& size : {std::vector<int64_t>{2, 5, 7}, std::vector<int64_t>{2, 3, 4, 5}}) {
    std::vector<int64_t> shape = size;
    shape.insert(shape.begin() + 1, 3);
    const at::Tensor logits = random_logits(shape, 31).to(at::kDouble), target = random_target(3, size, 32);
    for (const char* options : kWholeLosses) {
      const Loss loss = loss_of(options);
      const Result exact = differentiate(loss, logits, target);
      const at::Tensor gradient = exact.gradient.flatten();
      for (int64_t i = 0; i < logits.numel(); i += 3) {
        const double step = 1e-6;
        at::Tensor more = logits.clone(), less = logits.clone();
        more.view(-1)[i] += step;
        less.view(-1)[i] -= step;
        const double slope = (loss(more, target).item<double>() - loss(less, target).item<double>()) / (2 * step);
        CHECK_NEAR(gradient[i].item<double>(), slope, 1e-6);
      }
      CHECK_NEAR(differentiate(loss, logits.to(at::kFloat), target).value, exact.value, 1e-5);
      CHECK_NEAR(differentiate(loss, logits.to(at::kBFloat16), target).value, exact.value, 3e-2);
      CHECK(differentiate(loss, logits, target.to(at::kByte)).value == exact.value);
    }
  }
}

TEST("losses: those of whole images leave ignored pixels out, and images that have no other") {
  const at::Tensor logits = random_logits({2, 3, 6, 8}, 33).to(at::kDouble), target = random_target(3, {2, 6, 8}, 34);
  for (const char* options : kWholeLosses) {
    const Loss loss = loss_of(options);
    const at::Tensor changed = at::where(target.eq(kIgnore).unsqueeze(1), logits + 5, logits);
    CHECK_NEAR(differentiate(loss, changed, target).value, differentiate(loss, logits, target).value, 1e-12);
    at::Tensor half = target.clone();
    half[1].fill_(kIgnore);
    const Result one = differentiate(loss, logits.narrow(0, 0, 1), target.narrow(0, 0, 1));
    const Result both = differentiate(loss, logits, half);
    CHECK_NEAR(both.value, one.value / 2, 1e-12);
    CHECK(both.gradient[1].abs().max().item<double>() == 0);
    const Result none = differentiate(loss, logits, at::full({2, 6, 8}, kIgnore, at::kLong));
    CHECK(none.value == 0 && none.gradient.abs().max().item<double>() == 0);
    CHECK_THROWS(loss(logits, target.clamp_max(2) + 1), "ERR_LE_VALUE");
    CHECK_THROWS(loss(logits, target.narrow(0, 0, 1)), "ERR_LE_SHAPE");
  }
  // One class everywhere has no boundary; a truth that is met exactly has no Lovász loss.
  const at::Tensor flat = at::zeros({2, 6, 8}, at::kLong);
  CHECK(differentiate(loss_of(kWholeLosses[2]), logits, flat).value == 0);
  at::Tensor sure = at::zeros({2, 3, 6, 8}, at::kDouble);
  sure.select(1, 0).fill_(100);
  CHECK_NEAR(differentiate(loss_of(kWholeLosses[0]), sure, flat).value, 0, 1e-12);
}

TEST("losses: the signed distance is that of the nearest pixel of the other side") {
  for (const std::vector<int64_t>& size : {std::vector<int64_t>{1, 9, 13}, std::vector<int64_t>{1, 5, 4, 7}}) {
    const at::Tensor target = random_target(2, size, 35).mul_(random_target(2, size, 36).clamp_max(1));
    target.masked_fill_(target.gt(1), kIgnore);
    const at::Tensor distance = signed_distance(target, 2, kIgnore).flatten(2)[0][1];
    const at::Tensor place = at::ones(at::IntArrayRef(size).slice(1)).nonzero().to(at::kDouble),
                     label = target.flatten();
    for (int64_t i = 0; i < label.numel(); ++i) {
      const int64_t own = label[i].item<int64_t>();
      double nearest = own == kIgnore ? 0 : 1e9;
      for (int64_t j = 0; own != kIgnore && j < label.numel(); ++j) {
        const int64_t other = label[j].item<int64_t>();
        if (other == kIgnore || other == own) continue;
        nearest = std::min(nearest, (place[i] - place[j]).square().sum().sqrt().item<double>());
      }
      CHECK_NEAR(distance[i].item<double>(), own == kIgnore ? 0 : own == 1 ? 1 - nearest : nearest, 1e-9);
    }
  }
}

TEST("losses: the kernel equals library operations at the target's own size") {
  for (const int64_t classes : {2, 3, 4, 7}) {
    compare_with_operations(random_logits({2, classes, 33, 61}, 3), random_target(classes, {2, 33, 61}, 4), 2e-6);
    compare_with_operations(random_logits({1, classes, 100, 96}, 5), random_target(classes, {1, 100, 96}, 6), 2e-6);
  }
}

TEST("losses: the kernel equals library operations at other sizes, larger and smaller") {
  struct Sizes {
    int64_t from[2], to[2];
  };
  for (const Sizes& s :
       {Sizes{{32, 32}, {64, 64}}, Sizes{{8, 8}, {128, 128}}, Sizes{{7, 9}, {50, 33}}, Sizes{{1, 1}, {70, 65}},
        Sizes{{1, 5}, {3, 80}}, Sizes{{64, 80}, {50, 31}}, Sizes{{40, 10}, {20, 40}}, Sizes{{97, 130}, {97, 260}}}) {
    for (const int64_t classes : {2, 3}) {
      compare_with_operations(random_logits({2, classes, s.from[0], s.from[1]}, 7),
                              random_target(classes, {2, s.to[0], s.to[1]}, 8), 3e-6);
    }
  }
}

TEST("losses: every instruction set gives the same") {
  const std::string best = chosen_isa();
  for (const char* isa : {"generic", "avx2"}) {
    const EnvironmentValue environment("LAYER_ENSEMBLES_ISA", isa);
    for (const int64_t classes : {2, 4}) {
      compare_with_operations(random_logits({2, classes, 19, 23}, 9), random_target(classes, {2, 40, 46}, 10), 3e-6);
      compare_with_operations(random_logits({2, classes, 19, 23}, 9), random_target(classes, {2, 19, 23}, 10), 3e-6);
    }
  }
  CHECK(chosen_isa() == best);
}

TEST("losses: volumes and lines") {
  compare_with_operations(random_logits({2, 3, 5, 9, 11}, 11), random_target(3, {2, 5, 9, 11}, 12), 2e-6);
  compare_with_operations(random_logits({2, 2, 3, 4, 5}, 13), random_target(2, {2, 6, 8, 10}, 14), 3e-6);
  compare_with_operations(random_logits({2, 3, 40}, 15), random_target(3, {2, 40}, 16), 2e-6);
}

TEST("losses: bfloat16, channels_last and byte targets are taken as they are") {
  const at::Tensor logits = random_logits({2, 3, 16, 20}, 17).to(at::kBFloat16), y = random_target(3, {2, 32, 40}, 18);
  for (const char* options : kLosses) {
    const Loss loss = loss_of(options);
    const Result plain = differentiate(loss, logits.to(at::kFloat), y);
    const Result same[] = {differentiate(loss, logits.to(at::kFloat, false, false, at::MemoryFormat::ChannelsLast), y),
                           differentiate(loss, logits.to(at::kFloat), y.to(at::kByte))};
    for (const Result& other : same) {
      CHECK(other.value == plain.value);
      CHECK(largest_difference(other.gradient, plain.gradient) == 0);
    }
    const Result half = differentiate(loss, logits.contiguous(at::MemoryFormat::ChannelsLast), y);
    CHECK(half.value == plain.value);
    CHECK(half.gradient.scalar_type() == at::kBFloat16);
    CHECK(largest_difference(half.gradient, plain.gradient.to(at::kBFloat16)) == 0);
  }
}

TEST("losses: the thread count does not change a bit") {
  const int before = at::get_num_threads();
  const at::Tensor logits = random_logits({3, 4, 40, 50}, 19), y = random_target(4, {3, 160, 150}, 20);
  for (const char* options : {kLosses[0], kLosses[6], kLosses[7]}) {
    const Loss loss = loss_of(options);
    at::set_num_threads(1);
    const Result one = differentiate(loss, logits, y);
    at::set_num_threads(3);
    const Result three = differentiate(loss, logits, y);
    CHECK(one.value == three.value);
    CHECK(largest_difference(one.gradient, three.gradient) == 0);
  }
  at::set_num_threads(before);
}

TEST("losses: ignored pixels change nothing, and images of nothing else give 0") {
  const at::Tensor logits = random_logits({2, 3, 12, 14}, 21);
  at::Tensor y = random_target(3, {2, 12, 14}, 22);
  for (const char* options : kLosses) {
    const Loss loss = loss_of(options);
    const Result before = differentiate(loss, logits, y);
    const at::Tensor other = at::where(y.eq(kIgnore).unsqueeze(1), logits + random_logits(logits.sizes(), 23), logits);
    const Result after = differentiate(loss, other, y);
    CHECK(after.value == before.value);
    CHECK(largest_difference(after.gradient, before.gradient) == 0);
    CHECK(before.gradient.masked_select(y.eq(kIgnore).unsqueeze(1)).abs().max().item<double>() == 0);

    const at::Tensor nothing = at::full_like(y, kIgnore);
    for (const at::Tensor& z : {logits, logits.to(at::kDouble)}) {
      const Result empty = differentiate(loss, z, nothing);
      CHECK(empty.value == 0);
      CHECK(empty.gradient.abs().max().item<double>() == 0);
    }
  }
  // Without smoothing, an ignored image is 0 / 0.
  y[0].fill_(kIgnore);
  const Result half = differentiate(loss_of(R"({"name": "softDice", "smooth": 0})"), logits, y);
  const Result alone =
      differentiate(loss_of(R"({"name": "softDice", "smooth": 0})"), logits.narrow(0, 1, 1), y.narrow(0, 1, 1));
  CHECK_NEAR(half.value, alone.value / 2, 1e-7);
}

TEST("losses: certain predictions stay finite, right or wrong") {
  at::Tensor y = at::zeros({1, 8, 8}, at::kLong);
  y.narrow(1, 0, 4).fill_(1);
  for (const int64_t classes : {2, 3}) {
    for (const double sign : {1.0, -1.0}) {
      at::Tensor z = at::zeros({1, classes, 8, 8});
      z.select(1, 1).narrow(1, 0, 4).fill_(sign * 1000);
      z.select(1, 0).narrow(1, 4, 4).fill_(sign * 1000);
      for (const char* options : kLosses) {
        const Result result = differentiate(loss_of(options), z, y);
        CHECK(std::isfinite(result.value));
        CHECK(result.gradient.isfinite().all().item<bool>());
      }
      const double entropy = differentiate(loss_of(R"({"name": "crossEntropy"})"), z, y).value;
      CHECK_NEAR(entropy, sign > 0 ? 0 : classes == 2 ? 1000 : 1000 + std::log(2.0), 1e-3);
      const double dice = differentiate(loss_of(R"({"name": "softDice"})"), z, y).value;
      CHECK(sign > 0 ? dice < 1e-6 : dice > (classes == 2 ? 0.99 : 0.49));
    }
  }
}

TEST("losses: a logit that is not a number makes the loss one") {
  for (const int64_t classes : {2, 3})
    for (const char* options : kLosses) {
      at::Tensor z = random_logits({1, classes, 20, 24}, 24);
      z[0][classes - 1][10][11] = std::numeric_limits<float>::quiet_NaN();
      const at::Tensor y = at::zeros({1, 20, 24}, at::kLong);
      CHECK(std::isnan(loss_of(options)(z, y).item<double>()));
    }
}

TEST("losses: no gradient is kept where none is asked for") {
  const at::Tensor value =
      loss_of(R"({"name": "softDice"})")(random_logits({1, 2, 8, 8}, 25), at::zeros({1, 8, 8}, at::kLong));
  CHECK(!value.requires_grad());
}

TEST("losses: shapes, labels and options that do not fit") {
  const Loss loss = loss_of(R"({"name": "softDice"})");
  const at::Tensor z = random_logits({2, 3, 8, 8}, 26), y = at::zeros({2, 8, 8}, at::kLong);
  CHECK_THROWS(loss(z, y.narrow(0, 0, 1)), "ERR_LE_SHAPE");
  CHECK_THROWS(loss(z, y.unsqueeze(1)), "ERR_LE_SHAPE");
  CHECK_THROWS(loss(z.narrow(1, 0, 1), y), "ERR_LE_SHAPE");
  CHECK_THROWS(loss(z, at::empty({2, 0, 8}, at::kLong)), "ERR_LE_SHAPE");
  CHECK_THROWS(loss(z, y + 3), "ERR_LE_VALUE");
  CHECK_THROWS(loss(z, y - 1), "ERR_LE_VALUE");
  CHECK_THROWS(loss_of(R"({"name": "crossEntropy", "classWeights": [1, 2]})")(z, y), "ERR_LE_OPTION");
  for (const char* bad :
       {R"({"name": "dice"})", R"({"smooth": 1})", R"({"name": "softDice", "smooth": -1})",
        R"({"name": "crossEntropy", "labelSmoothing": 1.5})", R"({"name": "focal", "gamma": -1})",
        R"({"name": "crossEntropy", "classWeights": [1, -2]})", R"({"name": "tversky", "alpha": "x"})"})
    CHECK_THROWS(loss_of(bad), "ERR_LE_OPTION");
}
