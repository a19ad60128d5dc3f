/* Ranges in which a page that faults becomes zeros, whoever touches it, and is written down. */
#ifndef DAXMEND_WATCH_H
#define DAXMEND_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trap.h"

struct slot;

/* What was done to a part of a range; the order of Python's `daxmend.guard.trap.Done`. */
enum done {
    LOST,    /* faulted, and shows zeros; one after the other, also those that were only looked at */
    COPIED,  /* good pages among bad ones: shows what they held, and no later change */
    UNKNOWN, /* shows zeros, though nobody knows what is bad of it: there was no mapping left */
};

struct watch_entry {
    uint64_t offset; /* from the start of the range */
    uint64_t length;
    int32_t code; /* si_code of the SIGBUS */
    int32_t done;
};

struct watch {
    uintptr_t start;
    size_t length;
    int protection;
    struct slot *slot;
    struct watch_entry *entries; /* NULL before the first fault */
    size_t count;
    size_t settled; /* so many of them were mapped back */
    atomic_bool is_active;
    size_t copied; /* bytes */
};

/* 0 or an errno. With the GIL, as all but watch_stop and watch_catch. */
int watch_make(struct watch *watch);
void watch_forget(struct watch *watch);

void watch_start(struct watch *watch);

/* Nobody is handling a fault for it any more on return. May wait: without the GIL. Whether there is
 * something to map back. */
bool watch_stop(struct watch *watch);

/* So many entries, the last of this length, were mapped back. */
void watch_settle(struct watch *watch, size_t count, uint64_t length);

/* Copies entries, which have to be there. */
void watch_read(struct watch *watch, struct watch_entry *into, size_t first, size_t count);

/* In a handler: true if the instruction can go on. */
bool watch_catch(const struct fault *fault);

#endif
