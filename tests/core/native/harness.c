/* Runs the kernel on made-up rules and data, each buffer exactly as long as it claims to be, so
 * that a sanitizer sees every step outside. Prints a digest of all answers, which must be the same
 * for every path and processor.   harness PATH ROUNDS */
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t below(uint64_t limit) { return next() % limit; }

static uint64_t digest = 14695981039346656037u;

static void note(uint64_t value) {
    digest = (digest ^ value) * 1099511628211u;
    digest ^= digest >> 29;
}

/* Stretches of random bytes, of one byte, of a ramp and of a short pattern. */
static void fill(uint8_t *data, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t length = 1 + below(700);
        uint64_t kind = below(4), seed = next();
        for (; length-- > 0 && at < size; at++) {
            const uint8_t choices[] = {(uint8_t)next(), (uint8_t)seed, (uint8_t)(at * (seed | 1)),
                                       (uint8_t)(seed >> (at % 3 * 8))};
            data[at] = choices[kind];
        }
    }
}

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "harness: %s\n", what);
        exit(1);
    }
}

static void check_cuts(const uint64_t *cuts, size_t count, size_t size, int final, uint64_t min,
                       uint64_t max) {
    uint64_t last = 0;
    check(count != PORTAL_REFUSED, "a sound rule is refused");
    for (size_t i = 0; i < count; i++) {
        uint64_t length = cuts[i] - last;
        check(cuts[i] > last && cuts[i] <= size && length <= max, "a cut out of bounds");
        check(length >= min || (final && i + 1 == count), "a chunk too short");
        last = cuts[i];
        note(last);
    }
    check(!final || last == size, "a tail left over");
    check(size - last < max || size == last, "a chunk left undecided");
    note(count);
}

static void one_round(int path) {
    uint64_t min = PORTAL_LOOKBACK + below(below(2) ? 3 : 900);
    uint64_t span = below(3) ? below(4000) : below(70);
    struct portal_seqcdc seqcdc = {min, min + span, next() & 0xffff, next() & 0xffff, next(),
                                   {next() | 1, next() | 1, next() | 1, next() | 1}};
    struct portal_gear gear = {min, min + below(span + 1), min + span, next() >> 12, 0, {0}};
    gear.loose_limit = gear.strict_limit << 3;
    for (unsigned i = 0; i < 256; i++) {
        gear.table[i] = next();
    }
    const uint64_t sizes[] = {0, 1, min, min + 1, min + span, min + span + 1, below(20000)};
    size_t size = sizes[below(7)];
    size_t room = size / min + 1;
    uint8_t *data = malloc(size ? size : 1);
    uint64_t *cuts = malloc(room * sizeof *cuts);
    check(data != NULL && cuts != NULL, "out of memory");
    fill(data, size);
    for (int final = 0; final < 2; final++) {
        size_t count = portal_seqcdc_cuts(data, size, final, &seqcdc, path, cuts, room);
        check_cuts(cuts, count, size, final, seqcdc.min, seqcdc.max);
        check(count == 0 || portal_seqcdc_cuts(data, size, final, &seqcdc, path, cuts,
                                               count - 1) == PORTAL_REFUSED,
              "room is not minded");
        count = portal_gear_cuts(data, size, final, &gear, cuts, room);
        check_cuts(cuts, count, size, final, gear.min, gear.max);
        check(count == 0 ||
                  portal_gear_cuts(data, size, final, &gear, cuts, count - 1) == PORTAL_REFUSED,
              "room is not minded");
    }
    note(portal_entropy_mbits(data, size));
    seqcdc.min = below(PORTAL_LOOKBACK);
    check(portal_seqcdc_cuts(data, size, 1, &seqcdc, path, cuts, room) == PORTAL_REFUSED,
          "a minimum below the lookback is taken");
    gear.normal = gear.max + 1;
    check(portal_gear_cuts(data, size, 1, &gear, cuts, room) == PORTAL_REFUSED,
          "sizes out of order are taken");
    free(data);
    free(cuts);
}

int main(int argc, char **argv) {
    check(argc == 3, "PATH and ROUNDS, please");
    int path = atoi(argv[1]);
    if (!portal_path_works(path)) {
        puts("unsupported");
        return 0;
    }
    for (long rounds = atol(argv[2]); rounds > 0; rounds--) {
        one_round(path);
    }
    printf("%016llx\n", (unsigned long long)digest);
    return 0;
}
