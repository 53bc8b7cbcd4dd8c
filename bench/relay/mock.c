/* A mock of the Anthropic Messages API and of an Invariant Explorer: one thread, on 127.0.0.1.
 *
 *     mock PORT [FOLDER]
 *
 * A request says in its body what it is answered with: "[mock e=EVENTS d=DELAY_US b=EVENTS_PER_WRITE n=BYTES]". With
 * "stream":true that is a stream of EVENTS text deltas, one write each DELAY_US microseconds (0: as fast as the socket
 * takes them); else a message with BYTES of text. "[raw NAME]" is answered with the bytes of FOLDER/NAME, whatever they
 * are, and the connection closed, with a reset when the name says so. GET /stats counts. What is pushed is counted by
 * traces, and gone.
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
    READ_SIZE = 16384,
    LONGEST_HEAD = 65536,
    LARGEST_WRITE = 7000, /* of events, beside the last one */
    MOST_AT_ONCE = 40,
    MOST_EVENTS = 999999,
    MOST_TEXT = 1 << 26,
    LONGEST_MARKED = 4096, /* from the beginning of a body */
    MOST_PUSHED = 1000, /* traces in one push */
    MOST_KEPT = 64,
    TURN = 1 << 18, /* bytes that one connection may send before it is another one's turn */
    LATE_NS = 50000000, /* a stream that is later than this does not catch up */
};

typedef struct {
    char *bytes;
    size_t size, room;
} buffer;

/* A long answer, made once. */
typedef struct {
    char name[40];
    buffer bytes;
} document;

typedef struct {
    int fd;
    buffer in, out;
    size_t sent;          /* of `out` */
    const document *rest; /* what is sent behind `out` */
    size_t rest_sent;
    size_t known; /* of a chunked body in `in`: so much of it are whole chunks */
    bool blocked, last, reset;
    bool streaming;
    int place; /* in `streams` */
    int next, deltas, at_once;
    uint64_t gap, due;
} connection;

typedef struct {
    char *head, *body;
    size_t head_size, body_size, used;
} request;

static int poller;
static const char *folder = ".";
static connection **streams;
static int stream_count, stream_room;
static document documents[MOST_KEPT];
static char message_head[1200], stream_head[1200];
static int stream_head_size;
static struct {
    unsigned long messages, streams, streams_done, pushes, traces, appends, other, unknown;
} counts;

static const char PROVIDER_HEADERS[] =
    "Date: Sun, 22 Nov 2026 13:00:00 GMT\r\nrequest-id: req_011BenchBenchBenchBenchBe\r\n"
    "anthropic-ratelimit-requests-limit: 4000\r\nanthropic-ratelimit-requests-remaining: 3999\r\n"
    "anthropic-ratelimit-requests-reset: 2026-11-22T13:00:00Z\r\n"
    "anthropic-organization-id: 00000000-0000-4000-8000-000000000000\r\n"
    "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\nvia: 1.1 google\r\n"
    "cf-cache-status: DYNAMIC\r\n";

static void reserve(buffer *there, size_t more) {
    if (there->size + more <= there->room) return;
    there->room = (there->size + more) * 2;
    there->bytes = grown(there->bytes, there->room);
}

static void append(buffer *there, const void *bytes, size_t size) {
    reserve(there, size);
    memcpy(there->bytes + there->size, bytes, size);
    there->size += size;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Connections */

static void watch(connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, operation, c->fd, &event);
}

static void end_stream(connection *c) {
    if (!c->streaming) return;
    streams[c->place] = streams[--stream_count];
    streams[c->place]->place = c->place;
    c->streaming = false;
}

