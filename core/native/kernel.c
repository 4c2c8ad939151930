/* Which kernel this is, and which of its paths the processor can take. */
#include "kernel.h"

uint32_t portal_kernel_version(void) { return PORTAL_KERNEL_VERSION; }

int portal_path_works(int path) {
    switch (path) {
    case PORTAL_SCALAR:
        return 1;
#if defined(__x86_64__)
    case PORTAL_AVX2:
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    case PORTAL_NEON:
        return 1;
#endif
    default:
        return 0;
    }
}
