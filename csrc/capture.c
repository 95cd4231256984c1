/* SPDX-License-Identifier: MIT
 *
 * capture.c - the story of one capture, from start to end.
 */
#include "bpf.h"
#include "uapi.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define MAX_TRIES 16 /* each doubles the room that was too small: 2^16 times the first guess */
#define MAX_EXECS 3
#define MAX_MOVES 4
#define MAPPINGS 512 /* that there is room for to begin with */
#define STRINGS ((size_t)64 << 10)

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

int pm__fail(struct pm__capture *c, int code, enum pm_stage stage, const char *detail)
{
    c->err->code = code;
    c->err->stage = stage;
    strncpy(c->err->detail, detail, sizeof c->err->detail - 1);
    return -code;
}

bool pm__has_vmflag(const struct pm__capture *c, const pm_mapping *m, const char flag[2])
{
    const char *s = c->strings + m->vmflags;
    for (uint32_t i = 0; i + 1 < m->vmflags_len; i += 3)
        if (s[i] == flag[0] && s[i + 1] == flag[1])
            return true;
    return false;
}

int pm__add_string(struct pm__capture *c, const char *s, size_t len, uint32_t *at, uint32_t *at_len)
{
    if (len > c->room.strings - c->n_strings)
        return -ENOBUFS;
    memcpy(c->strings + c->n_strings, s, len);
    *at = (uint32_t)c->n_strings;
    *at_len = (uint32_t)len;
    c->n_strings += len;
    return 0;
}

bool pm__wants_counters(const struct pm__capture *c)
{
    const pm_request *q = c->request;
    return q->depth == PM_TOTALS || (q->depth != PM_PAGES && q->counters);
}

uint64_t pm__monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

#define TICK_NS 5000000

/* Tells the caller how far it is, now and then, and asks whether to go on.  Never while the
 * target stands still: whoever is told may take his time. */
int pm__tick(struct pm__capture *c, uint64_t pages)
{
    c->done += pages;
    if (!c->request->tick || c->stopped)
        return 0;
    uint64_t now = pm__monotonic_ns();
    if (now - c->ticked_ns < TICK_NS)
        return 0;
    uint64_t done = c->done < c->total ? c->done : c->total;
    int rc = c->request->tick(c->request->tick_arg, done, c->total);
    c->ticked_ns = pm__monotonic_ns();
    return rc ? -ECANCELED : 0;
}

#define PER_PAGE (2 * sizeof(uint64_t) + 2 * sizeof(uint32_t) + PM__ASIDE)

static size_t size_of(const struct pm__capture *c)
{
    const struct pm__room *r = &c->room;
    size_t counters = pm__wants_counters(c) ? sizeof(pm_counters) : 0;
    return r->mappings * (sizeof(pm_mapping) + sizeof(struct pm__span) + counters) + r->strings +
           r->objects * sizeof(pm_object) + r->parts * sizeof(pm_part) + r->pages * PER_PAGE +
           PM__SCRATCH + ((size_t)128 << 10); /* alignment, and the small things on the way */
}

/* What is resident or swapped out is listed; zero pages and markers are too, and not counted. */
static size_t guess_pages(const struct pm__capture *c)
{
    const pm_header *h = &c->header;
    uint64_t most = c->request->max_pages, pages = 32768;
    if (c->request->depth < PM_PAGES)
        return 1;
    if (h->vm_rss != UINT64_MAX && h->vm_swap != UINT64_MAX) {
        pages = (h->vm_rss + h->vm_swap) / h->page_size;
        pages += pages / 16 + 4096;
    }
    if (c->most_pages && pages > c->most_pages)
        pages = c->most_pages;
    return most && most < pages ? most : pages;
}

/* How much room the mappings of the last processes took: a process is seldom captured only
 * once, and beginning anew because of too little room costs a large one much. */
#define REMEMBERED 8

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int64_t pid;
    uint64_t start_time;
    size_t mappings, strings;
} memory[REMEMBERED];
static unsigned next_memory;

static void recall_room(struct pm__capture *c)
{
    if (pthread_mutex_trylock(&memory_lock) != 0)
        return; /* it may have been held when this process was forked */
    for (int i = 0; i < REMEMBERED; i++) {
        if (memory[i].pid != c->header.pid || memory[i].start_time != c->header.start_time)
            continue;
        c->room.mappings = max(c->room.mappings, memory[i].mappings);
        c->room.strings = max(c->room.strings, memory[i].strings);
    }
    pthread_mutex_unlock(&memory_lock);
}

