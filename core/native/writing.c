/* Small files written whole, many in one go: each gets its name when it has everything else. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#if defined(__linux__) && defined(O_TMPFILE)

#define NANOSECONDS INT64_C(1000000000)

static int write_all(int fd, const uint8_t *data, uint64_t size) {
    uint64_t done = 0;
    while (done < size) {
        ssize_t written = pwrite(fd, data + done, (size_t)(size - done), (off_t)done);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return -1;
        }
        done += (uint64_t)written;
    }
    return 0;
}

static int set_times(int fd, int64_t mtime_ns) {
    struct timespec time = {.tv_sec = mtime_ns / NANOSECONDS, .tv_nsec = mtime_ns % NANOSECONDS};
    if (time.tv_nsec < 0) {
        time.tv_nsec += NANOSECONDS;
        time.tv_sec -= 1;
    }
    const struct timespec times[2] = {time, time};
    return futimens(fd, times);
}

/* A name for a file that has none; fails if the name is taken. Newer systems let the owner of a
 * descriptor name its file directly, others only through /proc. */
static int give_name(int fd, int holder, const char *name, int *directly) {
    if (*directly) {
        if (linkat(fd, "", holder, name, AT_EMPTY_PATH) == 0) {
            return 0;
        }
        if (errno != ENOENT) {
            return -1;
        }
        *directly = 0;
    }
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, path, holder, name, AT_SYMLINK_FOLLOW);
}

static enum portal_result write_one(const struct portal_given *given, const char *name, const uint8_t *data,
                         int *directly) {
    int fd;
    do {
        fd = openat(given->holder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return PORTAL_NOT_PLAIN;
    }
    int done = write_all(fd, data, given->size) == 0 &&
               (!given->owned || fchown(fd, given->uid, given->gid) == 0) &&
               fchmod(fd, given->mode) == 0 && set_times(fd, given->mtime_ns) == 0 &&
               give_name(fd, given->holder, name, directly) == 0;
    if (close(fd) != 0 && errno != EINTR) { /* some file systems say only now that it failed */
        done = 0;
    }
    return done ? PORTAL_PLAIN : PORTAL_NOT_PLAIN;
}

#else

static enum portal_result write_one(const struct portal_given *given, const char *name, const uint8_t *data,
                         int *directly) {
    (void)given, (void)name, (void)data, (void)directly;
    return PORTAL_NOT_PLAIN; /* no files without a name here */
}

#endif

int portal_write_files(const struct portal_given *given, uint64_t count, const char *names,
                       const uint8_t *data, uint64_t size, uint8_t *results) {
    uint64_t at = 0;
    int directly = 1;
    for (uint64_t i = 0; i < count; i++) {
        if (given[i].size > size - at) {
            return EINVAL;
        }
        results[i] = (uint8_t)write_one(&given[i], names, data + at, &directly);
        at += given[i].size;
        names = portal_next_name(names);
    }
    return 0;
}
