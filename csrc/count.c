/* SPDX-License-Identifier: MIT
 *
 * count.c - interval counts over windows of a snapshot, pages that are new
 * against an earlier one, pages that two processes share.
 *
 * Every count is lo..hi: lo counts pages for which it is proved, hi leaves out
 * only those for which the contrary is.
 */
#include "engine.h"

#include <errno.h>
#include <string.h>

/* What is said of a run of pages: set and known as in the columns. */
struct state {
    uint32_t set, known;
};

#define YES(s, bit) ((s).set & (s).known & PM_BIT(bit))
#define NO(s, bit) (~(s).set & (s).known & PM_BIT(bit))

static const struct state nothing_there = {0, PM__PUBLIC};
static const struct state unseen = {0, 0};

/* Whether pages were looked at; else there may be any, in any state. */
static bool has_pages(const pm_snapshot *s)
{
    return s->header.depth >= PM_PAGES;
}

/* Facts that pages of a hugetlb mapping can have, of which nothing is captured. */
static const uint32_t hugetlb_facts = (PM_BIT(PM_WRITEBACK + 1) - 1) | PM_BIT(PM_PRESENT) |
                                      PM_BIT(PM_DIRTY) | PM_BIT(PM_TOUCHED) | PM_BIT(PM_PORD);

/* ---- walking ranges -------------------------------------------------------------- */

struct piece {
    uint64_t page, count;
    size_t range;
};

typedef void piece_fn(void *arg, const pm_mapping *m, struct piece piece);

