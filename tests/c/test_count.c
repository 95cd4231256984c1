/* SPDX-License-Identifier: MIT
 *
 * Counting over ranges, held against counting page by page, on random snapshots.
 */
#include "check.h"
#include "fakeproc.h"

#include <errno.h>

#define N_MAPPINGS 6
#define MAX_RANGES 64
#define SPAN 24 /* pages of a mapping, at most */
#define BASE 0x100

struct sample {
    pm_header header;
    pm_columns columns;
    pm_mapping mappings[N_MAPPINGS];
    pm_counters counters[N_MAPPINGS];
    uint64_t page[MAX_RANGES], count[MAX_RANGES];
    uint32_t set[MAX_RANGES], known[MAX_RANGES], lo[MAX_RANGES], hi[MAX_RANGES];
    pm_snapshot *snap;
};

/* ---- random snapshots --------------------------------------------------------------- */
static uint32_t random_facts(struct rng *r)
{
    uint32_t all = PM_BIT(PM_N_BITS) - 1;
    uint32_t mask = (uint32_t)rng_next(r) | (rng_once_in(r, 2) ? (uint32_t)rng_next(r) : 0);
    /* Often enough what the splits and pm_common look at. */
    return rng_once_in(r, 3) ? all : mask & all;
}

static void add_ranges(struct rng *r, struct sample *s, pm_mapping *m)
{
    uint64_t at = m->start / FK_PAGE, end = m->end / FK_PAGE;
    m->first_range = (uint32_t)s->columns.n_ranges;
    while (at < end && s->columns.n_ranges < MAX_RANGES && !rng_once_in(r, 6)) {
        size_t i = s->columns.n_ranges;
        at += rng_once_in(r, 2) ? rng_below(r, 3) : 0;
        if (at >= end)
            break;
        s->page[i] = at;
        s->count[i] = 1 + rng_below(r, (uint32_t)(end - at < 5 ? end - at : 5));
        s->known[i] = random_facts(r);
        s->set[i] = (uint32_t)rng_next(r) & s->known[i];
        if (!rng_once_in(r, 4))
            s->set[i] &= ~PM_BIT(PM_RACED);
        s->lo[i] = rng_below(r, 3);
        s->hi[i] = rng_once_in(r, 3) ? UINT32_MAX : s->lo[i] + rng_below(r, 3);
        at += s->count[i];
        s->columns.n_ranges++;
        m->n_ranges++;
    }
}

static void make(struct rng *r, struct sample *s)
{
    pm_error err;
    memset(s, 0, sizeof *s);
    uint64_t at = BASE + rng_below(r, 4);
    s->header = (pm_header){.page_size = FK_PAGE, .complete = 1, .depth = PM_FULL};
    for (int i = 0; i < N_MAPPINGS; i++) {
        pm_mapping *m = &s->mappings[i];
        uint64_t pages = 1 + rng_below(r, SPAN);
        *m = (pm_mapping){.start = at * FK_PAGE, .end = (at + pages) * FK_PAGE};
        m->inode = rng_below(r, 3); /* 0: anonymous; else one of two files */
        m->offset = m->inode ? rng_below(r, 6) * FK_PAGE : 0;
        m->kind = rng_once_in(r, 8) ? PM_KIND_HUGETLB : m->inode ? PM_KIND_FILE : PM_KIND_ANON;
        m->raced_pages = rng_once_in(r, 5) ? rng_below(r, 4) : 0;
        m->dirty_hi = UINT64_MAX;
        s->counters[i].after[PM_C_PRIVATE_HUGETLB] = rng_once_in(r, 3)
                                                         ? -1
                                                         : (int64_t)(rng_below(r, 40) * FK_PAGE);
        if (m->kind != PM_KIND_HUGETLB)
            add_ranges(r, s, m);
        else
            m->first_range = (uint32_t)s->columns.n_ranges;
        at += pages + (rng_once_in(r, 2) ? rng_below(r, 5) : 0);
    }
    s->columns.mappings = s->mappings;
    s->columns.counters = s->counters;
    s->columns.n_mappings = N_MAPPINGS;
    s->columns.page = s->page;
    s->columns.count = s->count;
    s->columns.set = s->set;
    s->columns.known = s->known;
    s->columns.mapcount_lo = s->lo;
    s->columns.mapcount_hi = s->hi;
    int rc = pm_build(&s->header, &s->columns, &s->snap, &err);
    CHECK_IN(rc == 0, "%s, line %d", err.detail, (int)err.line);
    if (rc < 0)
        exit(1);
}

