#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "options.h"

namespace le {

namespace {

constexpr double kPi = 3.14159265358979323846;

constexpr const char* kOf = " of the schedule";

class Constant final : public Schedule {
 public:
  double factor(int64_t, int64_t) const override { return 1; }
};

// torch.optim.lr_scheduler.ReduceLROnPlateau, mode "min", threshold mode "rel".
class Plateau final : public Schedule {
 public:
  explicit Plateau(const Json& options)
      : drop_(in_range(options, "factor", 0.1, {0, 1, kBelow}, kOf)),
        threshold_(in_range(options, "threshold", 1e-4, {0, 1}, kOf)),
        lowest_(in_range(options, "minFactor", 0.0, {0, 1}, kOf)),
        patience_(in_range(options, "patience", int64_t{10}, at_least<int64_t>(0), kOf)),
        cooldown_(in_range(options, "cooldown", int64_t{0}, at_least<int64_t>(0), kOf)) {}
  double factor(int64_t, int64_t) const override { return factor_; }
  void epoch_end(double monitored) override {
    if (has_best_ ? monitored < best_ * (1 - threshold_) : !std::isnan(monitored)) {
      best_ = monitored;
      has_best_ = true;
      bad_ = 0;
    } else {
      ++bad_;
    }
    if (cooling_ > 0) {
      --cooling_;
      bad_ = 0;
    }
    if (bad_ > patience_) {
      factor_ = std::max(factor_ * drop_, lowest_);
      cooling_ = cooldown_;
      bad_ = 0;
    }
  }
  Json state() const override {
    return Json::Object{
        {"factor", factor_}, {"best", has_best_ ? Json(best_) : Json()}, {"bad", bad_}, {"cooling", cooling_}};
  }
  void load_state(const Json& state) override {
    const double factor = state.at("factor").number("factor");
    const int64_t bad = state.at("bad").integer("bad"), cooling = state.at("cooling").integer("cooling");
    best_ = state.number_or("best", 0);
    has_best_ = state.has("best");
    factor_ = factor;
    bad_ = bad;
    cooling_ = cooling;
  }

 private:
  const double drop_, threshold_, lowest_;
  const int64_t patience_, cooldown_;
  double factor_ = 1, best_ = 0;
  bool has_best_ = false;
  int64_t bad_ = 0, cooling_ = 0;
};

// torch.optim.lr_scheduler.CosineAnnealingLR over all steps, after a linear warm-up.
class Cosine final : public Schedule {
 public:
  explicit Cosine(const Json& options)
      : lowest_(in_range(options, "minFactor", 0.0, {0, 1}, kOf)),
        warmup_(in_range(options, "warmupSteps", int64_t{0}, at_least<int64_t>(0), kOf)) {}
  double factor(int64_t step, int64_t total) const override {
    if (step < warmup_) return static_cast<double>(step + 1) / static_cast<double>(warmup_ + 1);
    const auto length = static_cast<double>(std::max<int64_t>(1, total - warmup_));
    const double done = std::min(1.0, static_cast<double>(step - warmup_) / length);
    return lowest_ + (1 - lowest_) * (1 + std::cos(kPi * done)) / 2;
  }

 private:
  const double lowest_;
  const int64_t warmup_;
};

// torch.optim.lr_scheduler.OneCycleLR with cosine annealing; the base rate is max_lr.
class OneCycle final : public Schedule {
 public:
  explicit OneCycle(const Json& options)
      : rise_(in_range(options, "pctStart", 0.3, {0, 1}, kOf)),
        first_(1 / in_range(options, "divFactor", 25.0, {1, 1e12}, kOf)),
        last_(first_ / in_range(options, "finalDivFactor", 1e4, {1, 1e12}, kOf)),
        least_(in_range(options, "baseMomentum", 0.85, {0, 0.9999999}, kOf)),
        most_(in_range(options, "maxMomentum", 0.95, {0, 0.9999999}, kOf)),
        cycles_(options.boolean_or("cycleMomentum", true)) {
    if (least_ > most_)
      fail(code::kOption, "Expected at most 'maxMomentum', ", most_,
           ", for option 'baseMomentum' of the schedule but received ", least_, ".");
  }
  double factor(int64_t step, int64_t total) const override { return at(step, total, first_, 1, last_); }
  std::optional<double> momentum(int64_t step, int64_t total) const override {
    if (!cycles_) return std::nullopt;
    return at(step, total, most_, least_, most_);
  }
  Json state() const override { return Json::Object{{"cycleMomentum", cycles_}}; }
  // Earlier versions had no cycle of the momentum: what was begun so goes on so.
  void load_state(const Json& state) override { cycles_ = state.boolean_or("cycleMomentum", false); }

 private:
  double at(int64_t step, int64_t total, double from, double top_value, double to) const {
    const double top = rise_ * static_cast<double>(total) - 1, end = static_cast<double>(total) - 1;
    const auto now = static_cast<double>(step);
    if (now <= top) return between(from, top_value, top > 0 ? now / top : 1);
    return between(top_value, to, end > top ? std::min(1.0, (now - top) / (end - top)) : 1);
  }
  static double between(double from, double to, double done) {
    return to + (from - to) / 2 * (1 + std::cos(kPi * done));
  }
  const double rise_, first_, last_, least_, most_;
  bool cycles_;
};

}  // namespace

std::unique_ptr<Schedule> make_schedule(const Json& options) {
  const std::string& name = options.at("name").string("name of the schedule");
  if (name == "constant") return std::make_unique<Constant>();
  if (name == "plateau") return std::make_unique<Plateau>(options);
  if (name == "cosine") return std::make_unique<Cosine>(options);
  if (name == "onecycle") return std::make_unique<OneCycle>(options);
  fail(code::kOption, "Expected constant, plateau, cosine or onecycle for the name of the schedule but received '",
       name, "'.");
}

}  // namespace le
