#define LE_LANES 4
#define LE_RUN run_generic
#include "kernels/reduce_kernel_impl.h"
