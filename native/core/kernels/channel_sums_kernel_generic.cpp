#define LE_LANES 4
#define LE_NAME(name) name##_generic
#include "kernels/channel_sums_kernel_impl.h"
