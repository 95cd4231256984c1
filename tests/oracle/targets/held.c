/* SPDX-License-Identifier: MIT
 *
 * held.c - a process that is stopped from outside, and tells in shared memory what it notices.
 *
 *   held STATE COUNTERS [N]
 *
 * COUNTERS is a file of a page; what its numbers mean is said at each state.  Ends with stdin.
 */
#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { SLOTS = PS / sizeof(uint64_t) };

static volatile uint64_t *counters;

static void count(size_t slot)
{
    __atomic_fetch_add(&counters[slot], 1, __ATOMIC_SEQ_CST);
}

static void start_thread(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 64 << 10);
    while (pthread_create(&thread, &attr, body, arg))
        usleep(100); /* those that end have not given everything back yet */
}

static void start_threads(void *(*body)(void *), int n)
{
    for (int i = 1; i <= n; i++)
        start_thread(body, (void *)(size_t)i);
}

/* ---- spin: N threads, each counts in its slot ---- */

static void *spin(void *slot)
{
    for (;;) {
        count((size_t)slot);
        usleep(20);
    }
    return NULL;
}

/* ---- churn: N lines of threads; each thread counts, starts the next one, and ends ---- */

static void *churn(void *slot)
{
    for (int i = 0; i < 3; i++) {
        count((size_t)slot);
        usleep(20);
    }
    start_thread(churn, slot);
    return NULL;
}

/* ---- exec: a thread that is not the leader replaces the program, over and over ---- */

static char *self, *file;

static void *replace(void *unused)
{
    (void)unused;
    usleep(500);
    count(0);
    execl(self, self, "exec-again", file, "3", NULL);
    _exit(3);
}

/* ---- signals: slot 0 received, 1 sum of their values, 2 sent ---- */

static void received(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    count(0);
    __atomic_fetch_add(&counters[1], (uint64_t)info->si_value.sival_int, __ATOMIC_SEQ_CST);
}

static void receive_signals(int n)
{
    struct sigaction action = {.sa_sigaction = received, .sa_flags = SA_SIGINFO | SA_RESTART};
    pid_t target = getpid();
    sigaction(SIGRTMIN, &action, NULL);
    if (fork())
        return;
    for (int i = 1; i <= n; i++) {
        union sigval value = {.sival_int = i};
        while (sigqueue(target, SIGRTMIN, value)) {
            if (errno == ESRCH)
                _exit(0); /* it was ended before it had all of them */
            usleep(10);
        }
        counters[2] = (uint64_t)i;
        if (i % 4 == 0)
            usleep(20);
    }
    _exit(0);
}

/* ---- blocked: in the call that N names; slot 0 how often they came back, 1 with which errno ---- */

static int ends[2], epoll, futex, semaphore = -1;

static void remove_semaphore(void)
{
    semctl(semaphore, 0, IPC_RMID);
}

static int block(const char *call)
{
    struct epoll_event event;
    struct sembuf take = {.sem_op = -1};
    char c;
    if (!strcmp(call, "read"))
        return (int)read(ends[0], &c, 1);
    if (!strcmp(call, "futex"))
        return (int)syscall(SYS_futex, &futex, FUTEX_WAIT, 0, NULL, NULL, 0);
    if (!strcmp(call, "nanosleep"))
        return nanosleep(&(struct timespec){.tv_sec = 3600}, NULL);
    if (!strcmp(call, "epoll_wait"))
        return epoll_wait(epoll, &event, 1, -1);
    if (!strcmp(call, "semop"))
        return semop(semaphore, &take, 1);
    usleep(10000);
    errno = ENOSYS;
    return -1;
}

static void *block_again(void *call)
{
    for (;;) {
        int rc = block(call);
        counters[1] = rc < 0 ? (uint64_t)errno : 0;
        count(0);
    }
    return NULL;
}

static void start_blocked(const char *call)
{
    epoll = epoll_create1(0);
    semaphore = semget(IPC_PRIVATE, 1, 0600);
    need(pipe(ends) == 0 && epoll >= 0 && semaphore >= 0, "something to block on");
    atexit(remove_semaphore);
    start_thread(block_again, (void *)(uintptr_t)call);
}

/* ---- vfork: the parent is held up until stdin ends ---- */

static void wait_for_child(void)
{
    pid_t child = vfork();
    if (child == 0) {
        char c;
        while (read(0, &c, 1) > 0)
            continue;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    count(0);
}

/* Not through stdio, which would take an interrupted read for the end. */
static void *end_with_stdin(void *unused)
{
    (void)unused;
    char c;
    while (read(0, &c, 1) != 0)
        continue;
    exit(0);
}

int main(int argc, char **argv)
{
    say_start();
    need(argc >= 3, "arguments");
    const char *state = argv[1];
    self = argv[0];
    file = argv[2];
    int n = argc > 3 ? atoi(argv[3]) : 1;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    counters = mmap(NULL, PS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(counters != MAP_FAILED, "counters");
    if (!strcmp(state, "signals"))
        receive_signals(n);
    else if (!strcmp(state, "churn"))
        start_threads(churn, n);
    else if (!strcmp(state, "blocked"))
        start_blocked(argv[3]);
    else if (strcmp(state, "vfork"))
        start_threads(spin, n);
    if (strcmp(state, "exec-again")) {
        say_begin("held");
        say_end();
    }
    if (!strncmp(state, "exec", 4))
        start_thread(replace, NULL);
    if (!strcmp(state, "vfork"))
        wait_for_child();
    if (!strcmp(state, "leaderless")) {
        start_thread(end_with_stdin, NULL);
        pthread_exit(NULL);
    }
    end_with_stdin(NULL);
}
