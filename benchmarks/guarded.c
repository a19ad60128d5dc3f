/*
 * The guarded copy of 4 KiB against memcpy, both called through a pointer, in turn; prints the
 * nanoseconds of each, best and median round. Links with the core's own trap.c and move.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "move.h"
#include "trap.h"

enum { PAGE = 4096, PAGES = 64, COPIES = 20000, ROUNDS = 40 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void plain(char *target, const char *source, size_t length)
{
    memcpy(target, source, length);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    char *source = aligned_alloc(PAGE, PAGE * PAGES), *target = aligned_alloc(PAGE, PAGE);
    move_fn volatile copy = plain;
    double each[2][ROUNDS];
    struct fault fault;

    memset(source, 1, PAGE * PAGES);
    memset(target, 0, PAGE);
    move_choose();
    if (trap_install() != 0)
        return 1;
    for (int round = 0; round < 2 * ROUNDS; round++) {
        double start = now_ns();
        for (int i = 0; i < COPIES; i++) {
            const char *from = source + i % PAGES * PAGE;
            if (round % 2)
                trap_move(move_copy, target, from, PAGE, &fault);
            else
                copy(target, from, PAGE);
        }
        each[round % 2][round / 2] = (now_ns() - start) / COPIES;
    }
    for (int side = 1; side >= 0; side--) {
        qsort(each[side], ROUNDS, sizeof each[side][0], by_value);
        printf("%f %f\n", each[side][0], each[side][ROUNDS / 2]);
    }
    return 0;
}
