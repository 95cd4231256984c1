/* SPDX-License-Identifier: MIT
 *
 * pagemap.c - /proc/PID/pagemap.
 *
 * The pages are read twice.  What differs between the two readings changed
 * while it was captured, and nothing is claimed of it.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>

/* One scratch buffer holds pagemap entries in front and scanned regions behind. */
#define ENTRIES ((PM__SCRATCH - PM__REGIONS * sizeof(struct pm_scan_region)) / sizeof(uint64_t))
#define MAX_GAP 64 /* pages; a longer gap between mappings costs more to read than to skip */

/* Reading an absent page costs 4 ns, and a TiB has 2^28 of them: where a process has
 * much more address space than memory, PAGEMAP_SCAN finds what is there. */
#define SPARSE_MAPPING ((uint64_t)16 << 20)
#define SPARSE_SLACK ((uint64_t)128 << 20)

/* Called for entries of one mapping in ascending order; some may be unoccupied. */
typedef int entries_fn(void *arg, size_t mapping, uint64_t vpn, const uint64_t *entries, size_t n);

/* What a walk returns when there is no more room in what was asked for. */
#define FULL 1

static bool readable(const struct pm__capture *c, const pm_mapping *m)
{
    /* [vsyscall] lies outside user space; of hugetlb the RFC lists nothing. */
    return m->kind != PM_KIND_HUGETLB && m->end <= UINT64_C(1) << 63 && c->header.page_size;
}

/* A guard page has no page and no swap entry, only its own bit. */
static bool occupied(uint64_t entry)
{
    return entry & (PM_PE_PRESENT | PM_PE_SWAP | PM_PE_GUARD);
}

static bool is_sparse(const struct pm__capture *c, const pm_mapping *m)
{
    return m->end - m->start >= SPARSE_MAPPING && pm__features()->scan &&
           c->vm_size > 2 * c->header.vm_rss + SPARSE_SLACK;
}

/* How far one read may go from `vpn` in mapping i: over its neighbours too, across small gaps. */
static uint64_t window_end(const struct pm__capture *c, size_t i, uint64_t vpn)
{
    uint64_t ps = c->header.page_size, limit = vpn + ENTRIES;
    uint64_t end = c->mappings[i].end / ps;
    for (size_t k = i + 1; k < c->n_mappings && end < limit; k++) {
        const pm_mapping *m = &c->mappings[k];
        if (!readable(c, m) || m->start / ps - end > MAX_GAP || is_sparse(c, m))
            break;
        end = m->end / ps;
    }
    return end < limit ? end : limit;
}

struct walker {
    struct pm__capture *c;
    entries_fn *fn;
    void *arg;
    uint64_t lo, hi; /* pages of which the buffer holds the entries */
};

static uint64_t *entries_of(const struct walker *w)
{
    return (uint64_t *)(void *)w->c->scratch;
}

/* In a sparse mapping no further than `to`: behind it nothing is known to be there. */
static int refill(struct walker *w, size_t i, uint64_t vpn, uint64_t to)
{
    struct pm__capture *c = w->c;
    uint64_t end = window_end(c, i, vpn);
    w->lo = vpn;
    w->hi = is_sparse(c, &c->mappings[i]) && to < end ? to : end;
    size_t want = (w->hi - w->lo) * sizeof(uint64_t);
    ssize_t got = pm__pread_full(c->io, c->pagemap, entries_of(w), want, w->lo * 8);
    if (got < 0)
        return pm__fail(c, (int)-got, PM_AT_PAGEMAP, "pagemap");
    /* A clean end of file inside user space: exec or exit. */
    return (size_t)got < want ? pm__target_verify(c) : pm__tick(c, (w->hi - w->lo) / 8);
}

