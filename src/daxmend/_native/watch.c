#define _GNU_SOURCE /* mremap */
#include "watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "move.h"
#include "table.h"

/* How it works
 *
 * Foreign code (numpy, an allocator, a thread of somebody's) cannot be left in the middle. So the
 * handler puts a private page of zeros where the fault was, writes that down, and returns. Who
 * watches reads the list afterwards, and maps the file back.
 *
 * One thread at a time is in here, and no signal that somebody sent interrupts it: a handler of
 * theirs that faulted would wait for itself. Nothing in here can fault but the copy of a window,
 * which is a guarded move. Starting and stopping take no lock (table.h): they cost nanoseconds.
 */

enum {
    PAGE = 4096,
    WINDOW = 2 << 20,
    MANY = 16384,      /* pages remapped one by one: a quarter of the usual limit of mappings */
    SPARE = 4,
    ENTRIES = 1 << 20, /* 24 MiB of address space */
};
static const size_t COPIES = (size_t)1 << 30; /* bytes that one watch copies aside */

static struct table watched;
static atomic_int active; /* watches */
static atomic_int dirty;  /* watches with zeros that were not mapped back */
static atomic_bool busy;

/* --- One at a time --------------------------------------------------------------------------- */

static void enter(sigset_t *before)
{
    const struct timespec moment = {0, 1000};
    sigset_t sent;
    sigfillset(&sent);
    sigdelset(&sent, SIGBUS); /* the kernel kills who blocks a fault */
    sigdelset(&sent, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &sent, before);
    while (atomic_exchange(&busy, true))
        nanosleep(&moment, NULL);
}

