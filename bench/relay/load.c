/* A load generator for HTTP/1.1 on 127.0.0.1: one thread; every byte of every body is compared with what mock.c sends.
 *
 *     load -p PORT -u PATH -m closed|open|stream -c CONNECTIONS -t SECONDS [-w WARM_UP_SECONDS] [-r RATE]
 *          [-s SPREAD_SECONDS] [-n MOST_REQUESTS] [-k REQUEST_KB] [-a ANSWER_BYTES] [-e EVENTS] [-d DELAY_US]
 *          [-b EVENTS_PER_WRITE] [-H "Name: value"]...
 *
 * closed: each connection sends its next request when it has its answer. open: RATE requests per second, the time
 * counted from the moment that a request was due. stream: as closed, with streams, begun over SPREAD_SECONDS (unless
 * given: over the time between two events). Nothing begins after SECONDS; what is under way may end (10 s more, or as
 * long as a stream takes). The age of an event is from the stamp in it until its line has been read. Prints JSON.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    NUMBER_DIGITS = 12, /* of the number that makes each request another one */
    LONGEST_HEAD = 16384,
    MOST_ERRORS = 2000,
    MOST_RETRIES = 20000,
    GRACE_SECONDS = 10
};

typedef enum { CLOSED, OPEN, STREAM } mode;

typedef struct {
    uint64_t *values;
    size_t count, room;
} samples;

typedef enum { IN_HEAD, BY_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE } state;

typedef struct {
    int fd;
    bool connected, busy, closing, warming, differs, touched;
    char *request;
    size_t sent;
    uint64_t begun;
    state state;
    char head[LONGEST_HEAD];
    size_t head_size, left, position;
    char line[32];
    int line_size, status;
    int digits; /* of a stamp, so far; -1 outside of one */
    bool stamped;
    uint64_t stamp;
} connection;

static struct {
    int port, connections, events, delay, at_once, kilobytes, answer;
    double seconds, warm_up, rate, spread;
    long most;
    mode mode;
    const char *path;
    char headers[8192];
} options = {.connections = 1, .events = 100, .at_once = 1, .kilobytes = 1, .answer = USUAL_TEXT, .seconds = 3,
             .warm_up = 0.5, .rate = 100, .spread = -1, .most = 1L << 60, .path = "/v1/messages"};

static struct {
    long done, started, errors, differing, events, reconnects, active;
    int bad_status;
    uint64_t last;
} counts;

static samples latencies, first_bytes, ages;
static char *request, *expected;
static size_t request_size, number_at, expected_size;
static int poller, opened, idle_count;
static connection *connections, **idle;
static uint64_t begun, warm, stop, *overdue;
static size_t overdue_first, overdue_count;

/* Samples */

static void add(samples *to, uint64_t value) {
    if (to->count == to->room) {
        to->room = to->room * 2 + 4096;
        to->values = grown(to->values, to->room * sizeof *to->values);
    }
    to->values[to->count++] = value;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, samples *from) {
    static const double points[] = {0.5, 0.9, 0.99, 1.0};
    if (from->count) qsort(from->values, from->count, sizeof *from->values, compare);
    printf("\"%s\":[", name);
    for (int i = 0; i < 4; i++) {
        double value = 0;
        if (from->count) value = (double)from->values[(size_t)(points[i] * (double)(from->count - 1) + 0.5)] / 1000;
        printf("%s%.1f", i ? "," : "", value);
    }
    printf("],");
}

/* What is sent and what is expected */

