/* Load for bench/network_load.py: one small static program, so that what is measured is the network rather than the
 * client. Strands are processes that wait for each answer; what they count is in memory that they share.
 *
 *   netload requests ADDRESS PORT new|keep STRANDS SECONDS MOST FROM
 *       GET / over and over, on a connection each or on one a strand; ends after SECONDS, or MOST requests;
 *       connections come from the ports FROM, FROM + 1, …, or, if it is 0, from those that the kernel gives
 *       -> {"requests":N,"failed":N,"seconds":S,"error":"…"}   (error: of the first that failed)
 *   netload sink PORT SECONDS
 *       says `ready`, takes one connection and reads it to its end; ends by itself after SECONDS
 *       -> {"bytes":N,"seconds":S}   (from the first byte to the last)
 *   netload stream ADDRESS PORT SECONDS
 *       one connection, sent on as fast as it goes
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 3, STRANDS_MOST = 64, FAILED_MOST = 100 };

struct counts { atomic_long begun, done, failed; char error[128]; };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in place(const char *address, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        fprintf(stderr, "netload: %s is no IPv4 address\n", address);
        exit(2);
    }
    return to;
}

/* A connected socket whose waits end after PATIENCE_S, or -1. `from`: its own port, or 0. */
static int connected(const struct sockaddr_in *to, int from) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(from)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct timeval limit = {.tv_sec = PATIENCE_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (fd >= 0 && ((from && bind(fd, (struct sockaddr *)&own, sizeof own)) ||
                    connect(fd, (const struct sockaddr *)to, sizeof *to))) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

/* One request and its whole answer: 0, or -1 with errno. */
static int ask(int fd, int keep) {
    static const char last[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    static const char next[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const char *text = keep ? next : last;
    char answer[4096];
    size_t have = 0, whole = 0;
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) return -1;
    while (!whole || have < whole) {
        ssize_t n = recv(fd, answer + have, sizeof answer - 1 - have, 0);
        if (n == 0) errno = EPROTO; /* the end, before the whole answer */
        if (n <= 0) return -1;
        have += n;
        answer[have] = 0;
        char *body = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "Content-Length: ");
        if (!whole && body && length) whole = (body + 4 - answer) + atol(length + 16);
        if (whole >= sizeof answer) { errno = EMSGSIZE; return -1; }
    }
    if (strncmp(answer, "HTTP/1.1 200 ", 13) != 0) { errno = EPROTO; return -1; }
    return 0;
}

static void strand(struct counts *counts, const struct sockaddr_in *to, int keep, double until, long most,
                   int from) {
    int fd = -1;
    long number;
    while (now() < until && atomic_load(&counts->failed) < FAILED_MOST &&
           (number = atomic_fetch_add(&counts->begun, 1)) < most) {
        if (fd < 0) fd = connected(to, from ? from + number : 0);
        if (fd >= 0 && ask(fd, keep) == 0) {
            atomic_fetch_add(&counts->done, 1);
            if (keep) continue;
        } else if (atomic_fetch_add(&counts->failed, 1) == 0) {
            snprintf(counts->error, sizeof counts->error, "%s", strerror(errno));
        }
        if (fd >= 0) close(fd);
        fd = -1;
    }
    _exit(0);
}

static int requests(char **words) {
    struct sockaddr_in to = place(words[0], words[1]);
    int keep = strcmp(words[2], "keep") == 0, strands = atoi(words[3]);
    double seconds = atof(words[4]);
    struct counts *counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED || strands < 1 || strands > STRANDS_MOST) return 2;
    double began = now();
    for (int i = 0; i < strands; i++) {
        pid_t child = fork();
        if (child == 0) strand(counts, &to, keep, began + seconds, atol(words[5]), atoi(words[6]));
        if (child < 0) return 2;
    }
    while (wait(NULL) > 0) {}
    printf("{\"requests\":%ld,\"failed\":%ld,\"seconds\":%.3f,\"error\":\"%s\"}\n", atomic_load(&counts->done),
           atomic_load(&counts->failed), now() - began, counts->error);
    return 0;
}

static int sink(char **words) {
    static char buffer[1 << 17];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(words[0]))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1)) {
        perror("netload: sink");
        return 1;
    }
    alarm(atoi(words[1]));
    puts("ready");
    fflush(stdout);
    int fd = accept(listener, NULL, NULL);
    ssize_t n = fd < 0 ? -1 : recv(fd, buffer, sizeof buffer, 0);
    double began = now(), ended = began;
    long long bytes = 0;
    for (; n > 0; n = recv(fd, buffer, sizeof buffer, 0)) {
        bytes += n;
        ended = now();
    }
    if (n < 0) perror("netload: sink");
    printf("{\"bytes\":%lld,\"seconds\":%.3f}\n", bytes, ended - began);
    return n < 0;
}

static int stream(char **words) {
    static char buffer[1 << 17];
    struct sockaddr_in to = place(words[0], words[1]);
    int fd = connected(&to, 0);
    for (double until = now() + atof(words[2]); fd >= 0 && now() < until;) {
        if (send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) < 0) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) perror("netload: stream");
    return fd < 0;
}

int main(int count, char **words) {
    if (count == 9 && !strcmp(words[1], "requests")) return requests(words + 2);
    if (count == 4 && !strcmp(words[1], "sink")) return sink(words + 2);
    if (count == 5 && !strcmp(words[1], "stream")) return stream(words + 2);
    fputs("netload: usage: requests ADDRESS PORT new|keep STRANDS SECONDS MOST FROM | sink PORT SECONDS | "
          "stream ADDRESS PORT SECONDS\n", stderr);
    return 2;
}