/* ---- page by page --------------------------------------------------------------------- */
enum answer { NO, YES, MAYBE };

static const struct sample *other; /* what a comparison is against */

static const pm_mapping *mapping_over(const struct sample *s, uint64_t page)
{
    for (int i = 0; i < N_MAPPINGS; i++)
        if (s->mappings[i].start / FK_PAGE <= page && page < s->mappings[i].end / FK_PAGE)
            return &s->mappings[i];
    return NULL;
}

static long range_over(const struct sample *s, const pm_mapping *m, uint64_t page)
{
    for (uint32_t i = m->first_range; i < m->first_range + m->n_ranges; i++)
        if (s->page[i] <= page && page < s->page[i] + s->count[i])
            return i;
    return -1;
}

static enum answer of_range(const struct sample *s, long r, int bit)
{
    if (!(s->known[r] & PM_BIT(bit)))
        return MAYBE;
    return s->set[r] & PM_BIT(bit) ? YES : NO;
}

/* Raced pages that are in no range: they came meanwhile. */
static uint64_t missed(const struct sample *s, const pm_mapping *m)
{
    uint64_t listed = 0;
    for (uint32_t i = m->first_range; i < m->first_range + m->n_ranges; i++)
        listed += of_range(s, i, PM_RACED) == YES ? s->count[i] : 0;
    return m->raced_pages > listed ? m->raced_pages - listed : 0;
}

/* What a page of a mapping is, listed or not. */
static enum answer of_page(const struct sample *s, const pm_mapping *m, uint64_t page, int bit)
{
    long r = range_over(s, m, page);
    if (r >= 0)
        return of_range(s, r, bit);
    return m->kind == PM_KIND_HUGETLB || missed(s, m) ? MAYBE : NO;
}

static enum answer both(enum answer a, enum answer b)
{
    return a == NO || b == NO ? NO : a == YES && b == YES ? YES : MAYBE;
}

static enum answer neither(enum answer a)
{
    return a == YES ? NO : a == NO ? YES : MAYBE;
}

static enum answer metric_of(const struct sample *s, const pm_mapping *m, uint64_t page, int x)
{
    long r = range_over(s, m, page);
    if (r < 0)
        return NO; /* and what was missed is added to the whole */
    if (x < PM_N_BITS)
        return of_range(s, r, x);
    int which = x - PM_M_PRIVATE_CLEAN;
    enum answer part = of_range(s, r, which / 2 ? PM_SHARED : PM_EXCLUSIVE);
    enum answer dirty = of_range(s, r, PM_PORD);
    return both(of_range(s, r, PM_NORMAL), both(part, which % 2 ? dirty : neither(dirty)));
}

static const uint32_t huge_facts = (PM_BIT(PM_WRITEBACK + 1) - 1) | PM_BIT(PM_PRESENT) |
                                   PM_BIT(PM_DIRTY) | PM_BIT(PM_TOUCHED) | PM_BIT(PM_PORD);

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t huge_pages(const struct sample *s, const pm_mapping *m, int x, uint64_t pages)
{
    if (m->kind != PM_KIND_HUGETLB || x >= PM_N_BITS || !(huge_facts & PM_BIT(x)))
        return 0;
    int64_t there = s->counters[m - s->mappings].after[PM_C_PRIVATE_HUGETLB];
    return there < 0 ? pages : least((uint64_t)there / FK_PAGE, pages);
}

typedef enum answer page_fn(const struct sample *s, const pm_mapping *m, uint64_t page, int x);

