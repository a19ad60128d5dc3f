/* What only a real memory error says: an address and a width, anywhere around the range of a move.
 * Includes the core to reach its private arithmetic; prints nothing and exits 0 when all holds. */
#include "trap.c"

#include <stdio.h>

enum { MIB = 1 << 20, TWO_MIB_LSB = 21 };

static int failures;

static void expect(const char *what, size_t got, size_t wanted)
{
    if (got == wanted)
        return;
    printf("%s: %zu, not %zu\n", what, got, wanted);
    failures++;
}

static size_t offset_of(uintptr_t address, int lsb, uintptr_t start, size_t length)
{
    struct fault fault = {address, SIGBUS, BUS_MCEERR_AR, lsb};
    return offset_in(&fault, (const char *)start, length);
}

static size_t page_of(uintptr_t address, int lsb, uintptr_t source, size_t length)
{
    struct fault fault = {address, SIGBUS, BUS_MCEERR_AR, lsb};
    struct guard guard;
    guard.target = (char *)(uintptr_t)(64 * MIB);
    guard.source = (const char *)source;
    guard.length = length;
    guard.fault = &fault;
    return failed_page(&guard);
}

int main(void)
{
    expect("exact, inside", offset_of(5000, 0, 4096, 4096), 904);
    expect("exact, just before", offset_of(4095, 0, 4096, 4096), 4096);
    expect("exact, just after", offset_of(8192, 0, 4096, 4096), 4096);
    expect("page error reported at its start, move from its middle",
           offset_of(4096, PAGE_LSB, 5000, 100), 0);
    expect("page error in the page before", offset_of(4096, PAGE_LSB, 8192, 100), 100);
    expect("page error from its middle", offset_of(9000, PAGE_LSB, 4096, 3 * 4096), 4096);
    expect("2 MiB around the whole move", offset_of(3 * MIB, TWO_MIB_LSB, 2 * MIB + 5, MIB), 0);
    expect("2 MiB that begin inside", offset_of(3 * MIB, TWO_MIB_LSB, MIB, 4 * MIB), MIB);
    expect("2 MiB behind", offset_of(3 * MIB, TWO_MIB_LSB, MIB, MIB), MIB);
    expect("done, exact", page_of(9000, 0, 5000, 8192), 8192 - 5000);
    expect("done, first page", page_of(5001, 0, 5000, 8192), 0);
    expect("done, 2 MiB", page_of(3 * MIB, TWO_MIB_LSB, MIB + 7, 4 * MIB), MIB - 7);
    expect("done, error begins before", page_of(3 * MIB, TWO_MIB_LSB, 3 * MIB, MIB), 0);
    return failures != 0;
}
