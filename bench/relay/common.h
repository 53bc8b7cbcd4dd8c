/* The bytes that mock.c serves and load.c expects: in one place, so that both agree. */
#ifndef COMMON_H
#define COMMON_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    STAMP_DIGITS = 20,      /* of CLOCK_MONOTONIC nanoseconds in a delta */
    HEAD_EVENTS = 3,        /* before the first delta */
    TAIL_EVENTS = 3,        /* after the last one */
    LONGEST_EVENT = 700,
    USUAL_TEXT = 1700,      /* bytes of text in an answer that is not streamed; 2 KB with what is around it */
    AROUND_TEXT = 400
};

#define BILLION 1000000000ull

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * BILLION + (uint64_t)now.tv_nsec;
}

static inline void *grown(void *memory, size_t size) {
    void *found = realloc(memory, size);
    if (!found) {
        perror("realloc");
        exit(1);
    }
    return found;
}

/* Events of a stream with so many text deltas. */
static inline int count_events(int deltas) { return HEAD_EVENTS + deltas + TAIL_EVENTS; }

/* Writes event `number` of such a stream; returns its length. Without a stamp there is '#' for each of its digits. */
static inline int write_event(char *out, int number, int deltas, uint64_t stamp) {
    char digits[STAMP_DIGITS + 1];
    switch (number < HEAD_EVENTS ? number : number < HEAD_EVENTS + deltas ? 3 : number - deltas + 1) {
    case 0:
        return snprintf(out, LONGEST_EVENT,
                        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{"
                        "\"id\":\"msg_01BenchBenchBenchBenchBenchB\",\"type\":\"message\",\"role\":\"assistant\","
                        "\"model\":\"claude-sonnet-4-5-20250929\",\"content\":[],\"stop_reason\":null,"
                        "\"stop_sequence\":null,\"usage\":{\"input_tokens\":472,\"cache_creation_input_tokens\":0,"
                        "\"cache_read_input_tokens\":0,\"output_tokens\":2}}}\n\n");
    case 1:
        return snprintf(out, LONGEST_EVENT,
                        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
                        "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n");
    case 2:
        return snprintf(out, LONGEST_EVENT, "event: ping\ndata: {\"type\": \"ping\"}\n\n");
    case 3:
        snprintf(digits, sizeof digits, "%020llu", (unsigned long long)stamp);
        if (!stamp) memset(digits, '#', STAMP_DIGITS);
        return snprintf(out, LONGEST_EVENT,
                        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
                        "\"delta\":{\"type\":\"text_delta\",\"text\":\"tok%06d @%s \"}}\n\n",
                        number - HEAD_EVENTS, digits);
    case 4:
        return snprintf(out, LONGEST_EVENT,
                        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n");
    case 5:
        return snprintf(out, LONGEST_EVENT,
                        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{"
                        "\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}}\n\n",
                        deltas);
    default:
        return snprintf(out, LONGEST_EVENT, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

/* Writes a message with so many bytes of text, in at most `text` + AROUND_TEXT bytes; returns its length. */
static inline size_t write_message(char *out, size_t text) {
    static const char words[] = "The quick brown fox jumps over the lazy dog while every byte passes as it came. ";
    char *there = out + sprintf(out, "{\"id\":\"msg_01BenchBenchBenchBenchBenchB\",\"type\":\"message\","
                                     "\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5-20250929\","
                                     "\"content\":[{\"type\":\"text\",\"text\":\"");
    for (size_t i = 0; i < text; i++) *there++ = words[i % (sizeof words - 1)];
    there += sprintf(there, "\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":472,"
                            "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":396}}");
    return (size_t)(there - out);
}

#endif