static pm_interval by_page(const struct sample *s, const pm_window *w, size_t n, int x, page_fn *fn)
{
    pm_interval out = {0, 0};
    for (size_t i = 0; i < n; i++) {
        const pm_mapping *m = &s->mappings[w[i].mapping];
        uint64_t pages = (w[i].end - w[i].start) / FK_PAGE;
        for (uint64_t p = w[i].start / FK_PAGE; p < w[i].end / FK_PAGE; p++) {
            enum answer a = fn(s, m, p, x);
            out.lo += a == YES;
            out.hi += a != NO;
        }
        out.hi += least(missed(s, m), pages) + huge_pages(s, m, x, pages);
    }
    return out;
}

static size_t random_windows(struct rng *r, const struct sample *s, pm_window *w)
{
    size_t n = rng_below(r, 4);
    for (size_t i = 0; i < n; i++) {
        uint32_t k = rng_below(r, N_MAPPINGS);
        uint64_t start = s->mappings[k].start / FK_PAGE, end = s->mappings[k].end / FK_PAGE;
        if (rng_once_in(r, 2)) {
            start += rng_below(r, (uint32_t)(end - start));
            end = start + rng_below(r, (uint32_t)(end - start + 1));
        }
        w[i] = (pm_window){start * FK_PAGE, end * FK_PAGE, k};
    }
    return n;
}

#define SAME(got, want, ...)                                                                       \
    do {                                                                                           \
        char same_note[128];                                                                       \
        snprintf(same_note, sizeof same_note, __VA_ARGS__);                                        \
        CHECK_IN((got).lo == (want).lo && (got).hi == (want).hi, "%s: %llu..%llu, not %llu..%llu", \
                 same_note, (unsigned long long)(got).lo, (unsigned long long)(got).hi,            \
                 (unsigned long long)(want).lo, (unsigned long long)(want).hi);                    \
    } while (0)

/* Every metric but pss. */
static void counts(void)
{
    struct rng r = {21};
    for (unsigned round = 0; round < 1500; round++) {
        struct sample s;
        pm_window w[4];
        pm_interval out[PM_N_METRICS];
        make(&r, &s);
        size_t n = random_windows(&r, &s, w);
        CHECK_EQ(pm_count(s.snap, w, n, out), 0);
        for (int x = 0; x < PM_M_PSS; x++) {
            pm_interval want = by_page(&s, w, n, x, metric_of);
            SAME(out[x], want, "round %u metric %d", round, x);
        }
        pm_free(s.snap);
    }
}

/* pss, in bytes: each page divided by the bounds of its mapcount. */
static void pss(void)
{
    struct rng r = {22};
    for (unsigned round = 0; round < 1000; round++) {
        struct sample s;
        pm_window w[4];
        pm_interval out[PM_N_METRICS];
        double lo = 0, hi = 0;
        make(&r, &s);
        size_t n = random_windows(&r, &s, w);
        CHECK_EQ(pm_count(s.snap, w, n, out), 0);
        for (size_t i = 0; i < n; i++) {
            const pm_mapping *m = &s.mappings[w[i].mapping];
            uint64_t pages = (w[i].end - w[i].start) / FK_PAGE;
            hi += 4096.0 * (double)least(missed(&s, m), pages);
            for (uint64_t p = w[i].start / FK_PAGE; p < w[i].end / FK_PAGE; p++) {
                long q = range_over(&s, m, p);
                enum answer normal = q < 0 ? NO : of_range(&s, q, PM_NORMAL);
                if (normal == YES && s.hi[q] && s.hi[q] != UINT32_MAX)
                    lo += 4096.0 / s.hi[q];
                if (normal != NO)
                    hi += 4096.0 / (s.lo[q] > 1 ? s.lo[q] : 1);
            }
        }
        CHECK_IN((double)out[PM_M_PSS].lo <= lo + 0.01 &&
                     (double)out[PM_M_PSS].lo > lo - MAX_RANGES,
                 "round %u: from %llu, not %f", round, (unsigned long long)out[PM_M_PSS].lo, lo);
        CHECK_IN((double)out[PM_M_PSS].hi >= hi - 0.01 &&
                     (double)out[PM_M_PSS].hi < hi + MAX_RANGES,
                 "round %u: to %llu, not %f", round, (unsigned long long)out[PM_M_PSS].hi, hi);
        pm_free(s.snap);
    }
}

