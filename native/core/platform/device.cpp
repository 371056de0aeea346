#include "platform/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/version.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "error.h"
#include "kernels/isa.h"

namespace le {

namespace {

int64_t cuda_devices() {
  if (!at::hasCUDA()) return 0;
  try {
    return at::detail::getCUDAHooks().deviceCount();
  } catch (const c10::Error&) {
    return 0;  // a driver that is missing or too old
  }
}

}  // namespace

c10::Device resolve_device(const std::string& name) {
  if (name == "cpu") return c10::kCPU;
  if (name != "auto" && name != "cuda" && !name.starts_with("cuda:"))
    fail(code::kOption, "Expected auto, cpu, cuda or cuda:<index> for option 'device' but received '", name, "'.");
  const int64_t count = cuda_devices();
  if (name == "auto") return count > 0 ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
  if (count == 0)
    fail(code::kDevice, "Expected a CUDA device for option 'device' but received ",
         at::hasCUDA() ? "a machine where the driver shows none" : "a libtorch without CUDA",
         ": use device 'cpu' or 'auto', or install a CUDA libtorch (install-libtorch --flavour cu130).");
  int64_t index = 0;
  if (name != "cuda") {
    const std::string digits = name.substr(5);
    if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos)
      fail(code::kOption, "Expected cuda:<index> for option 'device' but received '", name, "'.");
    index = std::stoll(digits);
  }
  if (index >= count)
    fail(code::kDevice, "Expected cuda:0 to cuda:", count - 1, " for option 'device' but received '", name, "'.");
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

void prepare_device(c10::Device device) {
  if (device.is_cuda()) at::globalContext().setAllowTF32CuDNN(false);
}

bool cpu_has_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_supports("avx512bw")) return false;  // the operating system saves the registers
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool avx512_bf16 = a & (1u << 5);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return avx512_bf16;
  return avx512_bf16 || (d & (1u << 22));  // AMX-BF16
#else
  return false;
#endif
}

at::ScalarType resolve_precision(const std::string& precision, c10::Device device) {
  if (precision == "fp32") return at::kFloat;
  if (precision == "bf16") return at::kBFloat16;
  if (precision != "auto")
    fail(code::kOption, "Expected auto, fp32 or bf16 for option 'precision' but received '", precision, "'.");
  return device.is_cuda() || cpu_has_bf16() ? at::kBFloat16 : at::kFloat;
}

Json device_info() {
  return Json::Object{{"libtorch", TORCH_VERSION},
                      {"threads", static_cast<int64_t>(at::get_num_threads())},
                      {"isa", chosen_isa()},
                      {"bf16", cpu_has_bf16()},
                      {"cuda", cuda_devices()}};
}

}  // namespace le
