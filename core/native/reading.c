/* Small files read whole, many in one go, as long as they are what they were when looked at. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/xattr.h>
#endif

#ifndef O_NOATIME
#define O_NOATIME 0
#endif

/* Where a name is looked up, and what it was. */
struct wanted {
    int holder;
    int64_t dev;
    const uint8_t *row;
    const char *name;
};

static uint64_t number_at(const uint8_t *at, unsigned size) {
    uint64_t number = 0;
    for (unsigned i = 0; i < size; i++) {
        number |= (uint64_t)at[i] << 8 * i;
    }
    return number;
}

static uint64_t size_of(const uint8_t *row) { return number_at(row + 8, 8); }

static mode_t mode_of(const uint8_t *row) { return (mode_t)number_at(row + 32, 4); }

static uid_t owner_of(const uint8_t *row) { return (uid_t)number_at(row + 36, 4); }

static int open_to_read(const struct wanted *wanted, uid_t reader) {
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = -1;
    flags |= S_ISDIR(mode_of(wanted->row)) ? O_DIRECTORY : 0;
    if (O_NOATIME && (reader == 0 || reader == owner_of(wanted->row))) {
        do {
            fd = openat(wanted->holder, wanted->name, flags | O_NOATIME);
        } while (fd < 0 && errno == EINTR);
        if (fd >= 0 || errno != EPERM) {
            return fd;
        }
    }
    do {
        fd = openat(wanted->holder, wanted->name, flags);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static int is_as_wanted(const struct wanted *wanted, const struct stat *found) {
    uint8_t row[PORTAL_ROW_BYTES];
    portal_row(row, found, 0);
    return (int64_t)found->st_dev == wanted->dev && memcmp(row, wanted->row, PORTAL_ROW_FLAGS_AT) == 0;
}

/* Whether it has none; also where there can be none. */
static int has_no_attributes(int fd) {
#if defined(__linux__)
    ssize_t size = flistxattr(fd, NULL, 0);
    return size == 0 || (size < 0 && (errno == ENOTSUP || errno == ENOSYS));
#else
    (void)fd;
    return 1;
#endif
}

/* One byte more than wanted is asked for: a file that has it is not as long as it was said to be. */
static int is_read(int fd, uint64_t wanted, uint8_t *buffer) {
    ssize_t size;
    do {
        size = read(fd, buffer, (size_t)wanted + 1);
    } while (size < 0 && errno == EINTR);
    return size >= 0 && (uint64_t)size == wanted;
}

static enum portal_result read_one(const struct wanted *wanted, uid_t reader, uint8_t *buffer) {
    mode_t mode = mode_of(wanted->row);
    if (!S_ISREG(mode) && !S_ISDIR(mode)) { /* opening it might do something */
        return PORTAL_NOT_PLAIN;
    }
    int fd = open_to_read(wanted, reader);
    if (fd < 0) {
        return PORTAL_NOT_PLAIN;
    }
    struct stat found;
    int plain = (S_ISDIR(mode) || is_read(fd, size_of(wanted->row), buffer)) &&
                fstat(fd, &found) == 0 && is_as_wanted(wanted, &found) && has_no_attributes(fd);
    close(fd);
    return plain ? PORTAL_PLAIN : PORTAL_NOT_PLAIN;
}

int portal_read_files(const struct portal_folder *folders, uint64_t folder_count, const uint8_t *rows,
                      uint64_t count, const char *names, uint8_t *buffer, uint64_t room,
                      uint8_t *results) {
    uid_t reader = geteuid();
    uint64_t at = 0, done = 0;
    for (uint64_t f = 0; f < folder_count; f++) {
        if (folders[f].count > count - done) {
            return EINVAL;
        }
        for (uint64_t end = done + folders[f].count; done < end; done++) {
            const uint8_t *row = rows + done * PORTAL_ROW_BYTES;
            uint64_t size = size_of(row);
            if (at >= room || size >= room - at) { /* with the byte more */
                return EINVAL;
            }
            struct wanted wanted = {folders[f].holder, folders[f].dev, row, names};
            results[done] = (uint8_t)read_one(&wanted, reader, buffer + at);
            at += size;
            names = portal_next_name(names);
        }
    }
    return done == count ? 0 : EINVAL;
}
