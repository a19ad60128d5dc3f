/* XXH3-64 of units, by the library's own header; without it Python does the same, unit by unit. */
#include "digest.h"

#ifdef HAS_DIGEST
#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#define HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define HAS_AVX2() 0
#endif

_Thread_local struct digest_job digest_job;

const char *digest_summed_by(void)
{
    return HAS_AVX2() ? "avx2" : "baseline";
}

void digest_units(char *memory, const char *unused, size_t length)
{
    const struct digest_job job = digest_job;
    (void)unused;
    for (size_t done = 0; done < length; done += job.grain) {
        size_t size = length - done < job.grain ? length - done : job.grain;
        const char *unit = memory + done;
        job.digests[(size_t)(unit - job.start) / job.grain] =
            HAS_AVX2() ? digest_avx2(unit, size) : XXH3_64bits(unit, size);
    }
}
#endif
