/* A closed-loop load generator for plugin runners.
 *
 * It plays the gateway's part of the protocol: each of N connections sends one HTTPReqCall, answers what the runner
 * asks in between, takes the answer and sends the next. Nothing is prepared in the loop: the frame comes from a file,
 * and only its id and, once, its conf token are written into it.
 *
 * Every answer is checked (type, id, action) unless --fixed says that the server doesn't look at requests at all.
 *
 * Frame: 1 byte type, 3 bytes big-endian length of the payload, payload (a FlatBuffers table).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 4, MAX_FRAME = HEADER + (1 << 24) - 1, MAX_EVENTS = 256, MAX_PIDS = 1024, STALL_SECONDS = 5 };
enum { EXIT_WRONG_ANSWERS = 3 };

enum frame_type { ERROR = 0, PREPARE_CONF = 1, HTTP_REQ_CALL = 2, EXTRA_INFO = 3 };
enum action { UNCHANGED = 0, STOP = 1, REWRITE = 2, ACTIONS };

/* Field slots, in the order of the schema. */
enum { PREPARE_CONF_RESP_TOKEN = 0, REQ_ID = 0, REQ_CONF_TOKEN = 6, RESP_ID = 0, RESP_ACTION_TYPE = 1 };

struct frame {
    uint8_t *bytes;
    size_t size;
};

struct options {
    const char *socket, *request, *prepare, *extra_info;
    long connections;
    double seconds, warm_up;
    int pids[MAX_PIDS];
    size_t pid_count;
    bool fixed;
};

struct connection {
    int fd;
    uint32_t id;
    uint64_t sent_at;
    struct frame request;
    const struct frame *outgoing; /* what is being sent; NULL: all is sent */
    size_t outgoing_at;
    bool awaits_room;
    uint8_t *incoming;
    size_t incoming_size, incoming_capacity;
};

/* Log-linear: 2^PRECISION buckets for each doubling, so a value is off by less than one percent. */
enum { PRECISION = 7, BUCKETS = (64 - PRECISION + 1) << PRECISION };

struct tally {
    uint64_t answers, extra_infos, wrong_type, wrong_id, refused;
    uint64_t actions[ACTIONS];
    uint64_t slowest;
    uint64_t buckets[BUCKETS];
};

struct run {
    const struct options *options;
    struct frame request, extra_info;
    size_t id_at;
    uint32_t last_id;
    int poller;
    struct connection *connections;
    struct tally tally;
};

/* --- time and CPU time */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t own_cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What all living threads of a process have spent on a CPU: the first number of their schedstat. */
static uint64_t process_cpu_ns(int pid) {
    char path[300];
    uint64_t total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        err(1, "process %d", pid);
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r"); /* fails if the thread has just ended */
        uint64_t spent;
        if (file && fscanf(file, "%" SCNu64, &spent) == 1)
            total += spent;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return total;
}

static uint64_t charged_cpu_ns(const struct options *options) {
    uint64_t total = 0;
    for (size_t i = 0; i < options->pid_count; i++)
        total += process_cpu_ns(options->pids[i]);
    return total;
}

/* --- latency histogram */

static size_t bucket_of(uint64_t value) {
    if (value < 1u << PRECISION)
        return value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - PRECISION;
    return ((size_t)shift << PRECISION) + (size_t)(value >> shift);
}

static double bucket_middle(size_t bucket) {
    if (bucket < 2u << PRECISION)
        return (double)bucket;
    unsigned shift = (unsigned)(bucket >> PRECISION) - 1;
    uint64_t low = (uint64_t)(bucket - ((size_t)shift << PRECISION)) << shift;
    return (double)low + (double)(1ull << shift) / 2;
}

static double percentile_us(const struct tally *tally, double share) {
    uint64_t rank = (uint64_t)(share * (double)tally->answers), seen = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += tally->buckets[bucket];
        if (seen > rank)
            return bucket_middle(bucket) / 1000;
    }
    return (double)tally->slowest / 1000;
}

/* --- frames */

