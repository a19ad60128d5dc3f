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
 * watches reads what it was told afterwards, and maps the file back.
 *
 * Zeros are never taken for data: whoever watches a page while it does not show the file is told.
 * That holds because
 *
 * 1. `standing` lists every page that does not show the file. It belongs to the memory, not to a
 *    watch: it outlives the one whose fault it was, and one that could not map the file back.
 * 2. A page and its entry change together, inside the lock (enter, leave). So one that faults again
 *    behind somebody who maps the file back is listed again, and not struck out with what was.
 * 3. Zeros are put only inside a watch that is active, and everybody whose range is shown in the
 *    table is told in the same turn of the lock.
 * 4. A start shows the range, then asks for the lock and for `standing`. A handler that came first
 *    is seen by one of the two, and the watch looks at all that stands (watch_look); one that comes
 *    later sees the range, and tells it (3). All these are sequentially consistent.
 * 5. A stop ends being active, waits until nobody is inside, hides the range, and waits again. At
 *    once would not do: a handler that had found the watch active would tell nobody. Who has put
 *    zeros inside it is done telling when it returns.
 * 6. A fork takes the lock: a child begins between two turns, with the list that fits its memory.
 * 7. A list that has no room says that all of it is unknown (append). Nothing is put that `standing`
 *    has no room for (cover).
 *
 * So the other way round is possible: a watch is told of what another one met, and mapped back
 * before it looked.
 *
 * No signal that somebody sent interrupts the holder of the lock: a handler of theirs that faulted
 * would wait for itself. Nothing in here can fault but the copy of a window, which is a guarded
 * move. Starting and stopping without zeros take no lock: they cost nanoseconds.
 */

enum {
    PAGE = 4096,
    WINDOW = 2 << 20,
    MANY = 16384, /* entries that are pages each: a quarter of the usual limit of mappings */
    ENTRIES = 1 << 20, /* 24 MiB of address space */
    FOR_ZEROS = 4, /* mappings that a map_zeros can need, */
    FOR_FILE = 8,  /* and an mremap */
};
static const size_t COPIES = (size_t)1 << 30; /* bytes that stand for copied windows */

static struct table watched;
static struct list standing; /* `offset` is the address */
static size_t copied;
static atomic_bool busy;

/* --- One at a time --------------------------------------------------------------------------- */

static void await(void)
{
    const struct timespec moment = {0, 1000};
    while (atomic_load(&busy))
        nanosleep(&moment, NULL);
}

static void enter(sigset_t *before)
{
    sigset_t sent;
    sigfillset(&sent);
    sigdelset(&sent, SIGBUS); /* the kernel kills who blocks a fault */
    sigdelset(&sent, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &sent, before);
    while (atomic_exchange(&busy, true))
        await();
}

