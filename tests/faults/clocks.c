/* Clocks that a test shifts while a process runs: to be preloaded (LD_PRELOAD).

   FASTKV_TEST_CLOCKS names a file of three int64: what is added, in nanoseconds, to CLOCK_REALTIME, to CLOCK_MONOTONIC
   and to CLOCK_BOOTTIME. The file is mapped, so that a change holds at once. A moment that a process waits for by one of
   these clocks is shifted back before the kernel sees it; a wait that is under way when a clock is shifted is not. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { WALL, MONOTONIC, BOOT, CLOCKS };

#define SECOND 1000000000LL

static const volatile int64_t unshifted[CLOCKS];
static const volatile int64_t *shifts = unshifted;

__attribute__((constructor)) static void map_shifts(void)
{
    const char *path = getenv("FASTKV_TEST_CLOCKS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof unshifted, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort(); /* a test with the wrong clocks would show nothing */
    close(file);
    shifts = mapped;
}

static int64_t shift_of(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return shifts[WALL];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
        return shifts[MONOTONIC];
    case CLOCK_BOOTTIME:
        return shifts[BOOT];
    default:
        return 0; /* processor time */
    }
}

static struct timespec shifted(struct timespec when, int64_t by)
{
    int64_t seconds = when.tv_sec + by / SECOND, rest = when.tv_nsec + by % SECOND;
    if (rest < 0 || rest >= SECOND) {
        int64_t carry = rest < 0 ? -1 : 1;
        seconds += carry;
        rest -= carry * SECOND;
    }
    return (struct timespec){.tv_sec = seconds, .tv_nsec = rest};
}

/* -- reading a clock ----------------------------------------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed)
        *now = shifted(*now, shift_of(clock));
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    *now = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *now)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}

/* -- waiting until a moment ---------------------------------------------------------------------------------------- */

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    NEXT(clock_nanosleep);
    struct timespec real = flags & TIMER_ABSTIME ? shifted(*until, -shift_of(clock)) : *until;
    return next(clock, flags, &real, left);
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until)
{
    NEXT(sem_clockwait);
    struct timespec real = shifted(*until, -shift_of(clock));
    return next(semaphore, clock, &real);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    NEXT(sem_timedwait);
    struct timespec real = shifted(*until, -shift_of(CLOCK_REALTIME));
    return next(semaphore, &real);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until)
{
    NEXT(pthread_cond_clockwait);
    struct timespec real = shifted(*until, -shift_of(clock));
    return next(condition, mutex, clock, &real);
}
