#pragma once
// Where a network runs and in which numbers.
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>

#include "files/json.h"

namespace le {

// "cpu", "cuda", "cuda:<index>", or "auto": CUDA where there is a device, else the CPU. ERR_LE_DEVICE for a device that
// is not there, ERR_LE_OPTION for another name.
c10::Device resolve_device(const std::string& name);

// Settings of libtorch for a device that is about to be used: on CUDA float means float, where cuDNN would
// round it to TF32. For the whole process.
void prepare_device(c10::Device device);

// Whether the CPU has bfloat16 units (AVX-512 BF16 or AMX): without them bfloat16 is slower than float.
bool cpu_has_bf16();

// "fp32", "bf16", or "auto": bfloat16 where `device` has units for it.
at::ScalarType resolve_precision(const std::string& precision, c10::Device device);

// {"libtorch", "threads", "isa", "bf16", "cuda": number of devices}
Json device_info();

}  // namespace le
