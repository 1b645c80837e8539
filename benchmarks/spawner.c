/*
 * The baseline: N workers, vfork and exec, one pidfd each in one epoll; a worker that dies is started again at once.
 * It does nothing else: no file, no state, no logs, no GPUs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int poller;
static pid_t *pids;
static int *handles;

static void start(int slot, char **argv) {
    char name[16];
    snprintf(name, sizeof name, "%d", slot);
    char *arguments[] = {argv[2], argv[3], name, NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        execv(arguments[0], arguments);
        _exit(127);
    }
    pids[slot] = pid;
    handles[slot] = (int)syscall(SYS_pidfd_open, pid, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)slot};
    epoll_ctl(poller, EPOLL_CTL_ADD, handles[slot], &event);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int count = atoi(argv[1]);
    pids = calloc((size_t)count, sizeof *pids);
    handles = calloc((size_t)count, sizeof *handles);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int slot = 0; slot < count; slot++) start(slot, argv);
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            int slot = (int)events[i].data.u32;
            siginfo_t info;
            epoll_ctl(poller, EPOLL_CTL_DEL, handles[slot], NULL);
            waitid(P_PID, (id_t)pids[slot], &info, WEXITED | WNOHANG);
            close(handles[slot]);
            start(slot, argv);
        }
        if (ready < 0 && errno != EINTR) return 1;
    }
}