static size_t payload_size(const uint8_t *header) {
    return (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
}

static uint32_t read_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void write_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint16_t read_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

/* Where in a frame the field of `slot` of the root table begins; 0 if it is absent or the table is malformed. */
static size_t field_at(const uint8_t *frame, size_t frame_size, unsigned slot, size_t field_size) {
    if (frame_size < HEADER + 8)
        return 0;
    const uint8_t *payload = frame + HEADER;
    size_t size = frame_size - HEADER;
    size_t table = read_u32(payload);
    if (table > size - 4)
        return 0;
    int64_t vtable = (int64_t)table - (int32_t)read_u32(payload + table);
    if (vtable < 0 || (size_t)vtable > size - 4)
        return 0;
    size_t vtable_size = read_u16(payload + vtable), entry = 4 + 2 * (size_t)slot;
    if (entry + 2 > vtable_size || (size_t)vtable + vtable_size > size)
        return 0;
    size_t offset = read_u16(payload + (size_t)vtable + entry);
    if (!offset || table + offset + field_size > size)
        return 0;
    return HEADER + table + offset;
}

static struct frame load_frame(const char *path, enum frame_type type) {
    FILE *file = fopen(path, "rb");
    if (!file)
        err(1, "%s", path);
    struct frame frame = {.bytes = malloc(MAX_FRAME + 1)};
    if (!frame.bytes)
        err(1, "malloc");
    frame.size = fread(frame.bytes, 1, MAX_FRAME + 1, file);
    if (ferror(file))
        err(1, "%s", path);
    fclose(file);
    if (frame.size < HEADER || frame.size != HEADER + payload_size(frame.bytes))
        errx(1, "%s: not exactly one frame (%zu bytes)", path, frame.size);
    if (frame.bytes[0] != type)
        errx(1, "%s: a frame of type %d is needed here, this one is of type %d", path, type, frame.bytes[0]);
    return frame;
}

/* --- connections */

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errx(1, "%s: too long for a unix socket (at most %zu bytes)", path, sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err(1, "socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        err(1, "%s", path);
    return fd;
}

static void watch(int poller, int operation, struct connection *connection, bool writable) {
    struct epoll_event event = {.events = writable ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->fd, &event))
        err(1, "epoll_ctl");
}

static void go_on_sending(struct run *run, struct connection *connection) {
    const struct frame *frame = connection->outgoing;
    while (connection->outgoing_at < frame->size) {
        ssize_t sent = send(connection->fd, frame->bytes + connection->outgoing_at,
                            frame->size - connection->outgoing_at, MSG_NOSIGNAL);
        if (sent >= 0) {
            connection->outgoing_at += (size_t)sent;
        } else if (errno == EAGAIN) {
            if (!connection->awaits_room)
                watch(run->poller, EPOLL_CTL_MOD, connection, true);
            connection->awaits_room = true;
            return;
        } else if (errno != EINTR) {
            err(1, "sending to the runner");
        }
    }
    connection->outgoing = NULL;
    if (connection->awaits_room)
        watch(run->poller, EPOLL_CTL_MOD, connection, false);
    connection->awaits_room = false;
}

static void start_sending(struct run *run, struct connection *connection, const struct frame *frame) {
    if (connection->outgoing)
        errx(1, "the runner answered before it had the whole request");
    connection->outgoing = frame;
    connection->outgoing_at = 0;
    go_on_sending(run, connection);
}

static void send_request(struct run *run, struct connection *connection, uint64_t now) {
    if (!run->options->fixed) {
        /* Unique among those under way. Never 0, which is also what an answer without an id says. */
        if (++run->last_id == 0)
            run->last_id = 1;
        connection->id = run->last_id;
        write_u32(connection->request.bytes + run->id_at, connection->id);
    }
    connection->sent_at = now;
    start_sending(run, connection, &connection->request);
}

static void check_answer(struct tally *tally, const uint8_t *frame, size_t size, uint32_t id) {
    if (frame[0] == ERROR) {
        tally->refused++;
        return;
    }
    if (frame[0] != HTTP_REQ_CALL) {
        tally->wrong_type++;
        return;
    }
    size_t id_at = field_at(frame, size, RESP_ID, 4);
    if (!id_at || read_u32(frame + id_at) != id) {
        tally->wrong_id++;
        return;
    }
    size_t action_at = field_at(frame, size, RESP_ACTION_TYPE, 1);
    uint8_t action = action_at ? frame[action_at] : UNCHANGED;
    if (action < ACTIONS)
        tally->actions[action]++;
    else
        tally->wrong_type++;
}

static void take_frame(struct run *run, struct connection *connection, const uint8_t *frame, size_t size) {
    struct tally *tally = &run->tally;
    if (frame[0] == EXTRA_INFO && !run->options->fixed) {
        if (!run->extra_info.bytes)
            errx(1, "the runner asks for information (frame type 3): give the answer with --extra-info");
        tally->extra_infos++;
        start_sending(run, connection, &run->extra_info);
        return;
    }
    uint64_t now = now_ns(), latency = now - connection->sent_at;
    tally->answers++;
    tally->buckets[bucket_of(latency)]++;
    if (latency > tally->slowest)
        tally->slowest = latency;
    if (!run->options->fixed)
        check_answer(tally, frame, size, connection->id);
    send_request(run, connection, now);
}

static void receive(struct run *run, struct connection *connection) {
    ssize_t received = recv(connection->fd, connection->incoming + connection->incoming_size,
                            connection->incoming_capacity - connection->incoming_size, 0);
    if (received < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        err(1, "receiving from the runner");
    }
    if (received == 0)
        errx(1, "the runner closed a connection after %" PRIu64 " answers, %" PRIu64 " of them errors",
             run->tally.answers, run->tally.refused);
    connection->incoming_size += (size_t)received;

    size_t at = 0, left = connection->incoming_size;
    while (left >= HEADER) {
        size_t size = HEADER + payload_size(connection->incoming + at);
        if (left < size)
            break;
        take_frame(run, connection, connection->incoming + at, size);
        at += size;
        left -= size;
    }
    if (at)
        memmove(connection->incoming, connection->incoming + at, left);
    connection->incoming_size = left;
    if (left >= HEADER && HEADER + payload_size(connection->incoming) > connection->incoming_capacity) {
        connection->incoming_capacity = HEADER + payload_size(connection->incoming);
        connection->incoming = realloc(connection->incoming, connection->incoming_capacity);
        if (!connection->incoming)
            err(1, "realloc");
    }
}

static void open_connections(struct run *run) {
    run->poller = epoll_create1(EPOLL_CLOEXEC);
    run->connections = calloc((size_t)run->options->connections, sizeof *run->connections);
    if (run->poller < 0 || !run->connections)
        err(1, "opening connections");
    for (long i = 0; i < run->options->connections; i++) {
        struct connection *connection = &run->connections[i];
        connection->fd = dial(run->options->socket);
        if (fcntl(connection->fd, F_SETFL, O_NONBLOCK))
            err(1, "fcntl");
        connection->incoming_capacity = 16 * 1024;
        connection->incoming = malloc(connection->incoming_capacity);
        connection->request = (struct frame){malloc(run->request.size), run->request.size};
        if (!connection->incoming || !connection->request.bytes)
            err(1, "malloc");
        memcpy(connection->request.bytes, run->request.bytes, run->request.size);
        watch(run->poller, EPOLL_CTL_ADD, connection, false);
    }
}

/* --- PrepareConf */

static uint32_t ask_for_conf_token(const char *path, const struct frame *prepare) {
    uint8_t answer[4096];
    size_t size = 0;
    int fd = dial(path);
    struct timeval patience = {.tv_sec = STALL_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (size_t sent = 0; sent < prepare->size;) {
        ssize_t step = send(fd, prepare->bytes + sent, prepare->size - sent, MSG_NOSIGNAL);
        if (step < 0)
            err(1, "sending PrepareConf");
        sent += (size_t)step;
    }
    while (size < HEADER || size < HEADER + payload_size(answer)) {
        ssize_t step = recv(fd, answer + size, sizeof answer - size, 0);
        if (step < 0)
            err(1, "waiting for the answer to PrepareConf");
        if (step == 0)
            errx(1, "the runner didn't answer PrepareConf: it closed the connection, or sent too long a frame");
        size += (size_t)step;
    }
    close(fd);
    if (answer[0] == ERROR)
        errx(1, "the runner refused PrepareConf (frame type 0); its log may say why");
    size_t token_at = field_at(answer, size, PREPARE_CONF_RESP_TOKEN, 4);
    if (answer[0] != PREPARE_CONF || !token_at)
        errx(1, "the answer to PrepareConf (frame type %d) holds no conf token", answer[0]);
    return read_u32(answer + token_at);
}

/* --- the run */

static void turn(struct run *run, uint64_t *heard_at) {
    struct epoll_event events[MAX_EVENTS];
    int ready = epoll_wait(run->poller, events, MAX_EVENTS, 1000);
    if (ready < 0 && errno != EINTR)
        err(1, "epoll_wait");
    if (ready > 0)
        *heard_at = now_ns();
    else if (now_ns() - *heard_at > STALL_SECONDS * 1000000000ull)
        errx(1, "no answer for %d s, after %" PRIu64 " answers", STALL_SECONDS, run->tally.answers);
    for (int i = 0; i < ready; i++) {
        struct connection *connection = events[i].data.ptr;
        if (events[i].events & EPOLLOUT && connection->outgoing)
            go_on_sending(run, connection);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            receive(run, connection);
    }
}

static void report(const struct run *run, uint64_t elapsed, uint64_t server_cpu, uint64_t own_cpu) {
    const struct tally *tally = &run->tally;
    double seconds = (double)elapsed / 1e9, answers = (double)tally->answers;
    printf("{\"connections\": %ld, \"seconds\": %.3f, \"answers\": %" PRIu64 ", \"rps\": %.1f, ",
           run->options->connections, seconds, tally->answers, answers / seconds);
    printf("\"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, ",
           percentile_us(tally, .5), percentile_us(tally, .9), percentile_us(tally, .99), percentile_us(tally, .999),
           (double)tally->slowest / 1000);
    printf("\"errors\": %" PRIu64 ", \"wrong_type\": %" PRIu64 ", \"wrong_id\": %" PRIu64 ", \"refused\": %" PRIu64
           ", ",
           tally->wrong_type + tally->wrong_id + tally->refused, tally->wrong_type, tally->wrong_id, tally->refused);
    printf("\"unchanged\": %" PRIu64 ", \"stop\": %" PRIu64 ", \"rewrite\": %" PRIu64 ", \"extra_info\": %" PRIu64
           ", ",
           tally->actions[UNCHANGED], tally->actions[STOP], tally->actions[REWRITE], tally->extra_infos);
    if (server_cpu && tally->answers)
        printf("\"server_cpu_us\": %.3f, \"server_utilisation\": %.3f, ", (double)server_cpu / 1000 / answers,
               (double)server_cpu / (double)elapsed);
    else
        printf("\"server_cpu_us\": null, \"server_utilisation\": null, ");
    printf("\"generator_utilisation\": %.3f}\n", (double)own_cpu / (double)elapsed);
}

static int measure(struct run *run) {
    uint64_t heard_at = now_ns(), end = heard_at + (uint64_t)(run->options->warm_up * 1e9);
    for (long i = 0; i < run->options->connections; i++)
        send_request(run, &run->connections[i], now_ns());
    while (now_ns() < end)
        turn(run, &heard_at);

    memset(&run->tally, 0, sizeof run->tally);
    uint64_t server_cpu = charged_cpu_ns(run->options), own_cpu = own_cpu_ns(), start = now_ns();
    end = start + (uint64_t)(run->options->seconds * 1e9);
    while (now_ns() < end)
        turn(run, &heard_at);
    uint64_t elapsed = now_ns() - start;
    own_cpu = own_cpu_ns() - own_cpu;
    uint64_t server_cpu_after = charged_cpu_ns(run->options);
    /* A thread that ended takes its time along; then nothing is known. */
    server_cpu = server_cpu_after > server_cpu ? server_cpu_after - server_cpu : 0;

    report(run, elapsed, server_cpu, own_cpu);
    const struct tally *tally = &run->tally;
    return tally->wrong_type + tally->wrong_id + tally->refused ? EXIT_WRONG_ANSWERS : 0;
}

/* --- command line */

static const char USAGE[] =
    "usage: loadgen --socket PATH --request FILE [options]\n"
    "\n"
    "Send a request to a plugin runner over and over, on several connections at once, each waiting for its\n"
    "answer, and print what was measured as one line of JSON.\n"
    "\n"
    "  -s, --socket PATH        the runner's unix socket\n"
    "  -f, --request FILE       the frame to send: an HTTPReqCall (type 2) with an id\n"
    "  -p, --prepare FILE       a PrepareConf frame (type 1) to send once, before; its token goes into the request\n"
    "  -x, --extra-info FILE    the frame (type 3) to answer with whenever the runner asks for something\n"
    "  -c, --connections N      connections at once  [1]\n"
    "  -t, --seconds S          how long to measure  [2]\n"
    "  -w, --warm-up S          how long to run before that  [0.5]\n"
    "  -P, --pids PID,...       processes whose CPU time is charged to the requests\n"
    "  -n, --fixed              don't look into answers: the server sends always the same one\n"
    "  -h, --help               this text\n"
    "\n"
    "Exit code: 0 if all answers were right, 3 if some were not, 1 on trouble, 2 for a wrong command line.\n";

static void usage_error(const char *message, const char *argument) {
    fprintf(stderr, "loadgen: %s%s%s; see loadgen --help\n", message, argument ? ": " : "", argument ? argument : "");
    exit(2);
}

static double number(const char *text, double low, double high) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        usage_error("not a usable number", text);
    return value;
}

static struct options parse(int argc, char **argv) {
    static const struct option known[] = {
        {"socket", required_argument, NULL, 's'},     {"request", required_argument, NULL, 'f'},
        {"prepare", required_argument, NULL, 'p'},    {"extra-info", required_argument, NULL, 'x'},
        {"connections", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 't'},
        {"warm-up", required_argument, NULL, 'w'},    {"pids", required_argument, NULL, 'P'},
        {"fixed", no_argument, NULL, 'n'},            {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options options = {.connections = 1, .seconds = 2, .warm_up = 0.5};
    for (int option; (option = getopt_long(argc, argv, "s:f:p:x:c:t:w:P:nh", known, NULL)) != -1;) {
        switch (option) {
        case 's': options.socket = optarg; break;
        case 'f': options.request = optarg; break;
        case 'p': options.prepare = optarg; break;
        case 'x': options.extra_info = optarg; break;
        case 'c': options.connections = (long)number(optarg, 1, 60000); break;
        case 't': options.seconds = number(optarg, 0.01, 86400); break;
        case 'w': options.warm_up = number(optarg, 0, 3600); break;
        case 'n': options.fixed = true; break;
        case 'P':
            for (char *pid = strtok(optarg, ","); pid; pid = strtok(NULL, ",")) {
                if (options.pid_count == MAX_PIDS)
                    usage_error("too many processes", NULL);
                options.pids[options.pid_count++] = (int)number(pid, 1, 1 << 22);
            }
            break;
        case 'h': fputs(USAGE, stdout); exit(0);
        default: exit(2); /* getopt has said why */
        }
    }
    if (optind < argc)
        usage_error("unexpected argument", argv[optind]);
    if (!options.socket || !options.request)
        usage_error("--socket and --request are needed", NULL);
    if (options.fixed && options.prepare)
        usage_error("--fixed and --prepare exclude each other", NULL);
    return options;
}

static void raise_file_limit(void) {
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv) {
    static struct run run;
    struct options options = parse(argc, argv);
    run.options = &options;
    run.request = load_frame(options.request, HTTP_REQ_CALL);
    if (options.extra_info)
        run.extra_info = load_frame(options.extra_info, EXTRA_INFO);
    run.id_at = field_at(run.request.bytes, run.request.size, REQ_ID, 4);
    if (!run.id_at && !options.fixed)
        errx(1, "%s: the request has no id to be replaced", options.request);
    if (options.prepare) {
        struct frame prepare = load_frame(options.prepare, PREPARE_CONF);
        size_t token_at = field_at(run.request.bytes, run.request.size, REQ_CONF_TOKEN, 4);
        if (!token_at)
            errx(1, "%s: the request has no conf token to be replaced", options.request);
        write_u32(run.request.bytes + token_at, ask_for_conf_token(options.socket, &prepare));
        free(prepare.bytes);
    }
    raise_file_limit();
    open_connections(&run);
    return measure(&run);
}
