#pragma once
// Random numbers by coordinates: a stream is a pure function of (seed, purpose, epoch, index). Nothing is carried from
// step to step, so that a resumed run draws what the unbroken one would have drawn, whatever the threads did.
#include <cmath>
#include <cstdint>

namespace le {

// What a stream is for. Numbers that are taken stay taken: a run that is resumed draws by them.
enum Purpose : uint64_t { kShuffle = 1, kAugment = 2, kDropout = 3, kSampling = 11, kPatch = 12 };

class Random {
 public:
  Random(uint64_t seed, uint64_t a, uint64_t b = 0, uint64_t c = 0) : state_(mix(mix(mix(mix(seed) ^ a) ^ b) ^ c)) {}

  uint64_t bits() {  // SplitMix64 (Steele, Lea and Flood 2014)
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }  // [0, 1)
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  uint64_t below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(bits()) * n) >> 64); }
  bool chance(double probability) { return uniform() < probability; }
  double normal() {  // Box and Muller 1958
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }

 private:
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 33)) * 0xFF51AFD7ED558CCDull;
    z = (z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53ull;
    return (z ^ (z >> 33)) + 0x9E3779B97F4A7C15ull;
  }
  uint64_t state_;
};

}  // namespace le