static void remember_room(const struct pm__capture *c)
{
    if (c->room.mappings <= MAPPINGS && c->room.strings <= STRINGS)
        return;
    if (pthread_mutex_trylock(&memory_lock) != 0)
        return;
    int at = -1;
    for (int i = 0; i < REMEMBERED; i++)
        if (memory[i].pid == c->header.pid && memory[i].start_time == c->header.start_time)
            at = i;
    if (at < 0)
        at = (int)(next_memory++ % REMEMBERED);
    memory[at].pid = c->header.pid;
    memory[at].start_time = c->header.start_time;
    memory[at].mappings = c->room.mappings;
    memory[at].strings = c->room.strings;
    pthread_mutex_unlock(&memory_lock);
}

static int furnish(struct pm__capture *c)
{
    struct pm__room *r = &c->room;
    struct pm__arena *a = &c->arena;
    recall_room(c);
    size_t guess = guess_pages(c);
    r->pages = r->pages > guess ? r->pages : guess;
    int rc = pm__arena_get(a, size_of(c));
    if (rc < 0)
        return pm__fail(c, -rc, PM_AT_ARENA, "");
    c->mappings = pm__take(a, r->mappings, sizeof *c->mappings);
    if (pm__wants_counters(c))
        c->counters = pm__take(a, r->mappings, sizeof *c->counters);
    c->spans = pm__take_zeroed(a, r->mappings, sizeof *c->spans);
    c->strings = pm__take(a, r->strings, 1);
    c->objects = pm__take(a, r->objects, sizeof *c->objects);
    c->parts = pm__take(a, r->parts, sizeof *c->parts);
    c->pages.vpn = pm__take(a, r->pages, sizeof(uint64_t));
    c->pages.entry = pm__take(a, r->pages, sizeof(uint64_t));
    c->pages.state = pm__take(a, r->pages, sizeof(uint32_t));
    c->pages.mapcount = pm__take(a, r->pages, sizeof(uint32_t));
    c->aside = pm__take(a, r->pages, PM__ASIDE);
    c->pages.cap = r->pages;
    c->total = 2 * r->pages + r->pages / 4;
    c->scratch = pm__take(a, PM__SCRATCH, 1);
    return c->scratch ? 0 : pm__fail(c, ENOMEM, PM_AT_ARENA, "");
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* Read once, a counter is what it is. */
static void take_counters_twice(struct pm__capture *c)
{
    for (size_t i = 0; c->counters && i < c->n_mappings; i++)
        memcpy(c->counters[i].after, c->counters[i].before, sizeof c->counters[i].after);
}

/* Counters again: what is the same on both sides held while the pages were looked up, and may
 * be inferred from.  Where the target stood still there is nothing to ask. */
static int read_after(struct pm__capture *c)
{
    if (c->stopped) {
        take_counters_twice(c);
        return 0;
    }
    int rc = pm__smaps_read(c, PM__AFTER);
    if (rc == 0)
        rc = pm__numa_read(c, PM__AFTER);
    return rc < 0 ? rc : pm__target_faults(c);
}

/* Counters, pages, pages again, counters again.  P before D: writeback moves the one to the
 * other, and in this order it is not in between that both are looked at. */
static int sandwich(struct pm__capture *c)
{
    int rc;
    if ((rc = pm__smaps_read(c, PM__BEFORE)) < 0 || (rc = pm__numa_read(c, PM__BEFORE)) < 0 ||
        (rc = pm__pagemap_read(c)) < 0 || (rc = pm__pte_read(c)) < 0 ||
        (rc = pm__kpage_read(c)) < 0 || (rc = pm__ask_scan(c)) < 0 ||
        (rc = pm__pagemap_verify(c)) < 0)
        return rc;
    return read_after(c);
}

/* Mappings, pages once, mappings again. */
static int open_sandwich(struct pm__capture *c)
{
    int rc;
    if ((rc = pm__smaps_read(c, PM__BEFORE)) < 0 || (rc = pm__pagemap_read(c)) < 0 ||
        (rc = pm__pte_read(c)) < 0 || (rc = pm__ask_scan(c)) < 0)
        return rc;
    return c->stopped ? 0 : pm__smaps_read(c, PM__AFTER);
}

static int read_all(struct pm__capture *c)
{
    int rc, depth = c->request->depth;
    c->header.captured_ns = now_ns();
    if (depth == PM_FULL) {
        rc = sandwich(c);
    } else if (depth == PM_PAGES) {
        rc = open_sandwich(c);
    } else {
        rc = depth == PM_TOTALS ? pm__rollup_read(c) : pm__smaps_read(c, PM__BEFORE);
        take_counters_twice(c);
    }
    if (rc == 0)
        c->header.complete = 1;
    return rc;
}

/* Our own stack is part of a capture of ourselves: what the steps need of it is touched before. */
static void __attribute__((noinline)) touch_stack(void)
{
    volatile char deep[48 << 10];
    for (size_t i = 0; i < sizeof deep; i += 1024)
        deep[i] = 0;
}

static int attempt(struct pm__capture *c, pm_snapshot **out)
{
    int rc;
    if ((rc = pm__target_find(c)) < 0 || (rc = furnish(c)) < 0 || (rc = pm__target_open(c)) < 0 ||
        (rc = pm__stop(c)) < 0)
        return rc;
    touch_stack();
    uint64_t began = pm__monotonic_ns();
    rc = read_all(c);
    if (c->request->held)
        c->header.stopped_ns += pm__monotonic_ns() - began;
    pm__resume(c);
    bool bare = c->request->depth == PM_MAPPINGS && !pm__wants_counters(c); /* only the list */
    if (rc == 0 && c->request->depth >= PM_MAPPINGS && !bare)
        rc = pm__elf_read(c);
    if (rc < 0)
        return rc;
    pm__join_pages(c);
    for (size_t i = 0; i < c->n_mappings; i++)
        pm__infer(c, i);
    return pm__lay_out(c, out);
}

/* Mappings came, went or moved: what they hold may have been missed, or met twice. */
static bool has_moved(const struct pm__capture *c)
{
    for (size_t i = 0; i < c->n_mappings; i++)
        if (c->mappings[i].trouble & PM_T_CHANGED)
            return true;
    return c->header.appeared || c->header.missed_pages;
}

/* Nothing but what was learnt about the room needed survives an attempt. */
static void clear(struct pm__capture *c)
{
    struct pm__capture fresh = {
        .io = c->io,
        .err = c->err,
        .request = c->request,
        .room = c->room,
        .end = UINT64_MAX,
        .ticked_ns = c->ticked_ns,
        .dir = -1,
        .root = -1,
        .maps = -1,
        .smaps = -1,
        .rollup = -1,
        .numa = -1,
        .pagemap = -1,
        .kpageflags = -1,
        .kpagecount = -1,
    };
    int64_t pid = c->request->pid;
    struct pm__here here = {.busy = c->busy};
    c->io->here(c->io->ctx, &here);
    fresh.features = here.features;
    fresh.most_pages = here.most_pages;
    fresh.busy = here.busy;
    fresh.header.self = pid == 0 || pid == here.pid;
    fresh.header.pid = fresh.header.self ? here.pid : pid;
    fresh.header.depth = (uint32_t)c->request->depth;
    fresh.header.partial = c->request->n_extents > 0;
    fresh.header.stopped_ns = c->header.stopped_ns; /* it stood still for every attempt */
    fresh.header.page_size = here.page_size;
    *c = fresh;
    memset(c->err, 0, sizeof *c->err);
}

static bool is_valid(const pm_request *q, uint64_t page)
{
    uint64_t end = 0;
    for (size_t i = 0; i < q->n_extents; i++) {
        const pm_extent *e = &q->extents[i];
        if (e->start >= e->end || e->start < end || e->start % page || e->end % page)
            return false;
        end = e->end;
    }
    return q->depth >= PM_TOTALS && q->depth <= PM_FULL;
}

int pm__capture_with(const struct pm__io *io, const pm_request *request, pm_snapshot **out,
                     pm_error *err)
{
    struct pm__capture c = {
        .io = io,
        .err = err,
        .request = request,
        .room =
            {.mappings = MAPPINGS, .pages = 0, .strings = STRINGS, .objects = 256, .parts = 2048},
        .ticked_ns = pm__monotonic_ns(),
    };
    *out = NULL;
    clear(&c);
    if (!is_valid(request, c.header.page_size))
        return pm__fail(&c, EINVAL, PM_AT_REQUEST, "");
    int execs = 0, moves = 0;
    for (int tries = 0; tries < MAX_TRIES; tries++) {
        clear(&c);
        int rc = attempt(&c, out);
        bool moved = rc == 0 && has_moved(&c);
        if (rc == 0)
            remember_room(&c);
        pm__target_close(&c);
        pm__arena_put(&c.arena);
        if (rc == 0 && c.header.faults && !c.busy && !moved) {
            c.busy = moved = true;
            moves--;
        }
        if (rc == -PM_E_EXEC && ++execs < MAX_EXECS)
            continue; /* another program now: capture that one */
        if (moved && ++moves < MAX_MOVES) {
            pm_free(*out);
            *out = NULL;
            continue;
        }
        if (rc != -ENOBUFS)
            return rc < 0 && !err->code ? pm__fail(&c, -rc, PM_AT_NOTHING, "") : rc;
    }
    return pm__fail(&c, PM_E_BUSY, PM_AT_NOTHING, "");
}

/* What takes memory and descriptors is found out before, so that it does not show in a capture
 * of ourselves. */
void pm__find_out(const pm_request *request)
{
    pm__features();
    if (pm__wants_tables(request))
        pm__walker_prepare();
}

int pm_capture(const pm_request *request, pm_snapshot **out, pm_error *err)
{
    *out = NULL;
    pm__find_out(request);
    return pm__capture_with(&pm__kernel, request, out, err);
}
