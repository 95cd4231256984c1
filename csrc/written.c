/* SPDX-License-Identifier: MIT
 *
 * written.c - windows: what this process wrote between two moments, page by page.
 *
 * Windows may overlap.  Whenever one begins or ends, what was written so far is read and kept for
 * each that is open, and the pages are protected again in the same moment.
 *
 * What is written here, while a window is open, lies in blocks: they show in no window, as in no
 * capture.  What still shows is the C stack and the interpreter's own memory.
 */
#include "written.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

struct pm_written {
    pm_written *next;
    int64_t pid;
    int method;
    int broken; /* why nothing can be said any more, or 0 */
    bool open, everything;
    struct pm__regions wanted; /* where it looks, unless everywhere */
    struct pm__regions told;   /* what was written up to the last reading */
};

/* All of it in a block, the lock too: it is let go while pages are protected already. */
struct windows {
    pthread_mutex_t lock;
    pid_t owner; /* whose they are: a child that was made by clone() has run no handler */
    pm_written *open;
    int method; /* of those that are open */
    struct pm__uffd uffd;
    struct pm__regions wanted, now, filled, sum, mapped;
    char lines[PM__LINES];
    struct pm_scan_region vector[PM__VECTOR];
};

static struct windows *windows; /* made with the first window, and kept */

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* No fork between the opening of a descriptor and the moment in which a child would know of it:
 * whoever has it can write into our memory. */
static void before_fork(void)
{
    pthread_mutex_lock(&making);
    if (windows)
        pthread_mutex_lock(&windows->lock);
}

static void after_fork(void)
{
    if (windows)
        pthread_mutex_unlock(&windows->lock);
    pthread_mutex_unlock(&making);
}

/* A forked child has no windows: the descriptors are of its parent's memory. */
static void forget_windows(void)
{
    if (windows)
        pm__uffd_forget(&windows->uffd);
    windows = NULL;
    pthread_mutex_init(&making, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, forget_windows);
}

static struct windows *get_windows(void)
{
    pthread_mutex_lock(&making);
    if (windows && windows->owner != getpid()) {
        pm__uffd_forget(&windows->uffd);
        windows = NULL;
    }
    if (!windows) {
        struct windows *all = pm__block_new(sizeof *all);
        if (all) {
            pthread_mutex_init(&all->lock, NULL);
            all->owner = getpid();
            all->uffd.fd = all->uffd.pagemap = -1;
            all->uffd.lines = all->lines;
            all->uffd.vector = all->vector;
        }
        windows = all;
    }
    pthread_mutex_unlock(&making);
    return windows;
}

/* ---- what is mapped ------------------------------------------------------------------ */

struct reading {
    struct pm__regions *out;
    bool listed; /* the last line that began a mapping is the last in the list */
};

static bool starts(const char *s, size_t len, const char *with)
{
    return len >= strlen(with) && memcmp(s, with, strlen(with)) == 0;
}

/* By its name, since maps says no more: what is not memory as others are. */
static uint32_t kind_of(const char *name, size_t len)
{
    if (starts(name, len, "[vvar") || starts(name, len, "[vdso"))
        return starts(name, len, "[vvar") ? PM__V_KERNELS : 0;
    if (starts(name, len, "/dev/"))
        return starts(name, len, "/dev/shm/") || starts(name, len, "/dev/zero") ||
                       starts(name, len, "/dev/hugepages")
                   ? 0
                   : PM__V_SPECIAL;
    if (starts(name, len, "[heap]"))
        return PM__V_HEAP;
    if (starts(name, len, "[stack") || starts(name, len, "[anon") || len == 0)
        return 0;
    return name[0] == '/' && !starts(name, len, "/[aio]") ? 0 : PM__V_SPECIAL;
}

/* The line of a mapping: start-end perms offset major:minor inode   name */
static int add_mapping(struct reading *r, const char *p, const char *end)
{
    uint64_t from, to, skip;
    uint32_t state = 0;
    if (!pm__hex(&p, end, &from) || p++ >= end || !pm__hex(&p, end, &to) || end - p < 6)
        return -PM_E_FORMAT;
    state |= p[2] == 'w' ? PM_WRITE : 0;
    state |= p[4] == 's' ? PM_SHARED_MAP : 0;
    for (p += 6; p < end && *p != ' '; p++) /* offset */
        ;
    while (p < end && *p == ' ')
        p++;
    while (p < end && *p != ' ') /* device */
        p++;
    while (p < end && *p == ' ')
        p++;
    if (!pm__dec(&p, end, &skip)) /* inode */
        return -PM_E_FORMAT;
    while (p < end && *p == ' ')
        p++;
    r->listed = from < UINT64_C(1) << 63; /* [vsyscall] is nobody's memory */
    if (!r->listed)
        return 0;
    state |= kind_of(p, (size_t)(end - p));
    state |= pm__is_ours(from, to, false) ? PM__V_OURS : 0;
    return pm__regions_push(r->out, from, to, state);
}

