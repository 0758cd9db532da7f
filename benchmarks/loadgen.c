/* Load for a plugin runner: N connections, each with one call under way at any time.
 *
 * It plays the gateway: sends a request frame, answers what the runner asks in between, takes the answer and sends the
 * next. Nothing is built in the loop; ids and the conf token are written into a frame that was read from a file.
 * `loadgen -h` tells the options. It prints one line of JSON: times are in microseconds, `cpu_us` is the charged
 * processes' CPU time per call and `busy` the share of one core that they used.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 17, EVENTS = 512, MAX_PIDS = 64, BUCKETS = 1 << 14, PATIENCE = 5 };
enum { ANY = -1, REFUSED = 0, PREPARE_CONF = 1, REQUEST_CALL = 2, EXTRA_INFO = 3, RESPONSE_CALL = 4 };

static const char *const HELP =
    "usage: loadgen -s SOCKET -r FILE [options]\n"
    "\n"
    "  -s SOCKET     unix socket of the runner\n"
    "  -r FILE       a whole HTTPReqCall or HTTPRespCall frame; its id and conf token are patched for each call\n"
    "  -p FILE       a whole PrepareConf frame, sent once for the token\n"
    "  -a FILE       a whole ExtraInfo answer frame, sent whenever the runner asks\n"
    "  -c N          connections [1]\n"
    "  -t SECONDS    measured time [2]\n"
    "  -i SECONDS    pause on a connection between an answer and the next call [0]\n"
    "  -w SECONDS    warm-up, not measured [0.5]\n"
    "  -P PID[,PID]  charge these processes' CPU time to the calls\n"
    "  -n            don't look into answers (for the floor)\n"
    "  -k            keep going: a connection that the runner closes is counted as lost and dialled again\n"
    "\n"
    "Exit code: 0 all answers were right, 3 some were not, 1 it could not go on, 2 wrong command line.\n";

typedef struct { unsigned char *data; size_t size; } blob;
typedef struct { int fd; uint32_t id; uint64_t sent, due; blob request; unsigned char *in; size_t filled; } client;

static void stop(const char *form, ...) {
    va_list list;
    va_start(list, form);
    fprintf(stderr, "loadgen: ");
    vfprintf(stderr, form, list);
    fprintf(stderr, "\n");
    va_end(list);
    exit(1);
}

static double number(char option, const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most)) {
        fprintf(stderr, "loadgen: -%c: not a number from %g to %g: %s\n", option, least, most, text);
        exit(2);
    }
    return value;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t get32(const unsigned char *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static size_t frame_size(const unsigned char *head) { return 4 + ((size_t)head[1] << 16 | head[2] << 8 | head[3]); }

/* Where a field of the payload's root table stands in the frame; 0 if it's absent. `width` is its size in bytes. */
static size_t field(const unsigned char *frame, size_t size, unsigned slot, size_t width) {
    if (size < 12) return 0;
    const unsigned char *payload = frame + 4;
    size_t limit = size - 4, table = get32(payload);
    if (table + 4 > limit) return 0;
    int64_t vtable = (int64_t)table - (int32_t)get32(payload + table);
    if (vtable < 0 || (size_t)vtable + 4 + 2 * slot + 2 > limit) return 0;
    uint16_t length, offset;
    memcpy(&length, payload + vtable, 2);
    if (4 + 2 * slot + 2 > length) return 0;
    memcpy(&offset, payload + vtable + 4 + 2 * slot, 2);
    return offset && table + offset + width <= limit ? 4 + table + offset : 0;
}

static blob read_frame(const char *name, int type) {
    FILE *file = fopen(name, "rb");
    if (!file) stop("%s: %s", name, strerror(errno));
    blob b = {malloc(ROOM), 0};
    b.size = fread(b.data, 1, ROOM, file);
    fclose(file);
    if (b.size < 8 || frame_size(b.data) != b.size) stop("%s is not one whole frame", name);
    if (type != ANY && b.data[0] != type) stop("%s is a frame of type %d, not %d", name, b.data[0], type);
    return b;
}

