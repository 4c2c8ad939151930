/* SeqCDC as published (run of rising bytes, equal bytes skipped over, a jump after so many falls),
 * in plain C: only to be measured against ours. A trigger of 0 means no jumps. */
#include <stddef.h>
#include <stdint.h>

static uint64_t chunk_end(const uint8_t *data, uint64_t size, uint64_t min, uint64_t max,
                          uint32_t length, uint32_t trigger, uint32_t jump) {
    if (size <= min) {
        return size;
    }
    uint64_t end = size < max ? size : max;
    uint32_t run = 0, falls = 0;
    for (uint64_t at = min; at < end; at++) {
        if (data[at] > data[at - 1]) {
            if (++run == length) {
                return at;
            }
        } else if (data[at] < data[at - 1]) {
            run = 0;
            if (++falls == trigger) {
                falls = 0;
                at += jump;
            }
        }
    }
    return end;
}

size_t published_cuts(const uint8_t *data, uint64_t size, uint64_t min, uint64_t max,
                      uint32_t length, uint32_t trigger, uint32_t jump, uint64_t *cuts) {
    size_t count = 0;
    for (uint64_t at = 0; at < size;) {
        at += chunk_end(data + at, size - at, min, max, length, trigger, jump);
        cuts[count++] = at;
    }
    return count;
}
