/* SeqCDC on AVX2: 64 positions at a time, chosen at run time. */
#include "seqcdc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FOR_AVX2 __attribute__((target("avx2,bmi")))

FOR_AVX2 static inline __m256i values(const uint8_t *p, __m256i first, __m256i second) {
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(p + 2));
    return _mm256_add_epi16(_mm256_mullo_epi16(low, first), _mm256_mullo_epi16(high, second));
}

/* Bit i: the value at position end + i is greater than the one before. Reads end - 5 to end + 30.
 * Every second position is a 16-bit lane, so even and odd ones are compared apart and blended. */
FOR_AVX2 static inline uint32_t rises_of_32(const uint8_t *end, __m256i first, __m256i second) {
    const __m256i odd_bytes = _mm256_set1_epi16((short)0xff00);
    __m256i before = values(end - 5, first, second);
    __m256i even = values(end - 4, first, second);
    __m256i odd = values(end - 3, first, second);
    __m256i both = _mm256_blendv_epi8(_mm256_cmpgt_epi16(even, before),
                                      _mm256_cmpgt_epi16(odd, even), odd_bytes);
    return (uint32_t)_mm256_movemask_epi8(both);
}

FOR_AVX2 struct least portal_least_avx2(const struct portal_seqcdc *rule, const uint8_t *data,
                                        uint64_t from, uint64_t to) {
    const __m256i first = _mm256_set1_epi16((short)rule->first);
    const __m256i second = _mm256_set1_epi16((short)rule->second);
    struct least least = {UINT64_MAX, to};
    const uint64_t last = to - PORTAL_BLOCK;
    uint64_t block = from - PORTAL_RISES;
    for (;;) {
        uint64_t rises = rises_of_32(data + block, first, second);
        rises |= (uint64_t)rises_of_32(data + block + 32, first, second) << 32;
        uint64_t runs = runs_in(rises);
        if (__builtin_expect(runs != 0, 0)) {
            consider_block(rule, data, block, runs, from, &least);
        }
        if (block == last) {
            return least;
        }
        /* The last block overlaps the one before: a candidate seen twice changes nothing. */
        block = block + PORTAL_BLOCK_STEP < last ? block + PORTAL_BLOCK_STEP : last;
    }
}
#else
typedef int portal_no_avx2; /* ISO C wants a translation unit to hold something */
#endif
