/* What the paths of SeqCDC share: the value of a window, the rank of a candidate. */
#ifndef PORTAL_SEQCDC_H
#define PORTAL_SEQCDC_H

#include "kernel.h"

/* The candidate of least rank so far; the earliest of equals. */
struct least {
    uint64_t rank;
    uint64_t at;
};

static inline uint32_t load16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static inline uint64_t load64(const uint8_t *p) {
    uint64_t word = 0;
    for (unsigned i = 0; i < 8; i++) {
        word |= (uint64_t)p[i] << (8 * i);
    }
    return word;
}

/* The value of the four bytes before `end`, compared as a signed number. */
static inline int16_t window_value(const struct portal_seqcdc *rule, const uint8_t *end) {
    uint32_t v = (uint32_t)rule->first * load16(end - 4) + (uint32_t)rule->second * load16(end - 2);
    return (int16_t)(uint16_t)v;
}

/* A keyed hash of the 32 bytes before `end`. */
static inline uint64_t rank_of(const struct portal_seqcdc *rule, const uint8_t *end) {
    uint64_t rank = rule->start;
    for (unsigned i = 0; i < 4; i++) {
        rank = (rank ^ load64(end - 32 + 8 * i)) * rule->multiplier[i];
        rank ^= rank >> 32;
    }
    return rank;
}

static inline void consider(const struct portal_seqcdc *rule, const uint8_t *data, uint64_t at,
                            struct least *least) {
    uint64_t rank = rank_of(rule, data + at);
    if (rank < least->rank) {
        least->rank = rank;
        least->at = at;
    }
}

/* Bit i of the result: positions i - 4 to i of the block rise, i - 5 does not. The first five bits
 * are 0: what they depend on lies before the block. */
static inline uint64_t runs_in(uint64_t rises) {
    uint64_t two = rises & rises << 1;
    return two & two << 2 & rises << 4 & ~rises << 5;
}

/* A block is 64 positions wide and 5 of them only look back, so blocks advance by 59. */
#define PORTAL_BLOCK 64u
#define PORTAL_BLOCK_STEP (PORTAL_BLOCK - PORTAL_RISES)

/* The candidates a block shows, in order; those before `from` belong to no cut. */
static inline void consider_block(const struct portal_seqcdc *rule, const uint8_t *data,
                                  uint64_t block, uint64_t runs, uint64_t from,
                                  struct least *least) {
    for (; runs != 0; runs &= runs - 1) {
        uint64_t at = block + (uint64_t)__builtin_ctzll(runs);
        if (at >= from) {
            consider(rule, data, at, least);
        }
    }
}

/* The best candidate of [from, to), `to` if there is none. from >= PORTAL_LOOKBACK and
 * to - from >= PORTAL_BLOCK. */
struct least portal_least_avx2(const struct portal_seqcdc *rule, const uint8_t *data,
                               uint64_t from, uint64_t to);
struct least portal_least_neon(const struct portal_seqcdc *rule, const uint8_t *data,
                               uint64_t from, uint64_t to);

#endif
