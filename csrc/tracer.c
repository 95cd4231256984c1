/* SPDX-License-Identifier: MIT
 *
 * tracer.c - pmaps-tracer, a program of its own that holds a process still.
 *
 *   pmaps-tracer PID          with a stream socket as stdin
 *
 * 's' stops every thread of PID, 'c' lets them go on; a struct pm__held answers each.  It is
 * a program of its own because whoever traces a process sees its stops in wait(): done by
 * the process under test, they would show up in its own Popen.wait().
 *
 * Whatever happens, the target goes on.  When the other end closes, or whoever holds it
 * ends or is stopped itself, we let go.  When we are killed the kernel lets go: threads are
 * seized, never attached to, so no SIGSTOP is left behind; and a signal that was on its way
 * is not lost, because its stop is only ever looked at (WNOWAIT), never collected.
 */
#include "engine.h"
#include "program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(2000000000) /* for all threads to stop */
#define NUDGE_MS 10 /* without a change, before the threads that still run are looked into */
#define TICK_MS 50  /* between two looks at whoever asked us to hold the target */
#define BUSY_MS 1   /* before another of us is asked again whether it has let go */
#define MAX_DENIED 4 /* before a refusal is believed: a thread may be replaced while we ask why */

enum life {
    RUNS,
    STOPPED,
    DEAD /* a zombie, as a leader stays that has ended before the others */
};

struct thread {
    pid_t tid;
    enum life is;
    int signal; /* that it was about to receive when it stopped */
};

struct tracer {
    pid_t pid;
    struct patron patron;
    int task, stat; /* /proc/PID/task and /proc/PID/stat */
    int children;   /* signalfd of SIGCHLD: a thread has stopped, or died */
    struct thread *threads;
    size_t n, cap;
    size_t hint; /* where the next thread of the list most likely is */
    uint64_t deadline;
};

static bool is_late(const struct tracer *t)
{
    return monotonic_ns() >= t->deadline;
}

static bool answer(int status, size_t threads)
{
    struct pm__held held = {.status = status, .threads = (uint32_t)threads};
    return send(SOCKET, &held, sizeof held, MSG_NOSIGNAL) == (ssize_t)sizeof held;
}

