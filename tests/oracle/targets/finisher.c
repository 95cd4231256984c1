/* Ends in the way that it is told to: finisher WAY [ARGUMENT...]
 *
 * Before that it touches 3 MiB of anonymous memory, as PATTERN, so that whether a capture at its
 * end saw all of it can be told.  Compiled with -I for the installed pmaps_checkpoint.h.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pmaps_checkpoint.h"

#define BALLAST (3 << 20)

static char **rest;
static volatile int waiting;

static void nap(long ms)
{
    usleep((useconds_t)ms * 1000);
}

static void *end_all(void *arg)
{
    nap(5);
    syscall(SYS_exit_group, (int)(long)arg);
    return NULL;
}

static void *execute(void *arg)
{
    (void)arg;
    nap(5);
    execv(rest[0], rest);
    _exit(126);
}

static void *idle(void *arg)
{
    (void)arg;
    pause();
    return NULL;
}

/* As soon as the first thread is about to end. */
static void *end_meanwhile(void *arg)
{
    while (!waiting)
        continue;
    syscall(SYS_exit_group, (int)(long)arg);
    return NULL;
}

static void *end_alone(void *arg)
{
    nap((long)arg);
    return NULL;
}

static void start(void *(*body)(void *), long arg)
{
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    while (pthread_create(&thread, &small, body, (void *)arg) == EAGAIN)
        nap(1);
}

/* Makes the next and ends, to the last, which executes rest[1], or touches as much again and
 * ends the process with it. */
static void *relay(void *left)
{
    if (left) {
        start(relay, (long)left - 1);
        return NULL;
    }
    if (rest[1][0] == '/') {
        execv(rest[1], rest + 1);
        _exit(126);
    }
    char *more = mmap(NULL, BALLAST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(more, 'q', BALLAST);
    exit(atoi(rest[1]));
}

static void on_signal(int signal)
{
    waiting = signal;
}

static int grandchildren(int n)
{
    int failed = 0;
    for (int i = 0; i < n; i++) {
        pid_t pid = fork();
        if (!pid)
            _exit(i & 0x7f);
        int status = 0;
        failed += waitpid(pid, &status, 0) != pid || status != (i & 0x7f) << 8;
    }
    return failed;
}

static int vfork_and_exec(void)
{
    int status = -1;
    pid_t pid = vfork();
    if (!pid) {
        execv(rest[0], rest);
        _exit(126);
    }
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void daemonize(long ms)
{
    pid_t middle = fork();
    if (middle) {
        waitpid(middle, NULL, 0);
        return;
    }
    setsid();
    if (fork())
        _exit(0);
    close(0);
    close(1);
    close(2);
    nap(ms);
    _exit(0);
}

/* Takes its signals, and tells how many of each came; a blocked read is to go on. */
static int count_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    char c;
    sigaction(SIGUSR1, &action, NULL);
    puts("ready");
    fflush(stdout);
    ssize_t got = read(0, &c, 1);
    return got == 1 && waiting == SIGUSR1 ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "";
    long n = argc > 2 ? atol(argv[2]) : 0;
    size_t size = getenv("FINISHER_MIB") ? strtoul(getenv("FINISHER_MIB"), NULL, 10) << 20
                                         : BALLAST;
    char *ballast = mmap(NULL, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(ballast, size, MADV_NOHUGEPAGE);
    memset(ballast, 'p', size);
    rest = argv + 2;
#define WAY(name) if (strcmp(way, name) == 0)
    WAY("exit") return (int)n;
    WAY("_exit") _exit((int)n);
    WAY("sys_exit") syscall(SYS_exit, (int)n);
    WAY("kill") kill(getpid(), (int)n);
    WAY("abort") abort();
    WAY("segv") * (volatile int *)8 = 1;
    WAY("thread")
    {
        start(idle, 0);
        start(end_all, n);
        for (;;)
            pause();
    }
    WAY("headless")
    {
        start(idle, 0);
        start(end_all, n);
        pthread_exit(NULL);
    }
    WAY("parting")
    {
        start(end_meanwhile, n);
        waiting = 1;
        syscall(SYS_exit, 0);
    }
    WAY("leaderless")
    {
        start(end_alone, 5);
        start(end_alone, 10);
        syscall(SYS_exit, (int)n);
    }
    WAY("relay")
    {
        start(relay, n);
        pthread_exit(NULL);
    }
    WAY("threads")
    {
        for (long i = 0; i < n; i++)
            start(end_alone, i % 3);
        nap(5);
        return 0;
    }
    WAY("undumpable")
    {
        prctl(PR_SET_DUMPABLE, 0);
        start(end_alone, 5);
        start(end_alone, 10);
        start(idle, 0);
        nap(20);
        return (int)n;
    }
    WAY("exec") execv(rest[0], rest);
    WAY("exec_thread")
    {
        start(idle, 0);
        start(execute, 0);
        for (;;)
            pause();
    }
    WAY("vfork") return vfork_and_exec();
    WAY("grandchildren") return grandchildren((int)n);
    WAY("daemon")
    {
        daemonize(n);
        return 3;
    }
    WAY("child")
    {
        pid_t pid = fork();
        if (!pid) {
            nap(n);
            _exit(0);
        }
        printf("%d\n", pid);
        return 4;
    }
    WAY("signals") return count_signals();
    WAY("stop")
    {
        raise(SIGSTOP);
        return 6;
    }
    WAY("sleep") for (;;) pause();
    WAY("checkpoint") return pmaps_checkpoint(rest[0]) ? 0 : 1;
    return 100;
}
