/* SPDX-License-Identifier: MIT
 *
 * pmaps-tracer as the engine uses it, on a process whose threads count in shared memory.
 * What takes other users, signals and kills is in tests/live/test_stopping.py.
 */
#include "check.h"
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 20000

static volatile uint64_t *counters; /* one a thread */

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void *count(void *at)
{
    for (volatile uint64_t *counter = at;;) {
        __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

static pid_t start_target(void)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    pthread_t thread;
    for (int i = 1; i < 4; i++)
        pthread_create(&thread, NULL, count, (void *)(counters + i));
    count((void *)counters);
    _exit(0);
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static bool moves(void)
{
    uint64_t before[4] = {counters[0], counters[1], counters[2], counters[3]};
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        bool all = true;
        for (int i = 0; i < 4; i++)
            all = all && counters[i] != before[i];
        if (all)
            return true;
        sleep_ms(1);
    }
    return false;
}

static bool stands_still(void)
{
    uint64_t before[4] = {counters[0], counters[1], counters[2], counters[3]};
    sleep_ms(5);
    for (int i = 0; i < 4; i++)
        if (counters[i] != before[i])
            return false;
    return true;
}

/* Our end of the socket to a tracer of a process. */
static int start_tracer(pid_t target, pid_t *tracer)
{
    int ends[2];
    char pid[16];
    snprintf(pid, sizeof pid, "%d", target);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    if ((*tracer = fork()) == 0) {
        dup2(ends[1], 0);
        execl(PMAPS_TRACER, PMAPS_TRACER, pid, NULL);
        _exit(127);
    }
    close(ends[1]);
    return ends[0];
}

static int32_t ask(int fd, char what)
{
    struct pm__held held = {.status = -1};
    if (send(fd, &what, 1, MSG_NOSIGNAL) != 1)
        return -1;
    return recv(fd, &held, sizeof held, MSG_WAITALL) == sizeof held ? held.status : -1;
}

static int exit_code(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void holds_and_lets_go(void)
{
    pid_t tracer, target = start_target();
    CHECK(moves()); /* all of its threads are there */
    int fd = start_tracer(target, &tracer);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(ask(fd, 's'), 0);
        CHECK(stands_still());
        CHECK_EQ(ask(fd, 'c'), 0);
        CHECK(moves());
    }
    close(fd);
    CHECK_EQ(exit_code(tracer), 0);
    CHECK(moves());
    end(target);
}

static void lets_go_when_we_end(void)
{
    pid_t tracer, target = start_target();
    CHECK(moves());
    int fd = start_tracer(target, &tracer);
    CHECK_EQ(ask(fd, 's'), 0);
    close(fd);
    CHECK(moves());
    CHECK_EQ(exit_code(tracer), 0);
    end(target);
}

static void the_kernel_lets_go_when_it_is_killed(void)
{
    pid_t tracer, target = start_target();
    CHECK(moves());
    int fd = start_tracer(target, &tracer);
    CHECK_EQ(ask(fd, 's'), 0);
    end(tracer);
    CHECK(moves());
    close(fd);
    end(target);
}

/* A target that dies while it is held is reaped: the tracer says 'c' as ever. */
static void a_target_that_is_killed(void)
{
    pid_t tracer, target = start_target();
    CHECK(moves());
    int fd = start_tracer(target, &tracer);
    CHECK_EQ(ask(fd, 's'), 0);
    end(target); /* returns only when the tracer has reaped its threads */
    CHECK_EQ(ask(fd, 'c'), 0);
    CHECK_EQ(ask(fd, 's'), ESRCH);
    close(fd);
    CHECK_EQ(exit_code(tracer), 0);
}

static void what_cannot_be_held(void)
{
    pid_t tracer;
    int fd = start_tracer(99999999, &tracer);
    CHECK_EQ(ask(fd, 's'), ESRCH);
    CHECK_EQ(exit_code(tracer), 0);
    close(fd);

    fd = start_tracer(getpid(), &tracer);
    CHECK_EQ(ask(fd, 's'), EDEADLK);
    CHECK_EQ(exit_code(tracer), 0);
    close(fd);

    pid_t zombie = fork();
    if (zombie == 0)
        _exit(0);
    waitid(P_PID, (id_t)zombie, &(siginfo_t){0}, WEXITED | WNOWAIT);
    fd = start_tracer(zombie, &tracer);
    CHECK_EQ(ask(fd, 's'), ESRCH);
    CHECK_EQ(exit_code(tracer), 0);
    waitpid(zombie, NULL, 0);
    close(fd);
}

static void what_it_does_not_understand_ends_it(void)
{
    pid_t tracer, target = start_target();
    CHECK(moves());
    int fd = start_tracer(target, &tracer);
    CHECK_EQ(ask(fd, 's'), 0);
    CHECK_EQ(ask(fd, '?'), -1);
    CHECK_EQ(exit_code(tracer), 0);
    CHECK(moves());
    close(fd);
    end(target);
}

/* By hand, it says how it is meant. */
static void usage(void)
{
    static const char *const arguments[] = {NULL, "1", "word", "-1", "1x"};
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            close(0);
            close(2);
            execl(PMAPS_TRACER, PMAPS_TRACER, arguments[i], NULL);
            _exit(127);
        }
        CHECK_EQ(exit_code(pid), 2);
    }
}

int main(void)
{
    counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED)
        return 1;
    RUN(holds_and_lets_go);
    RUN(lets_go_when_we_end);
    RUN(the_kernel_lets_go_when_it_is_killed);
    RUN(a_target_that_is_killed);
    RUN(what_cannot_be_held);
    RUN(what_it_does_not_understand_ends_it);
    RUN(usage);
    return check_done();
}
