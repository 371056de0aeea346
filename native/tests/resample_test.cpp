// Volumes with other voxels. test/native/resample.test.ts compares with the definitions and with SciPy.
#include <ATen/ATen.h>

#include "check.h"
#include "error.h"
#include "grid/resample.h"

namespace {

using namespace le;

const Control kFree{};

at::Tensor bytes(std::vector<int64_t> shape, std::vector<int64_t> values) {
  return at::tensor(values, at::kLong).to(at::kByte).view(shape);
}

TEST("resample: cubic splines go through every value, and keep a constant and a ramp") {
  const at::Tensor ramp = at::arange(40, at::kFloat).view({1, 1, 1, 40});
  const at::Tensor twice = resample(ramp, {{3, 80, Between::kCubic}}, kFree);
  // Far from the ends: (i + ½) / 2 - ½.
  for (int64_t i = 30; i < 50; ++i)
    CHECK(std::abs(twice.flatten()[i].item<double>() - ((static_cast<double>(i) + 0.5) / 2 - 0.5)) < 1e-4);
  const at::Tensor noise = at::rand({2, 7, 9, 33});
  const at::Tensor thrice =
      resample(noise, {{1, 21, Between::kCubic}, {2, 27, Between::kCubic}, {3, 99, Between::kCubic}}, kFree);
  // Every third voxel has the centre of one before.
  const at::Tensor back = thrice.slice(1, 1, 21, 3).slice(2, 1, 27, 3).slice(3, 1, 99, 3);
  CHECK((back - noise).abs().max().item<double>() < 2e-6);
  CHECK((resample(at::full({1, 3, 4, 5}, 2.5f), {{2, 9, Between::kCubic}}, kFree) - 2.5).abs().max().item<double>() <
        1e-6);
}

TEST("resample: labels by the largest share, of equal ones the least") {
  const at::Tensor line = bytes({1, 1, 1, 6}, {9, 4, 4, 9, 1, 8});
  CHECK(resample_labels(line, {{3, 3, Between::kLinear}}, kFree).equal(bytes({1, 1, 1, 3}, {4, 4, 1})));
  CHECK(resample(line, {{3, 3, Between::kNearest}}, kFree).equal(bytes({1, 1, 1, 3}, {4, 9, 8})));
  // A corner of three labels: 4 of 8 are 2.
  const at::Tensor cube = bytes({1, 2, 2, 2}, {5, 5, 2, 2, 7, 7, 2, 2});
  const std::vector<Stretch> to_one = {{1, 1, Between::kLinear}, {2, 1, Between::kLinear}, {3, 1, Between::kLinear}};
  CHECK(resample_labels(cube, to_one, kFree).item<int64_t>() == 2);
}

TEST("resample: a stop is heard") {
  Control stopped;
  stopped.stop = true;
  std::string heard;
  try {
    resample(at::rand({1, 2, 3, 4}), {{1, 3, Between::kLinear}}, stopped);
  } catch (const Error& error) {
    heard = error.code();
  }
  CHECK(heard == code::kAborted);
}

}  // namespace