/* Of a whole mapping, not of part of it, counters may bound the dirty pages closer. */
static void counters_bound_dirty(void)
{
    struct sample s;
    pm_interval out[PM_N_METRICS];
    pm_error err;
    struct rng r = {1};
    make(&r, &s);
    pm_free(s.snap);
    for (int i = 0; i < N_MAPPINGS; i++)
        s.mappings[i].n_ranges = s.mappings[i].first_range = 0;
    s.mappings[0] = (pm_mapping){.start = 0x100000,
                                 .end = 0x104000,
                                 .kind = PM_KIND_ANON,
                                 .n_ranges = 1,
                                 .dirty_lo = 1,
                                 .dirty_hi = 3};
    s.columns.n_mappings = s.columns.n_ranges = 1;
    s.page[0] = 0x100;
    s.count[0] = 4;
    s.known[0] = s.set[0] = PM_BIT(PM_PRESENT);
    CHECK_EQ(pm_build(&s.header, &s.columns, &s.snap, &err), 0);
    pm_window whole = {0x100000, 0x104000, 0}, part = {0x100000, 0x103000, 0};
    CHECK_EQ(pm_count(s.snap, &whole, 1, out), 0);
    SAME(out[PM_DIRTY], ((pm_interval){1, 3}), "whole");
    CHECK_EQ(pm_count(s.snap, &part, 1, out), 0);
    SAME(out[PM_DIRTY], ((pm_interval){0, 3}), "part");
    pm_free(s.snap);
}

