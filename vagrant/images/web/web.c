/* The lab's test service: an HTTP/1.1 server and a UDP echo in one static binary, told by environment
 * how to misbehave. Called as `probe` it asks itself /healthz and exits 0 or 1. See docs/lab.md. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_MAX = 8192, ANSWER_MAX = 4096, EVENTS = 256, STREAM_STEP_MS = 100 };

struct conn {
    int fd, len, closing;              /* closing: end it when what is queued has been sent */
    char client[32], request[REQUEST_MAX + 1];
    char answer[ANSWER_MAX];           /* queued bytes: answer[sent..end) */
    int sent, end;
    long long due_ms, stream_until_ms; /* 0: nothing is waited for; else a monotonic time */
    struct conn *prev, *next;          /* all open connections */
};

static struct conn all = {.prev = &all, .next = &all};
static volatile sig_atomic_t terminated;
static int poller, listener = -1, udp = -1, open_conns;
static unsigned long served;
static char hostname[256];
static const char *version;
static long long started_ms;

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* A number of milliseconds from a variable that holds `unit_ms` units; -1 if it is not set. */
static long long env_ms(const char *name, double unit_ms) {
    const char *value = getenv(name);
    return value && *value ? (long long)(atof(value) * unit_ms) : -1;
}

static int env_int(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value && *value ? atoi(value) : otherwise;
}

static void on_signal(int number) { (void)number; terminated = 1; }

static void say(int fd, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n > (int)sizeof line - 2) n = sizeof line - 2;
    line[n++] = '\n';
    if (write(fd, line, n) < 0) { /* nobody listens to the log: go on serving */ }
}

static int healthy(void) {
    long long after = env_ms("UNHEALTHY_AFTER", 1000);
    return !(after >= 0 && now_ms() - started_ms >= after) && access("/tmp/unhealthy", F_OK) != 0;
}

