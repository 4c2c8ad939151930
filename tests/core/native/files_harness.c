/* Writes, lists and reads made-up files in an empty directory, each buffer exactly as long as it
 * claims to be, so that a sanitizer sees every step outside and every byte kept.   harness DIR */
#include "files.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FILES 3000u
#define NAME_ROOM 260u

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "harness: %s\n", what);
        exit(1);
    }
}

static void *room(size_t size) {
    void *found = malloc(size ? size : 1);
    check(found != NULL, "out of memory");
    return found;
}

static size_t name_of(unsigned number, char *name) {
    return (size_t)snprintf(name, NAME_ROOM, "%0*u", 1 + (int)(number % 255), number) + 1;
}

static size_t size_of(unsigned number) { return number % 7 * (number % 300); }

struct made {
    char *names;
    uint8_t *data;
    size_t names_size, data_size;
};

static struct made make(void) {
    struct made made = {0};
    char name[NAME_ROOM];
    for (unsigned i = 0; i < FILES; i++) {
        made.names_size += name_of(i, name);
        made.data_size += size_of(i);
    }
    made.names = room(made.names_size);
    made.data = room(made.data_size);
    size_t at = 0, data_at = 0;
    for (unsigned i = 0; i < FILES; i++) {
        size_t size = name_of(i, name);
        memcpy(made.names + at, name, size);
        memset(made.data + data_at, (int)(i % 251), size_of(i));
        at += size;
        data_at += size_of(i);
    }
    return made;
}

static int write_them(int holder, const struct made *made) {
    struct portal_given *given = room(FILES * sizeof *given);
    uint8_t *results = room(FILES);
    for (unsigned i = 0; i < FILES; i++) {
        given[i] = (struct portal_given){holder, 0600, -5 * (int64_t)i, size_of(i), 0, 0, 0, 0};
    }
    int error = portal_write_files(given, FILES, made->names, made->data, made->data_size, results);
    check(error == 0, "writing is refused");
    int done = results[0] == PORTAL_PLAIN;
    for (unsigned i = 0; i < FILES; i++) {
        check(results[i] == (done ? PORTAL_PLAIN : PORTAL_NOT_PLAIN), "some are written");
    }
    if (done) {
        portal_write_files(given, FILES, made->names, made->data, made->data_size, results);
        check(results[FILES - 1] == PORTAL_NOT_PLAIN, "a name is taken twice");
    }
    free(given);
    free(results);
    return done;
}

static void read_them(int holder, const struct made *made, uint64_t dev) {
    uint8_t *rows = room(FILES * PORTAL_ROW_BYTES);
    uint8_t *results = room(FILES), *data = room(made->data_size + 1);
    const char *name = made->names;
    for (unsigned i = 0; i < FILES; i++) {
        struct stat found;
        check(fstatat(holder, name, &found, AT_SYMLINK_NOFOLLOW) == 0, "a file is missing");
        portal_row(rows + i * PORTAL_ROW_BYTES, &found, 0);
        name = portal_next_name(name);
    }
    struct portal_folder folders[] = {
        {holder, 1, (int64_t)dev}, {holder, 0, (int64_t)dev}, {holder, FILES - 1, (int64_t)dev}};
    uint64_t size = made->data_size + 1;
    check(portal_read_files(folders, 3, rows, FILES, made->names, data, size, results) == 0,
          "no room");
    for (unsigned i = 0; i < FILES; i++) {
        check(results[i] == PORTAL_PLAIN, "a file is not plain");
    }
    check(memcmp(data, made->data, made->data_size) == 0, "other contents");
    check(portal_read_files(folders, 3, rows, FILES, made->names, data, size - 1, results) != 0,
          "room is not minded");
    check(portal_read_files(folders, 2, rows, FILES, made->names, data, size, results) != 0,
          "too few names are not minded");
    folders[1].count = 1;
    check(portal_read_files(folders, 3, rows, FILES, made->names, data, size, results) != 0,
          "too many names are not minded");
    free(rows);
    free(results);
    free(data);
}

int main(int argc, char **argv) {
    check(argc == 2, "DIR, please");
    int holder = open(argv[1], O_RDONLY | O_DIRECTORY);
    check(holder >= 0, "no directory");
    struct portal_listing listing;
    check(portal_list(holder, &listing) == 0 && listing.count == 0, "not empty");
    portal_listing_free(&listing);
    check(portal_list(-1, &listing) != 0, "a closed directory is listed");
    struct made made = make();
    if (write_them(holder, &made)) {
        check(portal_list(holder, &listing) == 0 && listing.count == FILES, "not all are listed");
        check(listing.names_size == made.names_size, "other names");
        const char *name = listing.names, *next;
        for (uint64_t i = 1; i < listing.count; i++, name = next) {
            next = portal_next_name(name);
            check(strcmp(name, next) < 0, "names out of order");
        }
        read_them(holder, &made, listing.dev);
        portal_listing_free(&listing);
    }
    free(made.names);
    free(made.data);
    close(holder);
    puts("sound");
    return 0;
}