static void drop(connection *c) {
    struct linger at_once = {.l_onoff = 1};
    if (c->reset) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    end_stream(c);
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

static bool pending(const connection *c) { return c->sent < c->out.size || c->rest; }

static ssize_t send_some(connection *c) {
    if (c->sent < c->out.size) {
        ssize_t size = send(c->fd, c->out.bytes + c->sent, c->out.size - c->sent, MSG_NOSIGNAL);
        if (size > 0) c->sent += (size_t)size;
        return size;
    }
    const buffer *rest = &c->rest->bytes;
    ssize_t size = send(c->fd, rest->bytes + c->rest_sent, smaller(rest->size - c->rest_sent, TURN), MSG_NOSIGNAL);
    if (size > 0) c->rest_sent += (size_t)size;
    if (c->rest_sent == rest->size) c->rest = NULL;
    return size;
}

/* Sends what the socket takes; false when the connection is over. */
static bool flush(connection *c) {
    for (size_t sent = 0; pending(c);) {
        ssize_t size = send_some(c);
        if (size < 0 && errno != EAGAIN) return false;
        if (size >= 0 && (sent += (size_t)size) < TURN) continue;
        if (!c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        c->blocked = true;
        return true;
    }
    c->sent = c->out.size = 0;
    if (c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = false;
    return c->streaming || !c->last;
}

static void answer(connection *c, const char *status, const char *body, size_t size) {
    char head[256];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, size);
    append(&c->out, head, (size_t)length);
    append(&c->out, body, size);
}

/* Streams */

static void begin_stream(connection *c, int deltas, uint64_t gap, int at_once) {
    append(&c->out, stream_head, (size_t)stream_head_size);
    c->streaming = true;
    c->next = 0;
    c->deltas = deltas;
    c->at_once = at_once;
    c->gap = gap;
    c->due = now_ns();
    if (stream_count == stream_room) {
        stream_room = stream_room * 2 + 64;
        streams = grown(streams, (size_t)stream_room * sizeof *streams);
    }
    c->place = stream_count;
    streams[stream_count++] = c;
    counts.streams++;
}

static void add_event(connection *c, uint64_t stamp) {
    char event[LONGEST_EVENT], size[16];
    int length = write_event(event, c->next++, c->deltas, stamp);
    append(&c->out, size, (size_t)snprintf(size, sizeof size, "%x\r\n", (unsigned)length));
    append(&c->out, event, (size_t)length);
    append(&c->out, "\r\n", 2);
}

/* Writes the events that are due; the first ones leave with the first delta, the last ones with the last one. */
static bool advance(connection *c, uint64_t now) {
    int total = count_events(c->deltas), last = HEAD_EVENTS + c->deltas;
    while (c->streaming && !pending(c) && c->due <= now) {
        uint64_t stamp = now_ns();
        int until = (c->next < HEAD_EVENTS ? HEAD_EVENTS : c->next) + c->at_once;
        if (until >= last) until = total;
        while (c->next < until && (c->out.size < LARGEST_WRITE || until == total)) add_event(c, stamp);
        c->due += c->gap;
        if (c->due + LATE_NS < now) c->due = now;
        if (c->next == total) {
            append(&c->out, "0\r\n\r\n", 5);
            counts.streams_done++;
            end_stream(c);
        }
        if (!flush(c)) return false;
    }
    return true;
}

/* Requests */

static char *find(char *there, size_t size, const char *what) { return memmem(there, size, what, strlen(what)); }

static char *header(const request *r, const char *name) {
    size_t length = strlen(name);
    char *end = r->head + r->head_size;
    for (char *line = r->head; (line = memchr(line, '\n', (size_t)(end - line)));) {
        line++;
        if ((size_t)(end - line) <= length || strncasecmp(line, name, length) || line[length] != ':') continue;
        for (line += length + 1; *line == ' ';) line++;
        return line;
    }
    return NULL;
}

/* Takes the chunk sizes out of a body, in place; false when it has not come wholly. */
static bool join_chunks(request *r, char *end, size_t *known) {
    char *there = r->body + *known;
    for (size_t size = 1; size;) {
        char *line = find(there, (size_t)(end - there), "\r\n");
        if (!line) return false;
        size = strtoul(there, NULL, 16);
        if ((size_t)(end - line) < size + 4) return false;
        there = line + 2 + size + 2;
        *known = (size_t)(there - r->body);
    }
    *known = 0;
    r->used = (size_t)(there - r->head);
    char *joined = r->body;
    for (there = r->body;;) {
        size_t size = strtoul(there, NULL, 16);
        if (!size) break;
        there = find(there, (size_t)(end - there), "\r\n") + 2;
        memmove(joined, there, size);
        joined += size;
        there += size + 2;
    }
    r->body_size = (size_t)(joined - r->body);
    return true;
}

/* Finds the first request of what has come; false when it is not whole. */
static bool whole(connection *c, request *r) {
    char *end = find(c->in.bytes, c->in.size, "\r\n\r\n"), *value;
    if (!end) return false;
    r->head = c->in.bytes;
    r->head_size = (size_t)(end - r->head) + 4;
    r->body = r->head + r->head_size;
    if ((value = header(r, "transfer-encoding")) && !strncasecmp(value, "chunked", 7))
        return join_chunks(r, c->in.bytes + c->in.size, &c->known);
    value = header(r, "content-length");
    r->body_size = value ? strtoul(value, NULL, 10) : 0;
    r->used = r->head_size + r->body_size;
    if (c->in.size >= r->used) return true;
    if (c->in.size == r->head_size && header(r, "expect")) append(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    reserve(&c->in, r->used - c->in.size);
    return false;
}

static int clamped(int value, int least, int most) { return value < least ? least : value > most ? most : value; }

/* The document of that name, still empty when it is asked for the first time; NULL when there are too many. */
static document *find_document(const char *name) {
    for (int i = 0; i < MOST_KEPT; i++) {
        if (!*documents[i].name) strcpy(documents[i].name, name);
        if (!strcmp(documents[i].name, name)) return &documents[i];
    }
    return NULL;
}

static void answer_long(connection *c, const document *found) {
    c->rest = found && found->bytes.size ? found : NULL;
    c->rest_sent = 0;
    if (!found) c->last = true;
}

static void read_file(document *into) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, into->name);
    FILE *file = fopen(path, "rb");
    for (size_t size = 1; file && size; into->bytes.size += size) {
        reserve(&into->bytes, LONGEST_HEAD);
        size = fread(into->bytes.bytes + into->bytes.size, 1, LONGEST_HEAD, file);
    }
    if (file) fclose(file);
}

/* Answers with a file, if the request asks for one. */
static bool answer_raw(connection *c, const request *r) {
    char mark[64] = "", name[32], *there = find(r->body, smaller(r->body_size, LONGEST_MARKED), "[raw ");
    if (there) memcpy(mark, there, smaller(sizeof mark - 1, (size_t)(r->body + r->body_size - there)));
    if (sscanf(mark, "[raw %31[a-z-]]", name) != 1) return false;
    document *found = find_document(name);
    if (found && !found->bytes.size) read_file(found);
    answer_long(c, found);
    c->last = true;
    c->reset = strstr(name, "reset") != NULL;
    return true;
}

static void answer_call(connection *c, const request *r) {
    if (answer_raw(c, r)) return;
    int events = 100, delay = 0, at_once = 1, text = USUAL_TEXT;
    char mark[64] = "", name[40], *there = find(r->body, smaller(r->body_size, LONGEST_MARKED), "[mock e=");
    if (there) memcpy(mark, there, smaller(sizeof mark - 1, (size_t)(r->body + r->body_size - there)));
    sscanf(mark, "[mock e=%d d=%d b=%d n=%d]", &events, &delay, &at_once, &text);
    events = clamped(events, 0, MOST_EVENTS);
    at_once = clamped(at_once, 1, MOST_AT_ONCE);
    text = clamped(text, 0, MOST_TEXT);
    if (find(r->body, smaller(r->body_size, 200), "\"stream\":true")) {
        begin_stream(c, events, (uint64_t)delay * 1000, at_once);
        return;
    }
    snprintf(name, sizeof name, "message of %d", text);
    document *message = find_document(name);
    if (message && !message->bytes.size) {
        reserve(&message->bytes, (size_t)text + AROUND_TEXT);
        message->bytes.size = write_message(message->bytes.bytes, (size_t)text);
    }
    char length[64];
    append(&c->out, message_head, strlen(message_head));
    append(&c->out, length,
           (size_t)snprintf(length, sizeof length, "Content-Length: %zu\r\n\r\n", message ? message->bytes.size : 0));
    answer_long(c, message);
    counts.messages++;
}

/* How many elements the list "messages" has, in the object that a push is. */
static size_t count_traces(const char *there, size_t size) {
    size_t depth = 0, found = 0;
    bool inside = false, ours = false;
    for (size_t i = 0; i < size; i++) {
        char letter = there[i];
        if (letter == '"') {
            size_t from = i + 1;
            for (i++; i < size && there[i] != '"'; i++) i += there[i] == '\\';
            if (depth == 1) ours = i - from == 8 && !memcmp(there + from, "messages", 8);
        } else if (letter == '[' || letter == '{') {
            if (inside && depth == 2) found++;
            if (++depth == 2) inside = ours && letter == '[';
        } else if ((letter == ']' || letter == '}') && depth) {
            if (depth-- == 2) inside = false;
        } else if (letter == ',' && depth == 1) {
            ours = false;
        }
    }
    return found;
}

static void answer_push(connection *c, const request *r) {
    static char reply[MOST_PUSHED * 40 + 100];
    size_t traces = count_traces(r->body, r->body_size);
    if (traces > MOST_PUSHED) {
        answer(c, "400 Bad Request", "{\"detail\":\"too many\"}", 21);
        return;
    }
    counts.pushes++;
    int length = sprintf(reply, "{\"id\":[");
    for (size_t i = 0; i < traces; i++)
        length += sprintf(reply + length, "%s\"00000000-0000-4000-8000-%012lu\"", i ? "," : "", ++counts.traces);
    length += sprintf(reply + length, "],\"dataset\":\"d\",\"username\":\"u\"}");
    answer(c, "200 OK", reply, (size_t)length);
}

static void answer_stats(connection *c) {
    char body[512];
    int length = snprintf(body, sizeof body,
                          "{\"messages\":%lu,\"streams\":%lu,\"streams_done\":%lu,\"pushes\":%lu,\"traces\":%lu,"
                          "\"appends\":%lu,\"other\":%lu,\"unknown\":%lu,\"streaming\":%d}",
                          counts.messages, counts.streams, counts.streams_done, counts.pushes, counts.traces,
                          counts.appends, counts.other, counts.unknown, stream_count);
    answer(c, "200 OK", body, (size_t)length);
}

static bool is(const char *path, const char *name) {
    size_t length = strlen(name);
    return !strncmp(path, name, length) && (path[length] == ' ' || path[length] == '?');
}

static void respond(connection *c, const request *r) {
    char *path = memchr(r->head, ' ', r->head_size), *value = header(r, "connection");
    path = path ? path + 1 : r->head;
    c->last = (value && !strncasecmp(value, "close", 5)) || find(r->head, r->head_size, " HTTP/1.0\r\n");
    bool post = r->head[0] == 'P';
    if (post && is(path, "/v1/messages")) {
        answer_call(c, r);
    } else if (post && is(path, "/api/v1/push/trace")) {
        answer_push(c, r);
    } else if (post && !strncmp(path, "/api/v1/trace/", 14)) {
        counts.appends++;
        answer(c, "200 OK", "{\"success\":true}", 16);
    } else if (is(path, "/api/v1/user/identity")) {
        counts.other++;
        answer(c, "200 OK", "{\"username\":\"u\"}", 16);
    } else if (!strncmp(path, "/api/v1/dataset/byuser/", 23)) {
        counts.other++;
        answer(c, "200 OK", "{\"policies\":[]}", 15);
    } else if (is(path, "/stats")) {
        answer_stats(c);
    } else {
        counts.unknown++;
        answer(c, "404 Not Found", "{\"detail\":\"Not Found\"}", 22);
    }
}

/* Answers the whole requests among what has come; false when the connection is over. */
static bool handle(connection *c) {
    request r;
    while (!c->streaming && !c->rest && c->in.size && whole(c, &r)) {
        respond(c, &r);
        c->in.size -= r.used;
        memmove(c->in.bytes, c->in.bytes + r.used, c->in.size);
        if (c->streaming && !advance(c, now_ns())) return false;
    }
    if (!c->streaming && c->in.size > LONGEST_HEAD && !find(c->in.bytes, c->in.size, "\r\n\r\n")) return false;
    return flush(c);
}

/* The loop */

static void welcome(int listener) {
    static const int one = 1, room = TURN; /* for a real one, no memory of this machine is used */
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
        connection *c = grown(NULL, sizeof *c);
        *c = (connection){.fd = fd};
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static bool receive(connection *c) {
    reserve(&c->in, READ_SIZE);
    ssize_t size = recv(c->fd, c->in.bytes + c->in.size, c->in.room - c->in.size, 0);
    if (size < 0 && errno == EAGAIN) return true;
    if (size <= 0) return false;
    c->in.size += (size_t)size;
    return handle(c);
}

static void serve(connection *c, uint32_t events) {
    bool alive = true;
    if (events & EPOLLOUT) alive = flush(c) && (c->streaming || handle(c));
    if (alive && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = receive(c);
    if (!alive) drop(c);
}

/* Advances all streams; returns when the next event is due. */
static uint64_t advance_all(void) {
    uint64_t now = now_ns(), next = now + BILLION;
    for (int i = 0; i < stream_count;) {
        connection *c = streams[i];
        if (!pending(c) && c->due <= now) {
            bool alive = advance(c, now);
            if (!alive) drop(c);
            if (!alive || !c->streaming) continue; /* another one has taken its place */
        }
        if (!pending(c) && c->due < next) next = c->due;
        i++;
    }
    return next;
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("mock");
        exit(1);
    }
    return listener;
}

static void prepare(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    snprintf(message_head, sizeof message_head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%s",
             PROVIDER_HEADERS);
    stream_head_size = snprintf(stream_head, sizeof stream_head,
                                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                "Cache-Control: no-cache\r\n%sTransfer-Encoding: chunked\r\n\r\n",
                                PROVIDER_HEADERS);
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) return 2;
    if (argc == 3) folder = argv[2];
    prepare();
    int listener = listen_on(atoi(argv[1]));
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        uint64_t next = advance_all(), now = now_ns(), wait = next > now ? next - now : 0;
        struct timespec timeout = {.tv_sec = (time_t)(wait / BILLION), .tv_nsec = (long)(wait % BILLION)};
        int count = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                serve(events[i].data.ptr, events[i].events);
            else
                welcome(listener);
        }
    }
}