/* One of VmFlags: a blank and two letters. */
static bool is_flag(const char *p, const char flag[2])
{
    return p[1] == flag[0] && p[2] == flag[1];
}

static int read_line(void *arg, const char *line, size_t len)
{
    static const char flags[] = "VmFlags:";
    struct reading *r = arg;
    const char *p = line, *end = line + len;
    uint64_t ignored;
    if (pm__hex(&p, end, &ignored) && p < end && *p == '-')
        return add_mapping(r, line, end);
    if (!r->listed || !starts(line, len, flags))
        return 0;
    for (p = line + sizeof flags - 1; end - p >= 3; p += 3) {
        uint32_t *state = &r->out->at[r->out->n - 1].state;
        *state |= is_flag(p, "sd") ? PM__V_MARKED : 0;
        *state |= is_flag(p, "ht") ? PM__V_HUGETLB : 0;
        *state |= is_flag(p, "io") || is_flag(p, "pf") ? PM__V_SPECIAL : 0;
    }
    return 0;
}

/* Lists the mappings of maps, or of smaps, which says more. */
int pm__read_mapped(const char *path, char *buf, struct pm__regions *out)
{
    struct reading r = {.out = out};
    int fd = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, path, O_RDONLY);
    if (fd < 0)
        return fd;
    int rc = pm__each_line(&pm__kernel, fd, buf, PM__LINES, read_line, &r);
    pm__kernel.close(pm__kernel.ctx, fd);
    return rc;
}

/* ---- windows that are open ------------------------------------------------------------- */

/* What a window was told before, and what is read now, come to together. */
static int sum_up(struct windows *all, const pm_written *w)
{
    all->filled.n = all->sum.n = 0;
    if (all->method != PM_WRITTEN_UFFD)
        return pm__softdirty_compare(&w->told, &all->now, &all->sum);
    int rc = pm__fill(&w->wanted, &all->uffd.seen.mapped, &all->now, &all->filled);
    return rc < 0 ? rc : pm__combine(&w->told, &all->filled, &all->sum);
}

/* Adds to what each window was told; where that fails nothing can be said any more. */
static void tell(struct windows *all, pm_written *w, int rc)
{
    if (rc == 0)
        rc = sum_up(all, w);
    if (rc < 0 && !w->broken)
        w->broken = rc;
    if (w->broken)
        return;
    struct pm__regions told = w->told;
    w->told = all->sum;
    all->sum = told;
}

/* Reads what was written since the last reading, for `w` (or nobody) and all that are open. */
static void read_for(struct windows *all, pm_written *w)
{
    bool again = all->open;
    int rc;
    all->now.n = 0;
    if (all->method == PM_WRITTEN_UFFD)
        rc = pm__uffd_read(&all->uffd, again, &all->now);
    else
        rc = pm__softdirty_read(all->lines, &all->mapped, &all->now);
    if (w)
        tell(all, w, rc);
    for (pm_written *o = all->open; o; o = o->next)
        tell(all, o, rc);
}

static void close_if_last(struct windows *all)
{
    if (all->open)
        return;
    if (all->method == PM_WRITTEN_UFFD)
        pm__uffd_close(&all->uffd);
    all->method = 0;
}

static void take_out(struct windows *all, pm_written *w)
{
    pm_written **at = &all->open;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    w->open = false;
}

/* Adds the extents of one window to those of others. */
static int unite(struct windows *all, const struct pm__regions *more)
{
    struct pm__regions *sum = &all->sum, was = all->wanted;
    int rc = 0;
    sum->n = 0;
    for (size_t i = 0, k = 0; (i < was.n || k < more->n) && rc == 0;) {
        bool left = k == more->n || (i < was.n && was.at[i].start <= more->at[k].start);
        pm_region r = left ? was.at[i++] : more->at[k++];
        if (sum->n && sum->at[sum->n - 1].end > r.start)
            r.start = sum->at[sum->n - 1].end;
        rc = pm__regions_add(sum, r.start, r.end, 0);
    }
    all->wanted = *sum;
    *sum = was;
    return rc;
}

