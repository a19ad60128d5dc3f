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

/* What does not fit becomes one entry of what is not known, around all of it. */
struct list {
    struct watch_entry *entries; /* NULL before the first one */
    size_t room;
    atomic_size_t count;
    struct watch_entry only; /* the room where no memory is to be had */
};

struct watch {
    uintptr_t start;
    size_t length;
    int protection;
    uintptr_t twin;  /* the same pages of the file, mapped shared elsewhere, or 0: */
    int fd;          /* then the file, to be mapped privately, */
    uint64_t offset; /* and the place in it */
    struct slot *slot;
    struct list told;
    atomic_bool is_active;
};

/* 0 or an errno. These two with the GIL; what is below may wait, but for watch_start. */
int watch_make(struct watch *watch);
void watch_forget(struct watch *watch);

/* Whether to look at what stands before anything is read. */
bool watch_start(struct watch *watch);
void watch_look(struct watch *watch);

/* Whether there is something to take or to restore. */
bool watch_stop(struct watch *watch);

/* Moves out what it was told since it was started; how many. */
size_t watch_take(struct watch *watch, struct watch_entry *into, size_t room);

/* Maps the file back wherever in the range it is not shown. 0 or an errno. */
int watch_restore(struct watch *watch);

/* In a handler: true if the instruction can go on. */
bool watch_catch(const struct fault *fault);

#endif
