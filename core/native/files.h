/* Many file system calls behind one: a directory is listed, small files are read or written, while
 * the interpreter does something else.
 *
 * Plain C11 without the Python API. Nothing is kept between calls and everything opened is closed
 * again; names are looked up in directories the caller holds open, and links are never followed.
 * core/native/fallback_files.py is the same in Python and gives the same answers.
 */
#ifndef PORTAL_FILES_H
#define PORTAL_FILES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_TMPFILE, O_NOATIME */
#endif
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE /* st_mtimespec */
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define PORTAL_ROW_BYTES 64u
#define PORTAL_ROW_FLAGS_AT 56u /* what is before says what a name stands for */

/* Flags of a row. */
#define PORTAL_OTHER_DEVICE 1u /* lies on another device than the directory */
#define PORTAL_NO_STAT 2u      /* could not be looked at; the row's last field says why */

/* What a directory holds, in the order of its names as bytes; no name twice. */
struct portal_listing {
    uint64_t dev;        /* of the directory */
    uint64_t count;      /* of names */
    uint64_t names_size; /* of all names, with a NUL behind each */
    uint64_t elsewhere;  /* how many rows have PORTAL_OTHER_DEVICE */
    char *names;
    uint8_t *rows;  /* PORTAL_ROW_BYTES each */
    uint64_t *devs; /* of each name */
};

/* List an open directory from its beginning and look at every name. 0, and the caller calls
 * portal_listing_free; or the number of an error, and there is nothing to free. */
int portal_list(int fd, struct portal_listing *listing);
void portal_listing_free(struct portal_listing *listing);

/* What a stat found, as 64 bytes; every field is little-endian:
 *   u64 inode, u64 size, i64 mtime, i64 ctime, u32 mode, u32 uid, u32 gid, u32 links, u64 rdev,
 *   u32 flags, u32 error
 * Sizes are those of files and device numbers those of devices, else 0. Times are nanoseconds,
 * moved to the end where they do not fit. */
void portal_row(uint8_t *row, const struct stat *found, uint32_t flags);
int64_t portal_mtime_ns(const struct stat *found);
int64_t portal_ctime_ns(const struct stat *found);

/* Names that belong to requests stand one behind the other, each with a NUL behind it. */
static inline const char *portal_next_name(const char *name) { return name + strlen(name) + 1; }

/* What became of a request. Whatever is not the plain case is left as it was, for the caller to do
 * one by one: there it is found out why, and said. */
enum portal_result { PORTAL_PLAIN = 0, PORTAL_NOT_PLAIN = 1 };

/* Names of one directory that stand one behind the other in a request. */
struct portal_folder {
    int32_t holder; /* the directory */
    uint32_t count; /* of names */
    int64_t dev;    /* what they lie on */
};

/* Read files whole, given the rows they had when they were looked at. Contents stand one behind the
 * other, each as long as its row says, whatever became of it. Plain: a regular file without
 * attributes whose row is still the same after it was read; and a directory without attributes
 * whose row is the same, with nothing for content. The buffer has one byte more than all of them;
 * else EINVAL, as for folders that hold more or fewer names. */
int portal_read_files(const struct portal_folder *folders, uint64_t folder_count, const uint8_t *rows,
                      uint64_t count, const char *names, uint8_t *buffer, uint64_t room,
                      uint8_t *results);

/* A file to write, and what it is to be. */
struct portal_given {
    int32_t holder; /* its directory */
    uint32_t mode;
    int64_t mtime_ns;
    uint64_t size;
    uint32_t owned; /* whether it is given to this user and group */
    uint32_t uid, gid;
    uint32_t nothing;
};

/* Write files whole, whose contents stand one behind the other. Plain: the file is there with all
 * its metadata, under a name that was free. EINVAL if contents are missing. */
int portal_write_files(const struct portal_given *given, uint64_t count, const char *names,
                       const uint8_t *data, uint64_t size, uint8_t *results);

#endif
