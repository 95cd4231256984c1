/* SPDX-License-Identifier: MIT
 *
 * scan.c - PAGEMAP_SCAN: the ioctl itself, and asking it for what pagemap does not show:
 * zero pages, and which pages a huge entry maps.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>

/* The ioctl holds mmap_lock of the target while it walks: so many pages at a time. */
#define SCAN_PAGES 16384
#define MAX_GAP 64 /* pages; a shorter gap is walked rather than asked around */

struct pm_scan_region *pm__regions(const struct pm__capture *c)
{
    return (void *)(c->scratch + PM__SCRATCH - PM__REGIONS * sizeof(struct pm_scan_region));
}

/* Up to PM__REGIONS regions of [*at, end) with any of the categories, and how far it came. */
int pm__scan(struct pm__capture *c, uint64_t *at, uint64_t end, uint64_t all, uint64_t any)
{
    struct pm_scan_arg arg = {
        .size = sizeof arg,
        .start = *at,
        .end = end,
        .vec = (uintptr_t)pm__regions(c),
        .vec_len = PM__REGIONS,
        .max_pages = SCAN_PAGES,
        .category_mask = all,
        .category_anyof_mask = any,
        .return_mask = all | any,
    };
    int n = c->io->ioctl(c->io->ctx, c->pagemap, PM_IOC_SCAN, &arg);
    /* Seen on 6.18: a walk that reaches the end after the kernel's own buffer (512
     * regions) was flushed reports where that happened, behind which there is more. */
    if (n > 0 && pm__regions(c)[n - 1].end > arg.walk_end)
        arg.walk_end = pm__regions(c)[n - 1].end;
    if (n >= 0 && arg.walk_end <= *at)
        return -EIO;
    *at = arg.walk_end;
    return n;
}

/* Pages of which it is open whether they are zero pages, or mapped by a huge entry. */
static inline bool is_candidate(const struct pm__capture *c, size_t mapping, size_t page,
                                enum pm_bit bit)
{
    uint64_t entry = c->pages.entry[page];
    bool files = (entry & PM_PE_FILE) && c->mappings[mapping].kind != PM_KIND_ANON;
    if (!(entry & PM_PE_PRESENT))
        return false;
    bool told = c->pages.state[page] & PM_BIT(PM__KFLAGS);
    if (bit == PM_ZERO && (c->pages.state[page] & PM_BIT(PM__PLAIN)))
        return false;
    if (bit == PM_HUGE)
        return !told || (c->pages.state[page] & (PM_BIT(PM__COMPOUND) | PM_BIT(PM_ZERO)));
    return !files && !told;
}

static int64_t before(const struct pm__capture *c, size_t mapping, enum pm_counter k)
{
    int64_t v = c->counters ? c->counters[mapping].before[k] : -1;
    return v < 0 ? 0 : v;
}

/* Without counters only a scan can tell; of what pagemap alone is asked for, the few private
 * copies of files are worth it, and all where Y is asked for, which is no zero page's. */
static bool wants_scan_instead(const struct pm__capture *c, size_t mapping, enum pm_bit bit,
                               uint64_t candidates)
{
    if (bit == PM_HUGE)
        return c->request->depth == PM_FULL && candidates >= c->header.page_size / 8;
    bool young = c->request->young && c->features.pte;
    return candidates &&
           (c->request->depth == PM_FULL || young || c->mappings[mapping].kind != PM_KIND_ANON);
}

/* PAGEMAP_SCAN is asked only where counters leave a question open that it answers.
 * Asked between the two readings of the pages, so by the first reading of counters. */
