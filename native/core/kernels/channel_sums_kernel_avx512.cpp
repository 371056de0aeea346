#if defined(__x86_64__)
#define LE_LANES 16
#define LE_NAME(name) name##_avx512
#include "kernels/channel_sums_kernel_impl.h"
#endif
