/* Loaded before libc: lets a test take memory for processes away, and turn the wall clock, by files in $MISCHIEF. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int path_of(char *path, size_t size, const char *name) {
    const char *folder = getenv("MISCHIEF");
    return folder != NULL && (size_t)snprintf(path, size, "%s/%s", folder, name) < size;
}

static int is_asked(const char *name) {
    char path[4096];
    int before = errno;
    int found = path_of(path, sizeof path, name) && access(path, F_OK) == 0;
    errno = before;
    return found;
}

/* Seconds that the wall clock is ahead. Read anew each time: the test turns it while the program runs. */
static long ahead(void) {
    char path[4096], text[32];
    int before = errno;
    long seconds = 0;
    if (path_of(path, sizeof path, "ahead")) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            ssize_t size = read(file, text, sizeof text - 1);
            close(file);
            if (size > 0) {
                text[size] = 0;
                seconds = atol(text);
            }
        }
    }
    errno = before;
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL)
        *at = now.tv_sec;
    return now.tv_sec;
}

pid_t fork(void) {
    static pid_t (*real)(void);
    if (is_asked("no_fork")) {
        errno = ENOMEM;
        return -1;
    }
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "fork");
    return real();
}

int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *restrict actions,
                const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const env[restrict]) {
    static int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                       char *const[], char *const[]);
    if (is_asked("no_spawn"))
        return ENOMEM;
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "posix_spawn");
    return real(pid, path, actions, attributes, argv, env);
}
