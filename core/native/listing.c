/* A directory in one go: its names in order, and what each of them is. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__APPLE__)
#define MTIME(found) ((found)->st_mtimespec)
#define CTIME(found) ((found)->st_ctimespec)
#else
#define MTIME(found) ((found)->st_mtim)
#define CTIME(found) ((found)->st_ctim)
#endif

#define NANOSECONDS INT64_C(1000000000)
#define ROOM_MIN 8192u

/* A name where it was read, and its first bytes as a number: few comparisons look further. */
struct name {
    uint64_t prefix;
    const char *text;
};

struct names {
    char *text; /* one behind the other, a NUL behind each */
    size_t size, room, count;
};

static uint8_t *put_u32(uint8_t *at, uint32_t value) {
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
    return at + 4;
}

static uint8_t *put_u64(uint8_t *at, uint64_t value) {
    for (unsigned i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
    return at + 8;
}

static int64_t in_nanoseconds(struct timespec time) {
    int64_t seconds = time.tv_sec, rest = time.tv_nsec, found;
    if (seconds < 0) { /* so that the product fits wherever the sum does */
        seconds += 1;
        rest -= NANOSECONDS;
    }
    if (__builtin_mul_overflow(seconds, NANOSECONDS, &found) ||
        __builtin_add_overflow(found, rest, &found)) {
        return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
    }
    return found;
}

int64_t portal_mtime_ns(const struct stat *found) { return in_nanoseconds(MTIME(found)); }

int64_t portal_ctime_ns(const struct stat *found) { return in_nanoseconds(CTIME(found)); }

void portal_row(uint8_t *row, const struct stat *found, uint32_t flags) {
    int is_device = S_ISCHR(found->st_mode) || S_ISBLK(found->st_mode);
    uint64_t links = (uint64_t)found->st_nlink;
    row = put_u64(row, (uint64_t)found->st_ino);
    row = put_u64(row, S_ISREG(found->st_mode) ? (uint64_t)found->st_size : 0);
    row = put_u64(row, (uint64_t)portal_mtime_ns(found));
    row = put_u64(row, (uint64_t)portal_ctime_ns(found));
    row = put_u32(row, (uint32_t)found->st_mode);
    row = put_u32(row, (uint32_t)found->st_uid);
    row = put_u32(row, (uint32_t)found->st_gid);
    row = put_u32(row, links < UINT32_MAX ? (uint32_t)links : UINT32_MAX);
    row = put_u64(row, is_device ? (uint64_t)found->st_rdev : 0);
    row = put_u32(row, flags);
    put_u32(row, 0);
}

static int add_name(struct names *names, const char *name) {
    size_t size = strlen(name) + 1, needed;
    if (__builtin_add_overflow(names->size, size, &needed)) {
        return ENOMEM;
    }
    if (needed > names->room) {
        size_t room;
        if (__builtin_mul_overflow(needed, 2, &room)) {
            return ENOMEM;
        }
        room = room < ROOM_MIN ? ROOM_MIN : room;
        char *text = realloc(names->text, room);
        if (text == NULL) {
            return ENOMEM;
        }
        names->text = text;
        names->room = room;
    }
    memcpy(names->text + names->size, name, size);
    names->size = needed;
    names->count += 1;
    return 0;
}

static int is_itself_or_above(const char *name) {
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static int read_names(int fd, struct names *names) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* closedir closes it */
    if (own < 0) {
        return errno;
    }
    DIR *directory = fdopendir(own);
    if (directory == NULL) {
        int error = errno;
        close(own);
        return error;
    }
    rewinddir(directory); /* both descriptors share one position, whoever moved it before */
    int error = 0;
    while (error == 0) {
        errno = 0;
        struct dirent *found = readdir(directory);
        if (found == NULL && errno == EINTR) {
            continue;
        }
        if (found == NULL) {
            error = errno;
            break;
        }
        if (!is_itself_or_above(found->d_name)) {
            error = add_name(names, found->d_name);
        }
    }
    rewinddir(directory);
    closedir(directory);
    return error;
}

static int compare(const void *one, const void *other) {
    const struct name *a = one, *b = other;
    if (a->prefix != b->prefix) {
        return a->prefix < b->prefix ? -1 : 1;
    }
    return strcmp(a->text, b->text);
}

static uint64_t prefix_of(const char *text) {
    uint64_t prefix = 0;
    for (unsigned i = 0; i < 8; i++) {
        prefix = prefix << 8 | (uint8_t)*text;
        text += *text != 0;
    }
    return prefix;
}

/* The names in order and each once: one that is renamed meanwhile may be read twice. */
static int sort_names(const struct names *names, struct portal_listing *listing) {
    struct name *order = calloc(names->count ? names->count : 1, sizeof *order);
    listing->names = malloc(names->size ? names->size : 1);
    if (order == NULL || listing->names == NULL) {
        free(order);
        return ENOMEM;
    }
    const char *text = names->text;
    for (size_t i = 0; i < names->count; i++) {
        order[i].prefix = prefix_of(text);
        order[i].text = text;
        text = portal_next_name(text);
    }
    qsort(order, names->count, sizeof *order, compare);
    char *at = listing->names;
    for (size_t i = 0; i < names->count; i++) {
        if (i > 0 && compare(&order[i - 1], &order[i]) == 0) {
            continue;
        }
        size_t size = strlen(order[i].text) + 1;
        memcpy(at, order[i].text, size);
        at += size;
        listing->count += 1;
    }
    listing->names_size = (uint64_t)(at - listing->names);
    free(order);
    return 0;
}

static int look_at_all(int fd, struct portal_listing *listing) {
    listing->rows = calloc(listing->count ? listing->count : 1, PORTAL_ROW_BYTES);
    listing->devs = calloc(listing->count ? listing->count : 1, sizeof *listing->devs);
    if (listing->rows == NULL || listing->devs == NULL) {
        return ENOMEM;
    }
    const char *name = listing->names;
    for (uint64_t i = 0; i < listing->count; i++) {
        uint8_t *row = listing->rows + i * PORTAL_ROW_BYTES;
        struct stat found;
        int failed;
        do {
            failed = fstatat(fd, name, &found, AT_SYMLINK_NOFOLLOW) != 0;
        } while (failed && errno == EINTR);
        listing->devs[i] = listing->dev;
        if (failed) {
            int error = errno;
            put_u32(row + PORTAL_ROW_BYTES - 8, PORTAL_NO_STAT);
            put_u32(row + PORTAL_ROW_BYTES - 4, (uint32_t)error);
        } else {
            int elsewhere = (uint64_t)found.st_dev != listing->dev;
            portal_row(row, &found, elsewhere ? PORTAL_OTHER_DEVICE : 0);
            listing->devs[i] = (uint64_t)found.st_dev;
            listing->elsewhere += (uint64_t)elsewhere;
        }
        name = portal_next_name(name);
    }
    return 0;
}

int portal_list(int fd, struct portal_listing *listing) {
    *listing = (struct portal_listing){0};
    struct names names = {0};
    struct stat directory;
    int error = fstat(fd, &directory) != 0 ? errno : read_names(fd, &names);
    if (error == 0) {
        listing->dev = (uint64_t)directory.st_dev;
        error = sort_names(&names, listing);
    }
    free(names.text);
    if (error == 0) {
        error = look_at_all(fd, listing);
    }
    if (error != 0) {
        portal_listing_free(listing);
    }
    return error;
}

void portal_listing_free(struct portal_listing *listing) {
    free(listing->names);
    free(listing->rows);
    free(listing->devs);
    *listing = (struct portal_listing){0};
}
