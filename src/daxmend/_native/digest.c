/* XXH3-64 of units, by the library's own header; without it Python does the same, unit by unit. */
#include "digest.h"

#ifdef HAS_DIGEST
#define XXH_INLINE_ALL
#include <xxhash.h>

static __thread struct {
    uint64_t *digests;
    const char *start;
    size_t grain;
} job;

void digest_into(uint64_t *digests, const char *start, size_t grain)
{
    job.digests = digests;
    job.start = start;
    job.grain = grain;
}

void digest_units(char *memory, const char *unused, size_t length)
{
    (void)unused;
    for (size_t done = 0; done < length; done += job.grain) {
        size_t size = length - done < job.grain ? length - done : job.grain;
        size_t unit = (size_t)(memory + done - job.start) / job.grain;
        job.digests[unit] = XXH3_64bits(memory + done, size);
    }
}
#endif
