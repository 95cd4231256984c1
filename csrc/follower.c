/* SPDX-License-Identifier: MIT
 *
 * follower.c - pmaps-follower, a program of its own that follows a process to its end.
 *
 *   pmaps-follower            with a seqpacket socket as stdin
 *
 * Asked to follow a process, it seizes it, and holds it where something can be seen of it that
 * cannot be seen later: after each exec(), before the new program has run, and before its exit,
 * while its memory is there still.  It says so, and lets go when it is told to.  Nothing else
 * that happens to the process is changed: signals are delivered, job control stops it, and its
 * parent, who started us too, waits for it as it always would.
 *
 * It is a program of its own because whoever traces a process sees its stops in wait().
 *
 * Whatever happens, the target goes on.  When the other end closes, or whoever holds it
 * ends or is stopped itself, we let go; when we are killed the kernel does.  A signal on its
 * way is not lost then: its stop is only looked at (WNOWAIT), and ended by delivering it.
 *
 * Of the exit.  Each thread stops on its way out (PTRACE_EVENT_EXIT), before it gives up its
 * memory, and the process is captured when the last one has.  A thread that ends by itself,
 * while others go on, is none of our business, and neither are those that an exec() ends.
 */
#include "program.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 50 /* between two looks at whoever asked us */
#define JUDGE_MS 2 /* between two looks at threads that are to follow others out */
#define EXIT_PATIENCE_NS UINT64_C(1000000000) /* for the last thread to be on its way out */
#define HOLD_PATIENCE_NS UINT64_C(120000000000) /* for a word, with the target held */
#define SPEAK_PATIENCE_MS 2000 /* for room to say something */

#define OPTIONS (PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT | PTRACE_O_TRACECLONE)
#define OPTIONS_TREE (OPTIONS | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK)

/* Asked: 'a' follow `pid`, with its children if `value`; 'g' let `pid` go on.
 * Told: 'a' seized, or the errno in `value`.
 *       'f' `pid` is followed too: a child, `other` is its parent.
 *       'e' `pid` is held after an exec().
 *       'x' `pid` is held before its end; `other`: the thread to look through, where not the
 *           first; `value`: the wait status to come; `late`: threads that are not on their way.
 *       'd' `pid` has ended without having been held, by `value`.
 *       'l' `pid` was held for too long, or for one who had been stopped, and went on, or (`value`)
 *           it was killed: what was seen of it after it was held may be of another moment.
 * `hold` numbers what 'e' and 'x' tell, for 'g' and 'l' to name it. */
struct word {
    int32_t what, pid, other, value, late, hold;
};

struct thread {
    pid_t tid;
    bool leaving; /* stopped on its way out */
};

struct process {
    pid_t pid;
    bool fresh;           /* its end is not told yet */
    char held;            /* 'e', 'x', or 0 */
    int32_t hold;         /* which of all that were held */
    bool released;        /* it was held at its end: whoever is left may leave */
    int status;           /* to come */
    uint64_t deadline;    /* for a word, or for others to leave; 0: none */
    struct thread *threads;
    size_t n, cap;
};

struct follower {
    struct patron patron;
    int children; /* signalfd of SIGCHLD */
    int32_t holds;
    bool tree, over;
    struct process **processes;
    size_t n, cap;
};

/* ---- saying --------------------------------------------------------------------------- */

static void tell(struct follower *f, struct word word)
{
    struct pollfd p = {.fd = SOCKET, .events = POLLOUT};
    if (poll(&p, 1, SPEAK_PATIENCE_MS) <= 0 ||
        send(SOCKET, &word, sizeof word, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof word)
        f->over = true;
}

/* ---- processes and threads ------------------------------------------------------------- */

static bool make_room(void **list, size_t size, size_t n, size_t *cap)
{
    if (n < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 16;
    void *grown = realloc(*list, more * size);
    if (!grown)
        return false;
    *list = grown;
    *cap = more;
    return true;
}

static struct process *process_of(struct follower *f, pid_t pid)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->processes[i]->pid == pid)
            return f->processes[i];
    return NULL;
}

