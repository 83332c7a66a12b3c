/* LD_PRELOAD: the wall clock is ahead of the real one by as many seconds as the int64 in the file $CHAOS_CLOCK says,
 * at every moment anew. CLOCK_REALTIME has no namespace, and libfaketime leaves a semaphore behind for each process
 * that is killed. Waits until a moment of that clock (futex(2), pthread_cond_timedwait(3), sem_timedwait(3)) are
 * translated, so that a jump wakes nobody and holds nobody up. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static long (*real_syscall)(long, ...);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) {
        perror("clock.c: $CHAOS_CLOCK");
        _exit(126);
    }
    ahead = map;
    close(file);
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real_clock_gettime(clock, now);
    if (done == 0 && is_wall(clock) && ahead) now->tv_sec += *ahead;
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec wall;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &wall);
    now->tv_sec = wall.tv_sec;
    now->tv_usec = wall.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    if (into) *into = wall.tv_sec;
    return wall.tv_sec;
}

static struct timespec truly(const struct timespec *until) {
    struct timespec real = *until;
    real.tv_sec -= *ahead;
    return real;
}

long syscall(long number, ...) {
    va_list list;
    long a[6];
    struct timespec until;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (!real_syscall) real_syscall = dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        until = truly((const struct timespec *)a[3]);
        a[3] = (long)&until;
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    /* Only for conditions of the wall clock, the default: Python and C++ use pthread_cond_clockwait for the other. */
    struct timespec real = truly(until);
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &real);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec real = truly(until);
    return sem_clockwait(semaphore, CLOCK_REALTIME, &real);
}
