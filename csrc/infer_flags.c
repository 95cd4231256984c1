/* SPDX-License-Identifier: MIT
 *
 * infer_flags.c - Y R A U P D W, where something proves them.
 */
#include "infer.h"

#include <string.h>

/* ---- P and D --------------------------------------------------------------------- */

static bool never_written(const struct view *v)
{
    bool object = v->m->kind == PM_KIND_FILE || v->m->kind == PM_KIND_SHMEM;
    return v->shared && object && v->m->vmflags_len && !pm__has_vmflag(v->c, v->m, "mw");
}

static void link_p_and_d(struct view *v, size_t i)
{
    if (is(v, i, PM_PTEDIRTY) || is(v, i, PM_PAGEDIRTY))
        decide_open(v, i, PM_PORD, true,
                    is(v, i, PM_PTEDIRTY) ? pm__proof_of_p(v) : PM_SRC_KPAGEFLAGS);
    if (is_not(v, i, PM_PTEDIRTY) && is_not(v, i, PM_PAGEDIRTY))
        decide_open(v, i, PM_PORD, false, PM_SRC_KPAGEFLAGS);
}

static void split_p_and_d(struct view *v, size_t i)
{
    if (is_not(v, i, PM_PORD)) {
        decide_open(v, i, PM_PTEDIRTY, false, PM_SRC_SMAPS);
        decide_open(v, i, PM_PAGEDIRTY, false, PM_SRC_SMAPS);
    } else if (is(v, i, PM_PORD) && is_not(v, i, PM_PTEDIRTY)) {
        decide_open(v, i, PM_PAGEDIRTY, true, PM_SRC_SMAPS);
    } else if (is(v, i, PM_PORD) && is_not(v, i, PM_PAGEDIRTY)) {
        decide_open(v, i, PM_PTEDIRTY, true, PM_SRC_SMAPS);
    }
}

/* smaps LazyFree counts clean anonymous pages that are no longer swap-backed.  Where
 * frames are visible we know which pages those can be; all or none settles them. */
static void tell_lazyfree_from_frames(struct view *v)
{
    int64_t lazy = pages_of(v, PM_C_LAZY_FREE), candidates = 0;
    for (size_t i = 0; i < v->n; i++) {
        if (!is(v, i, PM_ANON))
            continue;
        if (!(v->known[i] & PM_BIT(PM__SWAPBACKED)))
            return;
        candidates += if_so(v, i, !internal(v, i, PM__SWAPBACKED));
    }
    if (!v->own_vma || !v->steady || lazy < 0 || (lazy != 0 && lazy != candidates))
        return;
    for (size_t i = 0; i < v->n; i++) {
        if (!is(v, i, PM_ANON) || internal(v, i, PM__SWAPBACKED))
            continue;
        decide(v, i, PM_LAZYFREE, lazy != 0, PM_SRC_KPAGEFLAGS);
        decide_open(v, i, PM_PORD, lazy == 0, PM_SRC_SMAPS);
    }
}

/* Whether as many pages are private, or shared, as the counters say: else another process came
 * or went between the two readings, and of which pages they speak is not known. */
static bool is_as_counted(const struct view *v, int bit, int64_t counted)
{
    return counted == (int64_t)pm__count_set(v, bit);
}

static void tell_dirty_bits(struct view *v)
{
    bool readonly = never_written(v);
    tell_lazyfree_from_frames(v);
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !is(v, i, PM_NORMAL))
            continue;
        /* A file's own page in a private mapping is mapped read-only. */
        if (v->m->kind != PM_KIND_SPECIAL && is(v, i, PM_FILE) && (!v->shared || readonly))
            decide_open(v, i, PM_PTEDIRTY, false, PM_SRC_PAGEMAP);
        link_p_and_d(v, i);
    }
    int64_t private = pages_of(v, PM_C_PRIVATE_DIRTY), shared = pages_of(v, PM_C_SHARED_DIRTY);
    if (is_as_counted(v, PM_EXCLUSIVE, sum(pages_of(v, PM_C_PRIVATE_CLEAN), private)))
        pm__settle_or(v, PM_PORD, PM_EXCLUSIVE, private, PM_SRC_SMAPS, PM_T_DIRTY);
    if (is_as_counted(v, PM_SHARED, sum(pages_of(v, PM_C_SHARED_CLEAN), shared)))
        pm__settle_or(v, PM_PORD, PM_SHARED, shared, PM_SRC_SMAPS, PM_T_DIRTY);
    pm__settle_or(v, PM_PORD, PM_NORMAL, sum(private, shared), PM_SRC_SMAPS, PM_T_DIRTY);
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL))
            split_p_and_d(v, i);
}

/* ---- Y, R, A, W, U ----------------------------------------------------------------- */

