/* A foreign library that probes an address from its own signal handler, again and again. Its probe
 * faults, and its own SIGBUS handler, which was there before daxmend's, jumps back into it. */
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/time.h>

static const volatile char *probed;
static sigjmp_buf back;
static volatile sig_atomic_t probing;
static volatile long begun, finished;

static void on_bus(int signal)
{
    (void)signal;
    if (probing)
        siglongjmp(back, 1);
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(SIGBUS, &plain, NULL);
}

static void on_alarm(int signal)
{
    (void)signal;
    begun++;
    probing = 1;
    if (sigsetjmp(back, 1) == 0)
        (void)*probed;
    probing = 0;
    finished++;
}

void nested_install(void)
{
    struct sigaction bus = {.sa_handler = on_bus, .sa_flags = SA_NODEFER};
    sigaction(SIGBUS, &bus, NULL);
}

void nested_start(const char *address, int microseconds)
{
    struct sigaction alarm = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, microseconds}, {0, microseconds}};
    probed = address;
    sigaction(SIGALRM, &alarm, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

void nested_stop(void)
{
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, NULL);
}

long nested_begun(void)
{
    return begun;
}

long nested_finished(void)
{
    return finished;
}
