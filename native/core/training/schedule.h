#pragma once
// Learning-rate schedules, as factors of the base rate; state is JSON so that it resumes exactly.
#include <memory>
#include <optional>

#include "files/json.h"

namespace le {

class Schedule {
 public:
  virtual ~Schedule() = default;
  // The factor for optimiser step `step` (0-based) of `total_steps`.
  virtual double factor(int64_t step, int64_t total_steps) const = 0;
  // The optimiser's momentum (Adam's first beta) at that step, where the schedule says it.
  virtual std::optional<double> momentum(int64_t step, int64_t total_steps) const {
    (void)step, (void)total_steps;
    return std::nullopt;
  }
  // Told once after each epoch's validation (the training loss where there is no validation).
  virtual void epoch_end(double monitored) { (void)monitored; }
  virtual Json state() const { return Json::Object{}; }
  virtual void load_state(const Json&) {}
};

// {"name": "constant" | "plateau" | "cosine" | "onecycle",
//  plateau: "factor" 0.1, "patience" 10, "threshold" 1e-4 (relative), "cooldown" 0, "minFactor" 0;
//  cosine: "minFactor" 0, "warmupSteps" 0; onecycle: "pctStart" 0.3, "divFactor" 25, "finalDivFactor" 1e4,
//  "cycleMomentum" true, "baseMomentum" 0.85, "maxMomentum" 0.95}
// plateau, cosine and onecycle follow torch.optim.lr_scheduler's ReduceLROnPlateau (mode min), CosineAnnealingLR over
// all steps, and OneCycleLR (cosine; the base rate is max_lr; the momentum falls while the rate rises).
std::unique_ptr<Schedule> make_schedule(const Json& options);

}  // namespace le
