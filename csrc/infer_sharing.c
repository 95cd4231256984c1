/* SPDX-License-Identifier: MIT
 *
 * infer_sharing.c - how often each page is mapped, exactly or within bounds.
 */
#include "infer.h"
#include "uapi.h"

/* ---- mapcount ------------------------------------------------------------------ */

static void bound(struct view *v, size_t i, uint32_t lo, uint32_t hi, enum pm_source source)
{
    v->lo[i] = lo;
    v->hi[i] = hi;
    v->m->evidence[PM_MAPCOUNT] |= (uint16_t)(1u << source);
}

/* kpage.c does not look up the mapcount of a small page that pagemap calls exclusive. */
static enum pm_source counted_by(const struct view *v, size_t i)
{
    bool exclusive = (v->entry[i] & PM_PE_EXCLUSIVE) && !internal(v, i, PM__COMPOUND);
    return exclusive ? PM_SRC_PAGEMAP : PM_SRC_KPAGECOUNT;
}

/* Bit 56 of pagemap speaks of small pages only: of a huge page it sees the head. */
static void sharing_from_pagemap(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !is(v, i, PM_NORMAL))
            continue;
        bool once = v->entry[i] & PM_PE_EXCLUSIVE;
        if (internal(v, i, PM__KCOUNT)) {
            /* Two sources that disagree on a small page: others moved it in between. */
            bool agree = internal(v, i, PM__COMPOUND) || once == (v->lo[i] == 1);
            if (internal(v, i, PM__DRIFTED) || !agree) {
                v->set[i] &= ~PM_BIT(PM__KCOUNT);
                v->m->drifted_pages += (uint32_t)if_so(v, i, !internal(v, i, PM__DRIFTED));
                bound(v, i, 1, PM_UNBOUNDED, PM_SRC_PAGEMAP);
            } else {
                enum pm_source source = counted_by(v, i);
                decide(v, i, PM_EXCLUSIVE, v->lo[i] == 1, source);
                v->m->evidence[PM_MAPCOUNT] |= (uint16_t)(1u << source);
            }
        } else if (is_not(v, i, PM_HUGE) && !internal(v, i, PM__DRIFTED)) {
            decide(v, i, PM_EXCLUSIVE, once, PM_SRC_PAGEMAP);
        }
    }
}

static void bound_mapcounts(struct view *v)
{
    /* Largest mapcount numa_maps saw: no bound for huge pages, of which it sees the head. */
    int64_t most = numa_of(v, PM_C_NUMA_MAPMAX);
    bool usable = v->steady && most > 0 &&
                  numa_of(v, PM_C_NUMA_PAGES) == (int64_t)pm__count_set(v, PM_NORMAL);
    for (size_t i = 0; i < v->n; i++) {
        if (!raced(v, i) && unknown(v, i, PM_NORMAL))
            bound(v, i, 0, PM_UNBOUNDED, PM_SRC_PAGEMAP); /* the zero page has none */
        if (raced(v, i) || !is(v, i, PM_NORMAL) || internal(v, i, PM__KCOUNT))
            continue;
        uint32_t hi = usable && is_not(v, i, PM_HUGE) && most < PM_UNBOUNDED ? (uint32_t)most
                                                                             : PM_UNBOUNDED;
        if (is(v, i, PM_EXCLUSIVE))
            bound(v, i, 1, 1, PM_SRC_PAGEMAP);
        else if (is_not(v, i, PM_EXCLUSIVE) && hi >= 2)
            bound(v, i, 2, hi, hi == PM_UNBOUNDED ? PM_SRC_PAGEMAP : PM_SRC_NUMA_MAPS);
        else if (unknown(v, i, PM_EXCLUSIVE))
            bound(v, i, 1, PM_UNBOUNDED, PM_SRC_PAGEMAP);
        else
            bound(v, i, 2, PM_UNBOUNDED, PM_SRC_PAGEMAP); /* moved between the two readings */
    }
}

static void tell_counts(struct view *v)
{
    int64_t once = sum(pages_of(v, PM_C_PRIVATE_CLEAN), pages_of(v, PM_C_PRIVATE_DIRTY));
    sharing_from_pagemap(v);
    pm__settle_or(v, PM_EXCLUSIVE, PM_NORMAL, v->m->drifted_pages ? -1 : once, PM_SRC_SMAPS,
                  PM_T_PRIVATE);
    bound_mapcounts(v);
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i))
            continue;
        if (is_not(v, i, PM_NORMAL)) {
            decide(v, i, PM_SHARED, false, PM_SRC_PAGEMAP);
            decide(v, i, PM_EXCLUSIVE, false, PM_SRC_PAGEMAP);
        } else if (!unknown(v, i, PM_EXCLUSIVE) && is(v, i, PM_NORMAL)) {
            decide(v, i, PM_SHARED, !is(v, i, PM_EXCLUSIVE), PM_SRC_PAGEMAP);
        }
    }
}

/* Pss is the sum of page size / mapcount, kept by the kernel in 1/4096 of a byte
 * and printed in whole kB. */
static void check_pss(struct view *v)
{
    int64_t pss = v->k->before[PM_C_PSS];
    double lo = 0, hi = 0, page = (double)v->c->header.page_size;
    if (!v->steady || v->m->drifted_pages || pss < 0 || pss != v->k->after[PM_C_PSS])
        return;
    for (size_t i = 0; i < v->n; i++) {
        if (is_not(v, i, PM_NORMAL))
            continue;
        double bytes = page * (double)v->count[i];
        lo += !is(v, i, PM_NORMAL) || v->hi[i] == PM_UNBOUNDED ? 0 : bytes / v->hi[i];
        hi += v->lo[i] ? bytes / v->lo[i] : bytes;
    }
    if ((double)pss > hi + 1024 || (double)pss + 2048 < lo)
        pm__blame(v, PM_T_PSS);
}

void pm__tell_sharing(struct view *v)
{
    tell_counts(v);
    check_pss(v);
}