static void watch(struct conn *c, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void drop(struct conn *c) {
    close(c->fd);
    c->prev->next = c->next;
    c->next->prev = c->prev;
    open_conns--;
    free(c);
}

/* Queue a whole response. */
static void answer(struct conn *c, int status, const char *body) {
    const char *reason = status == 200 ? "OK" : status == 404 ? "Not Found"
                         : status == 503 ? "Service Unavailable" : "Bad Request";
    served++;
    c->sent = 0;
    c->end = snprintf(c->answer, ANSWER_MAX,
        "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n%s",
        status, reason, strlen(body), c->closing ? "close" : "keep-alive", body);
    if (c->end >= ANSWER_MAX) c->end = ANSWER_MAX - 1;
}

static void describe(char *out, size_t size, const char *client) {
    snprintf(out, size, "hostname=%s\nversion=%s\nclient=%s\nserved=%lu\n", hostname, version, client, served + 1);
}

/* Decide what to say to one request line; may set due_ms to say it later. */
static void respond(struct conn *c, const char *method, const char *path) {
    char body[2048];
    int status = 200;
    long long delay = env_ms("ANSWER_DELAY_MS", 1);
    if (!strncmp(path, "/healthz", 8)) {
        status = healthy() ? 200 : 503;
        snprintf(body, sizeof body, "%s\n", healthy() ? "ok" : "unhealthy");
        delay = 0;
    } else if (!strncmp(path, "/env/", 5)) {
        const char *value = getenv(path + 5);
        status = value ? 200 : 404;
        snprintf(body, sizeof body, "%s\n", value ? value : "not set");
    } else if (!strncmp(path, "/stream", 7)) {
        const char *s = strstr(path, "s=");
        c->closing = 1;
        served++;
        c->sent = 0;
        c->end = snprintf(c->answer, ANSWER_MAX,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n");
        c->stream_until_ms = now_ms() + (s ? (long long)(atof(s + 2) * 1000) : 1000);
        c->due_ms = now_ms();
        say(1, "request client=%s %s %s 200", c->client, method, path);
        return;
    } else if (!strcmp(path, "/") || !strncmp(path, "/slow", 5)) {
        const char *ms = strstr(path, "ms=");
        if (ms) delay = (delay > 0 ? delay : 0) + atoll(ms + 3);
        describe(body, sizeof body, c->client);
    } else {
        status = 404;
        snprintf(body, sizeof body, "no such path\n");
    }
    answer(c, status, body);
    if (delay > 0) c->due_ms = now_ms() + delay;
    say(1, "request client=%s %s %s %d", c->client, method, path, status);
}

/* Send what is queued and due. Returns 0 if the connection was dropped. */
static int flush_out(struct conn *c) {
    if (c->due_ms > now_ms()) return 1;
    if (c->due_ms && !c->stream_until_ms) c->due_ms = 0;
    while (c->sent < c->end) {
        ssize_t n = send(c->fd, c->answer + c->sent, c->end - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { watch(c, EPOLLIN | EPOLLOUT | EPOLLRDHUP); return 1; }
        if (n <= 0) { drop(c); return 0; }
        c->sent += n;
    }
    if (c->stream_until_ms) {
        if (now_ms() >= c->stream_until_ms) { drop(c); return 0; }
        c->sent = 0;
        c->end = snprintf(c->answer, ANSWER_MAX, "left_ms=%lld\n", c->stream_until_ms - now_ms());
        c->due_ms = now_ms() + STREAM_STEP_MS;
        return 1;
    }
    if (c->end && c->closing) { drop(c); return 0; }
    c->sent = c->end = 0;
    watch(c, EPOLLIN | EPOLLRDHUP);
    return 1;
}

/* Answer every whole request in the buffer, one at a time. Returns 0 if the connection was dropped. */
static int take_requests(struct conn *c) {
    while (!c->end && !c->due_ms) {
        c->request[c->len] = 0;
        char *stop = strstr(c->request, "\r\n\r\n");
        if (!stop) {
            if (c->len < REQUEST_MAX) return 1;
            drop(c);
            return 0;
        }
        char *length = strcasestr(c->request, "\r\nContent-Length:");
        long body = length && length < stop ? atol(length + 17) : 0;
        int whole = (int)(stop + 4 - c->request) + (int)(body > 0 ? body : 0);
        if (whole > REQUEST_MAX) { drop(c); return 0; }
        if (c->len < whole) return 1;
        *stop = 0;
        char method[16] = "", path[1024] = "", protocol[16] = "";
        int words = sscanf(c->request, "%15s %1023s %15s", method, path, protocol);
        c->closing = words < 3 || !strcmp(protocol, "HTTP/1.0") || strcasestr(c->request, "\r\nConnection: close");
        memmove(c->request, c->request + whole, c->len - whole);
        c->len -= whole;
        if (words < 2) answer(c, 400, "bad request\n");
        else respond(c, method, path);
        if (!flush_out(c)) return 0;
    }
    return 1;
}

static void accept_all(void) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    int fd;
    while ((fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c) { close(fd); return; }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        snprintf(c->client, sizeof c->client, "%s:%d", inet_ntoa(peer.sin_addr), ntohs(peer.sin_port));
        c->next = all.next; c->prev = &all; all.next->prev = c; all.next = c;
        open_conns++;
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        size = sizeof peer;
    }
}

static void read_more(struct conn *c) {
    ssize_t n = recv(c->fd, c->request + c->len, REQUEST_MAX - c->len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (c->len >= REQUEST_MAX) { watch(c, EPOLLRDHUP); return; } /* a pipeline that waits its turn */
        drop(c);
        return;
    }
    c->len += n;
    take_requests(c);
}

static void answer_datagrams(void) {
    char in[512], client[32], out[2048];
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    ssize_t n;
    while ((n = recvfrom(udp, in, sizeof in - 1, 0, (struct sockaddr *)&peer, &size)) >= 0) {
        snprintf(client, sizeof client, "%s:%d", inet_ntoa(peer.sin_addr), ntohs(peer.sin_port));
        describe(out, sizeof out, client);
        served++;
        for (ssize_t i = 0; i < n; i++) if (!isprint((unsigned char)in[i])) in[i] = '.';
        in[n] = 0;
        strcat(strcat(strcat(out, "echo="), in), "\n");
        sendto(udp, out, strlen(out), 0, (struct sockaddr *)&peer, size);
        say(1, "request client=%s UDP", client);
        size = sizeof peer;
    }
}

static int bound(int type, int port) {
    int one = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) || (type == SOCK_STREAM && listen(fd, 1024))) {
        say(2, "cannot listen on port %d: %s", port, strerror(errno));
        exit(1);
    }
    return fd;
}

