#define _GNU_SOURCE /* REG_RSP, gettid, the siginfo fields */
#include "trap.h"

#include "table.h"
#include "watch.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* How it works
 *
 * A move runs under a `guard`, in a thread-local variable: where to jump, and the two ranges that
 * the move may touch. The handler of SIGBUS and SIGSEGV jumps when the fault is this move's own
 * (on_fault), and passes every other one on to whoever had the signal before (pass_on).
 *
 * The handlers are installed with SA_NODEFER and an empty mask: nothing is blocked while they run,
 * so a jump out of them has no mask to restore. Saving it would cost every move a system call,
 * 200 ns for a copy of 40.
 *
 * SA_ONSTACK: where a thread has an alternate stack, a stack overflow still finds its handler.
 */

#ifndef BUS_MCEERR_AR
#define BUS_MCEERR_AR 4
#define BUS_MCEERR_AO 5
#endif

enum {
    PAGE = 4096, /* the smallest page there is; a finer step than the machine's is only slower */
    PAGE_LSB = 12,
};

/* A handler runs at an arbitrary instruction, also where a thread-local of a library loaded late
 * would first have to be allocated. glibc keeps room for small ones that are there from the start;
 * musl allocates them all when it loads the library. */
#ifdef __GLIBC__
#define SIGNAL_SAFE __attribute__((tls_model("initial-exec")))
#else
#define SIGNAL_SAFE
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif

/* Setting the jump target is what a move pays for its guard. The compiler's own pair costs 0.3 ns
 * where the C library's costs 4.7, a tenth of a cached 4 KiB copy; but not every compiler has it
 * for every machine, and the sanitizer has to see the jump. */
#if defined(__x86_64__) && !defined(SANITIZED)
typedef void *jump_buffer[5];
#define SET_JUMP(buffer) __builtin_setjmp(buffer)
#define JUMP(buffer) __builtin_longjmp(buffer, 1)
#else
typedef sigjmp_buf jump_buffer;
#define SET_JUMP(buffer) sigsetjmp(buffer, 0)
#define JUMP(buffer) siglongjmp(buffer, 1)
#endif

struct guard {
    jump_buffer jump;
    const char *stack; /* the frame of the copying function */
    struct guard *outer;
    char *target;
    const char *source;
    size_t length;
    struct fault *fault;
};

static _Thread_local struct guard *current SIGNAL_SAFE;

/* --- What a signal says ---------------------------------------------------------------------- */

/* Raised by an instruction of this thread, that is: not sent by anybody (si_code <= 0), and not the
 * early notice of a memory error that nobody has touched yet (BUS_MCEERR_AO). */
static bool is_synchronous(int signal, const siginfo_t *info)
{
    return info->si_code > 0 && !(signal == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

static uintptr_t address_of(const siginfo_t *info)
{
    return (uintptr_t)info->si_addr;
}

static uintptr_t stack_pointer(const void *context)
{
#if defined(__x86_64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.sp;
#else
    return (void)context, 0;
#endif
}

static uintptr_t instruction(const void *context)
{
#if defined(__x86_64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.pc;
#else
    return (void)context, 0;
#endif
}

/* --- Ranges whose SIGSEGV is passed on as SIGBUS --------------------------------------------- */

static struct table forwarded;

int trap_forward(uintptr_t address, size_t length)
{
    int error = trap_install();
    if (error != 0)
        return error;
    struct slot *slot = table_take(&forwarded, &forwarded);
    if (slot == NULL)
        return ENOMEM;
    table_show(slot, address, length);
    return 0;
}

int trap_forget(uintptr_t address, size_t length)
{
    struct slot *slot;
    for (size_t cursor = 0; (slot = table_next(&forwarded, &cursor, address, 1)) != NULL;)
        if (atomic_load(&slot->start) == address && atomic_load(&slot->length) == length) {
            table_give_back(slot);
            return 0;
        }
    return ENOENT;
}

static bool is_in_forwarded(uintptr_t address)
{
    size_t cursor = 0;
    return table_next(&forwarded, &cursor, address, 1) != NULL;
}

/* A guard region has no page (SEGV_MAPERR). A store to a read-only mapping (SEGV_ACCERR) is the
 * caller's mistake and stays a SIGSEGV. */
static bool is_forwarded(int signal, const siginfo_t *info)
{
    return signal == SIGSEGV && info->si_code == SEGV_MAPERR &&
           is_in_forwarded(address_of(info));
}

/* Sends this thread the SIGBUS that a real memory error would raise. It stays blocked until this
 * handler returns, so that it arrives at the faulting instruction and not in here. As for every
 * synchronous signal, neither blocking nor ignoring it helps: both mean the default action. */
static void forward(const siginfo_t *info, void *context)
{
    siginfo_t bus = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AR};
    bus.si_addr = info->si_addr;
    bus.si_addr_lsb = PAGE_LSB;
    ucontext_t *interrupted = context;
    struct sigaction now;
    sigset_t only_bus;
    sigemptyset(&only_bus);
    sigaddset(&only_bus, SIGBUS);
    sigaction(SIGBUS, NULL, &now);
    if (sigismember(&interrupted->uc_sigmask, SIGBUS) == 1 || now.sa_handler == SIG_IGN) {
        signal(SIGBUS, SIG_DFL);
        sigdelset(&interrupted->uc_sigmask, SIGBUS);
    }
    pthread_sigmask(SIG_BLOCK, &only_bus, NULL);
    syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), SIGBUS, &bus);
}

