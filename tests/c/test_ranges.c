/* SPDX-License-Identifier: MIT
 *
 * Pages become ranges: one breaks on a gap, on any difference in what is said, and on
 * mapcount; nothing else breaks one, and no page is lost.
 */
#include "check.h"
#include "rig.h"

#include <errno.h>

struct page {
    uint64_t vpn;
    uint32_t set, known, lo, hi;
};

static void put(struct rig *g, size_t mapping, struct page p)
{
    struct pm__runs *all = &g->c.runs;
    size_t i = all->n++;
    all->vpn[i] = p.vpn;
    all->count[i] = 1;
    all->set[i] = p.set;
    all->known[i] = p.known;
    all->lo[i] = p.lo;
    all->hi[i] = p.hi;
    for (size_t k = g->c.n_mappings; k <= mapping; k++)
        g->c.spans[k].first = i;
    g->c.n_mappings = mapping + 1;
    g->c.spans[mapping].n++;
}

static pm_snapshot *lay_out(struct rig *g, pm_columns *c)
{
    pm_snapshot *snap = NULL;
    CHECK_EQ(pm__lay_out(&g->c, &snap), 0);
    pm_get_columns(snap, c);
    return snap;
}

/* Two pages: are they one range? */
static void what_breaks_a_range(void)
{
    static const struct page a = {.vpn = 10, .set = 3, .known = 7, .lo = 1, .hi = 2};
    static const struct {
        const char *what;
        struct page b;
        size_t ranges;
    } cases[] = {
        {"nothing", {11, 3, 7, 1, 2}, 1},
        {"a gap", {12, 3, 7, 1, 2}, 2},
        {"a flag set", {11, 7, 7, 1, 2}, 2},
        {"a flag clear", {11, 1, 7, 1, 2}, 2},
        {"a flag unknown", {11, 3, 3, 1, 2}, 2},
        {"mapcount from below", {11, 3, 7, 2, 2}, 2},
        {"mapcount from above", {11, 3, 7, 1, 3}, 2},
        {"the last public bit", {11, 3, 7 | 1u << (PM_N_BITS - 1), 1, 2}, 2},
        {"what only the engine knows", {11, 3 | 1u << PM__DRIFTED | 1u << PM__KCOUNT, 7, 1, 2}, 1},
        {"what only the engine knows of", {11, 3, 7 | 1u << PM__SWAPBACKED, 1, 2}, 1},
        {"something set that is not known, so not said", {11, 3 | 8, 7, 1, 2}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig g;
        pm_columns c;
        rig_make(&g, 4, 8, 16);
        pm__join_pages(&g.c);
        put(&g, 0, a);
        put(&g, 0, cases[i].b);
        pm_snapshot *snap = lay_out(&g, &c);
        CHECK_IN(c.n_ranges == cases[i].ranges, "%s: %zu ranges", cases[i].what, c.n_ranges);
        for (size_t r = 0; r < c.n_ranges; r++)
            CHECK_IN(!(c.set[r] & ~c.known[r]) && !(c.known[r] >> PM_N_BITS), "%s", cases[i].what);
        pm_free(snap);
        rig_drop(&g);
    }
}

/* Neighbouring pages of two mappings stay two ranges. */
static void mappings_break_ranges(void)
{
    static const struct page p = {.vpn = 10, .set = 1, .known = 1}, q = {11, 1, 1, 0, 0};
    struct rig g;
    pm_columns c;
    rig_make(&g, 4, 8, 16);
    pm__join_pages(&g.c);
    put(&g, 0, p);
    put(&g, 2, q);
    pm_snapshot *snap = lay_out(&g, &c);
    CHECK_EQ(c.n_ranges, 2);
    CHECK_EQ(c.mappings[0].n_ranges, 1);
    CHECK_EQ(c.mappings[1].n_ranges, 0);
    CHECK_EQ(c.mappings[2].n_ranges, 1);
    CHECK_EQ(c.mappings[2].first_range, 1);
    pm_free(snap);
    rig_drop(&g);
}

static struct page random_page(struct rng *r, const struct page *last)
{
    struct page p = *last;
    p.vpn += 1 + (uint64_t)(rng_once_in(r, 5) ? rng_below(r, 3) : 0);
    if (rng_once_in(r, 4)) {
        p.known = (uint32_t)rng_next(r) & 7;
        p.set = (uint32_t)rng_next(r) & p.known;
    }
    if (rng_once_in(r, 6))
        p.lo = p.hi = rng_below(r, 3);
    return p;
}

/* Taken apart again, ranges are the pages they were made of; and none could be merged. */
static void ranges_are_their_pages(void)
{
    struct rng r = {5};
    for (unsigned round = 0; round < 300; round++) {
        struct page pages[200], p = {.vpn = 100};
        size_t n = rng_below(&r, 200), mapping = 0, at = 0;
        struct rig g;
        pm_columns c;
        rig_make(&g, 210, 200, 16);
        pm__join_pages(&g.c);
        for (size_t i = 0; i < n; i++) {
            p = pages[i] = random_page(&r, &p);
            mapping += rng_once_in(&r, 20);
            put(&g, mapping, p);
        }
        pm_snapshot *snap = lay_out(&g, &c);
        for (size_t k = 0; k < c.n_mappings; k++) {
            const pm_mapping *m = &c.mappings[k];
            for (size_t q = m->first_range; q < (size_t)m->first_range + m->n_ranges; q++) {
                CHECK(c.count[q] > 0);
                for (uint64_t j = 0; j < c.count[q] && at < n; j++, at++)
                    CHECK(pages[at].vpn == c.page[q] + j && pages[at].set == c.set[q] &&
                          pages[at].known == c.known[q] && pages[at].lo == c.mapcount_lo[q]);
                if (q > m->first_range)
                    CHECK(c.page[q] != c.page[q - 1] + c.count[q - 1] || c.set[q] != c.set[q - 1] ||
                          c.known[q] != c.known[q - 1] || c.mapcount_lo[q] != c.mapcount_lo[q - 1]);
            }
        }
        CHECK_EQ(at, n);
        pm_free(snap);
        rig_drop(&g);
    }
}

int main(void)
{
    RUN(what_breaks_a_range);
    RUN(mappings_break_ranges);
    RUN(ranges_are_their_pages);
    return check_done();
}
