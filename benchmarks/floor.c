/* The physical floor: what one core can do when the answer costs nothing.
 *
 * A single-threaded epoll server on a unix socket that finds the end of every frame and answers it with the same
 * prebuilt one. It looks at nothing else, so no runner that reads its requests can be faster.
 *
 * Frame: 1 byte type, 3 bytes big-endian length of the payload, payload.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 4, MAX_ANSWER = 64 * 1024, MAX_EVENTS = 256, READ_SIZE = 64 * 1024 };

/* How far a connection is into the frame that is coming in. */
struct progress {
    uint8_t header[HEADER];
    uint8_t header_bytes;
    uint32_t payload_left;
};

static uint8_t answer[MAX_ANSWER];
static size_t answer_size;
static struct progress *connections; /* by file descriptor */
static size_t max_connections;
static const char *socket_path;

static void stop(int signal_number) {
    (void)signal_number;
    unlink(socket_path);
    _exit(0);
}

static void load_answer(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        err(1, "%s", path);
    answer_size = fread(answer, 1, sizeof answer, file);
    if (answer_size < HEADER || answer_size == sizeof answer)
        errx(1, "%s: a frame of %d to %d bytes is expected", path, HEADER, MAX_ANSWER - 1);
    fclose(file);
}

static int listen_on(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errx(1, "%s: too long for a unix socket (at most %zu bytes)", path, sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        err(1, "socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address))
        err(1, "%s", path);
    if (listen(listener, 4096))
        err(1, "listen");
    return listener;
}

static void size_connections(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        err(1, "getrlimit");
    limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        err(1, "setrlimit");
    max_connections = limit.rlim_cur;
    connections = calloc(max_connections, sizeof *connections);
    if (!connections)
        err(1, "calloc");
}

static void accept_all(int poller, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        connections[fd] = (struct progress){0};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
            err(1, "epoll_ctl");
    }
}

/* How many frames end within these bytes. */
static unsigned frames_completed(struct progress *at, const uint8_t *data, size_t size) {
    unsigned completed = 0;
    while (size) {
        if (at->header_bytes < HEADER) {
            at->header[at->header_bytes++] = *data++;
            size--;
            if (at->header_bytes < HEADER)
                continue;
            at->payload_left = (uint32_t)at->header[1] << 16 | (uint32_t)at->header[2] << 8 | at->header[3];
        }
        size_t step = size < at->payload_left ? size : at->payload_left;
        data += step;
        size -= step;
        at->payload_left -= (uint32_t)step;
        if (!at->payload_left) {
            completed++;
            at->header_bytes = 0;
        }
    }
    return completed;
}

static void serve(int fd) {
    static uint8_t received[READ_SIZE];
    ssize_t size = recv(fd, received, sizeof received, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        close(fd);
        return;
    }
    /* A peer that leaves so many answers untaken that one doesn't fit is no closed loop: it is dropped. */
    for (unsigned left = frames_completed(&connections[fd], received, (size_t)size); left; left--)
        if (send(fd, answer, answer_size, MSG_NOSIGNAL) != (ssize_t)answer_size) {
            close(fd);
            return;
        }
}

int main(int argc, char **argv) {
    if (argc != 3 || argv[1][0] == '-') {
        fprintf(argc == 2 && argv[1][0] == '-' && argv[1][1] == 'h' ? stdout : stderr,
                "usage: floor SOCKET ANSWER\n\n"
                "Listen on the unix socket SOCKET and answer every frame with the one in the file ANSWER,\n"
                "until SIGTERM or SIGINT.\n");
        return argc == 2 && argv[1][0] == '-' && argv[1][1] == 'h' ? 0 : 2;
    }
    socket_path = argv[1];
    load_answer(argv[2]);
    size_connections();
    int listener = listen_on(socket_path);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);

    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[MAX_EVENTS];
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event))
        err(1, "epoll");
    for (;;) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            err(1, "epoll_wait");
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all(poller, listener);
            else
                serve(events[i].data.fd);
        }
    }
}