/* --- Faults that are not ours ---------------------------------------------------------------- */

/* Who had the signal before us, oldest first. There can be several: a handler that was installed
 * over ours has ours as its own predecessor, and once ours is on top again the two would call each
 * other for ever. So the history is kept, and a fault that comes back goes to the next older one.
 * An immutable copy is published for each change and never freed: a handler may be reading it.
 * Changes are rare. */

enum { HISTORY = 8 };

struct history {
    int count;
    struct sigaction handlers[HISTORY];
};

static const struct history nobody;
static const struct history *_Atomic histories[2] = {&nobody, &nobody};

/* The call of an older handler that is under way in this thread. */
struct passing {
    int signal;
    int level;
    const char *frame;
    const void *context;
};

static _Thread_local struct passing passing SIGNAL_SAFE;

static const struct history *_Atomic *history_of(int signal)
{
    return &histories[signal == SIGBUS];
}

/* As if the older handler had been called by the kernel: with its own mask. */
static void call(const struct sigaction *handler, int signal, siginfo_t *info, void *context)
{
    sigset_t blocked = handler->sa_mask, before;
    if (!(handler->sa_flags & SA_NODEFER))
        sigaddset(&blocked, signal);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    if (handler->sa_flags & SA_SIGINFO)
        handler->sa_sigaction(signal, info, context);
    else
        handler->sa_handler(signal);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether the kernel can read there. sigprocmask reads its set before it refuses a bad `how`. */
bool trap_is_readable(uintptr_t address)
{
    return syscall(SYS_rt_sigprocmask, ~0, address & ~(uintptr_t)7, NULL, 8) == 0 ||
           errno != EFAULT;
}

/* The default action. A synchronous fault comes again by itself, with the right registers for the
 * core dump; a signal that was sent has to be sent again. */
static void die(int number, siginfo_t *info)
{
    signal(number, SIG_DFL);
    if (!is_synchronous(number, info))
        syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), number, info);
}

/* The older handler, while it runs, can call ours (it saved it as its predecessor) or raise the
 * signal again. Then ours runs deeper on the same stack, for the same context or for a signal that
 * was sent. A handler that left by a jump matches neither at its next fault. */
static bool comes_back(int signal, const siginfo_t *info, const void *context, const char *frame)
{
    return passing.signal == signal && frame < passing.frame &&
           (passing.context == context || !is_synchronous(signal, info));
}

/* A handler that has returned with the instruction and the memory as they were (faulthandler after
 * disable(), a handler set by Python's signal module) would see the same fault for ever. */
static bool has_settled(int signal, const siginfo_t *info, const void *context, uintptr_t at)
{
    return !is_synchronous(signal, info) || instruction(context) != at ||
           trap_is_readable(address_of(info));
}

