/* The floor: how fast could anything answer on this machine? One thread and epoll; reads a frame, writes a fixed one.
 *
 *   floor SOCKET        listens on a unix socket until it is killed
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

enum { MAX_FD = 16384, EVENTS = 512, ANSWER = 116 };

static uint32_t missing[MAX_FD]; /* bytes of the current frame still to come, 0 between frames */

static void watch(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) { perror("epoll_ctl"); exit(1); }
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: floor SOCKET\n"); return 2; }
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (strlen(argv[1]) >= sizeof name.sun_path) { fprintf(stderr, "floor: the path is too long\n"); return 2; }
    strcpy(name.sun_path, argv[1]);
    unlink(argv[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) || listen(listener, 1024)) { perror("floor"); return 1; }
    int poll = epoll_create1(0);
    watch(poll, listener);

    static unsigned char in[1 << 16], out[ANSWER];
    out[0] = 2; /* an answer to a request call, as long as one that sets a header */
    out[3] = ANSWER - 4;
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int client;
                while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (client >= MAX_FD) { close(client); continue; }
                    missing[client] = 0;
                    watch(poll, client);
                }
                continue;
            }
            ssize_t got = recv(fd, in, sizeof in, 0);
            if (got <= 0) {
                if (got < 0 && errno == EAGAIN) continue;
                close(fd);
                continue;
            }
            if (!missing[fd]) missing[fd] = 4 + ((uint32_t)in[1] << 16 | in[2] << 8 | in[3]);
            missing[fd] -= (uint32_t)got;
            if (!missing[fd] && send(fd, out, sizeof out, MSG_NOSIGNAL) < 0) close(fd);
        }
    }
}
