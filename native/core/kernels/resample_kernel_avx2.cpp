#if defined(__x86_64__)
#define LE_NAME(name) name##_avx2
#include "kernels/resample_kernel_impl.h"
#endif