/* A window outside its mapping, or of none, is refused everywhere. */
static void bad_windows(void)
{
    struct rng r = {3};
    struct sample s;
    make(&r, &s);
    const pm_mapping *m = &s.mappings[2];
    const pm_window bad[] = {{m->start - FK_PAGE, m->end, 2},
                             {m->start, m->end + FK_PAGE, 2},
                             {m->end, m->start, 2},
                             {m->start, m->end, N_MAPPINGS},
                             {m->start, m->end, UINT32_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pm_interval out[PM_N_METRICS];
        size_t n;
        CHECK_EQ(pm_count(s.snap, &bad[i], 1, out), -EINVAL);
        CHECK_EQ(pm_new(s.snap, s.snap, &bad[i], 1, out), -EINVAL);
        CHECK_EQ(pm_common(s.snap, &bad[i], 1, s.snap, NULL, 0, out), -EINVAL);
        CHECK_EQ(pm_new_ranges(s.snap, s.snap, &bad[i], 1, 0, NULL, NULL, NULL, 0, &n), -EINVAL);
    }
    pm_free(s.snap);
}

/* ---- new pages -------------------------------------------------------------------------- */
static bool same_memory(const pm_mapping *a, const pm_mapping *b)
{
    return a->inode == b->inode && (!a->inode || a->offset - a->start == b->offset - b->start);
}

static enum answer new_page(const struct sample *s, const pm_mapping *m, uint64_t page, int bit)
{
    long r = range_over(s, m, page);
    const pm_mapping *old = mapping_over(other, page);
    enum answer before = old && same_memory(m, old) ? of_page(other, old, page, bit) : NO;
    return r < 0 ? NO : both(of_range(s, r, bit), neither(before));
}

static void new_pages(void)
{
    struct rng r = {23};
    for (unsigned round = 0; round < 1500; round++) {
        struct sample later, earlier;
        pm_window w[4];
        pm_interval out[PM_N_BITS];
        make(&r, &later);
        make(&r, &earlier);
        other = &earlier;
        size_t n = random_windows(&r, &later, w);
        CHECK_EQ(pm_new(later.snap, earlier.snap, w, n, out), 0);
        for (int bit = 0; bit < PM_N_BITS; bit++) {
            pm_interval want = by_page(&later, w, n, bit, new_page);
            SAME(out[bit], want, "round %u bit %d", round, bit);
        }
        pm_free(later.snap);
        pm_free(earlier.snap);
    }
}

/* The list of new pages is those pages, in as few ranges as can be, cut at its capacity. */
static void new_ranges(void)
{
    struct rng r = {24};
    for (unsigned round = 0; round < 1500; round++) {
        struct sample later, earlier;
        uint64_t page[64], count[64];
        uint8_t sure[64];
        size_t n, at = 0, again;
        uint32_t bit = rng_below(&r, PM_N_BITS), k = rng_below(&r, N_MAPPINGS);
        make(&r, &later);
        make(&r, &earlier);
        other = &earlier;
        const pm_mapping *m = &later.mappings[k];
        pm_window w = {m->start, m->end, k};
        CHECK_EQ(pm_new_ranges(later.snap, earlier.snap, &w, 1, bit, page, count, sure, 64, &n), 0);
        uint64_t left = n ? count[0] : 0, next = n ? page[0] : 0;
        for (uint64_t p = m->start / FK_PAGE; p < m->end / FK_PAGE; p++) {
            enum answer a = new_page(&later, m, p, (int)bit);
            if (a == NO)
                continue;
            CHECK_IN(at < n && next == p && sure[at] == (a == YES), "round %u page %#llx", round,
                     (unsigned long long)p);
            next++;
            if (at < n && --left == 0 && ++at < n) {
                left = count[at];
                next = page[at];
            }
        }
        CHECK_EQ(at, n);
        for (size_t i = 1; i < n; i++)
            CHECK(page[i] != page[i - 1] + count[i - 1] || sure[i] != sure[i - 1]);
        /* How many there are does not depend on how many were asked for. */
        for (size_t cap = 0; cap < 3; cap++) {
            uint64_t few[3], few_n[3];
            uint8_t few_sure[3];
            CHECK_EQ(pm_new_ranges(later.snap, earlier.snap, &w, 1, bit, few, few_n, few_sure, cap,
                                   &again),
                     0);
            CHECK_IN(again == n || cap < n, "round %u: %zu, then %zu", round, n, again);
            for (size_t i = 0; i < cap && i < n; i++)
                CHECK_IN(few[i] == page[i] && few_n[i] == count[i], "round %u cap %zu", round, cap);
        }
        pm_free(later.snap);
        pm_free(earlier.snap);
    }
}

/* ---- common pages ------------------------------------------------------------------------- */
static enum answer common_file_page(const pm_mapping *m, uint64_t page)
{
    enum answer best = NO;
    uint64_t index = m->offset / FK_PAGE + page - m->start / FK_PAGE;
    for (int i = 0; i < N_MAPPINGS; i++) {
        const pm_mapping *o = &other->mappings[i];
        uint64_t first = o->offset / FK_PAGE, pages = (o->end - o->start) / FK_PAGE;
        if (o->inode != m->inode || index < first || index >= first + pages)
            continue;
        uint64_t there = o->start / FK_PAGE + index - first;
        enum answer a = both(of_page(other, o, there, PM_FILE),
                             of_page(other, o, there, PM_PRESENT));
        best = a == YES || best == YES ? YES : a == MAYBE ? MAYBE : best;
    }
    return best;
}

static enum answer common_page(const struct sample *s, const pm_mapping *m, uint64_t page, int x)
{
    long r = range_over(s, m, page);
    (void)x;
    if (r < 0 || of_range(s, r, PM_NORMAL) == NO)
        return NO;
    bool normal = of_range(s, r, PM_NORMAL) == YES;
    if (normal && of_range(s, r, PM_FILE) == YES && m->inode)
        return common_file_page(m, page);
    if (!normal || of_range(s, r, PM_ANON) != YES)
        return MAYBE;
    const pm_mapping *o = mapping_over(other, page);
    if (of_range(s, r, PM_EXCLUSIVE) == YES || !o)
        return NO;
    bool apart = of_page(other, o, page, PM_EXCLUSIVE) == YES ||
                 of_page(other, o, page, PM_PRESENT) == NO ||
                 of_page(other, o, page, PM_ANON) == NO;
    return apart ? NO : MAYBE;
}

static void common_pages(void)
{
    struct rng r = {25};
    for (unsigned round = 0; round < 1500; round++) {
        struct sample a, b;
        pm_window w[4];
        pm_interval out, want = {0, 0};
        make(&r, &a);
        make(&r, &b);
        other = &b;
        size_t n = random_windows(&r, &a, w), all = n;
        for (size_t i = n = 0; i < all; i++) /* of hugetlb below */
            if (a.mappings[w[i].mapping].kind != PM_KIND_HUGETLB)
                w[n++] = w[i];
        CHECK_EQ(pm_common(a.snap, w, n, b.snap, NULL, 0, &out), 0);
        for (size_t i = 0; i < n; i++) {
            const pm_mapping *m = &a.mappings[w[i].mapping];
            pm_interval one = by_page(&a, &w[i], 1, PM_N_BITS, common_page);
            uint64_t pages = (w[i].end - w[i].start) / FK_PAGE;
            want.lo += one.lo;
            want.hi += one.hi - least(missed(&a, m), pages) + missed(&a, m);
        }
        SAME(out, want, "round %u", round);
        pm_free(a.snap);
        pm_free(b.snap);
    }
}

/* Of hugetlb nothing was captured: how much of it is shared is not known to be nothing. */
static void hugetlb_in_common(void)
{
    pm_mapping m = {.start = 0x200000, .end = 0x400000, .kind = PM_KIND_HUGETLB, .inode = 5};
    pm_header header = {.page_size = FK_PAGE, .depth = PM_FULL};
    pm_columns columns = {.mappings = &m, .n_mappings = 1};
    pm_window w = {m.start, m.end, 0};
    pm_snapshot *snap;
    pm_interval out;
    pm_error err;
    CHECK_EQ(pm_build(&header, &columns, &snap, &err), 0);
    CHECK_EQ(pm_common(snap, &w, 1, snap, NULL, 0, &out), 0);
    CHECK_IN(out.hi == 512, "to %llu", (unsigned long long)out.hi);
    pm_free(snap);
}

/* Anonymous pages of parent and child: the same frame is the same page, another is not. */
static void common_frames(void)
{
    enum { N = 4 };
    struct fk_page pages[2][N];
    struct fk_mapping m[2];
    struct fk_world w[2];
    pm_snapshot *snap[2];
    pm_interval out;
    pm_error err;
    static struct fake fake;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < N; i++)
            pages[k][i] = (struct fk_page){
                .what = FK_ANON, .pte_dirty = true, .mapcount = 2, .frame = 100 + 2 * i};
        m[k] = (struct fk_mapping){
            .start = 0x10000, .n = N, .pages = pages[k], .perms = "rw-p", .vmflags = "rd wr mw ac"};
        w[k] = (struct fk_world){.mappings = &m[k], .n = 1};
    }
    pages[1][1].frame = 500; /* the child wrote it and forked again: shared, with others */
    pages[1][2].what = FK_NONE;
    for (int show = 0; show < 2; show++) {
        for (int k = 0; k < 2; k++) {
            fk_init(&fake, &w[k]);
            fake.show_frames = show;
            CHECK_EQ(fk_capture(&fake, &snap[k], &err), 0);
        }
        pm_window all = {0x10000, 0x14000, 0};
        CHECK_EQ(pm_common(snap[0], &all, 1, snap[1], NULL, 0, &out), 0);
        SAME(out, show ? ((pm_interval){2, 2}) : ((pm_interval){0, 3}), "frames shown: %d", show);
        pm_free(snap[0]);
        pm_free(snap[1]);
    }
}

/* Snapshots of machines with other pages cannot be compared. */
static void foreign_page_sizes(void)
{
    struct rng r = {9};
    struct sample s;
    pm_header header = {.page_size = 65536, .depth = PM_FULL};
    pm_columns none = {0};
    pm_snapshot *foreign;
    pm_interval out[PM_N_BITS];
    pm_error err;
    make(&r, &s);
    CHECK_EQ(pm_build(&header, &none, &foreign, &err), 0);
    CHECK_EQ(pm_new(s.snap, foreign, NULL, 0, out), -PM_E_FOREIGN);
    CHECK_EQ(pm_common(s.snap, NULL, 0, foreign, NULL, 0, out), -PM_E_FOREIGN);
    pm_free(foreign);
    pm_free(s.snap);
}

int main(void)
{
    RUN(counts);
    RUN(pss);
    RUN(counters_bound_dirty);
    RUN(bad_windows);
    RUN(new_pages);
    RUN(new_ranges);
    RUN(common_pages);
    RUN(hugetlb_in_common);
    RUN(common_frames);
    RUN(foreign_page_sizes);
    return check_done();
}