static bool wants_scan(const struct pm__capture *c, size_t mapping, enum pm_bit bit)
{
    const pm_mapping *m = &c->mappings[mapping];
    const struct pm__span *s = &c->spans[mapping];
    int64_t candidates = 0, entries = 0, total = before(c, mapping, PM_C_ANONYMOUS);
    if (m->kind == PM_KIND_SPECIAL || (bit == PM_ZERO && (m->perms & PM_SHARED_MAP)))
        return false;
    if (bit == PM_HUGE)
        total = before(c, mapping, PM_C_ANON_HUGE_PAGES) +
                before(c, mapping, PM_C_SHMEM_PMD_MAPPED) +
                before(c, mapping, PM_C_FILE_PMD_MAPPED);
    if (bit == PM_HUGE && c->counters && !s->cut && !c->busy && total == 0)
        return false;
    for (size_t i = s->first; i < s->first + s->n; i++) {
        candidates += is_candidate(c, mapping, i, bit);
        entries += !(c->pages.entry[i] & (PM_PE_PRESENT | PM_PE_GUARD));
    }
    if (!c->counters || s->cut || c->busy)
        return wants_scan_instead(c, mapping, bit, (uint64_t)candidates);
    if (bit == PM_ZERO && entries && candidates)
        return true; /* counters may count a page on its way instead */
    return candidates && total && total / (int64_t)c->header.page_size != candidates;
}

static size_t lower_bound(const uint64_t *vpn, size_t n, uint64_t key)
{
    size_t lo = 0;
    while (n) {
        size_t half = n / 2;
        if (vpn[lo + half] < key) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

static void mark(struct pm__capture *c, const struct pm__span *s, uint64_t lo, uint64_t hi,
                 enum pm_bit bit)
{
    struct pm__pages *p = &c->pages;
    size_t i = s->first + lower_bound(p->vpn + s->first, s->n, lo);
    for (; i < s->first + s->n && p->vpn[i] < hi; i++)
        p->state[i] |= PM_BIT(bit);
}

static int scan_window(struct pm__capture *c, size_t mapping, uint64_t from, uint64_t to,
                       uint64_t category, enum pm_bit bit)
{
    uint64_t ps = c->header.page_size;
    for (uint64_t at = from * ps; at < to * ps;) {
        int n = pm__scan(c, &at, to * ps, category, 0);
        if (n < 0)
            return n;
        for (int k = 0; k < n; k++)
            mark(c, &c->spans[mapping], pm__regions(c)[k].start / ps, pm__regions(c)[k].end / ps,
                 bit);
        int rc = pm__tick(c, 0);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Asks the kernel which pages of a mapping are of one category; asked where it is open, told of
 * all.  Leaves them unknown where the kernel cannot tell. */
static int ask_of(struct pm__capture *c, size_t mapping, uint64_t category, enum pm_bit bit)
{
    struct pm__span *s = &c->spans[mapping];
    const uint64_t *vpn = c->pages.vpn;
    if (!c->features.scan)
        return 0;
    for (size_t i = s->first, stop = s->first + s->n; i < stop;) {
        if (!is_candidate(c, mapping, i, bit)) {
            i++;
            continue;
        }
        uint64_t from = vpn[i], to = from + 1;
        for (i++; i < stop && vpn[i] - to <= MAX_GAP; i++)
            if (is_candidate(c, mapping, i, bit))
                to = vpn[i] + 1;
        int rc = scan_window(c, mapping, from, to, category, bit);
        if (rc == -ESRCH)
            return pm__target_verify(c);
        if (rc == -ECANCELED)
            return rc;
        if (rc < 0)
            return 0;
    }
    if (bit == PM_ZERO) {
        s->asked_zero = true;
        s->asked_huge_zero = c->mappings[mapping].kind == PM_KIND_ANON;
    } else {
        s->asked_huge = true;
    }
    c->mappings[mapping].evidence[bit] |= 1u << PM_SRC_SCAN;
    c->header.sources |= 1u << PM_SRC_SCAN;
    return 0;
}

/* Asks where that is worth it; between the two readings of the pages. */
int pm__ask_scan(struct pm__capture *c)
{
    for (size_t i = 0; i < c->n_mappings; i++) {
        int rc = 0;
        if (wants_scan(c, i, PM_ZERO))
            rc = ask_of(c, i, PM_SCAN_ZERO, PM_ZERO);
        if (rc == 0 && wants_scan(c, i, PM_HUGE))
            rc = ask_of(c, i, PM_SCAN_HUGE, PM_HUGE);
        if (rc < 0)
            return rc;
    }
    return 0;
}
