/* The smallest worker: its first instructions say "slot pid nanoseconds" into a FIFO, then it sleeps for ever. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    char line[96];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int fd = open(argv[1], O_WRONLY);
    int length = snprintf(line, sizeof line, "%s %d %lld\n", argc > 2 ? argv[2] : "0", (int)getpid(),
                          (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    if (fd < 0 || write(fd, line, length) != length) return 1;
    close(fd);
    for (;;) pause();
}
