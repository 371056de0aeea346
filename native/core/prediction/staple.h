#pragma once
// STAPLE (Warfield, Zou and Wells 2004): the hidden truth behind several label maps, and each one's performance. SPEC
// section 11.
#include <cstdint>
#include <vector>

namespace le {

struct Staple {
  std::vector<float> posterior;   // C×P: W
  std::vector<double> confusion;  // K×C×C: chance that head k says s where the truth is t; NaN in rows without W
  int64_t rounds = 0;             // 0 where there is nothing to estimate
  bool converged = false;
};

// labels: K×P, each below `classes`. At most 100 rounds; converged where no entry moves by more than 1e-7 in a round.
Staple staple(const uint8_t* labels, int64_t heads, int64_t classes, int64_t pixels);

}  // namespace le
