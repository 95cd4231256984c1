/* SPDX-License-Identifier: MIT
 *
 * ender.c - programs that come to an end, or become another one, at some moment.
 *
 *   ender exit US          exits after so many microseconds
 *   ender thread US        exit_group() from a second thread
 *   ender kill US          is killed by a signal
 *   ender exec US OTHER N  executes OTHER, which executes this one, after up to US each, N times
 *   ender exec-thread ...  the same, from a second thread, which becomes the process
 *   ender headless 0       its main thread ends, and another goes on
 *   ender reuse PID N      N children, one after the other, all of them with that pid
 *
 * What is executed maps two pages that tell its generation: one below everything else, one
 * above the program and its heap.  A child of `reuse` does the same, and calls itself by it.
 */
#include "say.h"

#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* tests/live/test_ends.py knows these. */
#define LOW UINT64_C(0x100000000)
#define HIGH UINT64_C(0x700000000000)
#define APART UINT64_C(0x100000)

static long after;
static char **again;

static void rest(long us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static void mark(uint64_t at)
{
    void *p = mmap((void *)(uintptr_t)at, PS, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    need(p != MAP_FAILED, "mmap");
    *(volatile char *)p = 1;
}

static void mark_both(unsigned generation)
{
    mark(LOW + generation * APART);
    mark(HIGH + generation * APART);
}

static void *from_thread(void *arg)
{
    (void)arg;
    rest(after);
    if (again)
        execv(again[0], again);
    exit(0);
}

static int end(int (*act)(void), int threaded)
{
    pthread_t thread;
    if (!threaded) {
        rest(after);
        return act();
    }
    need(pthread_create(&thread, NULL, from_thread, NULL) == 0, "pthread_create");
    for (;;)
        pause();
}

static void *go_on(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static int lose_head(void)
{
    pthread_t thread;
    need(pthread_create(&thread, NULL, go_on, NULL) == 0, "pthread_create");
    say_begin("headless");
    say_end();
    pthread_exit(NULL);
}

static int leave(void)
{
    return 0;
}

static int be_killed(void)
{
    return kill(getpid(), SIGKILL);
}

static int execute(void)
{
    return execv(again[0], again);
}

/* argv: self how US OTHER N [generation] */
static int next_generation(char **argv, int threaded)
{
    static char number[16];
    static char *next[7];
    unsigned generation = argv[5] ? (unsigned)atoi(argv[5]) : 0;
    mark_both(generation);
    if (generation == (unsigned)atoi(argv[4]))
        return 0;
    snprintf(number, sizeof number, "%u", generation + 1);
    memcpy(next, (char *[]){argv[3], argv[1], argv[2], argv[0], argv[4], number, NULL},
           sizeof next);
    again = next;
    srand((unsigned)getpid() + generation);
    after = atol(argv[2]) ? rand() % atol(argv[2]) : 0;
    return end(execute, threaded);
}

static void live_as(unsigned generation)
{
    char name[16];
    snprintf(name, sizeof name, "g%u", generation);
    prctl(PR_SET_NAME, name);
    mark_both(generation);
    rest(rand() % 3000);
    _exit(0);
}

static int reuse(int pid, unsigned n)
{
    for (unsigned i = 1; i <= n; i++) {
        pid_t wanted = pid;
        struct clone_args args = {
            .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
        srand(i);
        long child = syscall(SYS_clone3, &args, sizeof args);
        need(child >= 0, "clone3 with a pid of one's choice");
        if (child == 0)
            live_as(i);
        waitpid((pid_t)child, NULL, 0);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *how = argc > 2 ? argv[1] : "";
    after = argc > 2 ? atol(argv[2]) : 0;
    if (strcmp(how, "exit") == 0)
        return end(leave, 0);
    if (strcmp(how, "thread") == 0)
        return end(leave, 1);
    if (strcmp(how, "kill") == 0)
        return end(be_killed, 0);
    if (strcmp(how, "exec") == 0 && argc > 4)
        return next_generation(argv, 0);
    if (strcmp(how, "exec-thread") == 0 && argc > 4)
        return next_generation(argv, 1);
    if (strcmp(how, "headless") == 0)
        return lose_head();
    if (strcmp(how, "reuse") == 0 && argc > 3)
        return reuse((int)after, (unsigned)atoi(argv[3]));
    return 2;
}
