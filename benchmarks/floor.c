/* The floor: how fast could anything answer on this machine? One thread and epoll; for each frame, a fixed one.
 *
 *   floor SOCKET ANSWER     listens on a unix socket until it is killed; ANSWER is a file with one whole frame
 *
 * It only finds the frames' ends. What is in them is not looked at.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_FD = 16384, EVENTS = 512, HEAD = 4, MAX_ANSWER = 4096 };

typedef struct {
    uint8_t head[HEAD];
    uint32_t head_filled, payload_missing;
} peer;

static peer peers[MAX_FD];

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static size_t read_answer(const char *name, uint8_t *answer) {
    FILE *file = fopen(name, "rb");
    if (!file) fail(name);
    size_t size = fread(answer, 1, MAX_ANSWER, file);
    fclose(file);
    if (size < HEAD || size - HEAD != ((size_t)answer[1] << 16 | (size_t)answer[2] << 8 | answer[3])) {
        fprintf(stderr, "floor: %s is not one whole frame\n", name);
        exit(1);
    }
    return size;
}

static int listen_on(const char *path) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof name.sun_path) {
        fprintf(stderr, "floor: the path is too long for a unix socket: %s\n", path);
        exit(2);
    }
    strcpy(name.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 1024)) fail(path);
    return fd;
}

static void accept_all(int poll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) { close(fd); continue; }
        peers[fd] = (peer){0};
        watch(poll, fd);
    }
}

/* How many frames end in these bytes. */
static unsigned frames_ending(peer *p, const uint8_t *in, size_t size) {
    unsigned ended = 0;
    for (size_t at = 0; at < size;) {
        if (p->head_filled < HEAD) {
            p->head[p->head_filled++] = in[at++];
            if (p->head_filled < HEAD) continue;
            p->payload_missing = (uint32_t)p->head[1] << 16 | (uint32_t)p->head[2] << 8 | p->head[3];
        }
        size_t step = size - at < p->payload_missing ? size - at : p->payload_missing;
        at += step;
        p->payload_missing -= (uint32_t)step;
        if (!p->payload_missing) {
            ended++;
            p->head_filled = 0;
        }
    }
    return ended;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        int help = argc == 2 && !strcmp(argv[1], "-h");
        fprintf(help ? stdout : stderr, "usage: floor SOCKET ANSWER\n");
        return help ? 0 : 2;
    }
    static uint8_t in[1 << 16], answer[MAX_ANSWER];
    size_t answer_size = read_answer(argv[2], answer);
    int listener = listen_on(argv[1]), poll = epoll_create1(0);
    watch(poll, listener);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) { accept_all(poll, listener); continue; }
            ssize_t got = recv(fd, in, sizeof in, 0);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got <= 0) { close(fd); continue; }
            for (unsigned left = frames_ending(&peers[fd], in, (size_t)got); left; left--)
                if (send(fd, answer, answer_size, MSG_NOSIGNAL) != (ssize_t)answer_size) { close(fd); break; }
        }
    }
}