static void leave(const sigset_t *before)
{
    atomic_store(&busy, false);
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static sigset_t before_fork;

static void hold(void)
{
    sigset_t before;
    enter(&before);
    before_fork = before; /* the lock's holder alone writes it */
}

static void let_go(void)
{
    sigset_t before = before_fork;
    leave(&before);
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

static bool is_empty(struct range range)
{
    return range.start >= range.end;
}

static struct range range_of(const struct watch_entry *standing)
{
    return (struct range){standing->offset, standing->offset + standing->length};
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void *reserved(size_t length, int protection)
{
    void *memory =
        mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void make_room(struct list *list)
{
    list->room = ENTRIES;
    list->entries = reserved(ENTRIES * sizeof *list->entries, PROT_READ | PROT_WRITE);
    if (list->entries != NULL)
        return;
    list->room = 1;
    list->entries = &list->only;
}

static void append(struct list *list, struct watch_entry new)
{
    if (list->entries == NULL)
        make_room(list);
    struct watch_entry *last = list->entries + list->count - 1;
    if (list->count != 0 && last->done == new.done && last->code == new.code &&
        last->offset + last->length == new.offset) {
        last->length += new.length;
    } else if (list->count < list->room) {
        list->entries[list->count++] = new;
    } else {
        uint64_t end = greater(last->offset + last->length, new.offset + new.length);
        if (new.offset < last->offset)
            last->offset = new.offset;
        last->length = end - last->offset;
        last->done = UNKNOWN;
    }
}

static void tell(struct watch *watch, struct range range, int code, int done)
{
    range = within(range, watch);
    if (!is_empty(range))
        append(&watch->told, (struct watch_entry){range.start - watch->start,
                                                  range.end - range.start, code, done});
}

static struct watch *next_watch(size_t *cursor, struct range range)
{
    struct slot *slot = table_next(&watched, cursor, range.start, range.end - range.start);
    return slot == NULL ? NULL : atomic_load(&slot->owner);
}

/* It does not show the file any more: for everybody who watches it, and who will. */
static void note(struct range range, int code, enum done done)
{
    struct watch *watch;
    append(&standing, (struct watch_entry){range.start, range.end - range.start, code, done});
    for (size_t cursor = 0; (watch = next_watch(&cursor, range)) != NULL;)
        tell(watch, range, code, done);
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
    if (copied + length > COPIES)
        return false;
    char *aside = reserved(length, PROT_READ | PROT_WRITE);
    if (aside == NULL)
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
    copied += length;
    note(window, 0, COPIED);
    for (size_t at = 0; at < length; at += PAGE)
        if (failed[at / PAGE / 64] >> at / PAGE % 64 & 1)
            note((struct range){window.start + at, window.start + at + PAGE}, code, LOST);
    return true;
}

/* Mappings to let go of where none is left: a kernel that has reached its limit refuses also what
 * would leave fewer. Pages of different protection, so that each counts. */
struct spare {
    char *pages;
    int count;
};
static struct spare for_zeros = {NULL, FOR_ZEROS}, for_file = {NULL, FOR_FILE};

static void reserve(struct spare *spare)
{
    spare->pages = reserved((size_t)spare->count * PAGE, PROT_NONE);
    for (int i = 1; spare->pages != NULL && i < spare->count; i += 2)
        mprotect(spare->pages + i * PAGE, PAGE, PROT_READ);
}

static void give_back(struct spare *spare)
{
    if (spare->pages != NULL)
        munmap(spare->pages, (size_t)spare->count * PAGE);
    spare->pages = NULL;
}

/* No mapping is left: zeros over more and more, until that needs fewer mappings than were there. */
static bool give_up(const struct watch *watch, struct range page, int code)
{
    struct range range = page;
    bool is_done = false, is_all = false;
    give_back(&for_zeros);
    for (uintptr_t width = WINDOW; !is_done && !is_all; width *= 2) {
        uintptr_t first = page.start & ~(width - 1);
        range = within((struct range){first, first + width}, watch);
        is_all = range.end - range.start == watch->length;
        is_done = map_zeros(range, watch->protection);
    }
    if (!is_done)
        return false;
    note(page, code, LOST);
    note(range, code, UNKNOWN);
    reserve(&for_zeros);
    return true;
}

/* Where a scan meets one bad page after the other, those that follow are looked at, and taken with
 * it: as many as it has met. */
static struct range follow(const struct watch *watch, struct range page)
{
    const struct watch_entry *last = standing.entries + standing.count - 1;
    if (standing.count == 0 || last->done != LOST || range_of(last).end != page.start)
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
    if (standing.count + 1 + WINDOW / PAGE > ENTRIES) /* nothing is hidden that cannot be told */
        return false;
    if (standing.count > MANY && !(watch->protection & PROT_WRITE) &&
        copy_window(watch, page.start, fault->code))
        return true;
    page = follow(watch, page);
    if (!map_zeros(page, watch->protection))
        return give_up(watch, page, fault->code);
    note(page, fault->code, LOST);
    return true;
}

bool watch_catch(const struct fault *fault)
{
    sigset_t before;
    struct range byte = {fault->address, fault->address + 1};
    struct watch *watch;
    size_t cursor = 0;
    if (fault->code == BUS_ADRALN || table_next(&watched, &cursor, byte.start, 1) == NULL)
        return false;
    enter(&before);
    for (cursor = 0; (watch = next_watch(&cursor, byte)) != NULL;)
        if (atomic_load(&watch->is_active))
            break;
    bool is_caught = watch != NULL && cover(watch, fault);
    leave(&before);
    return is_caught;
}

/* --- The file again -------------------------------------------------------------------------- */

static bool map_back(const struct watch *watch, struct range range)
{
    size_t at = range.start - watch->start, length = range.end - range.start;
    void *place = (void *)range.start;
    void *shown = watch->twin != 0
                      ? mremap((void *)(watch->twin + at), 0, length,
                               MREMAP_MAYMOVE | MREMAP_FIXED, place)
                      : mmap(place, length, watch->protection, MAP_PRIVATE | MAP_FIXED, watch->fd,
                             (off_t)(watch->offset + at));
    return shown != MAP_FAILED;
}

/* At the limit of mappings all of a shared one at once. Good pages do not change by it. */
static int show_file(const struct watch *watch, struct range *range)
{
    if (map_back(watch, *range))
        return 0;
    if (errno != ENOMEM)
        return errno;
    give_back(&for_file);
    if (watch->twin != 0)
        *range = (struct range){watch->start, watch->start + watch->length};
    int error = map_back(watch, *range) ? 0 : errno;
    reserve(&for_file);
    return error;
}

/* Strikes out a part of an entry of `standing`: what lies before stays at `*kept`, what lies behind
 * goes to the end of the list. */
static void strike(struct watch_entry entry, struct range part, size_t *kept, size_t *end)
{
    struct range all = range_of(&entry);
    if (entry.done == COPIED)
        copied -= part.end - part.start;
    entry.length = part.start - all.start;
    if (entry.length != 0)
        standing.entries[(*kept)++] = entry;
    entry.offset = part.end;
    entry.length = all.end - part.end;
    if (entry.length != 0)
        standing.entries[(*end)++] = entry;
}

/* `standing` has room for twice what is let in: for what lies behind. */
int watch_restore(struct watch *watch)
{
    sigset_t before;
    struct range shown = {0, 0};
    int error = 0;
    enter(&before);
    size_t kept = 0, count = standing.count, end = count;
    for (size_t i = 0; i < count; i++) {
        struct watch_entry entry = standing.entries[i];
        struct range part = within(range_of(&entry), watch);
        bool is_shown = shown.start <= part.start && part.end <= shown.end;
        if (!is_empty(part) && !is_shown && error == 0) {
            shown = part;
            error = show_file(watch, &shown);
        }
        if (is_empty(part) || error != 0 || end == 2 * ENTRIES)
            standing.entries[kept++] = entry;
        else
            strike(entry, part, &kept, &end);
    }
    memmove(standing.entries + kept, standing.entries + count,
            (end - count) * sizeof *standing.entries);
    standing.count = kept + end - count;
    leave(&before);
    return error;
}

/* --- For Python ------------------------------------------------------------------------------ */

static int prepare(void)
{
    void *memory = reserved(2 * ENTRIES * sizeof *standing.entries, PROT_READ | PROT_WRITE);
    if (memory == NULL || pthread_atfork(hold, let_go, let_go) != 0)
        return ENOMEM;
    standing.entries = memory;
    standing.room = ENTRIES;
    reserve(&for_zeros);
    reserve(&for_file);
    return 0;
}

int watch_make(struct watch *watch)
{
    if (standing.entries == NULL && prepare() != 0)
        return ENOMEM;
    watch->slot = table_take(&watched, watch);
    return watch->slot == NULL ? ENOMEM : 0;
}

void watch_forget(struct watch *watch)
{
    if (atomic_load(&watch->is_active))
        watch_stop(watch);
    if (watch->slot != NULL)
        table_give_back(watch->slot);
    if (watch->told.room > 1)
        munmap(watch->told.entries, ENTRIES * sizeof *watch->told.entries);
}

bool watch_start(struct watch *watch)
{
    watch->told.count = 0;
    atomic_store(&watch->is_active, true);
    table_show(watch->slot, watch->start, watch->length);
    return atomic_load(&busy) || standing.count != 0;
}

void watch_look(struct watch *watch)
{
    sigset_t before;
    enter(&before);
    for (const struct watch_entry *entry = standing.entries;
         entry < standing.entries + standing.count; entry++)
        tell(watch, range_of(entry), entry->code, entry->done);
    leave(&before);
}

bool watch_stop(struct watch *watch)
{
    atomic_store(&watch->is_active, false);
    await();
    atomic_store(&watch->slot->start, 0);
    await();
    return watch->told.count != 0 || standing.count != 0;
}

size_t watch_take(struct watch *watch, struct watch_entry *into, size_t room)
{
    sigset_t before;
    struct list *told = &watch->told;
    enter(&before);
    size_t taken = told->count < room ? told->count : room;
    told->count -= taken;
    for (size_t i = 0; i < taken; i++)
        into[i] = told->entries[i];
    for (size_t i = 0; i < told->count; i++)
        told->entries[i] = told->entries[taken + i];
    leave(&before);
    return taken;
}
