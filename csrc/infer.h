/* SPDX-License-Identifier: MIT
 *
 * infer.h - one mapping while it is being inferred about, run by run, and the steps, in
 * the order in which infer.c takes them.
 */
#ifndef PM_INFER_H
#define PM_INFER_H

#include "engine.h"

struct view {
    struct pm__capture *c;
    pm_mapping *m;
    const pm_counters *k; /* its counters; each -1 where none were read */
    uint32_t *set, *known, *lo, *hi;
    const uint64_t *vpn, *entry, *count; /* of run i; count in pages */
    size_t n;
    bool shared;     /* MAP_SHARED */
    bool own_vma;    /* anonymous VMA: the only kind that MADV_FREE works on */
    bool still;      /* the target left it alone while it was captured */
    bool steady;     /* ... and the pages are those that the counters count: they may be used */
    bool migrating;  /* an entry may be a page on its way, which counters take for present */
};

static inline bool is(const struct view *v, size_t i, int bit)
{
    return v->known[i] & v->set[i] & PM_BIT(bit);
}

static inline bool is_not(const struct view *v, size_t i, int bit)
{
    return (v->known[i] & ~v->set[i]) & PM_BIT(bit);
}

static inline bool unknown(const struct view *v, size_t i, int bit)
{
    return !(v->known[i] & PM_BIT(bit));
}

static inline bool internal(const struct view *v, size_t i, int bit)
{
    return v->set[i] & PM_BIT(bit);
}

static inline void decide(struct view *v, size_t i, int bit, bool value, enum pm_source source)
{
    v->known[i] |= PM_BIT(bit);
    if (value)
        v->set[i] |= PM_BIT(bit);
    else
        v->set[i] &= ~PM_BIT(bit);
    v->m->evidence[bit] |= (uint16_t)(1u << source);
}

/* Decides it where nothing else has. */
static inline void decide_open(struct view *v, size_t i, int bit, bool value, enum pm_source source)
{
    if (unknown(v, i, bit))
        decide(v, i, bit, value, source);
}

static inline bool raced(const struct view *v, size_t i)
{
    return internal(v, i, PM_RACED);
}

/* A counter in pages, or -1 unless it was read twice with one answer. */
static inline int64_t pages_of(const struct view *v, enum pm_counter k)
{
    int64_t b = v->k->before[k], a = v->k->after[k];
    return b >= 0 && b == a ? b / (int64_t)v->c->header.page_size : -1;
}

static inline int64_t numa_of(const struct view *v, enum pm_counter k)
{
    int64_t b = v->k->before[k], a = v->k->after[k];
    return b >= 0 && b == a ? b : -1;
}

/* The pages of run i where something holds of it. */
static inline int64_t if_so(const struct view *v, size_t i, bool holds)
{
    return holds ? (int64_t)v->count[i] : 0;
}

static inline int64_t sum(int64_t a, int64_t b)
{
    return a < 0 || b < 0 ? -1 : a + b;
}

/* ---- infer.c ---------------------------------------------------------------------- */
bool pm__settle(struct view *v, int bit, int among, int64_t total, enum pm_source source);
void pm__settle_or(struct view *v, int bit, int among, int64_t total, enum pm_source source,
                   enum pm_trouble trouble);
void pm__blame(struct view *v, enum pm_trouble trouble);
void pm__distrust(struct view *v, enum pm_trouble trouble);
size_t pm__count_set(const struct view *v, int bit);
size_t pm__count_open(const struct view *v, int bit);

/* ---- infer_page.c: what each page is ------------------------------------------------ */
bool pm__may_be_migrating(const struct view *v);
void pm__tell_pages(struct view *v);

/* ---- infer_sharing.c: mapcount -------------------------------------------------------- */
void pm__tell_sharing(struct view *v);

/* Where P comes from, in a mapping. */
static inline enum pm_source pm__proof_of_p(const struct view *v)
{
    return v->m->evidence[PM_PTEDIRTY] & 1u << PM_SRC_PTE ? PM_SRC_PTE : PM_SRC_SMAPS;
}

/* ---- infer_flags.c: Y R A U P D W ------------------------------------------------------ */
void pm__tell_flags(struct view *v);

/* ---- infer_dirty.c ------------------------------------------------------------------------ */
void pm__tell_dirty(struct view *v);

#endif
