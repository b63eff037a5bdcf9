// A preloaded library that fails or shortens the N-th call of one function on the files below a folder.
//
// LD_FAULT_CALL: the name of a function below, without 64. LD_FAULT_NUMBER: N, from 1. LD_FAULT_ERROR: the errno to fail
// with, or 0 to shorten the read or write by half. LD_FAULT_FOLDER: only files below it count; relative paths do, too.
// LD_FAULT_FILE: created when the fault happens.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int is_below(const char *path) {
    const char *folder = getenv("LD_FAULT_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int is_below_or_relative(const char *path) { return path[0] != '/' || is_below(path); }

static int has_file_below(int descriptor) {
    char link[64], path[4096];
    if (descriptor < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int is_asked(const char *name) {
    const char *call = getenv("LD_FAULT_CALL");
    return call && !strcmp(call, name);
}

// Whether this call is the one; -1 for "shorten it". `counts` says whether its file is below the folder.
static int fault(int counts) {
    const char *number = getenv("LD_FAULT_NUMBER"), *error = getenv("LD_FAULT_ERROR");
    if (!counts || !number || atomic_fetch_add(&calls, 1) + 1 != atoi(number)) return 0;
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, getenv("LD_FAULT_FILE"), O_CREAT | O_WRONLY, 0600));
    if (!atoi(error)) return -1;
    errno = atoi(error);
    return 1;
}

#define FAULT(name, counts) (is_asked(name) ? fault(counts) : 0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// A function that is given a size, which is halved in order to shorten it.
#define SIZED(name, called, parameters, ...)                                   \
    ssize_t name parameters {                                                  \
        int found = FAULT(called, has_file_below(descriptor));                 \
        if (found < 0 && size > 1) size /= 2;                                  \
        return found > 0 ? -1 : REAL(name)(__VA_ARGS__);                       \
    }
// A function that returns 0, or -1 for an error.
#define CHECKED(name, called, counts, parameters, ...) \
    int name parameters { return FAULT(called, counts) > 0 ? -1 : REAL(name)(__VA_ARGS__); }

SIZED(write, "write", (int descriptor, const void *data, size_t size), descriptor, data, size)
SIZED(pwrite, "pwrite", (int descriptor, const void *data, size_t size, off_t at), descriptor, data, size, at)
SIZED(pwrite64, "pwrite", (int descriptor, const void *data, size_t size, off64_t at), descriptor, data, size, at)
SIZED(read, "read", (int descriptor, void *data, size_t size), descriptor, data, size)
SIZED(pread, "pread", (int descriptor, void *data, size_t size, off_t at), descriptor, data, size, at)
SIZED(pread64, "pread", (int descriptor, void *data, size_t size, off64_t at), descriptor, data, size, at)

CHECKED(fsync, "fsync", has_file_below(descriptor), (int descriptor), descriptor)
CHECKED(fdatasync, "fsync", has_file_below(descriptor), (int descriptor), descriptor)
CHECKED(ftruncate, "ftruncate", has_file_below(descriptor), (int descriptor, off_t size), descriptor, size)
CHECKED(ftruncate64, "ftruncate", has_file_below(descriptor), (int descriptor, off64_t size), descriptor, size)
CHECKED(flock, "flock", has_file_below(descriptor), (int descriptor, int how), descriptor, how)
CHECKED(rename, "rename", is_below_or_relative(new), (const char *old, const char *new), old, new)
CHECKED(link, "link", is_below_or_relative(new), (const char *old, const char *new), old, new)
CHECKED(symlink, "link", is_below_or_relative(new), (const char *old, const char *new), old, new)
CHECKED(unlink, "unlink", is_below_or_relative(path), (const char *path), path)
CHECKED(rmdir, "unlink", is_below_or_relative(path), (const char *path), path)
CHECKED(mkdir, "mkdir", is_below_or_relative(path), (const char *path, mode_t mode), path, mode)

// The file is closed all the same, as Linux does it.
int close(int descriptor) {
    int counts = is_asked("close") && has_file_below(descriptor), result = REAL(close)(descriptor);
    return is_asked("close") && fault(counts) > 0 ? -1 : result;
}

#define OPEN(name)                                                                             \
    int name(const char *path, int flags, ...) {                                               \
        va_list rest;                                                                          \
        va_start(rest, flags);                                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                \
        va_end(rest);                                                                          \
        return FAULT("open", is_below_or_relative(path)) > 0 ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define MMAP(name, offset_t)                                                                         \
    void *name(void *at, size_t size, int protection, int flags, int descriptor, offset_t start) {   \
        return FAULT("mmap", has_file_below(descriptor)) > 0                                         \
                   ? MAP_FAILED                                                                      \
                   : REAL(name)(at, size, protection, flags, descriptor, start);                     \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)