static int try_dial(const char *path) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof name.sun_path) stop("the path is too long for a unix socket: %s", path);
    strcpy(name.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) stop("socket: %s", strerror(errno));
    if (!connect(fd, (struct sockaddr *)&name, sizeof name)) return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static int dial(const char *path) {
    int fd = try_dial(path);
    if (fd < 0) stop("%s: %s", path, strerror(errno));
    return fd;
}

static int try_send(int fd, blob b) {
    for (size_t done = 0; done < b.size;) {
        ssize_t k = send(fd, b.data + done, b.size - done, MSG_NOSIGNAL);
        if (k < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (k < 0) return 0;
        done += (size_t)k;
    }
    return 1;
}

static void send_all(int fd, blob b) {
    if (!try_send(fd, b)) stop("send: %s", strerror(errno));
}

/* Dial anew and send the request again, for as long as it's worth while. */
static void redial(const char *path, int poll, client *c) {
    uint64_t give_up = now_ns() + PATIENCE * 1000000000ull;
    for (;;) {
        if (c->fd >= 0) close(c->fd);
        c->fd = try_dial(path);
        c->filled = 0;
        if (c->fd >= 0) {
            fcntl(c->fd, F_SETFL, O_NONBLOCK);
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
            c->sent = now_ns();
            if (try_send(c->fd, c->request)) return;
        }
        if (now_ns() > give_up) stop("%s: %s", path, strerror(errno));
        usleep(1000);
    }
}

static uint32_t prepare(const char *path, blob frame) {
    unsigned char in[4096];
    int fd = dial(path);
    struct timeval patience = {.tv_sec = PATIENCE};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    send_all(fd, frame);
    size_t filled = 0;
    while (filled < 4 || filled < frame_size(in)) {
        ssize_t k = recv(fd, in + filled, sizeof in - filled, 0);
        if (k < 0) stop("no answer to PrepareConf within %d seconds", PATIENCE);
        if (k == 0) stop("the runner closed the connection, or sent too much, instead of answering PrepareConf");
        filled += (size_t)k;
    }
    close(fd);
    size_t at = field(in, filled, 0, 4);
    if (in[0] == REFUSED) stop("the runner refused PrepareConf; its log may say why");
    if (in[0] != PREPARE_CONF || !at) stop("PrepareConf was answered with a frame of type %d", in[0]);
    return get32(in + at);
}

/* CPU time of all threads of some processes. */
static uint64_t cpu_ns(const int *pids, int count) {
    uint64_t total = 0;
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/task", pids[i]);
        DIR *directory = opendir(name);
        if (!directory) stop("there is no process %d", pids[i]);
        for (struct dirent *entry; (entry = readdir(directory));) {
            if (entry->d_name[0] == '.') continue;
            char stat[400];
            snprintf(stat, sizeof stat, "%s/%s/schedstat", name, entry->d_name);
            FILE *file = fopen(stat, "r");
            unsigned long long spent;
            if (file && fscanf(file, "%llu", &spent) == 1) total += spent;
            if (file) fclose(file);
        }
        closedir(directory);
    }
    return total;
}

/* Latencies in buckets of about 1 %: 64 to each doubling. */
static uint32_t histogram[BUCKETS];
static unsigned bucket(uint64_t ns) {
    if (ns < 64) return (unsigned)ns;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(ns);
    return (exponent - 5) * 64 + (unsigned)((ns >> (exponent - 6)) & 63);
}
static double bucket_us(unsigned b) {
    if (b < 64) return b / 1000.0;
    unsigned exponent = b / 64 + 5;
    return (double)((64ull + b % 64) << (exponent - 6)) / 1000.0;
}
static double percentile(uint64_t count, double share) {
    uint64_t wanted = (uint64_t)(count * share), seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++)
        if ((seen += histogram[b]) > wanted) return bucket_us(b);
    return 0;
}