static void listen_now(void) {
    listener = bound(SOCK_STREAM, env_int("PORT", 80));
    udp = bound(SOCK_DGRAM, env_int("UDP_PORT", 53));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &udp;
    epoll_ctl(poller, EPOLL_CTL_ADD, udp, &event);
    say(1, "listening port=%d udp_port=%d", env_int("PORT", 80), env_int("UDP_PORT", 53));
}

/* Let every connection whose time has come go on; the time of the next one bounds the next wait. */
static void go_on(long long *next_ms) {
    for (struct conn *c = all.next, *after; c != &all; c = after) {
        after = c->next;
        if (c->due_ms && c->due_ms <= now_ms() && (!flush_out(c) || !take_requests(c))) continue;
        if (c->due_ms && c->due_ms < *next_ms) *next_ms = c->due_ms;
    }
}

static void serve(void) {
    long long start_at = started_ms + (env_ms("START_DELAY", 1000) > 0 ? env_ms("START_DELAY", 1000) : 0);
    long long exit_after = env_ms("EXIT_AFTER", 1000), log_every = env_ms("LOG_EVERY", 1000), tick_at = started_ms;
    unsigned long tick = 0;
    for (;;) {
        long long now = now_ms(), next = now + 60000;
        if (terminated && listener >= 0) {
            close(listener); /* KEEP_OPEN: nothing new, but what runs may end */
            listener = -1;
            start_at = -1;
        }
        if (terminated && (!getenv("KEEP_OPEN") || open_conns == 0)) { say(1, "terminated"); exit(0); }
        if (exit_after >= 0 && now - started_ms >= exit_after) {
            say(1, "exiting code=%d", env_int("EXIT_CODE", 0));
            exit(env_int("EXIT_CODE", 0));
        }
        if (exit_after >= 0 && started_ms + exit_after < next) next = started_ms + exit_after;
        if (listener < 0 && start_at >= 0) {
            if (now >= start_at) listen_now();
            else if (start_at < next) next = start_at;
        }
        if (log_every > 0) {
            if (now >= tick_at) { say(tick % 2 ? 2 : 1, "tick %lu", tick); tick++; tick_at += log_every; }
            if (tick_at < next) next = tick_at;
        }
        go_on(&next);
        struct epoll_event events[EVENTS];
        long long wait = next - now_ms();
        sigset_t none; /* signals are let in only here: none can slip in between the check and the wait */
        sigemptyset(&none);
        int n = epoll_pwait(poller, events, EVENTS, wait < 0 ? 0 : (int)wait, &none);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener) accept_all();
            else if (events[i].data.ptr == &udp) answer_datagrams();
            else {
                struct conn *c = events[i].data.ptr;
                if ((events[i].events & EPOLLOUT) && (!flush_out(c) || !take_requests(c))) continue;
                if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) read_more(c);
            }
        }
    }
}

static int probe(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(env_int("PORT", 80)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 3};
    char text[64] = "";
    const char *ask = "GET /healthz HTTP/1.0\r\n\r\n";
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&here, sizeof here) || write(fd, ask, strlen(ask)) < 0
        || read(fd, text, sizeof text - 1) <= 0) {
        printf("no answer: %s\n", strerror(errno));
        return 1;
    }
    printf("%.*s\n", (int)strcspn(text, "\r\n"), text);
    return strstr(text, " 200 ") ? 0 : 1;
}

int main(int argc, char **argv) {
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    (void)argc;
    if (!strcmp(name, "probe")) return probe();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* as process 1: the kernel reaps what is left to us */
    struct sigaction action = {.sa_handler = getenv("IGNORE_TERM") ? SIG_IGN : on_signal};
    sigset_t held;
    sigemptyset(&held);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGINT);
    sigprocmask(SIG_BLOCK, &held, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    started_ms = now_ms();
    gethostname(hostname, sizeof hostname - 1);
    version = getenv("VERSION") ? getenv("VERSION") : "0";
    poller = epoll_create1(EPOLL_CLOEXEC);
    say(1, "start hostname=%s version=%s pid=%d", hostname, version, (int)getpid());
    serve();
}
