/* SPDX-License-Identifier: MIT
 *
 * infer.c - what all sources together prove about each page of a mapping.
 *
 * First what a page's own entries say, then what the kernel's counters of the
 * whole mapping add: where a counter leaves room for none of the undecided
 * pages, or for all of them, it decides them.  Counters are used only where they
 * read the same before and after the pages, and where the pages add up to Rss.
 * What does not add up becomes a trouble of the mapping, never a claim.
 */
#include "infer.h"
#include "uapi.h"

/* The all-or-none step.  `total` pages among those with `among` set have `bit`;
 * returns false where that contradicts what is known already. */
bool pm__settle(struct view *v, int bit, int among, int64_t total, enum pm_source source)
{
    int64_t have = 0, open = 0;
    if (!v->steady || total < 0)
        return true;
    for (size_t i = 0; i < v->n; i++) {
        if (unknown(v, i, among))
            return true; /* the counter speaks of pages we cannot name */
        if (is(v, i, among)) {
            have += if_so(v, i, is(v, i, bit));
            open += if_so(v, i, unknown(v, i, bit));
        }
    }
    if (total < have || total > have + open)
        return false;
    if (open == 0 || (total != have && total != have + open))
        return true;
    for (size_t i = 0; i < v->n; i++)
        if (is(v, i, among) && unknown(v, i, bit))
            decide(v, i, bit, total != have, source);
    return true;
}

/* Whether other processes can reach pages of the mapping: then sharing, and D, may move
 * under a capture without the target doing anything. */
static bool others_reach(const struct view *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && !is_not(v, i, PM_NORMAL) &&
            !(is(v, i, PM_ANON) && (v->entry[i] & PM_PE_EXCLUSIVE)))
            return true;
    return false;
}

void pm__blame(struct view *v, enum pm_trouble trouble)
{
    bool may_be_others = trouble == PM_T_DIRTY || trouble == PM_T_PRIVATE || trouble == PM_T_PSS;
    v->m->trouble |= may_be_others && others_reach(v) ? PM_T_OTHERS : trouble;
}

void pm__settle_or(struct view *v, int bit, int among, int64_t total, enum pm_source source,
                   enum pm_trouble trouble)
{
    if (!pm__settle(v, bit, among, total, source))
        pm__blame(v, trouble);
}

size_t pm__count_set(const struct view *v, int bit)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += (size_t)if_so(v, i, is(v, i, bit));
    return n;
}

size_t pm__count_open(const struct view *v, int bit)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += (size_t)if_so(v, i, unknown(v, i, bit));
    return n;
}

void pm__distrust(struct view *v, enum pm_trouble trouble)
{
    v->m->trouble |= trouble;
    v->steady = false;
}

static bool is_still(const struct view *v)
{
    return !v->c->header.faults && !(v->m->trouble & (PM_T_CHANGED | PM_T_RACED)) &&
           pages_of(v, PM_C_RSS) >= 0 && pages_of(v, PM_C_ANONYMOUS) >= 0 &&
           v->k->before[PM_C_SWAP] == v->k->after[PM_C_SWAP];
}

/* ---- the whole of it --------------------------------------------------------------------- */

#define NO_COUNTERS {[0 ... PM_N_COUNTERS - 1] = -1}

static struct view view_of(struct pm__capture *c, size_t mapping)
{
    static const pm_counters none = {.before = NO_COUNTERS, .after = NO_COUNTERS};
    pm_mapping *m = &c->mappings[mapping];
    const struct pm__span *s = &c->spans[mapping];
    const struct pm__runs *r = &c->runs;
    struct view v = {
        .c = c,
        .m = m,
        .k = c->counters ? &c->counters[mapping] : &none,
        .set = r->set + s->first,
        .known = r->known + s->first,
        .lo = r->lo + s->first,
        .hi = r->hi + s->first,
        .vpn = r->vpn + s->first,
        .entry = r->entry + s->first,
        .count = r->count + s->first,
        .n = s->n,
        .shared = m->perms & PM_SHARED_MAP,
        .own_vma = m->kind == PM_KIND_ANON || m->kind == PM_KIND_UNKNOWN,
    };
    v.still = is_still(&v);
    v.steady = v.still;
    v.migrating = pm__may_be_migrating(&v);
    return v;
}

/* Pages that a reading of the counters had and the pages did not: they came or went. */
static void note_unseen(struct view *v)
{
    int64_t first = v->k->before[PM_C_RSS], second = v->k->after[PM_C_RSS];
    int64_t most = (first > second ? first : second) / (int64_t)v->c->header.page_size;
    int64_t seen = (int64_t)(pm__count_set(v, PM_NORMAL) + pm__count_open(v, PM_NORMAL));
    if (most <= seen || v->m->trouble & PM_T_RACED)
        return;
    v->m->raced_pages += (uint32_t)(most - seen);
    v->c->header.raced_pages += (uint64_t)(most - seen);
}

void pm__infer(struct pm__capture *c, size_t mapping)
{
    struct view v = view_of(c, mapping);
    if (v.m->kind == PM_KIND_HUGETLB || c->request->depth < PM_PAGES)
        return; /* nothing of it was captured, and nothing is said of it */
    for (size_t i = 0; i < v.n; i++) {
        if (!raced(&v, i))
            continue;
        v.known[i] = v.set[i] = PM_BIT(PM_RACED);
        v.lo[i] = 0;
        v.hi[i] = PM_UNBOUNDED;
        v.m->evidence[PM_RACED] |= 1u << PM_SRC_PAGEMAP;
    }
    pm__tell_pages(&v);
    note_unseen(&v);
    pm__tell_sharing(&v);
    pm__tell_flags(&v);
    pm__tell_dirty(&v);
}
