/* SPDX-License-Identifier: MIT
 *
 * infer_dirty.c - which pages are dirty in this project's sense; docs/dirty.md.
 */
#include "infer.h"

/* ---- dirty, in this project's sense --------------------------------------------------- */

static void tell_lazyfree(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i))
            continue;
        if (!v->own_vma || is_not(v, i, PM_ANON) || is(v, i, PM_PORD))
            decide_open(v, i, PM_LAZYFREE, false, PM_SRC_SMAPS);
    }
    /* The counter lags behind MADV_FREE (the kernel batches it per CPU), so that it
     * is a lower bound: it proves pages lazily freed, never the contrary. */
    int64_t lazy = pages_of(v, PM_C_LAZY_FREE);
    if (lazy > 0 && (size_t)lazy == pm__count_set(v, PM_LAZYFREE) + pm__count_open(v, PM_LAZYFREE))
        pm__settle(v, PM_LAZYFREE, PM_ANON, lazy, PM_SRC_SMAPS);
}

/* Swapped out, a copy is one still; a guard page or marker is none; a page on its way may be. */
static void dirty_absent(struct view *v, size_t i)
{
    if (is(v, i, PM_SWAPPED))
        decide(v, i, PM_DIRTY, true, PM_SRC_PAGEMAP);
    else if (is(v, i, PM_GUARD) || (is_not(v, i, PM_SWAPPED) && !v->migrating))
        decide(v, i, PM_DIRTY, false, PM_SRC_PAGEMAP);
    else if (is(v, i, PM_FILE) && !v->shared)
        decide(v, i, PM_DIRTY, false, PM_SRC_PAGEMAP);
}

static void dirty_private(struct view *v, size_t i)
{
    if (is_not(v, i, PM_PRESENT)) {
        dirty_absent(v, i);
    } else if (is_not(v, i, PM_ANON)) {
        decide(v, i, PM_DIRTY, false, PM_SRC_PAGEMAP); /* no copy: the file's, or the zero page */
    } else if (is(v, i, PM_ANON) && (is_not(v, i, PM_LAZYFREE) || is(v, i, PM_PORD))) {
        decide(v, i, PM_DIRTY, true, PM_SRC_PAGEMAP);
    } else if (is(v, i, PM_LAZYFREE)) {
        decide(v, i, PM_DIRTY, false, PM_SRC_SMAPS);
    } else if (is(v, i, PM_ANON) && is_not(v, i, PM_PORD) && internal(v, i, PM__SWAPCACHE)) {
        decide(v, i, PM_DIRTY, true, PM_SRC_KPAGEFLAGS); /* swapped in and not written since */
    }
}

static void dirty_shared(struct view *v, size_t i)
{
    if (is_not(v, i, PM_PRESENT))
        dirty_absent(v, i);
    else if (is_not(v, i, PM_NORMAL) && v->m->kind != PM_KIND_SPECIAL)
        decide(v, i, PM_DIRTY, false, PM_SRC_PAGEMAP);
    else if (!unknown(v, i, PM_PTEDIRTY))
        decide(v, i, PM_DIRTY, is(v, i, PM_PTEDIRTY), pm__proof_of_p(v));
}

/* Where pages stay undecided, counters may still bound how many are dirty. */
static void bound_dirty(struct view *v)
{
    pm_mapping *m = v->m;
    int64_t pord = sum(pages_of(v, PM_C_PRIVATE_DIRTY), pages_of(v, PM_C_SHARED_DIRTY));
    int64_t lazy = pages_of(v, PM_C_LAZY_FREE);
    m->dirty_lo = pm__count_set(v, PM_DIRTY);
    m->dirty_hi = m->dirty_lo + pm__count_open(v, PM_DIRTY) + m->raced_pages;
    if (!v->steady || pord < 0 || pm__count_open(v, PM_NORMAL) || pm__count_open(v, PM_SWAPPED))
        return;
    uint64_t anon = pm__count_set(v, PM_ANON), swapped = pm__count_set(v, PM_SWAPPED);
    if (!v->shared && v->own_vma) {
        uint64_t lo = (uint64_t)pord + swapped;
        uint64_t hi = anon + swapped - (lazy > 0 && (uint64_t)lazy < anon ? (uint64_t)lazy : 0);
        m->dirty_lo = lo > m->dirty_lo && lo <= m->dirty_hi ? lo : m->dirty_lo;
        m->dirty_hi = hi < m->dirty_hi && hi >= m->dirty_lo ? hi : m->dirty_hi;
    } else if (v->shared && m->kind != PM_KIND_SPECIAL && (uint64_t)pord < m->dirty_hi &&
               (uint64_t)pord >= m->dirty_lo) {
        m->dirty_hi = (uint64_t)pord; /* a page dirty here is P, and counted */
    }
}

void pm__tell_dirty(struct view *v)
{
    tell_lazyfree(v);
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i))
            continue;
        if (v->shared)
            dirty_shared(v, i);
        else
            dirty_private(v, i);
    }
    bound_dirty(v);
}
