/* SPDX-License-Identifier: MIT
 *
 * target.c - finding a process, naming why it cannot be read, noticing its end.
 *
 * One directory descriptor of /proc/PID serves all files: it stays with the
 * process it was opened for, even when the pid is reused.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What /proc/PID/stat and status say that decides whether there is memory to look at. */
struct life {
    uint64_t start_time, flags, threads, faults;
    char state;
    bool has_memory;
};

static int open_dir(struct pm__capture *c)
{
    char path[64];
    if (c->header.self)
        snprintf(path, sizeof path, "/proc/self");
    else if (c->request->thread)
        snprintf(path, sizeof path, "/proc/%lld/task/%d", (long long)c->header.pid,
                 (int)c->request->thread);
    else
        snprintf(path, sizeof path, "/proc/%lld", (long long)c->header.pid);
    int fd = c->io->open(c->io->ctx, AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (fd == -ENOENT)
        return pm__fail(c, PM_E_GONE, PM_AT_PROC, "");
    if (fd < 0)
        return pm__fail(c, -fd, PM_AT_PROC, path);
    c->dir = fd;
    return 0;
}

/* Reads a small file of the target whole, with a NUL behind it. */
static ssize_t slurp(struct pm__capture *c, int dir, const char *name, char *buf, size_t cap)
{
    int fd = c->io->open(c->io->ctx, dir, name, O_RDONLY);
    if (fd < 0)
        return fd;
    ssize_t got = pm__pread_full(c->io, fd, buf, cap - 1, 0);
    c->io->close(c->io->ctx, fd);
    if (got >= 0)
        buf[got] = '\0';
    return got;
}

#define TASK_IS_KTHREAD UINT64_C(0x00200000) /* PF_KTHREAD, field 9 of /proc/PID/stat */

/* The number after so many blanks. */
static bool parse_field(const char *p, const char *end, int blanks, uint64_t *out)
{
    for (; blanks > 0 && p; blanks--) {
        p = memchr(p, ' ', (size_t)(end - p));
        p = p ? p + 1 : NULL;
    }
    return p && pm__dec(&p, end, out);
}

/* /proc/PID/stat: pid (comm) state ... with starttime as field 22; comm may hold anything. */
static int parse_stat(struct pm__capture *c, const char *buf, size_t len, struct life *life)
{
    const char *end = buf + len;
    const char *open = memchr(buf, '(', len);
    const char *close = memrchr(buf, ')', len);
    if (!open || !close || close < open || end - close < 4)
        return pm__fail(c, PM_E_FORMAT, PM_AT_STAT, "no comm");
    size_t n = (size_t)(close - open - 1);
    if (n >= sizeof c->header.comm)
        n = sizeof c->header.comm - 1;
    memcpy(c->header.comm, open + 1, n);
    c->header.comm[n] = '\0';
    life->state = close[2];
    uint64_t minor, major;
    if (!parse_field(close + 2, end, 9 - 3, &life->flags) ||
        !parse_field(close + 2, end, 10 - 3, &minor) ||
        !parse_field(close + 2, end, 12 - 3, &major) ||
        !parse_field(close + 2, end, 20 - 3, &life->threads) ||
        !parse_field(close + 2, end, 22 - 3, &life->start_time))
        return pm__fail(c, PM_E_FORMAT, PM_AT_STAT, "no start time");
    life->faults = minor + major;
    return 0;
}

static uint64_t status_kb(const char *text, const char *key)
{
    const char *p = strstr(text, key);
    uint64_t kb;
    if (!p)
        return UINT64_MAX;
    p += strlen(key);
    p += strspn(p, " \t");
    return pm__dec(&p, p + strlen(p), &kb) ? kb * 1024 : UINT64_MAX;
}

static ssize_t slurp_stat(struct pm__capture *c, int dir, const char *path, char *buf, size_t cap)
{
    ssize_t got = slurp(c, dir, path, buf, cap);
    return got == 0 ? -ESRCH : got;
}

static int read_stat(struct pm__capture *c, struct life *life)
{
    char buf[4096];
    ssize_t got = slurp_stat(c, c->dir, "stat", buf, sizeof buf);
    if (got == -ENOENT || got == -ESRCH)
        return pm__fail(c, PM_E_GONE, PM_AT_STAT, "");
    if (got < 0)
        return pm__fail(c, (int)-got, PM_AT_STAT, "stat");
    return parse_stat(c, buf, (size_t)got, life);
}

/* What reading it costs this thread, where the target is ourselves.  Through a file, so that a
 * recording holds it too. */
static uint64_t our_faults(struct pm__capture *c)
{
    struct life life = {0};
    char buf[4096], comm[sizeof c->header.comm];
    if (!c->header.self)
        return 0;
    ssize_t got = slurp_stat(c, AT_FDCWD, "/proc/thread-self/stat", buf, sizeof buf);
    memcpy(comm, c->header.comm, sizeof comm);
    if (got < 0 || parse_stat(c, buf, (size_t)got, &life) < 0)
        return 0; /* then all faults are taken for others' */
    memcpy(c->header.comm, comm, sizeof comm); /* a thread's name is not the process's */
    return life.faults;
}

static int read_life(struct pm__capture *c, struct life *life)
{
    char buf[16384];
    int rc = read_stat(c, life);
    if (rc < 0)
        return rc;
    c->header.hidden_rss = c->header.self ? pm__ours() : 0;
    ssize_t got = slurp(c, c->dir, "status", buf, sizeof buf);
    if (got < 0)
        return pm__fail(c, got == -ENOENT || got == -ESRCH ? PM_E_GONE : (int)-got, PM_AT_STAT,
                        "status");
    /* The kernel prints the Vm lines only for a task that has an mm. */
    life->has_memory = strstr(buf, "\nVmSize:") != NULL;
    c->vm_size = status_kb(buf, "\nVmSize:");
    c->header.vm_hwm = status_kb(buf, "\nVmHWM:");
    c->header.vm_rss = status_kb(buf, "\nVmRSS:");
    c->header.vm_pte = status_kb(buf, "\nVmPTE:");
    c->header.vm_swap = status_kb(buf, "\nVmSwap:");
    return 0;
}

static bool has_exited(const struct life *life)
{
    return life->state == 'Z' || life->state == 'X' || life->state == 'x';
}

/* The main thread has ended and others have not: while the process exits, while one of the
 * others executes a program and becomes the process, or for good. */
static bool is_headless(const struct life *life)
{
    return life->threads > 1 && (has_exited(life) || !life->has_memory);
}

/* On its way to become a zombie, or another program; a task that was just released has 0. */
static bool is_passing(const struct life *life)
{
    if (life->flags & TASK_IS_KTHREAD)
        return false;
    return has_exited(life) ? life->threads != 1 : !life->has_memory;
}

static int refuse_memoryless(struct pm__capture *c, const struct life *life)
{
    if (is_headless(life))
        return pm__fail(c, PM_E_HEADLESS, PM_AT_STAT, "");
    if (has_exited(life))
        return pm__fail(c, PM_E_ZOMBIE, PM_AT_STAT, "");
    if (!life->has_memory) /* on its way out, it has given its memory back already */
        return pm__fail(c, life->flags & TASK_IS_KTHREAD ? PM_E_KTHREAD : PM_E_GONE, PM_AT_STAT,
                        "");
    return 0;
}

#define NAP_NS 1000000L
#define NAPS 200

/* Given the time to become a zombie, or another program, before it is called anything. */
static int await_head(struct pm__capture *c, struct life *life)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int rc = read_life(c, life);
    for (int i = 0; rc == 0 && is_passing(life) && i < NAPS; i++) {
        nanosleep(&nap, NULL);
        rc = read_life(c, life);
    }
    return rc < 0 ? rc : refuse_memoryless(c, life);
}

