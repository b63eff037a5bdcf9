// A preloaded library that fails or shortens the N-th call of one function on the files below a folder.
//
// LD_FAULT_CALL: write, pwrite, fsync, ftruncate or rename. LD_FAULT_NUMBER: N, from 1. LD_FAULT_ERROR: the errno to fail with,
// or 0 to shorten the write by half. LD_FAULT_FOLDER: only files below it count. LD_FAULT_FILE: created when the fault happens.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int is_below(const char *path) {
    const char *folder = getenv("LD_FAULT_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int has_file_below(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

// Whether this call is the one; -1 for "shorten it".
static int fault(const char *name, int counts) {
    const char *call = getenv("LD_FAULT_CALL"), *number = getenv("LD_FAULT_NUMBER"), *error = getenv("LD_FAULT_ERROR");
    if (!counts || !call || !number || strcmp(call, name) || atomic_fetch_add(&calls, 1) + 1 != atoi(number)) return 0;
    close(open(getenv("LD_FAULT_FILE"), O_CREAT | O_WRONLY, 0600));
    if (!atoi(error)) return -1;
    errno = atoi(error);
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *data, size_t size) {
    int found = fault("write", has_file_below(descriptor));
    return found > 0 ? -1 : REAL(write)(descriptor, data, found && size > 1 ? size / 2 : size);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    int found = fault("pwrite", has_file_below(descriptor));
    return found > 0 ? -1 : REAL(pwrite64)(descriptor, data, found && size > 1 ? size / 2 : size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

int fsync(int descriptor) { return fault("fsync", has_file_below(descriptor)) > 0 ? -1 : REAL(fsync)(descriptor); }

int ftruncate64(int descriptor, off64_t size) {
    return fault("ftruncate", has_file_below(descriptor)) > 0 ? -1 : REAL(ftruncate64)(descriptor, size);
}

int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }

int rename(const char *old, const char *new) {
    return fault("rename", is_below(new) || new[0] != '/') > 0 ? -1 : REAL(rename)(old, new);
}
