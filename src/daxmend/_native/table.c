#include "table.h"

struct slot *table_take(struct table *table, void *owner)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (atomic_load(&table->slots[i].owner) == NULL) {
            atomic_store(&table->slots[i].owner, owner);
            if (i >= atomic_load(&table->used))
                atomic_store(&table->used, i + 1);
            return &table->slots[i];
        }
    return NULL;
}

void table_show(struct slot *slot, uintptr_t start, size_t length)
{
    atomic_store(&slot->length, length);
    atomic_store(&slot->start, start);
}

void table_give_back(struct slot *slot)
{
    atomic_store(&slot->start, 0);
    atomic_store(&slot->owner, NULL);
}

struct slot *table_next(struct table *table, size_t *cursor, uintptr_t start, size_t length)
{
    while (*cursor < atomic_load(&table->used)) {
        struct slot *slot = &table->slots[(*cursor)++];
        uintptr_t at = atomic_load(&slot->start);
        if (at != 0 && at < start + length && start < at + atomic_load(&slot->length))
            return slot;
    }
    return NULL;
}
