/* How dense a chunk looks, from a sample, in whole numbers so that every machine agrees. */
#include "kernel.h"

#define SAMPLE_BYTES 4096u
#define STRIPS 16u
#define STRIP_BYTES 256u
#define FRACTION_BITS 16u

/* floor of log2(n) * 2^16 for 1 <= n < 2^31, by squaring a number in [1, 2). */
static uint64_t log2_fixed(uint64_t n) {
    uint64_t whole = 63u - (unsigned)__builtin_clzll(n);
    uint64_t mantissa = n << (31 - whole);
    uint64_t result = whole;
    for (unsigned bit = 0; bit < FRACTION_BITS; bit++) {
        mantissa = mantissa * mantissa >> 31;
        uint64_t carry = mantissa >> 32;
        mantissa >>= carry;
        result = result << 1 | carry;
    }
    return result;
}

static void count_bytes(const uint8_t *data, size_t size, uint32_t counts[256]) {
    for (size_t i = 0; i < size; i++) {
        counts[data[i]]++;
    }
}

uint32_t portal_entropy_mbits(const uint8_t *data, size_t size) {
    uint32_t counts[256] = {0};
    uint64_t sampled = size;
    if (size == 0) {
        return 0;
    }
    if (size <= SAMPLE_BYTES) {
        count_bytes(data, size, counts);
    } else {
        sampled = SAMPLE_BYTES;
        size_t step = (size - STRIP_BYTES) / (STRIPS - 1);
        for (size_t strip = 0; strip < STRIPS; strip++) {
            count_bytes(data + strip * step, STRIP_BYTES, counts);
        }
    }
    uint64_t bits = sampled * log2_fixed(sampled);
    for (unsigned value = 0; value < 256; value++) {
        if (counts[value] > 1) {
            bits -= counts[value] * log2_fixed(counts[value]);
        }
    }
    return (uint32_t)((bits * 1000 / sampled) >> FRACTION_BITS);
}