static int open_file(struct pm__capture *c, const char *name, enum pm_stage stage, int *out)
{
    int fd = c->io->open(c->io->ctx, c->dir, name, O_RDONLY);
    if (fd == -ESRCH)
        return pm__target_verify(c);
    if (fd < 0)
        return pm__fail(c, -fd, stage, name);
    *out = fd;
    return 0;
}

/* Not there, or not ours to read, is fine; being out of descriptors is not. */
static int open_welcome(struct pm__capture *c, int dir, const char *name, int *out)
{
    *out = c->io->open(c->io->ctx, dir, name, O_RDONLY);
    if (*out == -EMFILE || *out == -ENFILE)
        return pm__fail(c, -*out, PM_AT_PROC, name);
    return 0;
}

/* Whether meminfo says that there is some of it; where it does not say, there may be. */
static void look_at_host(struct pm__capture *c)
{
    char *buf = c->scratch;
    ssize_t got = 0;
    int fd = c->io->open(c->io->ctx, AT_FDCWD, "/proc/meminfo", O_RDONLY);
    if (fd >= 0) {
        got = pm__pread_full(c->io, fd, buf, 16384 - 1, 0);
        c->io->close(c->io->ctx, fd);
    }
    buf[got > 0 ? got : 0] = '\0';
    c->unevictable_seen = status_kb(buf, "\nUnevictable:") != 0;
    c->swap_seen = status_kb(buf, "\nSwapTotal:") != 0 || status_kb(buf, "\nSwapCached:") != 0;
}

