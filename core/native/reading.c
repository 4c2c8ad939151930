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

static int open_to_read(const struct portal_wanted *wanted, const char *name) {
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = -1;
    if (wanted->spare_atime && O_NOATIME) {
        do {
            fd = openat(wanted->holder, name, flags | O_NOATIME);
        } while (fd < 0 && errno == EINTR);
        if (fd >= 0 || errno != EPERM) {
            return fd;
        }
    }
    do {
        fd = openat(wanted->holder, name, flags);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static int is_as_wanted(const struct portal_wanted *wanted, const struct stat *found) {
    return S_ISREG(found->st_mode) && (uint64_t)found->st_ino == wanted->ino &&
           (int64_t)found->st_dev == wanted->dev && (uint64_t)found->st_size == wanted->size &&
           portal_mtime_ns(found) == wanted->mtime_ns &&
           portal_ctime_ns(found) == wanted->ctime_ns;
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
static enum portal_result read_one(const struct portal_wanted *wanted, const char *name, uint8_t *buffer) {
    int fd = open_to_read(wanted, name);
    if (fd < 0) {
        return PORTAL_NOT_PLAIN;
    }
    ssize_t size;
    do {
        size = read(fd, buffer, (size_t)wanted->size + 1);
    } while (size < 0 && errno == EINTR);
    struct stat found;
    int plain = size >= 0 && (uint64_t)size == wanted->size && fstat(fd, &found) == 0 &&
                is_as_wanted(wanted, &found) && has_no_attributes(fd);
    close(fd);
    return plain ? PORTAL_PLAIN : PORTAL_NOT_PLAIN;
}

int portal_read_files(const struct portal_wanted *wanted, uint64_t count, const char *names,
                      uint8_t *buffer, uint64_t room, uint8_t *results) {
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (at >= room || wanted[i].size >= room - at) { /* with the byte more */
            return EINVAL;
        }
        results[i] = (uint8_t)read_one(&wanted[i], names, buffer + at);
        at += wanted[i].size;
        names = portal_next_name(names);
    }
    return 0;
}