static struct process *add_process(struct follower *f, pid_t pid)
{
    struct process *p = calloc(1, sizeof *p);
    void *list = f->processes;
    if (!p || !make_room(&list, sizeof *f->processes, f->n, &f->cap)) {
        free(p);
        return NULL;
    }
    f->processes = list;
    p->pid = pid;
    p->fresh = true;
    return f->processes[f->n++] = p;
}

static void drop_process(struct follower *f, struct process *p)
{
    size_t i = 0;
    while (f->processes[i] != p)
        i++;
    f->processes[i] = f->processes[--f->n];
    free(p->threads);
    free(p);
}

static struct thread *add_thread(struct process *p, pid_t tid)
{
    void *list = p->threads;
    if (!make_room(&list, sizeof *p->threads, p->n, &p->cap))
        return NULL;
    p->threads = list;
    p->threads[p->n] = (struct thread){.tid = tid};
    return &p->threads[p->n++];
}

static void drop_thread(struct process *p, struct thread *t)
{
    *t = p->threads[--p->n];
}

static struct thread *find_thread(struct follower *f, pid_t tid, struct process **of)
{
    for (size_t i = 0; i < f->n; i++)
        for (size_t j = f->processes[i]->n; j-- > 0;)
            if (f->processes[i]->threads[j].tid == tid) {
                *of = f->processes[i];
                return &f->processes[i]->threads[j];
            }
    return NULL;
}

static size_t count_leaving(const struct process *p)
{
    size_t leaving = 0;
    for (size_t i = 0; i < p->n; i++)
        leaving += p->threads[i].leaving;
    return leaving;
}

/* A number behind a key of /proc/TID/status; 0 where there is none. */
static pid_t ask_status(pid_t tid, const char *key)
{
    char path[32], status[4096];
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    if (!slurp(-1, path, status, sizeof status))
        return 0;
    const char *line = strstr(status, key);
    return line ? (pid_t)strtol(line + strlen(key), NULL, 10) : 0;
}

