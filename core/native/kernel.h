/* The compiled kernel: where to cut a file, and how dense a chunk looks.
 *
 * Plain C11 without the Python API, called through ctypes (which releases the GIL). Nothing here
 * allocates, keeps state between calls or reads a byte outside [data, data + size). The rules are
 * those of core/SPEC.md, "Chunking"; core/native/fallback.py is the same in Python, and every path
 * gives the same answers.
 */
#ifndef PORTAL_KERNEL_H
#define PORTAL_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PORTAL_KERNEL_VERSION 3u

/* Decisions look back at most this far, so no chunk may be shorter (its last byte excepted). */
#define PORTAL_LOOKBACK 64u

/* A run of so many rising values is a candidate of SeqCDC, at the moment it is that long. */
#define PORTAL_RISES 5u

/* What a scan returns when its rule makes no sense or the room for cuts is too small. */
#define PORTAL_REFUSED SIZE_MAX

enum portal_path { PORTAL_SCALAR = 0, PORTAL_AVX2 = 1, PORTAL_NEON = 2 };

/* All fields are 64 bits wide: the same layout for every compiler, mirrored in compiled.py. */
struct portal_gear {
    uint64_t min, normal, max;
    uint64_t strict_limit, loose_limit;
    uint64_t table[256];
};

struct portal_seqcdc {
    uint64_t min, max;
    uint64_t first, second; /* 16 bits each: a value is first * u16 + second * next u16 */
    uint64_t start;         /* of the rank */
    uint64_t multiplier[4]; /* of the rank; odd */
};

uint32_t portal_kernel_version(void);

/* Whether this processor can take a path. */
int portal_path_works(int path);

/* Cut `size` bytes that start where a chunk starts. Writes the end offsets of the chunks to `cuts`
 * and returns how many. Unless `final`, the tail whose cut depends on bytes yet to come is left:
 * the next call begins with it. */
size_t portal_gear_cuts(const uint8_t *data, size_t size, int final,
                        const struct portal_gear *rule, uint64_t *cuts, size_t room);
size_t portal_seqcdc_cuts(const uint8_t *data, size_t size, int final,
                          const struct portal_seqcdc *rule, int path, uint64_t *cuts,
                          size_t room);

/* Shannon entropy of a sample of at most 4 KiB, in thousandths of a bit per byte. */
uint32_t portal_entropy_mbits(const uint8_t *data, size_t size);

#endif
