/* Guarded moves: bytes are moved, and a fault of memory becomes a result instead of a death. */
#ifndef DAXMEND_TRAP_H
#define DAXMEND_TRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Moves `length` bytes, in any order. `source` is NULL where a move has only one side (a digest). */
typedef void (*move_fn)(char *target, const char *source, size_t length);

struct fault {
    uintptr_t address;
    int signal;
    int code;
    int lsb; /* 0 where the code carries none */
};

/* A memory error names the failing unit by its lowest address bits: `address` may be anywhere in its
 * bytes, also before the range of a move. 1 where the fault says nothing of it. */
uintptr_t trap_width(const struct fault *fault);

/* Whether the kernel can read there. */
bool trap_is_readable(uintptr_t address);

/* Puts the two handlers in place, also over later ones. 0 or an errno. Call with the GIL. */
int trap_install(void);

/* The same, but at most every few microseconds: it is meant for the way into every move. */
int trap_refresh(void);

/* Runs the move and returns the bytes truly moved: all of `length`, or, after a fault, those before
 * the page that failed. Needs no GIL. */
size_t trap_move(move_fn run, char *target, const char *source, size_t length,
                 struct fault *fault);

/* Ranges whose unguarded SIGSEGV is passed on as a SIGBUS. 0 or an errno. Call with the GIL. */
int trap_forward(uintptr_t address, size_t length);
int trap_forget(uintptr_t address, size_t length);

#endif
