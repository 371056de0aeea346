// Convolutions by the definition, the guard and its detours, and the check of a kernel.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_convolution.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "convolutions/check.h"
#include "convolutions/guard.h"
#include "convolutions/memory.h"
#include "convolutions/plain.h"
#include "error.h"

#include "check.h"
#include "fixture.h"

namespace {

using namespace le;
using namespace le::test;

ConvolutionCall call_of(int64_t axes, int64_t in, int64_t out, int64_t kernel, int64_t stride = 1, int64_t groups = 1,
                        int64_t dilation = 1, bool transposed = false) {
  ConvolutionCall call;
  call.axes = axes;
  call.batch = 2;
  call.in_channels = in;
  call.out_channels = out;
  call.groups = groups;
  call.transposed = transposed;
  call.bias = true;
  call.wanted = {true, true, true};
  for (size_t axis = 3 - static_cast<size_t>(axes); axis < 3; ++axis) {
    call.size[axis] = 5 + static_cast<int64_t>(axis);
    call.kernel[axis] = kernel;
    call.stride[axis] = stride;
    call.dilation[axis] = dilation;
    call.padding[axis] = dilation * (kernel - 1) / 2;
    call.output_padding[axis] = transposed ? stride - 1 : 0;
  }
  return call;
}

const std::vector<ConvolutionCall>& several() {
  static const std::vector<ConvolutionCall> all{call_of(1, 3, 4, 3),
                                                call_of(2, 3, 5, 3),
                                                call_of(2, 4, 6, 3, 2, 2),
                                                call_of(2, 6, 6, 5, 2, 6),
                                                call_of(2, 3, 4, 1, 2),
                                                call_of(2, 4, 4, 3, 1, 1, 2),
                                                call_of(3, 2, 3, 3),
                                                call_of(3, 4, 4, 3, 2, 4),
                                                call_of(2, 4, 6, 2, 2, 1, 1, true),
                                                call_of(2, 4, 6, 3, 2, 2, 1, true),
                                                call_of(3, 3, 2, 3, 2, 1, 1, true),
                                                call_of(2, 3, 3, 3, 2, 3, 2, true)};
  return all;
}

struct Numbers {
  at::Tensor input, weight, bias, gradient;
  explicit Numbers(const ConvolutionCall& call, uint64_t seed = 1) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const auto random = [&](const std::vector<int64_t>& shape) {
      return at::empty(shape, at::kDouble).normal_(0, 1, generator);
    };
    input = random(call.input_shape());
    weight = random(call.weight_shape());
    bias = random({call.out_channels});
    gradient = random(call.output_shape());
  }
};

