#define LE_NAME(name) name##_generic
#include "kernels/resample_kernel_impl.h"