static void leave(const sigset_t *before)
{
    atomic_store(&busy, false);
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* The thread that was in here stayed in the parent. */
static void after_fork(void)
{
    atomic_store(&busy, false);
}

/* --- What was done --------------------------------------------------------------------------- */

struct range {
    uintptr_t start;
    uintptr_t end;
};

static struct range within(struct range range, const struct watch *watch)
{
    if (range.start < watch->start)
        range.start = watch->start;
    if (range.end > watch->start + watch->length)
        range.end = watch->start + watch->length;
    return range;
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* A list that is full ends in an entry of what is not known, over all that did not fit. */
static void append(struct watch *watch, struct watch_entry new)
{
    bool is_first = watch->count == watch->settled;
    struct watch_entry *last = watch->entries + watch->count - !is_first;
    if (is_first)
        atomic_fetch_add(&dirty, 1);
    if (!is_first && last->done == new.done && last->code == new.code &&
        last->offset + last->length == new.offset) {
        last->length += new.length;
    } else if (watch->count < ENTRIES) {
        watch->entries[watch->count++] = new;
    } else {
        last = watch->entries + ENTRIES - 1;
        watch->settled -= is_first;
        uint64_t end = greater(last->offset + last->length, new.offset + new.length);
        if (new.offset < last->offset)
            last->offset = new.offset;
        last->length = end - last->offset;
        last->done = UNKNOWN;
    }
}

static bool is_listable(struct watch *watch)
{
    if (watch->entries != NULL)
        return true;
    void *memory = mmap(NULL, ENTRIES * sizeof *watch->entries, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    watch->entries = memory == MAP_FAILED ? NULL : memory;
    return watch->entries != NULL;
}

static void tell(struct watch *watch, struct range range, int code, int done)
{
    range = within(range, watch);
    if (range.start < range.end && is_listable(watch))
        append(watch, (struct watch_entry){range.start - watch->start, range.end - range.start,
                                           code, done});
}

/* The next watch of the range. Those that have ended are there until the file is mapped back. */
static struct watch *next_watch(size_t *cursor, struct range range)
{
    struct slot *slot = table_next(&watched, cursor, range.start, range.end - range.start);
    return slot == NULL ? NULL : atomic_load(&slot->owner);
}

/* For everybody who watches the range. */
static void note(struct range range, int code, enum done done)
{
    struct watch *watch;
    for (size_t cursor = 0; (watch = next_watch(&cursor, range)) != NULL;)
        if (atomic_load(&watch->is_active))
            tell(watch, range, code, done);
}

static bool is_told(const struct watch *watch, struct range range)
{
    for (size_t i = watch->settled; i < watch->count; i++) {
        uintptr_t start = watch->start + watch->entries[i].offset;
        if (start <= range.start && range.end <= start + watch->entries[i].length)
            return true;
    }
    return false;
}

/* What others have put there already faults for nobody any more. */
static void inherit(struct watch *watch)
{
    struct range range = {watch->start, watch->start + watch->length};
    struct watch *other;
    for (size_t cursor = 0; (other = next_watch(&cursor, range)) != NULL;)
        for (size_t i = other->settled; other != watch && i < other->count; i++) {
            const struct watch_entry *entry = &other->entries[i];
            uintptr_t start = other->start + entry->offset;
            struct range part = within((struct range){start, start + entry->length}, watch);
            if (part.start < part.end && !is_told(watch, part))
                tell(watch, part, entry->code, entry->done);
        }
}

/* --- Zeros ----------------------------------------------------------------------------------- */

static bool map_zeros(struct range range, int protection)
{
    return mmap((void *)range.start, range.end - range.start, protection,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/* The pages that the fault names, inside the watch. */
static struct range faulty(const struct watch *watch, const struct fault *fault)
{
    uintptr_t width = greater(trap_width(fault), PAGE);
    uintptr_t first = fault->address & ~(width - 1);
    return within((struct range){first, first + width}, watch);
}

/* Read-only, so that nothing but what others write to the file is missed: the good pages of a
 * window are copied aside, and take its place with zeros between them. One mapping, not hundreds. */
static bool copy_window(struct watch *watch, uintptr_t address, int code)
{
    uintptr_t first = address & ~(uintptr_t)(WINDOW - 1);
    struct range window = within((struct range){first, first + WINDOW}, watch);
    size_t length = window.end - window.start;
    if (watch->copied + length > COPIES)
        return false;
    char *aside = mmap(NULL, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (aside == MAP_FAILED)
        return false;
    struct fault fault = {0};
    uint64_t failed[WINDOW / PAGE / 64] = {0};
    for (size_t at = 0; at < length; at += PAGE)
        if (trap_move(move_copy, aside + at, (char *)window.start + at, PAGE, &fault) < PAGE)
            failed[at / PAGE / 64] |= (uint64_t)1 << at / PAGE % 64;
    if (mprotect(aside, length, watch->protection) != 0 ||
        mremap(aside, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, window.start) == MAP_FAILED) {
        munmap(aside, length);
        return false;
    }
    watch->copied += length;
    note(window, 0, COPIED);
    for (size_t at = 0; at < length; at += PAGE)
        if (failed[at / PAGE / 64] >> at / PAGE % 64 & 1)
            note((struct range){window.start + at, window.start + at + PAGE}, code, LOST);
    return true;
}

/* Mappings to let go of where none is left: a kernel that has reached its limit refuses also what
 * would leave fewer. Pages of different protection, so that each counts. */
static char *spare;

static void reserve(void)
{
    char *pages = mmap(NULL, SPARE * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; pages != MAP_FAILED && i < SPARE; i += 2)
        mprotect(pages + i * PAGE, PAGE, PROT_READ);
    spare = pages == MAP_FAILED ? NULL : pages;
}

/* No mapping is left: zeros over more and more, until that needs fewer mappings than were there. */
static bool give_up(const struct watch *watch, uintptr_t address, int code)
{
    if (spare != NULL)
        munmap(spare, SPARE * PAGE);
    spare = NULL;
    for (uintptr_t width = WINDOW; width != 0; width *= 2) {
        uintptr_t first = address & ~(width - 1);
        struct range range = within((struct range){first, first + width}, watch);
        if (map_zeros(range, watch->protection)) {
            note(range, code, UNKNOWN);
            reserve();
            return true;
        }
        if (range.end - range.start == watch->length)
            break;
    }
    return false;
}

/* Where a scan meets one bad page after the other, those that follow are looked at, and taken with
 * it: as many as it has met. */
static struct range follow(const struct watch *watch, struct range page)
{
    const struct watch_entry *last = watch->entries + watch->count - 1;
    uint64_t at = page.start - watch->start;
    if (watch->count == 0 || last->done != LOST || last->offset + last->length != at)
        return page;
    uintptr_t end = page.end + (last->length < WINDOW ? last->length : WINDOW);
    if (end > watch->start + watch->length)
        end = watch->start + watch->length;
    while (page.end < end && !trap_is_readable(page.end))
        page.end += PAGE;
    return page;
}

static bool cover(struct watch *watch, const struct fault *fault)
{
    struct range page = faulty(watch, fault);
    if (!is_listable(watch)) /* nothing is hidden that cannot be told */
        return false;
    if (watch->count > MANY && !(watch->protection & PROT_WRITE) &&
        copy_window(watch, page.start, fault->code))
        return true;
    page = follow(watch, page);
    if (!map_zeros(page, watch->protection))
        return give_up(watch, page.start, fault->code);
    note(page, fault->code, LOST);
    return true;
}

bool watch_catch(const struct fault *fault)
{
    sigset_t before;
    struct range byte = {fault->address, fault->address + 1};
    struct watch *watch;
    if (atomic_load(&active) == 0 || fault->code == BUS_ADRALN)
        return false;
    enter(&before);
    for (size_t cursor = 0; (watch = next_watch(&cursor, byte)) != NULL;)
        if (atomic_load(&watch->is_active))
            break;
    bool is_caught = watch != NULL && cover(watch, fault);
    leave(&before);
    return is_caught;
}

/* --- For Python ------------------------------------------------------------------------------ */

int watch_make(struct watch *watch)
{
    static bool is_prepared;
    if (!is_prepared && pthread_atfork(NULL, NULL, after_fork) != 0)
        return ENOMEM;
    if (!is_prepared)
        reserve();
    is_prepared = true;
    watch->slot = table_take(&watched, watch);
    return watch->slot == NULL ? ENOMEM : 0;
}

void watch_forget(struct watch *watch)
{
    if (atomic_load(&watch->is_active))
        watch_stop(watch);
    if (watch->slot != NULL)
        table_give_back(watch->slot);
    if (watch->count != watch->settled)
        atomic_fetch_sub(&dirty, 1);
    if (watch->entries != NULL)
        munmap(watch->entries, ENTRIES * sizeof *watch->entries);
}

void watch_start(struct watch *watch)
{
    sigset_t before;
    atomic_fetch_add(&active, 1);
    atomic_store(&watch->is_active, true);
    table_show(watch->slot, watch->start, watch->length);
    if (atomic_load(&active) == 1 && atomic_load(&dirty) == 0)
        return;
    enter(&before);
    inherit(watch);
    leave(&before);
}

bool watch_stop(struct watch *watch)
{
    const struct timespec moment = {0, 1000};
    atomic_store(&watch->is_active, false);
    while (atomic_load(&busy)) /* who found the range before is done with it then */
        nanosleep(&moment, NULL);
    atomic_fetch_sub(&active, 1); /* now, so that who starts meanwhile looks for what was found */
    bool is_dirty = watch->count != watch->settled;
    if (!is_dirty)
        atomic_store(&watch->slot->start, 0);
    return is_dirty;
}

void watch_settle(struct watch *watch, size_t count, uint64_t length)
{
    sigset_t before;
    enter(&before);
    bool was_dirty = watch->count != watch->settled;
    bool is_whole = count != 0 && count <= watch->count && watch->entries[count - 1].length == length;
    if (is_whole && count > watch->settled)
        watch->settled = count;
    bool is_dirty = watch->count != watch->settled;
    if (was_dirty && !is_dirty)
        atomic_fetch_sub(&dirty, 1);
    if (!is_dirty && !atomic_load(&watch->is_active))
        atomic_store(&watch->slot->start, 0);
    leave(&before);
}

void watch_read(struct watch *watch, struct watch_entry *into, size_t first, size_t count)
{
    sigset_t before;
    if (count == 0)
        return;
    enter(&before);
    memcpy(into, watch->entries + first, count * sizeof *into);
    leave(&before);
}
