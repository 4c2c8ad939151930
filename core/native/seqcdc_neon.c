/* SeqCDC on NEON: 64 positions at a time; every 64-bit ARM has it. */
#include "seqcdc.h"

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>

static inline int16x8_t values(const uint8_t *p, uint16x8_t first, uint16x8_t second) {
    uint16x8_t low = vreinterpretq_u16_u8(vld1q_u8(p));
    uint16x8_t high = vreinterpretq_u16_u8(vld1q_u8(p + 2));
    return vreinterpretq_s16_u16(vmlaq_u16(vmulq_u16(low, first), high, second));
}

/* Byte i is all ones where the value at position end + i is greater than the one before.
 * Reads end - 5 to end + 14. */
static inline uint8x16_t rises_of_16(const uint8_t *end, uint16x8_t first, uint16x8_t second) {
    const uint8x16_t odd_bytes = vreinterpretq_u8_u16(vdupq_n_u16(0xff00));
    int16x8_t before = values(end - 5, first, second);
    int16x8_t even = values(end - 4, first, second);
    int16x8_t odd = values(end - 3, first, second);
    return vbslq_u8(odd_bytes, vreinterpretq_u8_u16(vcgtq_s16(odd, even)),
                    vreinterpretq_u8_u16(vcgtq_s16(even, before)));
}

/* One bit for each of 64 bytes that are all ones or all zeros. */
static inline uint64_t bits_of(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
    const uint8x16_t weight = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
    uint8x16_t low = vpaddq_u8(vandq_u8(a, weight), vandq_u8(b, weight));
    uint8x16_t high = vpaddq_u8(vandq_u8(c, weight), vandq_u8(d, weight));
    uint8x16_t both = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(both, both)), 0);
}

struct least portal_least_neon(const struct portal_seqcdc *rule, const uint8_t *data,
                               uint64_t from, uint64_t to) {
    const uint16x8_t first = vdupq_n_u16((uint16_t)rule->first);
    const uint16x8_t second = vdupq_n_u16((uint16_t)rule->second);
    struct least least = {UINT64_MAX, to};
    const uint64_t last = to - PORTAL_BLOCK;
    uint64_t block = from - PORTAL_RISES;
    for (;;) {
        const uint8_t *end = data + block;
        uint64_t runs = runs_in(bits_of(
            rises_of_16(end, first, second), rises_of_16(end + 16, first, second),
            rises_of_16(end + 32, first, second), rises_of_16(end + 48, first, second)));
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
typedef int portal_no_neon; /* ISO C wants a translation unit to hold something */
#endif
