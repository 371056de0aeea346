#if defined(__x86_64__)
#define LE_LANES 16
#define LE_RUN run_avx512
#include "kernels/reduce_kernel_impl.h"
#endif
