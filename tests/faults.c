/* Preloaded into a process of the tests: what it does with files whose name has FAULTS_IN in it is
 * numbered from 1, and at one number it is killed, or told of an error.
 *
 *     cc -shared -fPIC -o faults.so faults.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, BEFORE, MIDST, AFTER, ONCE, FROM, READ_ONLY };

static atomic_int mode, point, code, count, faults;

void faults_arm(int how, int at, int error) {
    mode = how, point = at, code = error, count = 0, faults = 0;
}
void faults_disarm(void) { mode = OFF; }
int faults_count(void) { return count; }
int faults_made(void) { return faults; }

static int watched(const char* path) {
    const char* part = getenv("FAULTS_IN");
    return mode != OFF && part && path && strstr(path, part);
}

static int watched_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return watched(path);
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* 0: go on. Else `errno` is set, and that is what comes of it. */
static int fails(int number) {
    if (mode == BEFORE && number == point) die();
    if ((mode == ONCE && number == point) || (mode == FROM && number >= point)) {
        faults++;
        errno = code;
        return 1;
    }
    return 0;
}

static void end(int number) { if (mode == AFTER && number == point) die(); }

#define REAL(result, name, ...)                                                                    \
    static result (*real)(__VA_ARGS__);                                                            \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define WRITES(name, offset_type)                                                                  \
    ssize_t name(int fd, const void* data, size_t size, offset_type offset) {                      \
        REAL(ssize_t, name, int, const void*, size_t, offset_type);                                \
        if (!watched_fd(fd)) return real(fd, data, size, offset);                                  \
        int number = ++count;                                                                      \
        if (fails(number)) return -1;                                                              \
        if (mode == MIDST && number == point) {                                                    \
            if (real(fd, data, size / 2, offset) < 0) abort();                                     \
            die();                                                                                 \
        }                                                                                          \
        ssize_t written = real(fd, data, size, offset);                                            \
        end(number);                                                                               \
        return written;                                                                            \
    }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

#define OF_FD(name, parameters, types, arguments)                                                  \
    int name parameters {                                                                          \
        static int(*real) types;                                                                   \
        if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name);                                   \
        if (!watched_fd(fd)) return real arguments;                                                \
        int number = ++count;                                                                      \
        if (fails(number)) return -1;                                                              \
        int result = real arguments;                                                               \
        end(number);                                                                               \
        if (mode == MIDST && number == point) die();                                               \
        return result;                                                                             \
    }
OF_FD(fsync, (int fd), (int), (fd))
OF_FD(fdatasync, (int fd), (int), (fd))
OF_FD(ftruncate, (int fd, off_t size), (int, off_t), (fd, size))
OF_FD(ftruncate64, (int fd, off64_t size), (int, off64_t), (fd, size))

int unlink(const char* path) {
    REAL(int, unlink, const char*);
    if (!watched(path)) return real(path);
    int number = ++count;
    if (fails(number)) return -1;
    int result = real(path);
    end(number);
    if (mode == MIDST && number == point) die();
    return result;
}

#define OPENS(name)                                                                                \
    int name(const char* path, int flags, ...) {                                                   \
        REAL(int, name, const char*, int, ...);                                                    \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        int rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;                        \
        va_end(more);                                                                              \
        if (mode == READ_ONLY && (flags & O_ACCMODE) != O_RDONLY && watched(path)) {               \
            faults++;                                                                              \
            errno = EACCES;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
        return real(path, flags, rights);                                                          \
    }
OPENS(open)
OPENS(open64)