#define STEADY_TRIES 8

/* Page faults of the process that are not this thread's own.  Reading them may fault itself, so
 * that our own are counted before and after. */
static uint64_t others_faults(struct pm__capture *c, struct life *life, int *rc)
{
    uint64_t before = our_faults(c), after = before;
    for (int i = 0; i < STEADY_TRIES; i++) {
        *rc = read_stat(c, life);
        after = our_faults(c);
        if (*rc < 0 || after == before)
            break;
        before = after;
    }
    return life->faults - after;
}

/* Page faults since the capture began: something of the target changed, though what it is may
 * have been undone before it was looked at again.  Of ourselves only what other threads did. */
int pm__target_faults(struct pm__capture *c)
{
    struct life life = {0};
    int rc;
    uint64_t faults = others_faults(c, &life, &rc);
    if (rc == 0)
        c->header.faults = faults - c->faults;
    return rc == -PM_E_GONE ? pm__target_verify(c) : rc;
}

/* Where we look through a thread: that is not as old as its process. */
static int read_age(struct pm__capture *c, struct life *life)
{
    char buf[4096];
    if (!c->request->thread)
        return 0;
    ssize_t got = slurp_stat(c, c->dir, "../../stat", buf, sizeof buf);
    if (got < 0)
        return pm__fail(c, (int)-got, PM_AT_STAT, "stat");
    return parse_stat(c, buf, (size_t)got, life);
}

/* Finds the process, and how much memory there is to be looked at. */
int pm__target_find(struct pm__capture *c)
{
    struct life life;
    int rc = open_dir(c);
    if (rc < 0 || (rc = await_head(c, &life)) < 0)
        return rc;
    c->faults = life.faults;
    if ((rc = read_age(c, &life)) < 0)
        return rc;
    c->header.start_time = life.start_time;
    if (c->header.self)
        c->faults = others_faults(c, &life, &rc);
    return rc;
}

static int open_counters(struct pm__capture *c)
{
    bool totals = c->request->depth == PM_TOTALS;
    int rc = totals ? open_file(c, "smaps_rollup", PM_AT_SMAPS, &c->rollup)
                    : open_file(c, "smaps", PM_AT_SMAPS, &c->smaps);
    if (rc < 0 || c->request->depth != PM_FULL)
        return rc;
    /* Welcome, not needed; what is missing shows as unknown. */
    rc = open_welcome(c, c->dir, "smaps_rollup", &c->rollup);
    return rc < 0 ? rc : open_welcome(c, c->dir, "numa_maps", &c->numa);
}

static int open_frames(struct pm__capture *c)
{
    int rc = open_welcome(c, AT_FDCWD, "/proc/kpageflags", &c->kpageflags);
    return rc < 0 ? rc : open_welcome(c, AT_FDCWD, "/proc/kpagecount", &c->kpagecount);
}

/* Opens everything before anything is read, so that all of it is one process's. */
int pm__target_open(struct pm__capture *c)
{
    int depth = c->request->depth;
    int rc = pm__wants_counters(c) ? open_counters(c) : open_file(c, "maps", PM_AT_MAPS, &c->maps);
    if (rc == 0 && depth >= PM_PAGES)
        rc = open_file(c, "pagemap", PM_AT_PAGEMAP, &c->pagemap);
    if (rc == 0 && depth == PM_FULL)
        rc = open_frames(c);
    if (rc == 0 && depth == PM_FULL)
        look_at_host(c);
    return rc;
}

void pm__target_close(struct pm__capture *c)
{
    int *fds[] = {&c->kpagecount, &c->kpageflags, &c->numa, &c->pagemap,
                  &c->rollup,     &c->smaps,      &c->maps, &c->dir};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            c->io->close(c->io->ctx, *fds[i]);
        *fds[i] = -1;
    }
}

/* After exec or exit the old descriptors read as a clean end of file, so an
 * empty second reading of smaps brings us here to ask which of the two it was. */
int pm__target_verify(struct pm__capture *c)
{
    struct life life;
    int rc = read_life(c, &life);
    if (rc == 0 && is_passing(&life)) /* exec by another thread, or exit: the next try tells */
        return pm__fail(c, PM_E_EXEC, PM_AT_STAT, "");
    if (rc < 0 || (rc = refuse_memoryless(c, &life)) < 0)
        return rc == -PM_E_ZOMBIE ? pm__fail(c, PM_E_GONE, PM_AT_STAT, "") : rc;
    return pm__fail(c, PM_E_EXEC, PM_AT_STAT, "");
}