at::Tensor convolve(const ConvolutionCall& call, const at::Tensor& input, const at::Tensor& weight,
                    const at::Tensor& bias) {
  return at::convolution(input, weight, bias, call.counting(call.stride), call.counting(call.padding),
                         call.counting(call.dilation), call.transposed, call.counting(call.output_padding),
                         call.groups);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients(const ConvolutionCall& call, const at::Tensor& gradient,
                                                         const at::Tensor& input, const at::Tensor& weight) {
  return at::convolution_backward(gradient, input, weight, std::vector<int64_t>{call.out_channels},
                                  call.counting(call.stride), call.counting(call.padding), call.counting(call.dilation),
                                  call.transposed, call.counting(call.output_padding), call.groups, {true, true, true});
}

TEST("kernels: convolutions by the definition equal libtorch's in double precision") {
  for (const ConvolutionCall& call : several()) {
    const Numbers numbers(call);
    check_close(call.describe(), plain_convolution(call, numbers.input, numbers.weight, numbers.bias),
                convolve(call, numbers.input, numbers.weight, numbers.bias), 1e-6);
    const auto [x, w, b] = plain_convolution_backward(call, numbers.gradient, numbers.input, numbers.weight);
    const auto [rx, rw, rb] = gradients(call, numbers.gradient, numbers.input, numbers.weight);
    check_close(call.describe() + ": input", x, rx, 1e-5);
    check_close(call.describe() + ": weight", w, rw, 1e-5);
    check_close(call.describe() + ": bias", b, rb, 1e-5);
  }
}

TEST("kernels: each detour gives the same numbers and types") {
  guard_convolutions();
  for (ConvolutionCall call : several())
    for (const bool bf16 : {false, true})
      for (const Detour detour : {Detour::kContiguous, Detour::kFloat, Detour::kFloatContiguous, Detour::kPlain}) {
        const Numbers numbers(call);
        const at::ScalarType type = bf16 ? at::kBFloat16 : at::kFloat;
        const auto laid = [&](const at::Tensor& tensor) {
          return tensor.to(type).contiguous(channels_last_format(call.axes));
        };
        const at::Tensor x = laid(numbers.input), w = laid(numbers.weight), g = laid(numbers.gradient);
        const at::Tensor bias = numbers.bias.to(type);
        const ForcedDetour forced(detour);
        const double tolerance = bf16 ? 1e-2 : 1e-5;
        const std::string name = call.describe() + " by " + detour_name(detour);
        const at::Tensor output = convolve(call, x, w, bias);
        CHECK(output.scalar_type() == type);
        const auto exact = [](const at::Tensor& tensor) { return tensor.to(at::kDouble).contiguous(); };
        check_close(name, output, convolve(call, exact(x), exact(w), exact(bias)), tolerance);
        const auto [gx, gw, gb] = gradients(call, g, x, w);
        const auto [rx, rw, rb] = gradients(call, exact(g), exact(x), exact(w));
        CHECK(gx.scalar_type() == type && gw.scalar_type() == type && gb.scalar_type() == type);
        check_close(name + ": input", gx, rx, tolerance);
        check_close(name + ": weight", gw, rw, tolerance);
        check_close(name + ": bias", gb, rb, tolerance);
      }
}

TEST("kernels: a call survives JSON") {
  for (ConvolutionCall call : several()) {
    call.bf16 = call.input_last = call.backward = true;
    CHECK(ConvolutionCall::from(Json::parse(call.json().dump(), code::kOption)) == call);
  }
  CHECK_THROWS(ConvolutionCall::from(Json(Json::Object{{"backward", true}})), code::kOption);
}

TEST("kernels: the check passes what is right and finds what is wrong") {
  guard_convolutions();
  for (ConvolutionCall call : several())
    for (const bool backward : {false, true})
      for (const bool bf16 : {false, true}) {
        call.backward = backward;
        call.bf16 = bf16;
        const KernelVerdict verdict = check_kernel(call, Detour::kPlain);
        if (!verdict.right) failed(__FILE__, __LINE__, call.describe(), ": ", verdict.what, " ", verdict.error);
      }
}

TEST("kernels: a recording writes calls down and runs none") {
  guard_convolutions();
  at::Tensor x = at::randn({2, 3, 8, 8}), w = at::randn({4, 3, 3, 3}).requires_grad_();
  Recording recording;
  for (int twice = 0; twice < 2; ++twice) {
    const at::Tensor y = at::conv2d(x, w, {}, 2, 1);
    CHECK(y.sizes() == at::IntArrayRef({2, 4, 4, 4}) && y.abs().max().item<float>() == 0);
    y.sum().backward();
  }
  CHECK(w.grad().abs().max().item<float>() == 0);
  CHECK(recording.calls().size() == 2);
  const ConvolutionCall &forward = recording.calls()[0], &backward = recording.calls()[1];
  CHECK(!forward.backward && backward.backward && backward.wanted[1] && !backward.wanted[0]);
  CHECK(forward.counting(forward.stride) == std::vector<int64_t>({2, 2}) && forward.out_channels == 4);
}

TEST("kernels: what a check found is remembered and overrides what is known") {
  ConvolutionCall call = call_of(3, 5, 7, 3);
  call.bf16 = true;
  call.size = {2, 9, 9};
  CHECK(known_detour(call) != Detour::kNone);
  CHECK(detour_of(call) == known_detour(call));
  remember_detour(call, Detour::kPlain);
  CHECK(detour_of(call) == Detour::kPlain);
}

TEST("kernels: every front end of a convolution is guarded, one that traced networks call too") {
  guard_convolutions();
  const at::Tensor x = at::randn({1, 3, 9}), w = at::randn({4, 3, 3}), y = at::randn({1, 3, 6, 6}),
                   v = at::randn({3, 4, 2, 2}), u = at::randn({4, 3, 3, 3}), z = at::randn({1, 3, 4, 4, 4}),
                   t = at::randn({4, 3, 1, 1, 1});
  const auto seen = [](auto call) {
    const Recording recording;
    call();
    return recording.calls().size();
  };
  CHECK(seen([&] { at::conv1d(x, w); }) == 1);
  CHECK(seen([&] { at::conv2d(y, u, {}, 1, "same"); }) == 1);
  CHECK(seen([&] { at::conv3d(z, t); }) == 1);
  CHECK(seen([&] { at::conv_transpose2d(y, v); }) == 1);
  CHECK(seen([&] { at::convolution(y, u, {}, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1); }) == 1);
  CHECK(seen([&] {
          at::_convolution(y, u, {}, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1, false, false, true, true);
        }) == 1);
  CHECK(seen([&] { at::_convolution(y, u, {}, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1, false, false, true); }) == 1);
}

TEST("kernels: a strided stem over few slices takes no convolution of oneDNN") {
  ConvolutionCall call = call_of(3, 1, 16, 7, 2);
  call.backward = true;
  for (const int64_t depth : {5, 6, 7, 8}) {
    call.size = {depth, 9, 9};
    CHECK((known_detour(call) == Detour::kPlain) == (depth <= 7));
    const KernelVerdict verdict = check_kernel(call, known_detour(call));
    if (!verdict.right) failed(__FILE__, __LINE__, call.describe(), ": ", verdict.what, " ", verdict.error);
  }
}

TEST("kernels: checked memory notices what is written outside, and reads as NaN where nothing was") {
  const pid_t child = fork();  // it takes over the whole process
  if (child == 0) {
    use_checked_memory();
    at::Tensor block = at::empty({10}, at::kFloat);
    float* numbers = block.mutable_data_ptr<float>();
    const bool fresh = std::isnan(numbers[0]) && std::isnan(numbers[9]) && memory_is_intact();
    numbers[10] = 1;
    const bool behind = !memory_is_intact();
    std::memset(numbers + 10, 0xff, sizeof(float));
    const bool mended = memory_is_intact();
    numbers[-1] = 1;
    block = at::Tensor();  // what was freed counts too
    const bool freed = !memory_is_intact();
    _exit(fresh && behind && mended && freed ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST("kernels: detours that are forced nest") {
  const ConvolutionCall call = call_of(2, 3, 4, 5);
  const ForcedDetour outer(Detour::kFloat);
  {
    const ForcedDetour inner(Detour::kPlain);
    CHECK(detour_of(call) == Detour::kPlain);
  }
  CHECK(detour_of(call) == Detour::kFloat);
}

}  // namespace