size_t pm__first_range_at(const pm_columns *c, const pm_mapping *m, uint64_t page)
{
    size_t lo = m->first_range, n = m->n_ranges;
    while (n) {
        size_t half = n / 2;
        if (c->page[lo + half] + c->count[lo + half] <= page) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

/* The pieces of a mapping's ranges that lie in pages [from, to). */
static void each_piece(const pm_columns *c, const pm_mapping *m, uint64_t from, uint64_t to,
                       piece_fn *fn, void *arg)
{
    size_t stop = (size_t)m->first_range + m->n_ranges;
    for (size_t r = pm__first_range_at(c, m, from); r < stop && c->page[r] < to; r++) {
        uint64_t lo = c->page[r] > from ? c->page[r] : from;
        uint64_t end = c->page[r] + c->count[r];
        uint64_t hi = end < to ? end : to;
        fn(arg, m, (struct piece){.page = lo, .count = hi - lo, .range = r});
    }
}

static struct state state_of(const pm_columns *c, size_t range)
{
    return (struct state){c->set[range], c->known[range]};
}

/* Pages that came and went while they were captured have no range: any count may miss them. */
uint64_t pm__unlisted(const pm_columns *c, const pm_mapping *m)
{
    uint64_t listed = 0;
    for (size_t r = m->first_range; m->raced_pages && r < (size_t)m->first_range + m->n_ranges; r++)
        if (YES(state_of(c, r), PM_RACED))
            listed += c->count[r];
    return m->raced_pages > listed ? m->raced_pages - listed : 0;
}

static bool good_windows(const pm_snapshot *s, const pm_window *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (w[i].mapping >= s->columns.n_mappings || w[i].start > w[i].end)
            return false;
        const pm_mapping *m = &s->columns.mappings[w[i].mapping];
        if (w[i].start < m->start || w[i].end > m->end)
            return false;
    }
    return true;
}

/* ---- counting ---------------------------------------------------------------------- */

struct counter {
    const pm_columns *c;
    bool has_pages;
    uint64_t page_size;
    pm_interval out[PM_N_METRICS];
};

static void add(pm_interval *out, bool yes, bool no, uint64_t n)
{
    out->lo += yes ? n : 0;
    out->hi += no ? 0 : n;
}

/* Private or shared, clean or dirty: as smaps splits Rss. */
static void count_split(struct counter *k, struct state s, uint64_t n)
{
    for (int shared = 0; shared < 2; shared++) {
        for (int dirty = 0; dirty < 2; dirty++) {
            bool yes = YES(s, PM_NORMAL) && (shared ? YES(s, PM_SHARED) : YES(s, PM_EXCLUSIVE)) &&
                       (dirty ? YES(s, PM_PORD) : NO(s, PM_PORD));
            bool no = NO(s, PM_NORMAL) || (shared ? NO(s, PM_SHARED) : NO(s, PM_EXCLUSIVE)) ||
                      (dirty ? NO(s, PM_PORD) : YES(s, PM_PORD));
            add(&k->out[PM_M_PRIVATE_CLEAN + 2 * shared + dirty], yes, no, n);
        }
    }
}

static void count_pss(struct counter *k, struct state s, size_t range, uint64_t n)
{
    uint64_t lo = k->c->mapcount_lo[range], hi = k->c->mapcount_hi[range];
    uint64_t bytes = n * k->page_size;
    if (NO(s, PM_NORMAL))
        return;
    if (YES(s, PM_NORMAL) && hi != PM_UNBOUNDED && hi)
        k->out[PM_M_PSS].lo += bytes / hi;
    k->out[PM_M_PSS].hi += lo > 1 ? (bytes + lo - 1) / lo : bytes;
}

static void count_piece(void *arg, const pm_mapping *m, struct piece p)
{
    struct counter *k = arg;
    struct state s = state_of(k->c, p.range);
    (void)m;
    for (int bit = 0; bit < PM_N_BITS; bit++)
        add(&k->out[bit], YES(s, bit), NO(s, bit), p.count);
    count_split(k, s, p.count);
    count_pss(k, s, p.range, p.count);
}

static void widen(struct counter *k, uint32_t facts, uint64_t n)
{
    for (int bit = 0; bit < PM_N_BITS; bit++)
        if (facts & PM_BIT(bit))
            k->out[bit].hi += n;
}

static uint64_t hugetlb_pages(const pm_columns *c, const pm_mapping *m, uint64_t page_size,
                              uint64_t most)
{
    if (!c->counters)
        return most;
    const int64_t *counters = c->counters[m - c->mappings].after;
    int64_t private = counters[PM_C_PRIVATE_HUGETLB], shared = counters[PM_C_SHARED_HUGETLB];
    if (private < 0 || shared < 0)
        return most;
    uint64_t n = (uint64_t)(private + shared) / page_size;
    return n < most ? n : most;
}

static void count_window(struct counter *k, const pm_window *w)
{
    const pm_mapping *m = &k->c->mappings[w->mapping];
    uint64_t ps = k->page_size, pages = (w->end - w->start) / ps;
    pm_interval dirty = k->out[PM_DIRTY];
    each_piece(k->c, m, w->start / ps, w->end / ps, count_piece, k);
    if (m->kind == PM_KIND_HUGETLB)
        widen(k, hugetlb_facts, hugetlb_pages(k->c, m, ps, pages));
    uint64_t missed = k->has_pages ? pm__unlisted(k->c, m) : pages;
    widen(k, PM__PUBLIC, missed < pages ? missed : pages);
    for (int x = PM_M_PRIVATE_CLEAN; x <= PM_M_PSS; x++)
        k->out[x].hi += (missed < pages ? missed : pages) * (x == PM_M_PSS ? ps : 1);
    if (w->start == m->start && w->end == m->end) {
        /* Of a whole mapping the kernel's counters may say more than its pages do. */
        pm_interval *d = &k->out[PM_DIRTY];
        uint64_t lo = d->lo - dirty.lo, hi = d->hi - dirty.hi;
        if (m->dirty_lo <= hi && m->dirty_hi >= lo) { /* else a saved one that contradicts itself */
            d->lo = dirty.lo + (m->dirty_lo > lo ? m->dirty_lo : lo);
            d->hi = dirty.hi + (m->dirty_hi < hi ? m->dirty_hi : hi);
        }
    }
}

/* Pages that were missed, or met twice, may belong anywhere. */
static void doubt(pm_interval *out, size_t n_out, uint64_t amount, size_t n_windows)
{
    for (size_t i = 0; n_windows && i < n_out; i++) {
        out[i].lo -= out[i].lo < amount ? out[i].lo : amount;
        out[i].hi += amount;
    }
}

int pm_count(const pm_snapshot *s, const pm_window *w, size_t n, pm_interval out[PM_N_METRICS])
{
    struct counter k = {
        .c = &s->columns, .has_pages = has_pages(s), .page_size = s->header.page_size};
    if (!good_windows(s, w, n))
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        count_window(&k, &w[i]);
    doubt(k.out, PM_M_PSS, s->header.missed_pages, n);
    doubt(&k.out[PM_M_PSS], 1, s->header.missed_pages * k.page_size, n); /* in bytes */
    memcpy(out, k.out, sizeof k.out);
    return 0;
}

/* ---- new pages ----------------------------------------------------------------------- */

typedef void new_fn(void *arg, uint64_t page, uint64_t count, struct state now,
                    struct state before);

struct comparison {
    const pm_columns *now, *before;
    bool before_has_pages, before_has_mappings;
    struct state unmapped; /* what the earlier one says of places that it does not list */
    uint64_t page_size;
    new_fn *fn;
    void *arg;
};

/* The last mapping that begins at or before the page; n_mappings where none does. */
static size_t mapping_at(const pm_columns *c, uint64_t page_size, uint64_t page)
{
    size_t lo = 0, n = c->n_mappings;
    while (n) {
        size_t half = n / 2;
        if (c->mappings[lo + half].start / page_size <= page) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo ? lo - 1 : c->n_mappings;
}

static bool same_memory(const pm_mapping *a, const pm_mapping *b)
{
    if (a->inode != b->inode || a->dev_major != b->dev_major || a->dev_minor != b->dev_minor)
        return false;
    return a->inode == 0 || a->offset - a->start == b->offset - b->start;
}

/* Where nothing is listed nothing was there, unless listing it was impossible. */
static struct state state_of_gap(const pm_columns *c, const pm_mapping *m)
{
    return m->kind == PM_KIND_HUGETLB || pm__unlisted(c, m) ? unseen : nothing_there;
}

/* Reports [page, page + count) against the ranges of one earlier mapping of the same memory. */
static void against_mapping(const struct comparison *k, const pm_mapping *m, uint64_t page,
                            uint64_t end, struct state now)
{
    const pm_columns *c = k->before;
    size_t stop = (size_t)m->first_range + m->n_ranges;
    struct state gap = k->before_has_pages ? state_of_gap(c, m) : unseen;
    for (size_t r = pm__first_range_at(c, m, page); page < end; r++) {
        uint64_t from = r < stop && c->page[r] < end ? c->page[r] : end;
        if (from > page)
            k->fn(k->arg, page, from - page, now, gap);
        page = from > page ? from : page;
        if (page == end)
            return;
        uint64_t to = c->page[r] + c->count[r] < end ? c->page[r] + c->count[r] : end;
        k->fn(k->arg, page, to - page, now, state_of(c, r));
        page = to;
    }
}

static void compare_piece(void *arg, const pm_mapping *m, struct piece p)
{
    const struct comparison *k = arg;
    struct state now = state_of(k->now, p.range);
    uint64_t page = p.page, end = p.page + p.count, ps = k->page_size;
    if (!k->before_has_mappings) {
        k->fn(k->arg, page, end - page, now, unseen);
        return;
    }
    while (page < end) {
        size_t i = mapping_at(k->before, ps, page);
        const pm_mapping *old = i < k->before->n_mappings ? &k->before->mappings[i] : NULL;
        size_t next = old ? i + 1 : 0;
        uint64_t stop = end;
        bool covered = old && page < old->end / ps;
        if (covered)
            stop = old->end / ps < end ? old->end / ps : end;
        else if (next < k->before->n_mappings && k->before->mappings[next].start / ps < end)
            stop = k->before->mappings[next].start / ps;
        if (covered && same_memory(m, old))
            against_mapping(k, old, page, stop, now);
        else
            k->fn(k->arg, page, stop - page, now, covered ? nothing_there : k->unmapped);
        page = stop;
    }
}

static bool lists_all(const pm_snapshot *s)
{
    return s->header.complete && !s->header.appeared && !s->header.partial &&
           s->header.depth >= PM_MAPPINGS;
}

static int compare(const pm_snapshot *later, const pm_snapshot *earlier, const pm_window *w,
                   size_t n, new_fn *fn, void *arg)
{
    struct comparison k = {
        .now = &later->columns,
        .before = &earlier->columns,
        .before_has_pages = has_pages(earlier),
        .before_has_mappings = earlier->header.depth >= PM_MAPPINGS,
        .unmapped = lists_all(earlier) ? nothing_there : unseen,
        .page_size = later->header.page_size,
        .fn = fn,
        .arg = arg,
    };
    if (later->header.page_size != earlier->header.page_size)
        return -PM_E_FOREIGN;
    if (!good_windows(later, w, n))
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        each_piece(k.now, &k.now->mappings[w[i].mapping], w[i].start / k.page_size,
                   w[i].end / k.page_size, compare_piece, &k);
    return 0;
}

static void count_new(void *arg, uint64_t page, uint64_t n, struct state now, struct state before)
{
    pm_interval *out = arg;
    (void)page;
    for (int bit = 0; bit < PM_N_BITS; bit++)
        add(&out[bit], YES(now, bit) && NO(before, bit), NO(now, bit) || YES(before, bit), n);
}

int pm_new(const pm_snapshot *later, const pm_snapshot *earlier, const pm_window *w, size_t n,
           pm_interval out[PM_N_BITS])
{
    memset(out, 0, PM_N_BITS * sizeof *out);
    int rc = compare(later, earlier, w, n, count_new, out);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const pm_mapping *m = &later->columns.mappings[w[i].mapping];
        uint64_t pages = (w[i].end - w[i].start) / later->header.page_size;
        uint64_t missed = has_pages(later) ? pm__unlisted(&later->columns, m) : pages;
        uint64_t huge = m->kind == PM_KIND_HUGETLB
                            ? hugetlb_pages(&later->columns, m, later->header.page_size, pages)
                            : 0;
        for (int bit = 0; bit < PM_N_BITS; bit++)
            out[bit].hi += (missed < pages ? missed : pages) +
                           (hugetlb_facts & PM_BIT(bit) ? huge : 0);
    }
    doubt(out, PM_N_BITS, later->header.missed_pages + earlier->header.missed_pages, n);
    return rc;
}

struct listing {
    uint32_t bit;
    uint64_t *page, *count;
    uint8_t *sure;
    size_t cap, n;
};

static void list_new(void *arg, uint64_t page, uint64_t n, struct state now, struct state before)
{
    struct listing *l = arg;
    bool sure = YES(now, l->bit) && NO(before, l->bit);
    if (NO(now, l->bit) || YES(before, l->bit))
        return;
    size_t last = l->n - 1;
    if (l->n && l->n <= l->cap && l->sure[last] == sure && l->page[last] + l->count[last] == page) {
        l->count[last] += n;
        return;
    }
    if (l->n < l->cap) {
        l->page[l->n] = page;
        l->count[l->n] = n;
        l->sure[l->n] = sure;
    }
    l->n++;
}

int pm_new_ranges(const pm_snapshot *later, const pm_snapshot *earlier, const pm_window *w,
                  size_t n, uint32_t bit, uint64_t *page, uint64_t *count, uint8_t *sure,
                  size_t cap, size_t *n_out)
{
    struct listing l = {.bit = bit, .page = page, .count = count, .sure = sure, .cap = cap};
    if (bit >= PM_N_BITS)
        return -EINVAL;
    int rc = compare(later, earlier, w, n, list_new, &l);
    *n_out = l.n;
    return rc;
}

/* ---- common pages ---------------------------------------------------------------------- */

struct pairing {
    const pm_snapshot *a, *b;
    const pm_window *b_windows;
    size_t b_n;
    pm_interval out;
};

static bool is_chosen(const struct pairing *k, uint64_t page)
{
    uint64_t address = page * k->b->header.page_size;
    for (size_t i = 0; i < k->b_n; i++)
        if (k->b_windows[i].start <= address && address < k->b_windows[i].end)
            return true;
    return k->b_n == 0;
}

/* What b says of one virtual page. */
static struct state at_page(const pm_snapshot *s, uint64_t page, const pm_mapping **m)
{
    const pm_columns *c = &s->columns;
    size_t i = mapping_at(c, s->header.page_size, page);
    *m = NULL;
    if (i == c->n_mappings || page >= c->mappings[i].end / s->header.page_size)
        return lists_all(s) ? nothing_there : unseen;
    *m = &c->mappings[i];
    if (!has_pages(s))
        return unseen;
    size_t r = pm__first_range_at(c, *m, page);
    if (r == (size_t)(*m)->first_range + (*m)->n_ranges || c->page[r] > page)
        return state_of_gap(c, *m);
    return state_of(c, r);
}

static uint64_t frame_at(const pm_snapshot *s, uint64_t page)
{
    size_t lo = 0, n = s->n_frames;
    while (n) {
        size_t half = n / 2;
        if (s->frame_page[lo + half] + s->frame_count[lo + half] <= page) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    bool covered = lo < s->n_frames && s->frame_page[lo] <= page;
    return covered ? s->frame[lo] + (page - s->frame_page[lo]) : 0;
}

/* A private copy is shared with b when b has the very same frame at the same address. */
static void pair_private(struct pairing *k, struct state s, uint64_t page)
{
    const pm_mapping *m;
    struct state other = at_page(k->b, page, &m);
    uint64_t fa = frame_at(k->a, page), fb = frame_at(k->b, page);
    bool apart = !is_chosen(k, page) || YES(s, PM_EXCLUSIVE) || YES(other, PM_EXCLUSIVE) ||
                 NO(other, PM_PRESENT) || NO(other, PM_ANON) || (fa && fb && fa != fb);
    add(&k->out, !apart && fa && fa == fb, apart, 1);
}

/* A page of a file is shared with b when b maps the same page of the same file. */
static void pair_file(struct pairing *k, const pm_mapping *m, uint64_t page)
{
    uint64_t ps = k->a->header.page_size;
    uint64_t index = m->offset / ps + (page - m->start / ps);
    bool yes = false, maybe = !lists_all(k->b);
    for (size_t i = 0; i < k->b->columns.n_mappings && !yes; i++) {
        const pm_mapping *o = &k->b->columns.mappings[i], *found;
        uint64_t first = o->offset / ps;
        if (o->inode != m->inode || o->dev_major != m->dev_major || o->dev_minor != m->dev_minor ||
            index < first || index - first >= (o->end - o->start) / ps)
            continue;
        if (!is_chosen(k, o->start / ps + (index - first)))
            continue;
        struct state s = at_page(k->b, o->start / ps + (index - first), &found);
        yes = YES(s, PM_FILE) && YES(s, PM_PRESENT);
        maybe |= !NO(s, PM_FILE) && !NO(s, PM_PRESENT);
    }
    add(&k->out, yes, !yes && !maybe, 1);
}

static void pair_piece(void *arg, const pm_mapping *m, struct piece p)
{
    struct pairing *k = arg;
    struct state s = state_of(&k->a->columns, p.range);
    if (NO(s, PM_NORMAL))
        return;
    for (uint64_t page = p.page; page < p.page + p.count; page++) {
        if (YES(s, PM_FILE) && YES(s, PM_NORMAL) && m->inode)
            pair_file(k, m, page);
        else if (YES(s, PM_ANON) && YES(s, PM_NORMAL))
            pair_private(k, s, page);
        else
            k->out.hi++;
    }
}

int pm_common(const pm_snapshot *a, const pm_window *w, size_t n, const pm_snapshot *b,
              const pm_window *bw, size_t bn, pm_interval *out)
{
    struct pairing k = {.a = a, .b = b, .b_windows = bw, .b_n = bn};
    uint64_t ps = a->header.page_size;
    if (ps != b->header.page_size)
        return -PM_E_FOREIGN;
    if (!good_windows(a, w, n))
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        each_piece(&a->columns, &a->columns.mappings[w[i].mapping], w[i].start / ps, w[i].end / ps,
                   pair_piece, &k);
        const pm_mapping *m = &a->columns.mappings[w[i].mapping];
        k.out.hi += has_pages(a) ? pm__unlisted(&a->columns, m) : (w[i].end - w[i].start) / ps;
        if (m->kind == PM_KIND_HUGETLB)
            k.out.hi += hugetlb_pages(&a->columns, m, ps, (w[i].end - w[i].start) / ps);
    }
    doubt(&k.out, 1, a->header.missed_pages + b->header.missed_pages, n);
    *out = k.out;
    return 0;
}
