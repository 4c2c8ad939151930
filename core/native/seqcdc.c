/* SeqCDC, keyed and without jumps: where values have risen PORTAL_RISES times in a row stands a
 * candidate, and of the candidates between min and max the one of least rank is the cut. A run that
 * goes on rising is no second candidate, so there is at most one in PORTAL_RISES + 1 positions. */
#include "seqcdc.h"

static int is_rise(const struct portal_seqcdc *rule, const uint8_t *end) {
    return window_value(rule, end) > window_value(rule, end - 1);
}

/* The rule itself: the last PORTAL_RISES positions up to this one rise, the one before does not. */
static int is_candidate(const struct portal_seqcdc *rule, const uint8_t *end) {
    for (unsigned back = 0; back < PORTAL_RISES; back++) {
        if (!is_rise(rule, end - back)) {
            return 0;
        }
    }
    return !is_rise(rule, end - PORTAL_RISES);
}

/* The rule for many positions at once: plain loops over small arrays, without branches, of which
 * compilers make vector code on any processor. */
#define PORTABLE_BLOCK 128u

static void portable_block(const struct portal_seqcdc *rule, const uint8_t *data, uint64_t begin,
                           struct least *least) {
    const uint32_t first = (uint32_t)rule->first;
    const uint32_t second = (uint32_t)rule->second;
    const uint8_t *bytes = data + begin - PORTAL_RISES - 5;
    uint16_t words[PORTABLE_BLOCK + PORTAL_RISES + 3];  /* word k begins at bytes[k] */
    int16_t values[PORTABLE_BLOCK + PORTAL_RISES + 1];  /* value k uses words k and k + 2 */
    uint16_t rises[PORTABLE_BLOCK + PORTAL_RISES];      /* rise k is from value k to value k + 1 */
    uint16_t runs[PORTABLE_BLOCK];                      /* run k ends at position begin + k */
    uint16_t any = 0;
    for (unsigned k = 0; k < PORTABLE_BLOCK + PORTAL_RISES + 3; k++) {
        words[k] = (uint16_t)load16(bytes + k);
    }
    for (unsigned k = 0; k < PORTABLE_BLOCK + PORTAL_RISES + 1; k++) {
        values[k] = (int16_t)(uint16_t)(first * words[k] + second * words[k + 2]);
    }
    for (unsigned k = 0; k < PORTABLE_BLOCK + PORTAL_RISES; k++) {
        rises[k] = values[k + 1] > values[k];
    }
    for (unsigned k = 0; k < PORTABLE_BLOCK; k++) {
        unsigned last_three = rises[k + 3] & rises[k + 4] & rises[k + 5];
        runs[k] = (uint16_t)((rises[k] ^ 1) & rises[k + 1] & rises[k + 2] & last_three);
        any |= runs[k];
    }
    for (unsigned k = 0; any && k < PORTABLE_BLOCK; k++) {
        if (runs[k]) {
            consider(rule, data, begin + k, least);
        }
    }
}

static struct least least_portable(const struct portal_seqcdc *rule, const uint8_t *data,
                                   uint64_t from, uint64_t to) {
    struct least least = {UINT64_MAX, to};
    uint64_t at = from;
    for (; to - at >= PORTABLE_BLOCK; at += PORTABLE_BLOCK) {
        portable_block(rule, data, at, &least);
    }
    for (; at < to; at++) {
        if (is_candidate(rule, data + at)) {
            consider(rule, data, at, &least);
        }
    }
    return least;
}

static struct least least_in(const struct portal_seqcdc *rule, const uint8_t *data, uint64_t from,
                             uint64_t to, int path) {
    if (to - from >= PORTAL_BLOCK) {
#if defined(__x86_64__)
        if (path == PORTAL_AVX2) {
            return portal_least_avx2(rule, data, from, to);
        }
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
        if (path == PORTAL_NEON) {
            return portal_least_neon(rule, data, from, to);
        }
#endif
    }
    return least_portable(rule, data, from, to);
}

size_t portal_seqcdc_cuts(const uint8_t *data, size_t size, int final,
                          const struct portal_seqcdc *rule, int path, uint64_t *cuts,
                          size_t room) {
    if (rule->min < PORTAL_LOOKBACK || rule->max < rule->min || !portal_path_works(path)) {
        return PORTAL_REFUSED;
    }
    size_t count = 0;
    uint64_t at = 0;
    while (at < size && (final || size - at >= rule->max)) {
        uint64_t left = size - at;
        uint64_t length = left;
        if (left > rule->min) {
            uint64_t end = left < rule->max ? left : rule->max;
            length = least_in(rule, data + at, rule->min, end, path).at;
        }
        if (count == room) {
            return PORTAL_REFUSED;
        }
        at += length;
        cuts[count++] = at;
    }
    return count;
}
