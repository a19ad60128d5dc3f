/* Checksums of many units in one call. */
#ifndef DAXMEND_DIGEST_H
#define DAXMEND_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#if __has_include(<xxhash.h>)
#define HAS_DIGEST 1
#endif

/* What the running thread's next digest_units makes: `digests` of each `grain` bytes of `start`. */
struct digest_job {
    uint64_t *digests;
    const char *start;
    size_t grain;
};
extern _Thread_local struct digest_job digest_job;

/* What the units are summed with: "avx2" or "baseline". */
const char *digest_summed_by(void);

/* A move that only reads: stores the XXH3-64 of each unit of `memory`. */
void digest_units(char *memory, const char *unused, size_t length);

/* One unit, by the instructions that digest_avx2.c is compiled for. */
uint64_t digest_avx2(const void *unit, size_t length);

#endif