static void tell_referenced(struct view *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL) && (is(v, i, PM_YOUNG) || is(v, i, PM_REFERENCED)))
            decide_open(v, i, PM_TOUCHED, true,
                        is(v, i, PM_YOUNG) ? PM_SRC_PTE : PM_SRC_KPAGEFLAGS);
    pm__settle_or(v, PM_TOUCHED, PM_NORMAL, pages_of(v, PM_C_REFERENCED), PM_SRC_SMAPS,
                  PM_T_OTHERS);
    for (size_t i = 0; i < v->n; i++) {
        if (is_not(v, i, PM_TOUCHED) && is(v, i, PM_NORMAL)) {
            decide_open(v, i, PM_YOUNG, false, PM_SRC_SMAPS);
            decide_open(v, i, PM_REFERENCED, false, PM_SRC_SMAPS);
        }
    }
}

/* numa_maps counts a page as active when it is active or unevictable.  A page that
 * only this mapping maps, which is not locked, is not unevictable; of others we
 * know only where the host has no unevictable page at all. */
static bool cannot_be_unevictable(const struct view *v, size_t i)
{
    if (!v->c->unevictable_seen)
        return true;
    return is(v, i, PM_EXCLUSIVE) && v->m->vmflags_len && !pm__has_vmflag(v->c, v->m, "lo") &&
           (is(v, i, PM_ANON) || v->m->kind == PM_KIND_FILE);
}

static void tell_active(struct view *v)
{
    int64_t active = numa_of(v, PM_C_NUMA_ACTIVE), open = 0, have = 0;
    for (size_t i = 0; i < v->n; i++) {
        if (is(v, i, PM_NORMAL) && is_not(v, i, PM_ACTIVE))
            return; /* it may be unevictable, and counted all the same */
        have += if_so(v, i, is(v, i, PM_NORMAL) && is(v, i, PM_ACTIVE));
        open += if_so(v, i, is(v, i, PM_NORMAL) && unknown(v, i, PM_ACTIVE));
    }
    if (active < 0 || active < have || (active != have && active != have + open))
        return;
    for (size_t i = 0; i < v->n; i++)
        if (is(v, i, PM_NORMAL) && unknown(v, i, PM_ACTIVE) &&
            (active == have || cannot_be_unevictable(v, i)))
            decide(v, i, PM_ACTIVE, active != have, PM_SRC_NUMA_MAPS);
}

/* Pages of the kernel's own image belong to no file: nothing ever writes them back. */
static void tell_vdso(struct view *v)
{
    const char *name = v->c->strings + v->m->name;
    if (v->m->kind != PM_KIND_SPECIAL || v->m->name_len != 6 || memcmp(name, "[vdso]", 6) != 0)
        return;
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL))
            decide_open(v, i, PM_WRITEBACK, false, PM_SRC_MAPS);
}

static void tell_from_numa(struct view *v)
{
    if (!v->steady || numa_of(v, PM_C_NUMA_PAGES) != (int64_t)pm__count_set(v, PM_NORMAL))
        return;
    tell_active(v);
    pm__settle(v, PM_WRITEBACK, PM_NORMAL, numa_of(v, PM_C_NUMA_WRITEBACK), PM_SRC_NUMA_MAPS);
}

static void tell_uptodate(struct view *v)
{
    bool ordinary = v->m->kind == PM_KIND_ANON || v->m->kind == PM_KIND_FILE ||
                    v->m->kind == PM_KIND_SHMEM;
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL) && (ordinary || is(v, i, PM_ANON)))
            decide_open(v, i, PM_UPTODATE, true, PM_SRC_MAPS);
}

/* Flags belong to ordinary pages; of the others none is set, as the RFC lists none. */
static void clear_flags_of_absent(struct view *v)
{
    const uint32_t of_ordinary = (PM_BIT(PM_WRITEBACK + 1) - 1) | PM_BIT(PM_TOUCHED) |
                                 PM_BIT(PM_PORD) | PM_BIT(PM_KSM);
    for (size_t i = 0; i < v->n; i++) {
        /* Of what may be the zero page its entry's bits are known, and whether they count is not. */
        if (unknown(v, i, PM_NORMAL))
            v->known[i] &= ~(v->set[i] & (PM_BIT(PM_YOUNG) | PM_BIT(PM_PTEDIRTY)));
        if (raced(v, i) || !is_not(v, i, PM_NORMAL))
            continue;
        uint32_t none = of_ordinary | (is_not(v, i, PM_PRESENT) ? PM_BIT(PM_HUGE) : 0);
        v->known[i] |= none;
        v->set[i] &= ~none;
        v->lo[i] = v->hi[i] = 0;
    }
}

void pm__tell_flags(struct view *v)
{
    tell_dirty_bits(v);
    tell_referenced(v);
    tell_from_numa(v);
    tell_vdso(v);
    tell_uptodate(v);
    clear_flags_of_absent(v);
}