static int walk_span(struct walker *w, size_t i, uint64_t from, uint64_t to)
{
    for (uint64_t vpn = from, end; vpn < to; vpn = end) {
        int rc = vpn < w->lo || vpn >= w->hi ? refill(w, i, vpn, to) : 0;
        end = w->hi < to ? w->hi : to;
        if (rc == 0)
            rc = w->fn(w->arg, i, vpn, entries_of(w) + (vpn - w->lo), end - vpn);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* What walk_sparse returns where the kernel cannot tell what is there. */
#define CANNOT_SCAN 2

/* Regions of a mapping where something is. */
static int walk_sparse(struct walker *w, size_t i)
{
    struct pm__capture *c = w->c;
    uint64_t ps = c->header.page_size, at = c->mappings[i].start;
    while (at < c->mappings[i].end) {
        bool begun = at != c->mappings[i].start;
        int n = pm__scan(c, &at, c->mappings[i].end, 0, PM_SCAN_PRESENT | PM_SCAN_SWAPPED);
        if (n == -ESRCH)
            return pm__target_verify(c);
        if (n < 0)
            return begun ? pm__fail(c, -n, PM_AT_SCAN, "pagemap") : CANNOT_SCAN;
        int rc = pm__tick(c, 0);
        if (rc < 0)
            return rc;
        for (int k = 0; k < n; k++) {
            const struct pm_scan_region *r = &pm__regions(c)[k];
            rc = walk_span(w, i, r->start / ps, r->end / ps);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

static int walk(struct pm__capture *c, entries_fn *fn, void *arg)
{
    struct walker w = {.c = c, .fn = fn, .arg = arg};
    uint64_t ps = c->header.page_size;
    for (size_t i = 0; i < c->n_mappings; i++) {
        const pm_mapping *m = &c->mappings[i];
        if (!readable(c, m))
            continue;
        int rc = is_sparse(c, m) ? walk_sparse(&w, i) : CANNOT_SCAN;
        if (rc == CANNOT_SCAN)
            rc = walk_span(&w, i, m->start / ps, m->end / ps);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int store(void *arg, size_t mapping, uint64_t vpn, const uint64_t *entries, size_t n)
{
    struct pm__capture *c = arg;
    struct pm__pages *p = &c->pages;
    uint64_t most = c->request->max_pages;
    size_t room = most && most < p->cap ? most : p->cap, to = p->n;
    for (size_t k = 0; k < n; k++) {
        if (!occupied(entries[k]))
            continue;
        if (to == room) {
            c->spans[mapping].n += to - p->n;
            p->n = to;
            c->end = (vpn + k) * c->header.page_size;
            return FULL;
        }
        p->vpn[to] = vpn + k;
        p->entry[to] = entries[k];
        p->state[to] = pm__entry_state(entries[k]);
        p->mapcount[to++] = 1;
    }
    c->spans[mapping].n += to - p->n;
    p->n = to;
    return 0;
}

/* As many pages as were asked for: the capture ends here, before the next one. */
static void end_here(struct pm__capture *c)
{
    while (c->n_mappings && c->mappings[c->n_mappings - 1].start >= c->end)
        c->n_mappings--;
    pm_mapping *last = c->n_mappings ? &c->mappings[c->n_mappings - 1] : NULL;
    if (last && last->end > c->end) {
        last->end = c->end;
        c->spans[c->n_mappings - 1].cut = true;
        if (c->counters)
            memset(&c->counters[c->n_mappings - 1], 0xff, sizeof *c->counters); /* each is -1 */
    }
    c->header.next = c->end;
    c->header.partial = 1;
}

int pm__pagemap_read(struct pm__capture *c)
{
    int rc = walk(c, store, c);
    if (rc == FULL && (!c->request->max_pages || c->pages.n < c->request->max_pages)) {
        c->room.pages *= 2;
        return -ENOBUFS;
    }
    if (rc == FULL)
        end_here(c);
    for (size_t i = 1; i < c->n_mappings; i++)
        c->spans[i].first = c->spans[i - 1].first + c->spans[i - 1].n;
    if (rc >= 0)
        c->header.sources |= 1u << PM_SRC_PAGEMAP;
    return rc < 0 ? rc : 0;
}

/* Sharing (bit 56) may be moved by other processes; all else is the target's own state. */
#define OWN_STATE (~PM_PE_EXCLUSIVE)

struct verifier {
    struct pm__capture *c;
    size_t mapping, at; /* the next stored page not yet met */
};

static void race(struct pm__capture *c, size_t mapping, size_t page, bool stored)
{
    if (stored)
        c->pages.state[page] |= PM_BIT(PM_RACED);
    c->mappings[mapping].raced_pages++;
    c->mappings[mapping].trouble |= PM_T_RACED;
    c->header.raced_pages++;
}

/* Stored pages of mappings up to `mapping` that lie below vpn were not met again: gone. */
static void pass_by(struct verifier *v, size_t mapping, uint64_t vpn)
{
    struct pm__capture *c = v->c;
    for (; v->mapping <= mapping && v->mapping < c->n_mappings; v->mapping++) {
        const struct pm__span *s = &c->spans[v->mapping];
        for (; v->at < s->first + s->n; v->at++) {
            if (v->mapping == mapping && c->pages.vpn[v->at] >= vpn)
                return;
            race(c, v->mapping, v->at, true);
        }
        if (v->mapping == mapping)
            return;
    }
}

static void compare_one(struct verifier *v, size_t mapping, uint64_t vpn, uint64_t entry)
{
    struct pm__capture *c = v->c;
    pass_by(v, mapping, vpn);
    const struct pm__span *s = &c->spans[mapping];
    if (v->at == s->first + s->n || c->pages.vpn[v->at] != vpn) {
        race(c, mapping, 0, false);
        return;
    }
    uint64_t differs = c->pages.entry[v->at] ^ entry;
    if (differs & OWN_STATE) {
        race(c, mapping, v->at, true);
    } else if (differs) {
        c->pages.state[v->at] |= PM_BIT(PM__DRIFTED);
        c->mappings[mapping].drifted_pages++;
    }
    v->at++;
}

static int compare(void *arg, size_t mapping, uint64_t vpn, const uint64_t *entries, size_t n)
{
    struct verifier *v = arg;
    const struct pm__pages *p = &v->c->pages;
    for (size_t k = 0; k < n; k++) {
        if (!occupied(entries[k]))
            continue;
        const struct pm__span *s = &v->c->spans[mapping];
        /* Nearly always the next stored page, as it was. */
        if (v->mapping == mapping && v->at < s->first + s->n && p->vpn[v->at] == vpn + k &&
            p->entry[v->at] == entries[k])
            v->at++;
        else
            compare_one(v, mapping, vpn + k, entries[k]);
    }
    return 0;
}

int pm__pagemap_verify(struct pm__capture *c)
{
    struct verifier v = {.c = c};
    int rc = walk(c, compare, &v);
    if (rc == 0 && c->n_mappings)
        pass_by(&v, c->n_mappings - 1, UINT64_MAX);
    return rc;
}
