#if defined(__x86_64__)
#define LE_NAME(name) name##_avx512
#include "kernels/resample_kernel_impl.h"
#endif
