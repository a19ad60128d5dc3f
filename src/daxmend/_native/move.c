#include "move.h"

#include <stdint.h>
#include <string.h>

/* A cacheline that is being written back is not ordered against anything but a fence (move_fence):
 * clwb, clflushopt and non-temporal stores all wait for it. Who needs durability calls it once, at
 * the end, and not for every line. */

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

enum { AHEAD = 1024 }; /* bytes, 16 lines */

typedef void (*flush_fn)(char *first, const char *end);
typedef void (*store_fn)(char *target, const char *source);

__attribute__((target("clwb"))) static void flush_clwb(char *line, const char *end)
{
    for (; line < end; line += LINE)
        _mm_clwb(line);
}

__attribute__((target("clflushopt"))) static void flush_clflushopt(char *line, const char *end)
{
    for (; line < end; line += LINE)
        _mm_clflushopt(line);
}

static void flush_clflush(char *line, const char *end)
{
    for (; line < end; line += LINE)
        _mm_clflush(line);
}

/* SSE2 is on every x86-64. With the source fetched ahead it is as fast as AVX or AVX-512 stores
 * (measured at 1 and 64 MiB), so there is nothing to choose. Prefetching never faults. */
static void stream_line(char *target, const char *source)
{
    const __m128i *from = (const __m128i *)source;
    __m128i *to = (__m128i *)target;
    __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
}

__attribute__((target("movdir64b"))) static void store_movdir64b(char *target, const char *source)
{
    _movdir64b(target, source);
}

static flush_fn flush_lines = flush_clflush;
static store_fn store_line = stream_line;
const char *move_flushes_by = "clflush", *move_stores_line_by = "movntdq";

void move_choose(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    if (b & bit_CLWB)
        flush_lines = flush_clwb, move_flushes_by = "clwb";
    else if (b & bit_CLFLUSHOPT)
        flush_lines = flush_clflushopt, move_flushes_by = "clflushopt";
    if (c & bit_MOVDIR64B)
        store_line = store_movdir64b, move_stores_line_by = "movdir64b";
}

static void flush(char *target, size_t length)
{
    flush_lines((char *)((uintptr_t)target & ~(uintptr_t)(LINE - 1)), target + length);
}

static void stream_lines(char *target, const char *source, size_t length)
{
    for (; length != 0; target += LINE, source += LINE, length -= LINE) {
        _mm_prefetch(source + AHEAD, _MM_HINT_NTA);
        stream_line(target, source);
    }
}

void move_store_line(char *target, const char *source, size_t length)
{
    (void)length;
    store_line(target, source);
}

void move_fence(void)
{
    _mm_sfence();
}

#else /* no cache control from user space: the fence is all there is */

const char *move_flushes_by = "a fence", *move_stores_line_by = "memcpy";

void move_choose(void) {}

static void flush(char *target, size_t length)
{
    (void)target, (void)length;
    move_fence();
}

static void stream_lines(char *target, const char *source, size_t length)
{
    memcpy(target, source, length);
}

void move_store_line(char *target, const char *source, size_t length)
{
    memcpy(target, source, length);
    move_fence();
}

void move_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif

void move_copy(char *target, const char *source, size_t length)
{
    memcpy(target, source, length);
}

/* Less than a line: an ordinary store, then the line is written back. */
static void copy_edge(char *target, const char *source, size_t length)
{
    if (length == 0)
        return;
    memcpy(target, source, length);
    flush(target, length);
}

void move_copy_flushing(char *target, const char *source, size_t length)
{
    size_t head = -(uintptr_t)target % LINE;
    if (head > length)
        head = length;
    size_t tail = (length - head) % LINE, lines = length - head - tail;
    copy_edge(target, source, head);
    stream_lines(target + head, source + head, lines);
    copy_edge(target + head + lines, source + head + lines, tail);
}