int main(int argc, char **argv) {
    const char *path = NULL, *request_file = NULL, *prepare_file = NULL, *answer_file = NULL;
    int connections = 1, check = 1, keep_going = 0, pids[MAX_PIDS], pid_count = 0, option;
    double seconds = 2, warm_up = 0.5, pause = 0;
    while ((option = getopt(argc, argv, "s:r:p:a:c:t:w:i:P:nkh")) != -1) switch (option) {
        case 's': path = optarg; break;
        case 'r': request_file = optarg; break;
        case 'p': prepare_file = optarg; break;
        case 'a': answer_file = optarg; break;
        case 'c': connections = (int)number('c', optarg, 1, 16000); break;
        case 't': seconds = number('t', optarg, 0.01, 86400); break;
        case 'i': pause = number('i', optarg, 0, 1); break;
        case 'w': warm_up = number('w', optarg, 0, 86400); break;
        case 'n': check = 0; break;
        case 'k': keep_going = 1; break;
        case 'P':
            for (char *part = strtok(optarg, ","); part && pid_count < MAX_PIDS; part = strtok(NULL, ","))
                pids[pid_count++] = (int)number('P', part, 1, 1 << 30);
            break;
        case 'h': fputs(HELP, stdout); return 0;
        default: fprintf(stderr, "loadgen -h tells the options\n"); return 2;
    }
    if (!path || !request_file || optind != argc) {
        fprintf(stderr, optind != argc ? "loadgen: unexpected argument: %s\n" : "loadgen: -s and -r are needed (-h)\n",
                argv[optind]);
        return 2;
    }

    blob request = read_frame(request_file, ANY), answer = {0};
    int kind = request.data[0];
    if (kind != REQUEST_CALL && kind != RESPONSE_CALL) stop("%s is no call: a frame of type %d", request_file, kind);
    if (answer_file) answer = read_frame(answer_file, EXTRA_INFO);
    size_t id_at = field(request.data, request.size, 0, 4), token_at = field(request.data, request.size, kind == REQUEST_CALL ? 6 : 3, 4);
    if (!id_at || !token_at) stop("%s has no id or no conf token", request_file);
    if (prepare_file) {
        uint32_t token = prepare(path, read_frame(prepare_file, PREPARE_CONF));
        memcpy(request.data + token_at, &token, 4);
    }
    int poll = epoll_create1(0);
    client *clients = calloc((size_t)connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        client *c = &clients[i];
        c->fd = dial(path);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        c->id = (uint32_t)(i + 1) << 20;
        c->request = (blob){malloc(request.size), request.size};
        memcpy(c->request.data, request.data, request.size);
        memcpy(c->request.data + id_at, &c->id, 4);
        c->in = malloc(ROOM);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
    }
    for (int i = 0; i < connections; i++) { clients[i].sent = now_ns(); send_all(clients[i].fd, clients[i].request); }

    uint64_t begin = now_ns() + (uint64_t)(warm_up * 1e9), end = UINT64_MAX, calls = 0, asked = 0, longest = 0;
    uint64_t lost = 0, refused = 0, wrong_type = 0, wrong_id = 0, cpu = 0, actions[3] = {0};
    int measuring = 0;
    struct epoll_event events[EVENTS];
    for (;;) {
        /* What is due soon is waited for awake: epoll counts in milliseconds. */
        int count = epoll_wait(poll, events, EVENTS, pause > 0 ? 0 : PATIENCE * 1000);
        uint64_t t = now_ns();
        if (pause > 0) for (int i = 0; i < connections; i++) {
            client *c = &clients[i];
            if (c->due && c->due <= t) {
                c->due = 0;
                c->sent = now_ns();
                send_all(c->fd, c->request);
            } else if (!c->due && t - c->sent > PATIENCE * 1000000000ull) count = -1;
        }
        if (count < 0 || (count == 0 && pause == 0)) stop("no answer for %d seconds", PATIENCE);
        if (!measuring && t >= begin) {
            measuring = 1;
            memset(histogram, 0, sizeof histogram);
            calls = asked = longest = lost = refused = wrong_type = wrong_id = 0;
            memset(actions, 0, sizeof actions);
            cpu = cpu_ns(pids, pid_count);
            begin = now_ns();
            end = begin + (uint64_t)(seconds * 1e9);
        }
        if (t >= end) break;
        for (int i = 0; i < count; i++) {
            client *c = events[i].data.ptr;
            ssize_t got = recv(c->fd, c->in + c->filled, ROOM - c->filled, 0);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got <= 0 && keep_going) {
                lost++;
                redial(path, poll, c);
                continue;
            }
            if (got <= 0)
                stop("the runner closed a connection after %llu answers, %llu of them refusals",
                     (unsigned long long)calls, (unsigned long long)refused);
            c->filled += (size_t)got;
            while (c->filled >= 4) {
                size_t size = frame_size(c->in);
                if (size > ROOM) stop("an answer of %zu bytes is longer than expected", size);
                if (c->filled < size) break;
                if (c->in[0] == EXTRA_INFO && check) {
                    if (!answer.data) stop("the runner asks something (frame type 3): give the answer with -a");
                    asked++;
                    send_all(c->fd, answer);
                } else {
                    uint64_t done = now_ns(), took = done - c->sent;
                    unsigned b = bucket(took);
                    histogram[b < BUCKETS ? b : BUCKETS - 1]++;
                    if (took > longest) longest = took;
                    calls++;
                    if (check) {
                        size_t at = field(c->in, size, 0, 4), action_at = field(c->in, size, 1, 1);
                        int action = kind == REQUEST_CALL && action_at ? c->in[action_at] : 0;
                        if (c->in[0] == REFUSED) refused++;
                        else if (c->in[0] != kind || action > 2) wrong_type++;
                        else if (!at || get32(c->in + at) != c->id) wrong_id++;
                        else actions[action]++;
                        c->id++;
                        memcpy(c->request.data + id_at, &c->id, 4);
                    }
                    c->sent = done;
                    if (pause > 0) c->due = done + (uint64_t)(pause * 1e9);
                    else if (!keep_going) send_all(c->fd, c->request);
                    else if (!try_send(c->fd, c->request)) {
                        lost++;
                        redial(path, poll, c);
                        break;
                    }
                }
                memmove(c->in, c->in + size, c->filled - size);
                c->filled -= size;
            }
        }
    }
    uint64_t stuck = 0;
    for (int i = 0; i < connections; i++) stuck += now_ns() - clients[i].sent > PATIENCE * 1000000000ull / 2;
    double elapsed = (double)(now_ns() - begin) / 1e9;
    double spent = pid_count ? (double)(cpu_ns(pids, pid_count) - cpu) / 1000.0 : 0;
    uint64_t wrong = refused + wrong_type + wrong_id;
    printf("{\"connections\": %d, \"rps\": %.0f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"max_us\": %.0f, ",
           connections, (double)calls / elapsed, percentile(calls, .5), percentile(calls, .9), percentile(calls, .99),
           percentile(calls, .999), (double)longest / 1000);
    const struct { const char *name; uint64_t value; } counts[] = {
        {"calls", calls}, {"lost", lost}, {"stuck", stuck}, {"asked", asked}, {"wrong", wrong}, {"refused", refused}, {"wrong_type", wrong_type},
        {"wrong_id", wrong_id}, {"no_action", actions[0]}, {"stop", actions[1]}, {"rewrite", actions[2]},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        printf("\"%s\": %llu, ", counts[i].name, (unsigned long long)counts[i].value);
    printf("\"cpu_us\": %.3f, \"busy\": %.3f}\n", calls ? spent / (double)calls : 0, spent / 1e6 / elapsed);
    if (!calls) stop("no answer within the measured time");
    if (stuck) stop("%llu connections have waited for more than %d seconds for an answer", (unsigned long long)stuck, PATIENCE / 2);
    if (!wrong) return 0;
    fprintf(stderr, "loadgen: %llu of %llu answers were wrong: %llu refusals (type 0), %llu of another type, "
                    "%llu with another id\n",
            (unsigned long long)wrong, (unsigned long long)calls, (unsigned long long)refused,
            (unsigned long long)wrong_type, (unsigned long long)wrong_id);
    return 3;
}