/* Watches what the open windows want together. */
static int watch(struct windows *all)
{
    bool everything = false;
    int rc = 0;
    all->wanted.n = 0;
    for (pm_written *w = all->open; w && rc == 0; w = w->next) {
        everything |= w->everything;
        rc = unite(all, &w->wanted);
    }
    return rc < 0 ? rc : pm__uffd_watch(&all->uffd, &all->wanted, everything);
}

static int begin_first(struct windows *all, pm_error err[2])
{
    all->method = PM_WRITTEN_UFFD;
    all->uffd.seen.armed.n = all->uffd.seen.scanned.n = 0;
    all->uffd.seen.registered.n = 0;
    all->uffd.top = 0;
    if (pm__uffd_open(&all->uffd, &err[0]) == 0)
        return 0;
    all->method = PM_WRITTEN_SOFTDIRTY;
    int rc = pm__softdirty_clear(&err[1]);
    if (rc < 0)
        all->method = 0;
    return rc;
}

static int begin_another(struct windows *all, pm_error err[2])
{
    if (all->method == PM_WRITTEN_SOFTDIRTY) {
        err[1].code = EBUSY;
        return -EBUSY;
    }
    read_for(all, NULL);
    return 0;
}

static int begin(struct windows *all, pm_written *w, pm_error err[2])
{
    int rc = all->open ? begin_another(all, err) : begin_first(all, err);
    if (rc < 0)
        return rc;
    w->method = all->method;
    w->next = all->open;
    all->open = w;
    w->open = true;
    if (all->method == PM_WRITTEN_UFFD) {
        rc = watch(all);
        rc = rc < 0 ? rc : pm__uffd_arm(&all->uffd);
    } else {
        rc = pm__softdirty_read(all->lines, &all->mapped, &w->told);
    }
    if (rc == 0)
        return 0;
    take_out(all, w);
    close_if_last(all);
    err[0].code = -rc;
    return rc;
}

/* ---- the public side --------------------------------------------------------------------- */

static int check_extents(const pm_extent *extents, size_t n, struct pm__regions *out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end = 0;
    for (size_t i = 0; i < n; i++) {
        const pm_extent *e = &extents[i];
        if (e->start >= e->end || e->start < end || e->start % page || e->end % page)
            return -EINVAL;
        int rc = pm__regions_push(out, e->start, e->end, 0);
        if (rc < 0)
            return rc;
        end = e->end;
    }
    return 0;
}

int pm_written_begin(const pm_extent *extents, size_t n, pm_written **out, pm_error err[2])
{
    *out = NULL;
    memset(err, 0, 2 * sizeof *err);
    pm__features(); /* found out before, as for a capture */
    struct windows *all = get_windows();
    pm_written *w = all ? pm__block_new(sizeof *w) : NULL;
    if (!w)
        return -ENOMEM;
    w->pid = getpid();
    w->everything = n == 0;
    int rc = check_extents(extents, n, &w->wanted);
    if (rc < 0) {
        pm_written_free(w);
        return rc;
    }
    *out = w;
    pthread_mutex_lock(&all->lock);
    rc = begin(all, w, err);
    pthread_mutex_unlock(&all->lock);
    if (rc < 0) {
        *out = NULL;
        pm_written_free(w);
    }
    return rc;
}

int pm_written_end(pm_written *const *window)
{
    pm_written *w = *window;
    if (w->pid != getpid())
        return -ESRCH;
    if (!w->open)
        return w->broken;
    pthread_mutex_lock(&windows->lock);
    take_out(windows, w);
    read_for(windows, w);
    close_if_last(windows);
    pthread_mutex_unlock(&windows->lock);
    return w->broken;
}

void pm_written_free(pm_written *w)
{
    if (!w)
        return;
    if (w->open && w->pid == getpid()) {
        pthread_mutex_lock(&windows->lock);
        take_out(windows, w);
        close_if_last(windows);
        pthread_mutex_unlock(&windows->lock);
    }
    pm__regions_free(&w->wanted);
    pm__regions_free(&w->told);
    pm__block_free(w);
}

void pm_written_drop(pm_written *const *window)
{
    pm_written_free(*window);
}

int pm_written_method(const pm_written *w)
{
    return w->method;
}

void pm_written_regions(const pm_written *w, const pm_region **out, size_t *n)
{
    *out = w->told.at;
    *n = w->told.n;
}

void pm_written_count(const pm_written *w, uint64_t start, uint64_t end,
                      uint64_t out[PM_W_N_STATES])
{
    pm__regions_count(&w->told, start, end, out);
}
