#include "training/schedule.h"

#include <cmath>
#include <limits>

#include "check.h"
#include "error.h"
#include "training_fixtures.h"

using namespace le;

namespace {
Json schedule_options(const char* text) { return Json::parse(text, code::kOption); }
}  // namespace

TEST("schedule: cosine and one-cycle equal PyTorch's at every step") {
  const Json fixture = Json::parse(test::kScheduleFixtures, code::kCheckpoint);
  for (const Json& example : fixture.at("steps").array("steps")) {
    const auto schedule = make_schedule(example.at("options"));
    const auto expected = example.numbers_or("factors", {});
    const auto total = static_cast<int64_t>(expected.size());
    for (int64_t step = 0; step < total; ++step) {
      const double factor = schedule->factor(step, total);
      if (!(std::abs(factor - expected[step]) <= 1e-9))
        test::failed(__FILE__, __LINE__, example.dump(), " gives ", factor, " at step ", step, ", expected ",
                     expected[step]);
    }
    const auto momenta = example.numbers_or("momenta", {});
    for (int64_t step = 0; step < total; ++step) {
      const auto momentum = schedule->momentum(step, total);
      CHECK(momentum.has_value() == !momenta.empty());
      if (momentum) CHECK_NEAR(*momentum, momenta[step], 1e-9);
    }
  }
}

TEST("schedule: plateau equals PyTorch's, also when it is saved and loaded after every epoch") {
  const Json fixture = Json::parse(test::kScheduleFixtures, code::kCheckpoint);
  const auto monitored = fixture.numbers_or("monitored", {});
  for (const Json& example : fixture.at("plateau").array("plateau")) {
    auto schedule = make_schedule(example.at("options")), resumed = make_schedule(example.at("options"));
    const auto expected = example.numbers_or("factors", {});
    CHECK(expected.back() < 1);  // the case does reduce
    for (size_t epoch = 0; epoch < monitored.size(); ++epoch) {
      schedule->epoch_end(monitored[epoch]);
      resumed->epoch_end(monitored[epoch]);
      CHECK_NEAR(schedule->factor(0, 1), expected[epoch], 1e-12);
      CHECK(resumed->factor(0, 1) == schedule->factor(0, 1));
      const Json saved = Json::parse(resumed->state().dump(), code::kCheckpoint);
      resumed = make_schedule(example.at("options"));
      resumed->load_state(saved);
    }
  }
}

TEST("schedule: the warm-up rises in equal steps to the base rate, and the cosine begins there") {
  const auto schedule = make_schedule(schedule_options(R"({"name": "cosine", "warmupSteps": 4, "minFactor": 0.1})"));
  for (int64_t step = 0; step < 4; ++step)
    CHECK_NEAR(schedule->factor(step, 14), static_cast<double>(step + 1) / 5, 1e-12);
  CHECK_NEAR(schedule->factor(4, 14), 1, 1e-12);
  CHECK_NEAR(schedule->factor(9, 14), 0.55, 1e-12);
  CHECK_NEAR(schedule->factor(14, 14), 0.1, 1e-12);
}

TEST("schedule: factors are finite and in range for any number of steps") {
  for (const char* text :
       {R"({"name": "constant"})", R"({"name": "cosine"})", R"({"name": "cosine", "warmupSteps": 10})",
        R"({"name": "onecycle"})", R"({"name": "onecycle", "pctStart": 0})", R"({"name": "onecycle", "pctStart": 1})",
        R"({"name": "onecycle", "pctStart": 0.01})", R"({"name": "plateau"})"}) {
    const auto schedule = make_schedule(schedule_options(text));
    for (const int64_t total : {1, 2, 3, 7, 100})
      for (int64_t step = 0; step < total; ++step) {
        const double factor = schedule->factor(step, total);
        if (!(factor >= 0 && factor <= 1))
          test::failed(__FILE__, __LINE__, text, " gives ", factor, " at step ", step, " of ", total);
      }
  }
}

TEST("schedule: one-cycle leaves the momentum alone where it is told to, and in what an earlier version began") {
  CHECK(!make_schedule(schedule_options(R"({"name": "onecycle", "cycleMomentum": false})"))->momentum(3, 10));
  const auto schedule = make_schedule(schedule_options(R"({"name": "onecycle"})"));
  CHECK(schedule->momentum(0, 10).value() == 0.95);
  schedule->load_state(Json::parse(schedule->state().dump(), code::kCheckpoint));
  CHECK(schedule->momentum(0, 10).has_value());
  schedule->load_state(Json::Object{});
  CHECK(!schedule->momentum(0, 10));
}

TEST("schedule: a monitored value that is not a number counts as no improvement") {
  const auto schedule = make_schedule(schedule_options(R"({"name": "plateau", "patience": 1})"));
  schedule->epoch_end(1);
  for (int i = 0; i < 2; ++i) schedule->epoch_end(std::numeric_limits<double>::quiet_NaN());
  CHECK_NEAR(schedule->factor(0, 1), 0.1, 1e-12);
  schedule->epoch_end(0.5);
  schedule->epoch_end(0.6);
  CHECK_NEAR(schedule->factor(0, 1), 0.1, 1e-12);

  const auto first = make_schedule(schedule_options(R"({"name": "plateau", "patience": 0})"));
  first->epoch_end(std::numeric_limits<double>::quiet_NaN());
  CHECK_NEAR(first->factor(0, 1), 0.1, 1e-12);
  for (const double value : {3.0, 2.0, 1.0}) first->epoch_end(value);
  CHECK_NEAR(first->factor(0, 1), 0.1, 1e-12);
}

TEST("schedule: options and states that do not fit") {
  for (const char* bad : {R"({"name": "linear"})", R"({})", R"({"name": "plateau", "factor": 1})",
                          R"({"name": "plateau", "factor": -0.1})", R"({"name": "plateau", "patience": -1})",
                          R"({"name": "plateau", "patience": 1.5})", R"({"name": "plateau", "minFactor": 2})",
                          R"({"name": "cosine", "minFactor": 1.5})", R"({"name": "cosine", "warmupSteps": -1})",
                          R"({"name": "onecycle", "pctStart": 1.1})", R"({"name": "onecycle", "divFactor": 0.5})",
                          R"({"name": "onecycle", "finalDivFactor": 0})", R"({"name": "onecycle", "baseMomentum": 1})",
                          R"({"name": "onecycle", "baseMomentum": 0.9, "maxMomentum": 0.8})"})
    CHECK_THROWS(make_schedule(schedule_options(bad)), "ERR_LE_OPTION");
  const auto plateau = make_schedule(schedule_options(R"({"name": "plateau"})"));
  plateau->epoch_end(2);
  const std::string before = plateau->state().dump();
  for (const char* bad : {R"({})", R"({"factor": 0.5})", R"({"factor": "x", "best": 1, "bad": 0, "cooling": 0})",
                          R"({"factor": 0.5, "best": 1, "bad": 0})"}) {
    bool refused = false;
    try {
      plateau->load_state(Json::parse(bad, code::kCheckpoint));
    } catch (const Error&) {
      refused = true;
    }
    CHECK(refused);
    CHECK(plateau->state().dump() == before);
  }
}