static void prepare_request(void) {
    size_t wanted = (size_t)options.kilobytes * 1024;
    char *body = grown(NULL, wanted + 4096);
    size_t size = (size_t)sprintf(body,
                                  "{\"model\":\"claude-sonnet-4-5-20250929\",\"max_tokens\":1024,%s"
                                  "\"system\":\"You are terse.\",\"messages\":[{\"role\":\"user\",\"content\":\""
                                  "[mock e=%d d=%d b=%d n=%d] ",
                                  options.mode == STREAM ? "\"stream\":true," : "", options.events, options.delay,
                                  options.at_once, options.answer);
    size_t number_in_body = size;
    size += (size_t)sprintf(body + size, "%0*d ", NUMBER_DIGITS, 0);
    while (size + 4 < wanted) size += (size_t)sprintf(body + size, "Tell me of the fox. ");
    size += (size_t)sprintf(body + size, "\"}]}");
    request = grown(NULL, size + sizeof options.headers + 1024);
    size_t head = (size_t)sprintf(request,
                                  "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: Anthropic/Python 0.49.0\r\n"
                                  "Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
                                  "anthropic-version: 2023-06-01\r\nx-api-key: sk-ant-bench\r\n"
                                  "X-Stainless-Lang: python\r\nX-Stainless-Runtime: CPython\r\n%s"
                                  "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                                  options.path, options.port, options.headers, size);
    memcpy(request + head, body, size);
    free(body);
    request_size = head + size;
    number_at = head + number_in_body;
}

static void prepare_expected(void) {
    if (options.mode != STREAM) {
        expected = grown(NULL, (size_t)options.answer + AROUND_TEXT);
        expected_size = write_message(expected, (size_t)options.answer);
        return;
    }
    expected = grown(NULL, (size_t)count_events(options.events) * LONGEST_EVENT);
    for (int i = 0; i < count_events(options.events); i++)
        expected_size += (size_t)write_event(expected + expected_size, i, options.events, 0);
}

/* Connections */

static void leave(connection *c) {
    if (c->fd > 0) close(c->fd);
    c->fd = 0;
}

static void enter(connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    int one = 1;
    leave(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->fd < 0 || (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)) {
        perror("load");
        exit(1);
    }
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->connected = false;
}

/* Sends what the socket takes of the request; false when the connection is over. */
static bool flush(connection *c) {
    while (c->busy && c->sent < request_size) {
        ssize_t size = send(c->fd, c->request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (size < 0) return errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS;
        c->sent += (size_t)size;
    }
    return true;
}

static void retry(connection *c) {
    counts.reconnects++;
    c->sent = 0;
    enter(c);
    flush(c);
}

static void begin(connection *c, uint64_t due) {
    if (!c->request) c->request = memcpy(grown(NULL, request_size), request, request_size);
    char digits[32];
    snprintf(digits, sizeof digits, "%0*ld", NUMBER_DIGITS, counts.started % 1000000000000L);
    memcpy(c->request + number_at, digits, NUMBER_DIGITS);
    c->busy = true;
    c->begun = due;
    c->warming = due < warm;
    c->sent = c->head_size = c->position = 0;
    c->state = IN_HEAD;
    c->differs = c->touched = c->closing = c->stamped = false;
    c->digits = -1;
    counts.started++;
    counts.active++;
    if (c->fd <= 0) enter(c);
    if (!flush(c)) retry(c);
}

static void go_on(connection *c, uint64_t now) {
    if (options.mode == OPEN) {
        if (overdue_first < overdue_count)
            begin(c, overdue[overdue_first++]);
        else
            idle[idle_count++] = c;
    } else if (now < stop && counts.started < options.most) {
        begin(c, now);
    }
}

static bool counted(const connection *c, uint64_t now) {
    if (options.mode != CLOSED) return !c->warming;
    return now >= warm && (now <= stop || options.most < 1L << 60); /* what ended meanwhile, whenever it began */
}

static void finish(connection *c, uint64_t now, bool broken) {
    counts.active--;
    counts.last = now;
    c->busy = false;
    if (broken || c->status != 200) {
        counts.errors++;
        if (!broken) counts.bad_status = c->status;
    } else {
        if (c->differs || c->position != expected_size) counts.differing++;
        if (counted(c, now)) {
            counts.done++;
            add(&latencies, now - c->begun);
        }
    }
    if (broken || c->closing) {
        counts.reconnects++;
        leave(c);
    }
    if (counts.errors > MOST_ERRORS) stop = now;
    go_on(c, now);
}

/* Answers */

static void read_stamp(connection *c, char letter, uint64_t now) {
    if (c->digits >= 0) {
        c->stamp = c->stamp * 10 + (uint64_t)(letter - '0');
        if (letter < '0' || letter > '9') c->digits = -1;
        else if (++c->digits == STAMP_DIGITS) {
            c->digits = -1;
            c->stamped = true;
        }
    } else if (letter == '@') {
        c->digits = 0;
        c->stamp = 0;
    } else if (letter == '\n' && c->stamped) {
        c->stamped = false;
        if (c->warming) return;
        counts.events++;
        add(&ages, now > c->stamp ? now - c->stamp : 0);
    }
}

static void read_body(connection *c, const char *bytes, size_t size, uint64_t now) {
    if (!c->touched && !c->warming) add(&first_bytes, now - c->begun);
    c->touched = true;
    if (c->status != 200) return;
    if (c->position + size > expected_size) {
        c->differs = true;
    } else if (options.mode != STREAM) {
        c->differs |= memcmp(expected + c->position, bytes, size) != 0;
    } else {
        const char *wanted = expected + c->position;
        for (size_t i = 0; i < size; i++) {
            c->differs |= wanted[i] == '#' ? bytes[i] < '0' || bytes[i] > '9' : wanted[i] != bytes[i];
            read_stamp(c, bytes[i], now);
        }
    }
    c->position += size;
}

static char *header(connection *c, const char *name) {
    size_t length = strlen(name);
    for (char *line = c->head; (line = strstr(line, "\r\n"));) {
        line += 2;
        if (strncasecmp(line, name, length) || line[length] != ':') continue;
        for (line += length + 1; *line == ' ';) line++;
        return line;
    }
    return NULL;
}

/* Reads on in the head; returns how many of the bytes belong to it. */
static size_t read_head(connection *c, const char *bytes, size_t size) {
    size_t known = c->head_size, room = sizeof c->head - 1 - known, taken = size < room ? size : room;
    memcpy(c->head + known, bytes, taken);
    c->head_size += taken;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head + (known > 3 ? known - 3 : 0), "\r\n\r\n"), *value;
    if (!end) return taken ? taken : size;
    end[2] = 0;
    c->status = atoi(c->head + 9);
    c->closing = (value = header(c, "connection")) && !strncasecmp(value, "close", 5);
    c->line_size = 0;
    c->state = UNTIL_CLOSE;
    if ((value = header(c, "transfer-encoding")) && !strncasecmp(value, "chunked", 7)) {
        c->state = CHUNK_SIZE;
    } else if ((value = header(c, "content-length"))) {
        c->left = strtoul(value, NULL, 10);
        c->state = BY_LENGTH;
    }
    return (size_t)(end + 4 - c->head) - known;
}

/* Reads one byte of what is around chunks; true when the answer is over. */
static bool read_framing(connection *c, char letter) {
    if (letter != '\n') {
        if (letter != '\r' && c->line_size < (int)sizeof c->line - 1) c->line[c->line_size++] = letter;
        return false;
    }
    c->line[c->line_size] = 0;
    bool empty = !c->line_size;
    c->line_size = 0;
    if (c->state == TRAILER) return empty;
    if (c->state == CHUNK_END) {
        c->state = CHUNK_SIZE;
        return false;
    }
    c->left = strtoul(c->line, NULL, 16);
    c->state = c->left ? CHUNK_DATA : TRAILER;
    return false;
}

static void read_answer(connection *c, const char *bytes, size_t size, uint64_t now) {
    while (size || (c->state == BY_LENGTH && !c->left)) {
        size_t taken = 1;
        bool over = false;
        switch (c->state) {
        case IN_HEAD:
            taken = read_head(c, bytes, size);
            break;
        case BY_LENGTH:
        case CHUNK_DATA:
            taken = size < c->left ? size : c->left;
            read_body(c, bytes, taken, now);
            c->left -= taken;
            over = !c->left && c->state == BY_LENGTH;
            if (!c->left) c->state = CHUNK_END;
            break;
        case UNTIL_CLOSE:
            taken = size;
            read_body(c, bytes, taken, now);
            break;
        default:
            over = read_framing(c, *bytes);
        }
        bytes += taken;
        size -= taken;
        if (over) {
            finish(c, now, false);
            return;
        }
    }
}

static void lose(connection *c) {
    uint64_t now = now_ns();
    bool untouched = !c->head_size && c->connected && counts.reconnects < MOST_RETRIES;
    if (!c->busy) {
        leave(c);
    } else if (c->state == UNTIL_CLOSE) {
        c->closing = true;
        finish(c, now, false);
    } else if (untouched) { /* the server had closed an idle connection */
        retry(c);
    } else {
        finish(c, now, true);
    }
}

static void serve(connection *c, uint32_t events) {
    static char bytes[1 << 18];
    if (events & EPOLLOUT) {
        c->connected = true;
        if (!flush(c)) {
            lose(c);
            return;
        }
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    for (int fd = c->fd; c->fd == fd;) {
        ssize_t size = recv(fd, bytes, sizeof bytes, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            lose(c);
            return;
        }
        if (c->busy) read_answer(c, bytes, (size_t)size, now_ns());
    }
}

/* The loop */

/* Begins what is due; returns when the next one is. */
static uint64_t begin_due(uint64_t now) {
    static uint64_t next, gap;
    if (!next) {
        double spread = options.spread >= 0 ? options.spread : options.mode == STREAM ? options.delay / 1e6 : 0;
        next = begun;
        gap = (uint64_t)(options.mode == OPEN ? 1e9 / options.rate : spread * 1e9 / options.connections);
    }
    if (options.mode != OPEN) {
        for (; opened < options.connections && counts.started < options.most && next <= now; next += gap)
            begin(&connections[opened++], now_ns());
        return opened < options.connections && counts.started < options.most ? next : UINT64_MAX;
    }
    for (; next <= now && next < stop; next += gap) {
        if (idle_count)
            begin(idle[--idle_count], next);
        else if (opened < options.connections)
            begin(&connections[opened++], next);
        else
            overdue[overdue_count++] = next;
    }
    return next;
}

static void run(void) {
    struct epoll_event events[256];
    double stream = options.mode == STREAM ? options.events * options.delay / 1e6 : 0;
    uint64_t grace = (uint64_t)((GRACE_SECONDS + stream) * 1e9);
    for (;;) {
        uint64_t now = now_ns(), due = begin_due(now);
        if (!counts.active && (now >= stop || counts.started >= options.most)) return;
        if (now > stop + grace) return;
        uint64_t wait = due > now ? due - now : 0;
        struct timespec timeout = {.tv_nsec = (long)(wait < BILLION / 10 ? wait : BILLION / 10)};
        int count = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < count; i++) serve(events[i].data.ptr, events[i].events);
    }
}

static void print_counts(void) {
    bool bounded = options.mode == STREAM || options.most < 1L << 60;
    uint64_t now = now_ns(), end = bounded ? counts.last : now < stop ? now : stop;
    printf("{\"done\":%ld,\"started\":%ld,\"errors\":%ld,\"unfinished\":%ld,\"differing\":%ld,\"reconnects\":%ld,"
           "\"bad_status\":%d,\"seconds\":%.3f,\"events\":%ld,",
           counts.done, counts.started, counts.errors, counts.active, counts.differing, counts.reconnects,
           counts.bad_status, end > warm ? (double)(end - warm) / 1e9 : 0, counts.events);
    print_samples("latency_us", &latencies);
    print_samples("first_byte_us", &first_bytes);
    print_samples("age_us", &ages);
    printf("\"body_bytes\":%zu}\n", expected_size);
}

static bool parse(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "p:u:m:c:t:w:r:s:n:k:a:e:d:b:H:")) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'm': options.mode = *optarg == 'o' ? OPEN : *optarg == 's' ? STREAM : CLOSED; break;
        case 'c': options.connections = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 's': options.spread = atof(optarg); break;
        case 'n': options.most = atol(optarg); break;
        case 'k': options.kilobytes = atoi(optarg); break;
        case 'a': options.answer = atoi(optarg); break;
        case 'e': options.events = atoi(optarg); break;
        case 'd': options.delay = atoi(optarg); break;
        case 'b': options.at_once = atoi(optarg); break;
        case 'H':
            if (strlen(options.headers) + strlen(optarg) + 3 > sizeof options.headers) return false;
            strcat(strcat(options.headers, optarg), "\r\n");
            break;
        default: return false;
        }
    }
    return options.port > 0 && options.connections > 0 && options.rate > 0;
}

int main(int argc, char **argv) {
    if (!parse(argc, argv)) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    prepare_request();
    prepare_expected();
    poller = epoll_create1(0);
    connections = calloc((size_t)options.connections, sizeof *connections);
    idle = calloc((size_t)options.connections, sizeof *idle);
    overdue = calloc((size_t)((options.seconds + options.warm_up + 1) * options.rate) + 100, sizeof *overdue);
    begun = counts.last = now_ns();
    warm = begun + (uint64_t)(options.warm_up * 1e9);
    stop = warm + (uint64_t)(options.seconds * 1e9);
    run();
    print_counts();
    return 0;
}