/* Whether the other end has closed; it has nothing to say before we have answered. */
static bool is_abandoned(void)
{
    struct pollfd p = {.fd = SOCKET, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* ---- what /proc says --------------------------------------------------------------- */

static char state_of(const struct tracer *t, pid_t tid)
{
    char path[32], stat[1024];
    snprintf(path, sizeof path, "%d/stat", tid);
    return slurp(t->task, path, stat, sizeof stat) ? *behind_comm(stat) : '\0';
}

/* How many threads there are, by the kernel's own count; -ESRCH for a process that is gone. */
static long count_threads(const struct tracer *t)
{
    char stat[1024];
    ssize_t got = pread(t->stat, stat, sizeof stat - 1, 0);
    if (got <= 0)
        return -ESRCH;
    stat[got] = '\0';
    const char *p = behind_comm(stat);
    for (int field = 3; field < 20 && p; field++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    return p ? strtol(p, NULL, 10) : -ESRCH;
}

/* Who traces a thread; 0: nobody. */
static pid_t tracer_of(const struct tracer *t, pid_t tid)
{
    static const char key[] = "\nTracerPid:";
    char path[32], status[4096];
    snprintf(path, sizeof path, "%d/status", tid);
    if (!slurp(t->task, path, status, sizeof status))
        return 0;
    const char *line = strstr(status, key);
    return line ? (pid_t)strtol(line + strlen(key), NULL, 10) : 0;
}

static bool is_one_of_us(pid_t tracer)
{
    char path[32], comm[64];
    snprintf(path, sizeof path, "/proc/%d/comm", tracer);
    return slurp(AT_FDCWD, path, comm, sizeof comm) && strcmp(comm, "pmaps-tracer\n") == 0;
}

/* ---- threads -------------------------------------------------------------------------- */

static bool knows(struct tracer *t, pid_t tid)
{
    for (size_t i = 0; i < t->n; i++) {
        size_t at = (t->hint + i) % t->n;
        if (t->threads[at].tid == tid) {
            t->hint = at + 1;
            return true;
        }
    }
    return false;
}

static bool make_room(struct tracer *t)
{
    if (t->n < t->cap)
        return true;
    size_t cap = t->cap ? t->cap * 2 : 64;
    struct thread *more = realloc(t->threads, cap * sizeof *more);
    if (!more)
        return false;
    t->threads = more;
    t->cap = cap;
    return true;
}

/* Sees whether a thread has stopped or died; false: forget it. */
static bool look_at(struct thread *thread)
{
    if (thread->is == DEAD)
        return true;
    siginfo_t info = {.si_pid = 0};
    int what = WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL;
    if (waitid(P_PID, (id_t)thread->tid, &info, what) < 0)
        return false;
    if (info.si_pid == 0) { /* or again: killed, or another thread by that id since an exec() */
        thread->is = RUNS;
        return true;
    }
    if (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED) {
        /* The upper bits tell of an event: our interrupt, or a stop that it was in before. */
        thread->is = STOPPED;
        thread->signal = info.si_status >> 8 ? 0 : info.si_status;
        return true;
    }
    /* Whoever waits for it hears of its end once we have; and an exec() waits for ours. */
    waitid(P_PID, (id_t)thread->tid, &info, WEXITED | WNOHANG | __WALL);
    return false;
}

/* Looks at every thread; how many still run. */
static size_t look(struct tracer *t)
{
    struct signalfd_siginfo drained;
    while (read(t->children, &drained, sizeof drained) > 0)
        continue;
    size_t running = 0, kept = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct thread thread = t->threads[i];
        if (!look_at(&thread))
            continue;
        running += thread.is == RUNS;
        t->threads[kept++] = thread;
    }
    t->n = kept;
    return running;
}

/* Waits for a thread to change, for so long; -EPIPE: the other end has closed. */
static int wait_for_change(struct tracer *t, int ms)
{
    struct pollfd p[] = {{.fd = SOCKET, .events = POLLIN}, {.fd = t->children, .events = POLLIN}};
    int ready = poll(p, 2, ms);
    if (ready > 0 && p[0].revents)
        return -EPIPE;
    return ready > 0;
}

/* A thread may have slipped out of an interrupt: a leader that ends tells nobody before the
 * others have, and an exec() gives a thread the leader's id. */
static void nudge(struct tracer *t)
{
    for (size_t i = 0; i < t->n; i++) {
        struct thread *thread = &t->threads[i];
        if (thread->is != RUNS)
            continue;
        if (state_of(t, thread->tid) == 'Z')
            thread->is = DEAD;
        else
            ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
    }
}

static int wait_for_all(struct tracer *t)
{
    while (look(t)) {
        int rc = wait_for_change(t, NUDGE_MS);
        if (rc < 0)
            return rc;
        if (rc == 0)
            nudge(t);
        if (is_late(t))
            return look(t) ? -ETIMEDOUT : 0;
    }
    return 0;
}

static void add(struct tracer *t, pid_t tid, enum life is)
{
    t->threads[t->n++] = (struct thread){.tid = tid, .is = is};
    t->hint = t->n;
}

static int interrupt(struct tracer *t, pid_t tid)
{
    add(t, tid, RUNS);
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    return 0;
}

/* Why a thread may not be seized: 0 where that is all right, -EAGAIN to try again. */
static int refused(struct tracer *t, pid_t tid)
{
    char state = state_of(t, tid);
    if (state == 'Z')
        add(t, tid, DEAD);
    if (state == 'Z' || state == 'X' || state == '\0')
        return 0;
    pid_t other = tracer_of(t, tid);
    if (other == getpid()) /* seized by the id that it had before an exec() */
        return interrupt(t, tid);
    if (other)
        return is_one_of_us(other) ? -EAGAIN : -EPERM;
    /* There is no process 0, and the kernel would say so. */
    bool forbidden = ptrace(PTRACE_SEIZE, 0, NULL, NULL) < 0 && errno != ESRCH;
    return forbidden ? -ENOSYS : -EPERM;
}

/* An exec() waits until we have reaped the threads that it ended, and a seizure waits until
 * the exec() is over: so when one takes long, SIGALRM reaps the dead.  look() finds out that
 * they are gone.  An exec() that waits for something else ends our patience, here too. */
static struct tracer *volatile seizing;

static void while_seizing(int signal)
{
    (void)signal;
    struct tracer *t = seizing;
    int kept = errno;
    for (size_t i = 0; t && i < t->n; i++) {
        struct thread thread = t->threads[i];
        look_at(&thread);
    }
    if (t && (is_late(t) || is_abandoned())) {
        answer(ETIMEDOUT, 0);
        _exit(1); /* the kernel lets go what we hold */
    }
    errno = kept;
}

static void set_alarm(int ms)
{
    struct timeval every = {.tv_usec = ms * 1000};
    setitimer(ITIMER_REAL, &(struct itimerval){.it_interval = every, .it_value = every}, NULL);
}

static int try_seize(struct tracer *t, pid_t tid)
{
    seizing = t;
    int rc = ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 ? -errno : 0;
    seizing = NULL;
    return rc;
}

static int seize(struct tracer *t, pid_t tid)
{
    if (!make_room(t))
        return -ENOMEM;
    for (int denied = 0;;) {
        int rc = try_seize(t, tid);
        if (rc == 0)
            return interrupt(t, tid);
        if (rc == -ESRCH)
            return 0; /* it has ended */
        if (rc == -EPERM)
            rc = refused(t, tid);
        /* A zombie that an exec() has replaced before we asked what it is looks like this. */
        if (rc == -EPERM && ++denied < MAX_DENIED)
            continue;
        if (rc != -EAGAIN)
            return rc;
        if (is_late(t))
            return -EPERM;
        look(t);
        if ((rc = wait_for_change(t, BUSY_MS)) < 0)
            return rc;
    }
}

/* Seizes every thread that is listed and not known yet. */
static int seize_all(struct tracer *t)
{
    int fd = openat(t->task, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (!listing)
        return errno == ENOENT ? -ESRCH : -errno;
    int rc = 0;
    set_alarm(NUDGE_MS);
    for (struct dirent *d; rc == 0 && (d = readdir(listing));) {
        pid_t tid = (pid_t)strtol(d->d_name, NULL, 10);
        if (tid > 0 && !knows(t, tid))
            rc = seize(t, tid);
    }
    set_alarm(0);
    closedir(listing);
    return rc;
}

static bool has_thread(const struct tracer *t, pid_t tid)
{
    char name[16];
    snprintf(name, sizeof name, "%d", tid);
    return faccessat(t->task, name, F_OK, 0) == 0;
}

/* Whether the dead are so still: an exec() may have given another thread that id. */
static bool are_dead(struct tracer *t)
{
    size_t kept = 0, n = t->n;
    for (size_t i = 0; i < n; i++)
        if (t->threads[i].is != DEAD || state_of(t, t->threads[i].tid) == 'Z')
            t->threads[kept++] = t->threads[i];
    t->n = kept;
    return kept == n;
}

static size_t count_held(const struct tracer *t)
{
    size_t held = 0;
    for (size_t i = 0; i < t->n; i++)
        held += t->threads[i].is == STOPPED;
    return held;
}

/* The list may miss a thread while others come and go; the kernel's count does not.  Where as
 * many are known as there are, and all of them have stopped after that was counted, nobody
 * is left who could make another, or take another's place. */
static int is_all_stopped(struct tracer *t)
{
    long threads = count_threads(t);
    if (threads < 0)
        return -ESRCH;
    return (size_t)threads == t->n && look(t) == 0 && (size_t)threads == t->n && are_dead(t);
}

static int stop_all(struct tracer *t)
{
    if (t->task < 0 || t->stat < 0)
        return -ESRCH;
    if (has_thread(t, t->patron.pid))
        return -EDEADLK; /* it would never get to say 'c' */
    t->deadline = monotonic_ns() + PATIENCE_NS;
    for (;;) {
        int rc = seize_all(t);
        if (rc < 0 || (rc = wait_for_all(t)) < 0)
            return rc;
        if ((rc = is_all_stopped(t)) < 0)
            return rc;
        if (rc > 0)
            return count_held(t) ? 0 : -ESRCH;
        if (is_late(t))
            return -ETIMEDOUT;
        sched_yield(); /* one is coming or going right now */
    }
}

static bool detach(const struct thread *thread)
{
    long signal = thread->signal;
    return thread->is == DEAD ||
           (thread->is == STOPPED && ptrace(PTRACE_DETACH, thread->tid, NULL, signal) == 0);
}

/* The last first: another of us waits for the first, and finds the others free then.
 * Gives how many could not be let go. */
static size_t let_go(struct tracer *t)
{
    size_t kept = t->n;
    for (size_t i = t->n; i-- > 0;)
        if (!detach(&t->threads[i]))
            t->threads[--kept] = t->threads[i];
    t->n -= kept;
    if (t->n)
        memmove(t->threads, t->threads + kept, t->n * sizeof *t->threads);
    return t->n;
}

/* Those that we let go first may exec() or exit(), and so end the others before it is their
 * turn.  They only wait for us to reap them; what does not end in time is let go by our end. */
static bool let_all_go(struct tracer *t)
{
    t->deadline = monotonic_ns() + PATIENCE_NS;
    for (let_go(t); look(t); let_go(t))
        if (is_late(t) || wait_for_change(t, NUDGE_MS) < 0)
            return false;
    return let_go(t) == 0;
}

/* ---- being asked ---------------------------------------------------------------------- */

/* The next thing we are asked; 0: nothing more. */
static char hear(struct tracer *t)
{
    for (;;) {
        struct pollfd p[] = {{.fd = SOCKET, .events = POLLIN},
                             {.fd = t->children, .events = POLLIN}};
        int ready = poll(p, 2, TICK_MS);
        if (ready == 0 && !is_patron_there(&t->patron, t->n))
            return 0;
        if (p[1].revents)
            look(t); /* one of those that we hold was killed */
        char what;
        if (p[0].revents)
            return recv(SOCKET, &what, 1, 0) == 1 ? what : 0;
    }
}

static void serve(struct tracer *t)
{
    bool more = true;
    while (more) {
        int rc;
        switch (hear(t)) {
        case 's':
            rc = stop_all(t);
            if (rc < 0)
                let_go(t);
            more = answer(-rc, count_held(t)) && rc == 0; /* our end lets go what we cannot */
            break;
        case 'c':
            more = let_all_go(t);
            more = answer(0, 0) && more;
            break;
        default:
            more = false;
        }
    }
    let_go(t);
}

/* ---- starting --------------------------------------------------------------------------- */

static bool settle(struct tracer *t)
{
    t->children = turn_away();
    signal(SIGALRM, while_seizing);
    return t->children >= 0;
}

static bool find(struct tracer *t, const char *pid)
{
    char path[64], *end;
    long n = strtol(pid, &end, 10);
    if (n <= 0 || n > INT32_MAX || *end || !find_patron(&t->patron))
        return false;
    t->pid = (pid_t)n;
    snprintf(path, sizeof path, "/proc/%d/task", t->pid);
    t->task = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/%d/stat", t->pid);
    t->stat = open(path, O_RDONLY | O_CLOEXEC);
    return true;
}

int main(int argc, char **argv)
{
    struct tracer t = {.children = -1};
    if (argc != 2 || !settle(&t) || !find(&t, argv[1])) {
        fputs("pmaps-tracer: pytest-pmaps starts this program, with a socket as stdin\n", stderr);
        return 2;
    }
    serve(&t);
    free(t.threads);
    return 0;
}