static bool is_dead(pid_t tid)
{
    char path[32], stat[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    return slurp(-1, path, stat, sizeof stat) && *behind_comm(stat) == 'Z';
}

/* The system call that a thread is in; -1: none, or nobody knows. */
static long call_of(pid_t tid)
{
    char path[40], call[256], *end;
    snprintf(path, sizeof path, "/proc/%d/syscall", tid);
    if (!slurp(-1, path, call, sizeof call))
        return -1;
    long nr = strtol(call, &end, 10);
    return end == call ? -1 : nr;
}

static bool is_executing(pid_t tid)
{
    long nr = call_of(tid);
    return nr == SYS_execve || nr == SYS_execveat;
}

/* ---- letting go ------------------------------------------------------------------------ */

static void go_on(pid_t tid, int signal)
{
    ptrace(PTRACE_CONT, tid, NULL, (long)signal);
}

/* For good.  A thread on its way out needs no tracer to reap it then, and its parent hears. */
static void part_with(pid_t tid)
{
    ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

static void let_leave(struct process *p)
{
    for (size_t i = p->n; i-- > 0;)
        if (p->threads[i].leaving) {
            part_with(p->threads[i].tid);
            drop_thread(p, &p->threads[i]);
        }
}

static void release(struct follower *f, struct process *p)
{
    char held = p->held;
    p->held = 0;
    p->deadline = 0;
    if (held == 'e')
        go_on(p->pid, 0);
    if (held == 'x') {
        p->released = true;
        let_leave(p);
        if (!p->n)
            drop_process(f, p);
    }
}

/* Held for too long: whoever asked has to know that it goes on. */
static void release_late(struct follower *f, struct process *p)
{
    tell(f, (struct word){.what = 'l', .pid = p->pid, .hold = p->hold});
    release(f, p);
}

static void hold(struct follower *f, struct process *p, char where)
{
    p->held = where;
    p->hold = ++f->holds;
    p->deadline = monotonic_ns() + HOLD_PATIENCE_NS;
}

/* ---- the end of a process --------------------------------------------------------------- */

static void hold_at_end(struct follower *f, struct process *p)
{
    size_t leaving = count_leaving(p);
    pid_t through = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->threads[i].leaving)
            through = p->threads[i].tid;
    for (size_t i = 0; i < p->n; i++)
        if (p->threads[i].leaving && p->threads[i].tid == p->pid)
            through = 0;
    hold(f, p, 'x');
    p->fresh = false;
    tell(f, (struct word){.what = 'x',
                          .pid = p->pid,
                          .other = through,
                          .value = p->status,
                          .late = (int32_t)(p->n - leaving),
                          .hold = p->hold});
}

/* Whether one of those that are not leaving has others end, to be alone in its new program. */
static bool is_anyone_executing(const struct process *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (!p->threads[i].leaving && is_executing(p->threads[i].tid))
            return true;
    return false;
}

/* Killed in its stop on the way out, the first thread is dead before it was met there, and the
 * kernel tells of it when all others are gone: who are waiting for it here. */
static void drop_dead_leader(struct process *p)
{
    for (size_t i = p->n > 1 ? p->n : 0; i-- > 0;) {
        struct thread *t = &p->threads[i];
        if (t->tid == p->pid && !t->leaving && is_dead(t->tid)) {
            drop_thread(p, t);
            return;
        }
    }
}

/* Some of its threads are on their way out: is it the end of the process? */
static void judge(struct follower *f, struct process *p)
{
    if (p->held)
        return;
    size_t leaving = count_leaving(p);
    if (leaving == 0) {
        p->deadline = 0;
        return;
    }
    if (p->released || (leaving < p->n && is_anyone_executing(p))) {
        let_leave(p);
        p->deadline = 0;
        if (!p->n)
            drop_process(f, p);
        return;
    }
    if (leaving < p->n)
        drop_dead_leader(p);
    if (p->deadline == 0)
        p->deadline = monotonic_ns() + EXIT_PATIENCE_NS;
    if (leaving == p->n || monotonic_ns() >= p->deadline)
        hold_at_end(f, p);
}

static void at_exit_of(struct follower *f, struct process *p, struct thread *t)
{
    unsigned long status = 0;
    ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &status);
    t->leaving = true;
    if (p->held == 'e') { /* killed there */
        tell(f, (struct word){.what = 'l', .pid = p->pid, .value = 1, .hold = p->hold});
        p->held = 0;
        p->deadline = 0;
    }
    pid_t tid = t->tid;
    drop_dead_leader(p);
    t = find_thread(f, tid, &p); /* which may have moved */
    bool others = count_leaving(p) < p->n;
    /* Where nobody says, each but the last may go; it only is not seen with the others then. */
    long call = call_of(t->tid);
    bool alone = call < 0 || call == SYS_exit;
    p->status = (int)status; /* the last one's is the process's, since Linux 6.0 */
    if (alone && others) {
        part_with(t->tid);
        drop_thread(p, t);
    }
    judge(f, p);
}

/* The one thread that is left has the process's id, whatever it had before. */
static void at_exec_of(struct follower *f, struct process *p)
{
    p->n = 0;
    p->status = 0;
    add_thread(p, p->pid); /* there is room: there was one before */
    hold(f, p, 'e');
    tell(f, (struct word){.what = 'e', .pid = p->pid, .hold = p->hold});
}

/* ---- what happens ------------------------------------------------------------------------ */

