#if defined(__x86_64__)
#define LE_LANES 8
#define LE_RUN run_avx2
#include "kernels/reduce_kernel_impl.h"
#endif