static void pass_on(int signal, siginfo_t *info, void *context)
{
    const struct history *history = atomic_load(history_of(signal));
    const char *frame = __builtin_frame_address(0);
    struct passing outer = passing;
    uintptr_t at = instruction(context);
    int level = history->count;
    if (comes_back(signal, info, context, frame) && outer.level < level)
        level = outer.level;
    bool settled = false;
    while (!settled && level-- > 0) {
        const struct sigaction *handler = &history->handlers[level];
        if (handler->sa_handler == SIG_IGN) {
            settled = !is_synchronous(signal, info);
            continue;
        }
        passing = (struct passing){signal, level, frame, context};
        atomic_signal_fence(memory_order_seq_cst);
        call(handler, signal, info, context);
        settled = has_settled(signal, info, context, at);
    }
    passing = outer;
    if (!settled)
        die(signal, info);
}

/* --- The handler ----------------------------------------------------------------------------- */

uintptr_t trap_width(const struct fault *fault)
{
    return fault->lsb > 0 && fault->lsb < 48 ? (uintptr_t)1 << fault->lsb : 1;
}

/* The offset of the fault from `start`, or `length` where it is outside. */
static size_t offset_in(const struct fault *fault, const char *start, size_t length)
{
    uintptr_t width = trap_width(fault), first = fault->address & ~(width - 1);
    if (first < (uintptr_t)start)
        return (uintptr_t)start - first < width ? 0 : length;
    return first - (uintptr_t)start < length ? first - (uintptr_t)start : length;
}

static bool is_inside(const struct guard *guard, const struct fault *fault)
{
    return offset_in(fault, guard->target, guard->length) < guard->length ||
           (guard->source != NULL &&
            offset_in(fault, guard->source, guard->length) < guard->length);
}

/* Another library's handler can interrupt a move and fault itself. Jumping would then abandon that
 * handler half-way. It runs below a signal frame of more than a KiB, or on another stack; the
 * copying itself needs next to none. */
#ifdef SANITIZED
enum { NEAR = 1 << 16 }; /* the sanitizer's memcpy has deep frames */
#else
enum { NEAR = 1024 };
#endif

static bool is_copying(const struct guard *guard, const void *context)
{
    uintptr_t here = stack_pointer(context);
    return here == 0 || (uintptr_t)guard->stack - here < NEAR;
}

static struct fault describe(int signal, const siginfo_t *info)
{
    struct fault fault = {address_of(info), signal, info->si_code, 0};
    if (signal == SIGBUS && info->si_code == BUS_MCEERR_AR)
        fault.lsb = info->si_addr_lsb;
    else if (is_forwarded(signal, info)) /* what an unguarded access would have got */
        fault = (struct fault){fault.address, SIGBUS, BUS_MCEERR_AR, PAGE_LSB};
    return fault;
}

/* The kernel starts a handler with fresh floating-point control; a jump would keep it, and drop the
 * rounding mode or the flushing of denormals that the thread had chosen. */
static void restore_float_control(const void *context)
{
#if defined(__x86_64__)
    fpregset_t saved = ((const ucontext_t *)context)->uc_mcontext.fpregs;
    if (saved == NULL)
        return;
    _mm_setcsr(saved->mxcsr);
    __asm__ volatile("fldcw %0" : : "m"(saved->cwd));
#else
    (void)context;
#endif
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    struct guard *guard = current;
    struct fault fault = describe(signal, info);
    bool is_synchronous_fault = is_synchronous(signal, info);
    if (guard != NULL && is_synchronous_fault && is_copying(guard, context) &&
        is_inside(guard, &fault)) {
        *guard->fault = fault;
        restore_float_control(context);
        JUMP(guard->jump);
    }
    int saved = errno;
    if (is_synchronous_fault && fault.signal == SIGBUS && watch_catch(&fault))
        ; /* zeros are there now: the instruction goes on */
    else if (is_forwarded(signal, info))
        forward(info, context);
    else
        pass_on(signal, info, context);
    errno = saved;
}

