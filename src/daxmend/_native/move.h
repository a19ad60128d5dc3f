/* Copies, flushes and fences; x86-64 has its own, every other machine the portable ones. */
#ifndef DAXMEND_MOVE_H
#define DAXMEND_MOVE_H

#include <stddef.h>

enum { LINE = 64 };

/* Chooses by what this CPU can do. Once, before anything else here. */
void move_choose(void);

/* What was chosen, by the instruction's name. */
extern const char *move_flushes_by, *move_stores_line_by;

void move_copy(char *target, const char *source, size_t length);
void move_copy_flushing(char *target, const char *source, size_t length);
void move_store_line(char *target, const char *source, size_t length);
void move_fence(void);

#endif
