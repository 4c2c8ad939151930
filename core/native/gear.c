/* Gear with normalised cuts (FastCDC): a rolling hash below a limit ends the chunk. */
#include "kernel.h"

/* The hash of the bytes before `from`, carried forward until it falls below the limit. */
static uint64_t first_below(const struct portal_gear *rule, const uint8_t *data, uint64_t from,
                            uint64_t to, uint64_t limit, uint64_t *hash) {
    uint64_t h = *hash;
    uint64_t i = from;
    for (; i < to; i++) {
        if (h < limit) {
            break;
        }
        h = (h << 1) + rule->table[data[i]];
    }
    *hash = h;
    return i;
}

/* The end of the chunk that starts at `data`, or 0 while more bytes are needed to know. */
static uint64_t chunk_end(const struct portal_gear *rule, const uint8_t *data, uint64_t size,
                          int final) {
    if (size <= rule->min) {
        return final || size == rule->max ? size : 0;
    }
    uint64_t end = size < rule->max ? size : rule->max;
    uint64_t middle = end < rule->normal ? end : rule->normal;
    uint64_t hash = 0;
    for (uint64_t i = rule->min - PORTAL_LOOKBACK; i < rule->min; i++) {
        hash = (hash << 1) + rule->table[data[i]];
    }
    uint64_t cut = first_below(rule, data, rule->min, middle, rule->strict_limit, &hash);
    if (cut == middle) {
        cut = first_below(rule, data, middle, end, rule->loose_limit, &hash);
    }
    if (cut == end && size < rule->max && !final) {
        return 0;
    }
    return cut;
}

size_t portal_gear_cuts(const uint8_t *data, size_t size, int final,
                        const struct portal_gear *rule, uint64_t *cuts, size_t room) {
    if (rule->min < PORTAL_LOOKBACK || rule->normal < rule->min || rule->max < rule->normal) {
        return PORTAL_REFUSED;
    }
    size_t count = 0;
    for (uint64_t at = 0; at < size;) {
        uint64_t length = chunk_end(rule, data + at, size - at, final);
        if (length == 0) {
            break;
        }
        if (count == room) {
            return PORTAL_REFUSED;
        }
        at += length;
        cuts[count++] = at;
    }
    return count;
}
