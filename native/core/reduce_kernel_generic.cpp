#define LE_LANES 4
#define LE_RUN run_generic
#include "reduce_kernel_impl.h"
