// Stands between a node and its disk and clock (LD_PRELOAD), steered while it runs.
//
// NEMESIS_ROOT     the node's directory; files elsewhere are left alone
// NEMESIS_CONTROL  a file of six 64-bit numbers in the order of the machine, see `struct control`
//
// A sync is delayed before it happens: nothing is durable earlier than it would be. A full disk
// refuses whatever takes space, as a whole: what was written before stays, nothing is cut short.
// The clock that jumps is the time of day alone. CLOCK_MONOTONIC and CLOCK_BOOTTIME never jump on
// a machine that works, and timers rest on them.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t sync_delay_us;  // added to every sync
    int64_t is_full;        // whether the disk is
    int64_t clock_ms;       // added to the time of day
    int64_t syncs_delayed;  // what has happened: counted here, read by who steers
    int64_t writes_refused;
    int64_t clocks_moved;
};

static struct control none;
static volatile struct control *control = &none;
static const char *root;
static size_t root_len;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("NEMESIS_CONTROL");
    root = getenv("NEMESIS_ROOT");
    root_len = root ? strlen(root) : 0;
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) control = at;
    close(fd);
}

static void count(volatile int64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static int is_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = root_len ? readlink(link, path, sizeof path - 1) : 0;
    if (len <= 0) return 0;
    path[len] = 0;
    return !strncmp(path, root, root_len) && path[root_len] == '/';
}

static void delay_sync(int fd) {
    int64_t us = control->sync_delay_us;
    if (us <= 0 || !is_ours(fd)) return;
    count(&control->syncs_delayed);
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

int fsync(int fd) {
    delay_sync(fd);
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    delay_sync(fd);
    return REAL(fdatasync)(fd);
}

static int is_refused(int fd) {
    if (!control->is_full || !is_ours(fd)) return 0;
    count(&control->writes_refused);
    errno = ENOSPC;
    return 1;
}

#define WRITES(name, arguments, passed)                       \
    ssize_t name arguments {                                  \
        static __typeof__(&name) next;                        \
        if (!next) next = REAL(name);                         \
        return is_refused(fd) ? -1 : next passed;             \
    }

WRITES(write, (int fd, const void *from, size_t len), (fd, from, len))
WRITES(writev, (int fd, const struct iovec *from, int count), (fd, from, count))
WRITES(pwrite, (int fd, const void *from, size_t len, off_t at), (fd, from, len, at))
WRITES(pwrite64, (int fd, const void *from, size_t len, off64_t at), (fd, from, len, at))
WRITES(pwritev, (int fd, const struct iovec *from, int count, off_t at), (fd, from, count, at))
WRITES(pwritev64, (int fd, const struct iovec *from, int count, off64_t at), (fd, from, count, at))

#define ALLOCATES(name, arguments, passed, refused) \
    int name arguments { return is_refused(fd) ? refused : REAL(name) passed; }

ALLOCATES(fallocate, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len), -1)
ALLOCATES(fallocate64, (int fd, int mode, off64_t at, off64_t len), (fd, mode, at, len), -1)
ALLOCATES(posix_fallocate, (int fd, off_t at, off_t len), (fd, at, len), ENOSPC)
ALLOCATES(posix_fallocate64, (int fd, off64_t at, off64_t len), (fd, at, len), ENOSPC)

// Milliseconds that are added to the time of day.
static int64_t moved(void) {
    int64_t ms = control->clock_ms;
    if (ms) count(&control->clocks_moved);
    return ms;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    static __typeof__(&clock_gettime) next;
    if (!next) next = REAL(clock_gettime);
    int failed = next(clock, out);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    int64_t ms = moved(), ns = out->tv_nsec + ms % 1000 * 1000000;
    out->tv_sec += ms / 1000 + (ns >= 1000000000) - (ns < 0);
    out->tv_nsec = (ns + 1000000000) % 1000000000;
    return 0;
}

// The kernel waits by its own clock, so who waits until a time of day means the right one; a time
// since the start of the machine is left alone. A wait that is under way when the clock jumps ends
// as if it had not.
#define EPOCH_MIN 1000000000

static struct timespec meant(const struct timespec *until) {
    struct timespec out = *until;
    int64_t ms = out.tv_sec > EPOCH_MIN ? control->clock_ms : 0;
    int64_t ns = out.tv_nsec - ms % 1000 * 1000000;
    out.tv_sec += (ns >= 1000000000) - (ns < 0) - ms / 1000;
    out.tv_nsec = (ns + 1000000000) % 1000000000;
    return out;
}

// An older function of the same name, for programs of another age, would be found first.
static void *real_cond(const char *name) {
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
    return found ? found : real(name);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_timedwait) next;
    if (!next) next = (__typeof__(next))real_cond("pthread_cond_timedwait");
    struct timespec at = meant(until);
    return next(cond, mutex, &at);
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           clockid_t clock, const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_clockwait) next;
    if (!next) next = REAL(pthread_cond_clockwait);
    struct timespec at = clock == CLOCK_REALTIME ? meant(until) : *until;
    return next(cond, mutex, clock, &at);
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    static __typeof__(&gettimeofday) next;
    if (!next) next = REAL(gettimeofday);
    int failed = next(out, zone);
    if (failed) return failed;
    int64_t ms = moved(), us = out->tv_usec + ms % 1000 * 1000;
    out->tv_sec += ms / 1000 + (us >= 1000000) - (us < 0);
    out->tv_usec = (us + 1000000) % 1000000;
    return 0;
}
