/* Checksums of many units in one call. */
#ifndef DAXMEND_DIGEST_H
#define DAXMEND_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#if __has_include(<xxhash.h>)
#define HAS_DIGEST 1
#endif

/* Where the digests of the running thread's next move go: one for each `grain` bytes. */
void digest_into(uint64_t *digests, const char *start, size_t grain);

/* A move that only reads: stores the XXH3-64 of each unit of `memory`. */
void digest_units(char *memory, const char *unused, size_t length);

#endif