static bool is_job_control(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* A group stop: it stands as it would without us, until SIGCONT; else it goes on. */
static void stand_or_go(pid_t tid, int signal)
{
    if (is_job_control(signal))
        ptrace(PTRACE_LISTEN, tid, NULL, NULL);
    else
        go_on(tid, 0);
}

/* One that the kernel had us trace from its first instruction on; NULL: a child, where children
 * are none of our business, or what is left of a process that is over. */
static struct thread *welcome(struct follower *f, pid_t tid, struct process **of)
{
    pid_t pid = ask_status(tid, "\nTgid:");
    *of = pid > 0 ? process_of(f, pid) : NULL;
    if (!*of && f->tree && pid == tid && (*of = add_process(f, pid)))
        tell(f, (struct word){.what = 'f', .pid = pid, .other = ask_status(tid, "\nPPid:")});
    return *of ? add_thread(*of, tid) : NULL;
}

static struct thread *find_or_welcome(struct follower *f, pid_t tid, struct process **of)
{
    struct thread *t = find_thread(f, tid, of);
    return t ? t : welcome(f, tid, of);
}

/* It has made another.  That one is known from now on, and not only when it first stops: its
 * maker may end before, and would be taken for the last there is.  Where it has ended already
 * it is ours no more. */
static void at_birth(struct follower *f, pid_t maker)
{
    unsigned long made = 0;
    struct process *of;
    ptrace(PTRACE_GETEVENTMSG, maker, NULL, &made);
    if (made && ask_status((pid_t)made, "\nTracerPid:") == getpid())
        find_or_welcome(f, (pid_t)made, &of);
    go_on(maker, 0);
}

/* An exec() by a thread that is not the first: known by its old id until now. */
static struct process *executed(struct follower *f, pid_t tid)
{
    struct process *p = process_of(f, tid);
    if (p)
        return p;
    struct process *of = NULL;
    return find_thread(f, tid, &of) ? of : NULL;
}

static void at_stop(struct follower *f, pid_t tid, int signal)
{
    struct process *p = NULL;
    if (find_or_welcome(f, tid, &p))
        stand_or_go(tid, signal);
    else
        part_with(tid);
}

static bool is_birth(int event)
{
    return event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK;
}

static void at_event(struct follower *f, pid_t tid, int event, int signal)
{
    struct process *p = NULL;
    struct thread *t = NULL;
    if (event == PTRACE_EVENT_STOP)
        at_stop(f, tid, signal);
    else if (event == PTRACE_EVENT_EXEC && (p = executed(f, tid)))
        at_exec_of(f, p);
    else if (event == PTRACE_EVENT_EXIT && (t = find_or_welcome(f, tid, &p)))
        at_exit_of(f, p, t); /* killed before its first stop, it is met here */
    else if (event == PTRACE_EVENT_EXIT)
        part_with(tid);
    else if (is_birth(event))
        at_birth(f, tid);
    else
        go_on(tid, event ? 0 : signal);
}

/* It ended without a stop: killed while it was in one. */
static void at_death(struct follower *f, pid_t tid, int status)
{
    struct process *p = NULL;
    struct thread *t = find_thread(f, tid, &p);
    if (!t)
        return;
    drop_thread(p, t);
    if (p->n) {
        judge(f, p);
        return;
    }
    if (p->fresh || p->held)
        tell(f, (struct word){.what = 'd', .pid = p->pid, .value = status});
    drop_process(f, p);
}

static int wait_status(const siginfo_t *info)
{
    return info->si_code == CLD_EXITED ? info->si_status << 8 : info->si_status;
}

static void handle(struct follower *f, const siginfo_t *info)
{
    siginfo_t taken;
    pid_t tid = info->si_pid;
    bool stopped = info->si_code == CLD_TRAPPED || info->si_code == CLD_STOPPED;
    int event = stopped ? info->si_status >> 8 : 0;
    if (stopped && !event) {
        if (ptrace(PTRACE_CONT, tid, NULL, (long)(info->si_status & 0xff)) < 0)
            waitid(P_PID, (id_t)tid, &taken, WSTOPPED | WNOHANG | __WALL);
        return;
    }
    /* These carry no signal that could be lost, and each is to be met once. */
    int what = (stopped ? WSTOPPED : WEXITED) | WNOHANG | __WALL;
    taken.si_pid = 0;
    if (waitid(P_PID, (id_t)tid, &taken, what) < 0 || taken.si_pid == 0)
        return; /* it was killed just now, which is the next thing to be met */
    if (!stopped)
        at_death(f, tid, wait_status(&taken));
    else /* not always where it was seen: killed just now, it stops on its way out instead */
        at_event(f, tid, taken.si_status >> 8, taken.si_status & 0xff);
}

static void meet_all(struct follower *f)
{
    struct signalfd_siginfo drained;
    while (read(f->children, &drained, sizeof drained) > 0)
        continue;
    while (!f->over) {
        siginfo_t info = {.si_pid = 0};
        int what = WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL;
        if (waitid(P_ALL, 0, &info, what) < 0 || info.si_pid == 0)
            return;
        handle(f, &info);
    }
}

/* ---- being asked -------------------------------------------------------------------------- */

static void follow(struct follower *f, pid_t pid, bool tree)
{
    struct process *p = f->n ? NULL : add_process(f, pid);
    int status = p && add_thread(p, pid) ? 0 : ENOMEM;
    long options = tree ? OPTIONS_TREE : OPTIONS;
    f->tree = tree;
    if (!status && ptrace(PTRACE_SEIZE, pid, NULL, options) < 0)
        status = errno;
    /* There is no process 0, and the kernel would say so. */
    if (status == EPERM && ptrace(PTRACE_SEIZE, 0, NULL, NULL) < 0 && errno != ESRCH)
        status = ENOSYS;
    if (status && p)
        drop_process(f, p);
    tell(f, (struct word){.what = 'a', .pid = pid, .value = status});
}

static void hear(struct follower *f)
{
    struct word word;
    ssize_t got = recv(SOCKET, &word, sizeof word, MSG_DONTWAIT);
    if (got != (ssize_t)sizeof word) {
        f->over = got >= 0 || (errno != EAGAIN && errno != EINTR);
        return;
    }
    struct process *p = process_of(f, word.pid);
    if (word.what == 'a')
        follow(f, word.pid, word.value != 0);
    else if (word.what == 'g' && p && p->held && p->hold == word.hold)
        release(f, p);
}

/* What has waited for long enough; whether something waits for threads still. */
static bool look_after(struct follower *f)
{
    bool soon = false;
    for (size_t i = f->n; i-- > 0;) {
        struct process *p = f->processes[i];
        if (p->held && monotonic_ns() >= p->deadline)
            release_late(f, p);
        else if (!p->held && p->deadline)
            judge(f, p);
        if (i < f->n)
            soon |= !f->processes[i]->held && f->processes[i]->deadline;
    }
    return soon;
}

static bool is_holding(const struct follower *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->processes[i]->held)
            return true;
    return false;
}

static void look_at_patron(struct follower *f)
{
    if (is_patron_there(&f->patron, is_holding(f)))
        return;
    f->over = getppid() != f->patron.pid;
    for (size_t i = f->n; i-- > 0;)
        if (f->processes[i]->held)
            release_late(f, f->processes[i]);
}

static void serve(struct follower *f)
{
    while (!f->over) {
        struct pollfd p[] = {{.fd = SOCKET, .events = POLLIN},
                             {.fd = f->children, .events = POLLIN}};
        int ready = poll(p, 2, look_after(f) ? JUDGE_MS : TICK_MS);
        if (ready == 0)
            look_at_patron(f);
        if (p[1].revents)
            meet_all(f);
        if (!f->over && p[0].revents)
            hear(f);
    }
}

int main(int argc, char **argv)
{
    struct follower f = {.children = -1};
    (void)argv;
    /* Stopped ourselves we could not let go: when whoever started us ends, so do we. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 1 || (f.children = turn_away()) < 0 || !find_patron(&f.patron)) {
        fputs("pmaps-follower: pytest-pmaps starts this program, with a socket as stdin\n", stderr);
        return 2;
    }
    serve(&f);
    return 0; /* the kernel lets go what we follow still */
}