/* --- Installation ---------------------------------------------------------------------------- */

static bool is_default(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == SIG_DFL;
}

/* `newest` becomes the last one; SIG_DFL and SIG_IGN say that there is nobody before it. */
static struct history *extend(const struct history *old, const struct sigaction *newest)
{
    struct history *history = calloc(1, sizeof *history);
    if (history == NULL || is_default(newest))
        return history;
    for (int i = 0; i < old->count && newest->sa_handler != SIG_IGN; i++)
        if (old->handlers[i].sa_handler != newest->sa_handler)
            history->handlers[history->count++] = old->handlers[i];
    if (history->count == HISTORY)
        memmove(history->handlers, history->handlers + 1, --history->count * sizeof *newest);
    history->handlers[history->count++] = *newest;
    return history;
}

static int install(int signal)
{
    struct sigaction now;
    struct sigaction ours = {.sa_sigaction = on_fault,
                             .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    if (sigaction(signal, NULL, &now) != 0)
        return errno;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
        return 0;
    struct history *history = extend(atomic_load(history_of(signal)), &now);
    if (history == NULL)
        return ENOMEM;
    atomic_store(history_of(signal), history); /* before the first fault can need it */
    return sigaction(signal, &ours, NULL) == 0 ? 0 : errno;
}

int trap_install(void)
{
    int error = install(SIGBUS);
    return error != 0 ? error : install(SIGSEGV);
}

/* About 10 to 40 microseconds, in the unit of ticks(). */
enum { REFRESH = 40000 };

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
#endif
}

/* Asking who has the two signals costs 400 ns, more than two whole 4 KiB reads. */
int trap_refresh(void)
{
    static uint64_t asked;
    uint64_t now = ticks();
    if (asked != 0 && now - asked < REFRESH)
        return 0;
    int error = trap_install();
    asked = error == 0 ? now : 0;
    return error;
}

/* --- Moving ---------------------------------------------------------------------------------- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t to_page_edge(const char *address)
{
    return PAGE - (uintptr_t)address % PAGE;
}

/* The start of the page that failed, counted from the start of the move. */
static size_t failed_page(const struct guard *guard)
{
    const char *side = guard->target;
    size_t offset = offset_in(guard->fault, side, guard->length);
    if (offset == guard->length) {
        side = guard->source;
        offset = offset_in(guard->fault, side, guard->length);
    }
    size_t into_page = (uintptr_t)(side + offset) % PAGE;
    return offset > into_page ? offset - into_page : 0;
}

/* A copy need not run forward (glibc's starts at the end where that avoids false dependencies), so
 * the fault's address does not say that everything before it was moved. What lies before the failed
 * page is moved again, a page at a time; if an earlier page fails too, that one is reported. */
static size_t retry(const struct guard *guard, move_fn run)
{
    char *target = guard->target;
    const char *source = guard->source;
    size_t end = failed_page(guard), done = 0;
    while (done < end) {
        size_t length = smaller(end - done, to_page_edge(target + done));
        const char *from = source == NULL ? NULL : source + done;
        if (from != NULL)
            length = smaller(length, to_page_edge(from));
        if (trap_move(run, target + done, from, length, guard->fault) < length)
            break;
        done += length;
    }
    return done;
}

/* In one piece, so that a long copy is exactly the C library's: it chooses by length (in pieces of
 * 128 KiB, 64 MiB took twice as long where the target was not aligned). What a short one needs
 * stays in registers: through a struct, it would wait 4 ns for its own arguments. */
size_t trap_move(move_fn run, char *target, const char *source, size_t length, struct fault *fault)
{
    struct guard guard;
    guard.stack = __builtin_frame_address(0);
    guard.outer = current;
    guard.target = target;
    guard.source = source;
    guard.length = length;
    guard.fault = fault;
    if (SET_JUMP(guard.jump) != 0) {
        current = guard.outer;
        return retry(&guard, run);
    }
    current = &guard;
    atomic_signal_fence(memory_order_seq_cst);
    run(target, source, length);
    atomic_signal_fence(memory_order_seq_cst);
    current = guard.outer;
    return length;
}
