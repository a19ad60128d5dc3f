/* Ranges of memory that handlers look up without a lock, while the holder of the GIL changes them. */
#ifndef DAXMEND_TABLE_H
#define DAXMEND_TABLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { SLOTS = 1 << 16 }; /* a process has hardly more mappings (vm.max_map_count) */

/* Taken while it has an owner, to be found while `start` is not 0. */
struct slot {
    atomic_uintptr_t start;
    atomic_size_t length; /* written before the start, read after it */
    void *_Atomic owner;
};

struct table {
    atomic_size_t used; /* no slot from here on was ever taken */
    struct slot slots[SLOTS];
};

/* A free slot, now `owner`'s, or NULL. */
struct slot *table_take(struct table *table, void *owner);
void table_show(struct slot *slot, uintptr_t start, size_t length);
void table_give_back(struct slot *slot);

/* The next slot from `*cursor` on that overlaps the range, or NULL. Begin with a cursor of 0. */
struct slot *table_next(struct table *table, size_t *cursor, uintptr_t start, size_t length);

#endif
