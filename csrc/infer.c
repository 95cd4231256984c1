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
#include "engine.h"
#include "uapi.h"

#include <string.h>

struct view {
    struct pm__capture *c;
    pm_mapping *m;
    uint32_t *set, *known, *lo, *hi;
    const uint64_t *entry;
    size_t n;
    bool shared;     /* MAP_SHARED */
    bool own_vma;    /* anonymous VMA: the only kind that MADV_FREE works on */
    bool still;      /* the target left it alone while it was captured */
    bool steady;     /* ... and the pages are those that the counters count: they may be used */
    bool migrating;  /* an entry may be a page on its way, which counters take for present */
};

static bool is(const struct view *v, size_t i, int bit)
{
    return v->known[i] & v->set[i] & PM_BIT(bit);
}

static bool is_not(const struct view *v, size_t i, int bit)
{
    return (v->known[i] & ~v->set[i]) & PM_BIT(bit);
}

static bool unknown(const struct view *v, size_t i, int bit)
{
    return !(v->known[i] & PM_BIT(bit));
}

static bool internal(const struct view *v, size_t i, int bit)
{
    return v->set[i] & PM_BIT(bit);
}

static void decide(struct view *v, size_t i, int bit, bool value, enum pm_source source)
{
    v->known[i] |= PM_BIT(bit);
    if (value)
        v->set[i] |= PM_BIT(bit);
    else
        v->set[i] &= ~PM_BIT(bit);
    v->m->evidence[bit] |= (uint16_t)(1u << source);
}

/* Decides it where nothing else has. */
static void decide_open(struct view *v, size_t i, int bit, bool value, enum pm_source source)
{
    if (unknown(v, i, bit))
        decide(v, i, bit, value, source);
}

static bool raced(const struct view *v, size_t i)
{
    return internal(v, i, PM_RACED);
}

/* A counter in pages, or -1 unless it was read twice with one answer. */
static int64_t pages_of(const struct view *v, enum pm_counter k)
{
    int64_t b = v->m->before[k], a = v->m->after[k];
    return b >= 0 && b == a ? b / (int64_t)v->c->header.page_size : -1;
}

static int64_t numa_of(const struct view *v, enum pm_counter k)
{
    int64_t b = v->m->before[k], a = v->m->after[k];
    return b >= 0 && b == a ? b : -1;
}

static int64_t sum(int64_t a, int64_t b)
{
    return a < 0 || b < 0 ? -1 : a + b;
}

/* The all-or-none step.  `total` pages among those with `among` set have `bit`;
 * returns false where that contradicts what is known already. */
static bool settle(struct view *v, int bit, int among, int64_t total, enum pm_source source)
{
    int64_t have = 0, open = 0;
    if (!v->steady || total < 0)
        return true;
    for (size_t i = 0; i < v->n; i++) {
        if (unknown(v, i, among))
            return true; /* the counter speaks of pages we cannot name */
        if (is(v, i, among)) {
            have += is(v, i, bit);
            open += unknown(v, i, bit);
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

static void blame(struct view *v, enum pm_trouble trouble)
{
    bool may_be_others = trouble == PM_T_DIRTY || trouble == PM_T_PRIVATE || trouble == PM_T_PSS;
    v->m->trouble |= may_be_others && others_reach(v) ? PM_T_OTHERS : trouble;
}

static void settle_or(struct view *v, int bit, int among, int64_t total, enum pm_source source,
                      enum pm_trouble trouble)
{
    if (!settle(v, bit, among, total, source))
        blame(v, trouble);
}

static size_t count_set(const struct view *v, int bit)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += is(v, i, bit);
    return n;
}

static size_t count_open(const struct view *v, int bit)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += unknown(v, i, bit);
    return n;
}

/* ---- what the page's own entries say -------------------------------------- */

/* kpage.c has put these in already; they are there together or not at all. */
static void from_kpageflags(struct view *v, size_t i)
{
    static const int facts[] = {PM_REFERENCED, PM_ACTIVE, PM_UPTODATE, PM_PAGEDIRTY,
                                PM_WRITEBACK,  PM_KSM,    PM_ZERO};
    if (unknown(v, i, PM_UPTODATE))
        return;
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++)
        v->m->evidence[facts[k]] |= 1u << PM_SRC_KPAGEFLAGS;
}

/* Bit 61 says "not anonymous": a page of the file, or the huge zero page, which only
 * anonymous memory maps (/dev/zero, which we may not have recognised, among it). */
static bool is_file_page(const struct view *v, uint64_t entry)
{
    return (entry & PM_PE_FILE) && (v->shared || !v->own_vma);
}

static void from_pagemap(struct view *v, size_t i)
{
    const struct pm__features *host = pm__features();
    uint64_t e = v->entry[i];
    bool present = e & PM_PE_PRESENT, file = is_file_page(v, e);
    decide(v, i, PM_RACED, false, PM_SRC_PAGEMAP);
    decide(v, i, PM_PRESENT, present, PM_SRC_PAGEMAP);
    if (file || !(e & PM_PE_FILE) || v->m->kind == PM_KIND_ANON)
        decide(v, i, PM_FILE, file, PM_SRC_PAGEMAP);
    if (host->softdirty)
        decide(v, i, PM_SOFTDIRTY, e & PM_PE_SOFTDIRTY, PM_SRC_PAGEMAP);
    if (e & PM_PE_UFFDWP)
        decide(v, i, PM_UFFDWP, true, PM_SRC_PAGEMAP);
    else if (v->m->vmflags_len && !pm__has_vmflag(v->c, v->m, "uw"))
        decide(v, i, PM_UFFDWP, false, PM_SRC_SMAPS);
    else if (host->scan) /* a kernel this new has bit 57 */
        decide(v, i, PM_UFFDWP, false, PM_SRC_PAGEMAP);
    if (present || host->guard)
        decide(v, i, PM_GUARD, !present && (e & PM_PE_GUARD), PM_SRC_PAGEMAP);
    if (present)
        decide(v, i, PM_SWAPPED, false, PM_SRC_PAGEMAP);
    else if (is(v, i, PM_GUARD) || (e & PM_PE_FILE))
        decide(v, i, PM_SWAPPED, false, PM_SRC_PAGEMAP); /* a migrating file page is no swap */
    if (e & PM_PE_FILE)
        decide(v, i, PM_ANON, false, PM_SRC_PAGEMAP);
    if (present && file) {
        decide(v, i, PM_ZERO, false, PM_SRC_PAGEMAP);
        if (v->m->kind != PM_KIND_SPECIAL)
            decide(v, i, PM_NORMAL, true, PM_SRC_PAGEMAP);
    }
    if (!present) {
        decide(v, i, PM_ANON, false, PM_SRC_PAGEMAP);
        decide(v, i, PM_ZERO, false, PM_SRC_PAGEMAP);
        decide(v, i, PM_NORMAL, false, PM_SRC_PAGEMAP);
    }
}

/* ---- anonymous, zero, or without a page of its own -------------------------- */

static void from_frames(struct view *v, size_t i)
{
    if (is(v, i, PM_ZERO)) {
        decide(v, i, PM_ANON, false, PM_SRC_KPAGEFLAGS);
        decide(v, i, PM_NORMAL, false, PM_SRC_KPAGEFLAGS);
    } else if (internal(v, i, PM__KCOUNT) && unknown(v, i, PM_ANON)) {
        /* Present, not of a file, and the kernel counts its mappings. */
        decide(v, i, PM_ANON, true, PM_SRC_KPAGEFLAGS);
        decide(v, i, PM_NORMAL, true, PM_SRC_KPAGEFLAGS);
    }
}

/* Private memory that maps no device: a present page that is neither the file's
 * nor a private copy can only be the zero page. */
static bool is_ordinary(const struct view *v)
{
    return !v->shared && v->m->kind != PM_KIND_SPECIAL;
}

static void zero_from_scan(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !unknown(v, i, PM_ANON))
            continue;
        if (is(v, i, PM_ZERO) || v->shared)
            decide(v, i, PM_ANON, false, v->shared ? PM_SRC_MAPS : PM_SRC_SCAN);
        else if (is_not(v, i, PM_ZERO) && is_ordinary(v))
            decide(v, i, PM_ANON, true, PM_SRC_SCAN);
    }
}

static void normal_from_anon(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (is(v, i, PM_ANON)) {
            decide_open(v, i, PM_ZERO, false, PM_SRC_SMAPS);
            decide_open(v, i, PM_NORMAL, true, PM_SRC_SMAPS);
        } else if (is_not(v, i, PM_ANON) && is_not(v, i, PM_FILE) && is_ordinary(v)) {
            decide_open(v, i, PM_ZERO, is(v, i, PM_PRESENT), PM_SRC_SMAPS);
            decide_open(v, i, PM_NORMAL, false, PM_SRC_SMAPS);
        }
    }
}

/* Of the last kind of page that is open, "not anonymous" in memory that may be
 * anonymous: ordinary pages are the file's, others the huge zero page. */
static void file_from_normal(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (!is(v, i, PM_PRESENT) || !unknown(v, i, PM_FILE) || !is_not(v, i, PM_ANON) ||
            unknown(v, i, PM_NORMAL))
            continue;
        decide(v, i, PM_FILE, is(v, i, PM_NORMAL), PM_SRC_SMAPS);
        decide_open(v, i, PM_ZERO, is_not(v, i, PM_NORMAL), PM_SRC_SMAPS);
    }
}

/* Whether Rss can be what is present: known ordinary pages and `extra` others, and at
 * most `slack` more. */
static bool rss_fits(const struct view *v, int64_t extra, size_t slack)
{
    int64_t rss = pages_of(v, PM_C_RSS), lo = (int64_t)count_set(v, PM_NORMAL) + extra;
    return rss >= lo && rss <= lo + (int64_t)slack;
}

static void distrust(struct view *v, enum pm_trouble trouble)
{
    v->m->trouble |= trouble;
    v->steady = false;
}

/* A page that is being migrated shows as a swap entry, and counters take it for
 * present.  Where all present pages are known without counters and make up Rss, no
 * page is; else counters are of no use here. */
static void rule_out_migration(struct view *v)
{
    if (!v->migrating)
        return;
    if (v->steady && count_open(v, PM_NORMAL) == 0 && rss_fits(v, 0, 0))
        v->migrating = false;
    else
        v->steady = false;
}

/* Before Anonymous decides which pages are copies, it must agree with Rss on how many. */
static void check_anonymous(struct view *v)
{
    int64_t total = pages_of(v, PM_C_ANONYMOUS), have = 0, open = 0;
    size_t others = 0;
    for (size_t i = 0; i < v->n; i++) {
        have += is(v, i, PM_ANON);
        open += is(v, i, PM_PRESENT) && unknown(v, i, PM_ANON);
        others += is_not(v, i, PM_ANON) && unknown(v, i, PM_NORMAL);
    }
    if (!v->steady)
        return;
    if (total < have || total > have + open)
        distrust(v, PM_T_ANONYMOUS);
    else if (is_ordinary(v) && !rss_fits(v, total - have, others))
        distrust(v, PM_T_RSS);
}

static void tell_zero_from_anon(struct view *v)
{
    zero_from_scan(v);
    normal_from_anon(v);
    rule_out_migration(v);
    check_anonymous(v);
    settle(v, PM_ANON, PM_PRESENT, pages_of(v, PM_C_ANONYMOUS), PM_SRC_SMAPS);
    normal_from_anon(v);
    if (v->steady && !rss_fits(v, 0, count_open(v, PM_NORMAL)))
        distrust(v, PM_T_RSS);
    settle(v, PM_NORMAL, PM_PRESENT, pages_of(v, PM_C_RSS), PM_SRC_SMAPS);
    file_from_normal(v);
}

static bool is_still(const struct view *v)
{
    return !(v->m->trouble & (PM_T_CHANGED | PM_T_RACED)) && pages_of(v, PM_C_RSS) >= 0 &&
           pages_of(v, PM_C_ANONYMOUS) >= 0 && v->m->before[PM_C_SWAP] == v->m->after[PM_C_SWAP];
}

/* ---- swap, KSM, huge pages --------------------------------------------------- */

/* smaps Swap counts this mapping's swap entries, but for memory objects those of
 * the object too, which no entry here shows. */
static bool counts_entries_only(const struct view *v)
{
    return v->m->kind == PM_KIND_ANON || (v->m->kind == PM_KIND_FILE && !v->shared);
}

/* Entries of which Swap does not say that they are swap: markers, or pages on their way. */
static bool may_be_migrating(const struct view *v)
{
    int64_t entries = 0, swap = pages_of(v, PM_C_SWAP);
    for (size_t i = 0; i < v->n; i++) {
        bool other = (v->entry[i] & PM_PE_PRESENT) ||
                     (pm__features()->guard && (v->entry[i] & PM_PE_GUARD));
        if (!other && (v->entry[i] & PM_PE_FILE))
            return true;
        entries += !other;
    }
    return entries && !(counts_entries_only(v) && entries == swap);
}

static void tell_swap(struct view *v)
{
    int64_t open = 0, have = 0, total = pages_of(v, PM_C_SWAP);
    if (!v->still || total < 0 || !counts_entries_only(v))
        return;
    for (size_t i = 0; i < v->n; i++) {
        open += unknown(v, i, PM_SWAPPED);
        have += is(v, i, PM_SWAPPED);
    }
    if (total < have || total > have + open) {
        distrust(v, PM_T_SWAP);
        return;
    }
    for (size_t i = 0; i < v->n; i++) {
        if (unknown(v, i, PM_SWAPPED) && (total == have || total == have + open))
            decide(v, i, PM_SWAPPED, total != have, PM_SRC_SMAPS);
        if (is(v, i, PM_SWAPPED))
            decide_open(v, i, PM_GUARD, false, PM_SRC_SMAPS);
    }
}

static int64_t huge_pages(const struct view *v)
{
    int64_t anon = pages_of(v, PM_C_ANON_HUGE_PAGES);
    int64_t shmem = pages_of(v, PM_C_SHMEM_PMD_MAPPED);
    int64_t file = pages_of(v, PM_C_FILE_PMD_MAPPED);
    /* A kernel that does not print a line has no such pages. */
    shmem = v->m->before[PM_C_SHMEM_PMD_MAPPED] < 0 ? 0 : shmem;
    file = v->m->before[PM_C_FILE_PMD_MAPPED] < 0 ? 0 : file;
    return sum(anon, sum(shmem, file));
}

static void tell_huge_and_ksm(struct view *v)
{
    if (!settle(v, PM_HUGE, PM_NORMAL, huge_pages(v), PM_SRC_SMAPS))
        distrust(v, PM_T_RSS);
    settle(v, PM_KSM, PM_NORMAL, pages_of(v, PM_C_KSM), PM_SRC_SMAPS);
}

/* ---- mapcount ------------------------------------------------------------------ */

static void bound(struct view *v, size_t i, uint32_t lo, uint32_t hi, enum pm_source source)
{
    v->lo[i] = lo;
    v->hi[i] = hi;
    v->m->evidence[PM_MAPCOUNT] |= (uint16_t)(1u << source);
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
                v->m->drifted_pages += !internal(v, i, PM__DRIFTED);
                bound(v, i, 1, PM_UNBOUNDED, PM_SRC_PAGEMAP);
            } else {
                decide(v, i, PM_EXCLUSIVE, v->lo[i] == 1, PM_SRC_KPAGECOUNT);
                v->m->evidence[PM_MAPCOUNT] |= 1u << PM_SRC_KPAGECOUNT;
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
                  numa_of(v, PM_C_NUMA_PAGES) == (int64_t)count_set(v, PM_NORMAL);
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

static void tell_sharing(struct view *v)
{
    int64_t once = sum(pages_of(v, PM_C_PRIVATE_CLEAN), pages_of(v, PM_C_PRIVATE_DIRTY));
    sharing_from_pagemap(v);
    settle_or(v, PM_EXCLUSIVE, PM_NORMAL, v->m->drifted_pages ? -1 : once, PM_SRC_SMAPS,
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
    int64_t pss = v->m->before[PM_C_PSS];
    double lo = 0, hi = 0, page = (double)v->c->header.page_size;
    if (!v->steady || v->m->drifted_pages || pss < 0 || pss != v->m->after[PM_C_PSS])
        return;
    for (size_t i = 0; i < v->n; i++) {
        if (is_not(v, i, PM_NORMAL))
            continue;
        lo += !is(v, i, PM_NORMAL) || v->hi[i] == PM_UNBOUNDED ? 0 : page / v->hi[i];
        hi += v->lo[i] ? page / v->lo[i] : page;
    }
    if ((double)pss > hi + 1024 || (double)pss + 2048 < lo)
        blame(v, PM_T_PSS);
}

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
                    is(v, i, PM_PTEDIRTY) ? PM_SRC_PAGEMAP : PM_SRC_KPAGEFLAGS);
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
        candidates += !internal(v, i, PM__SWAPBACKED);
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
    settle_or(v, PM_PORD, PM_EXCLUSIVE, private, PM_SRC_SMAPS, PM_T_DIRTY);
    settle_or(v, PM_PORD, PM_SHARED, shared, PM_SRC_SMAPS, PM_T_DIRTY);
    settle_or(v, PM_PORD, PM_NORMAL, sum(private, shared), PM_SRC_SMAPS, PM_T_DIRTY);
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL))
            split_p_and_d(v, i);
}

/* ---- Y, R, A, W, U ----------------------------------------------------------------- */

static void tell_referenced(struct view *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && (is(v, i, PM_YOUNG) || is(v, i, PM_REFERENCED)))
            decide_open(v, i, PM_TOUCHED, true, PM_SRC_KPAGEFLAGS);
    settle_or(v, PM_TOUCHED, PM_NORMAL, pages_of(v, PM_C_REFERENCED), PM_SRC_SMAPS, PM_T_OTHERS);
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
        have += is(v, i, PM_NORMAL) && is(v, i, PM_ACTIVE);
        open += is(v, i, PM_NORMAL) && unknown(v, i, PM_ACTIVE);
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
    if (!v->steady || numa_of(v, PM_C_NUMA_PAGES) != (int64_t)count_set(v, PM_NORMAL))
        return;
    tell_active(v);
    settle(v, PM_WRITEBACK, PM_NORMAL, numa_of(v, PM_C_NUMA_WRITEBACK), PM_SRC_NUMA_MAPS);
}

static void tell_uptodate(struct view *v)
{
    bool ordinary = v->m->kind == PM_KIND_ANON || v->m->kind == PM_KIND_FILE ||
                    v->m->kind == PM_KIND_SHMEM;
    for (size_t i = 0; i < v->n; i++)
        if (!raced(v, i) && is(v, i, PM_NORMAL) && (ordinary || is(v, i, PM_ANON)))
            decide_open(v, i, PM_UPTODATE, true, PM_SRC_MAPS);
}

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
    if (lazy > 0 && (size_t)lazy == count_set(v, PM_LAZYFREE) + count_open(v, PM_LAZYFREE))
        settle(v, PM_LAZYFREE, PM_ANON, lazy, PM_SRC_SMAPS);
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
        decide(v, i, PM_DIRTY, is(v, i, PM_PTEDIRTY), PM_SRC_SMAPS);
}

/* Where pages stay undecided, counters may still bound how many are dirty. */
static void bound_dirty(struct view *v)
{
    pm_mapping *m = v->m;
    int64_t pord = sum(pages_of(v, PM_C_PRIVATE_DIRTY), pages_of(v, PM_C_SHARED_DIRTY));
    int64_t lazy = pages_of(v, PM_C_LAZY_FREE);
    m->dirty_lo = count_set(v, PM_DIRTY);
    m->dirty_hi = m->dirty_lo + count_open(v, PM_DIRTY) + m->raced_pages;
    if (!v->steady || pord < 0 || count_open(v, PM_NORMAL) || count_open(v, PM_SWAPPED))
        return;
    uint64_t anon = count_set(v, PM_ANON), swapped = count_set(v, PM_SWAPPED);
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

static void tell_dirty(struct view *v)
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

/* ---- the whole of it --------------------------------------------------------------------- */

/* Flags belong to ordinary pages; of the others none is set, as the RFC lists none. */
static void clear_flags_of_absent(struct view *v)
{
    const uint32_t of_ordinary = (PM_BIT(PM_WRITEBACK + 1) - 1) | PM_BIT(PM_TOUCHED) |
                                 PM_BIT(PM_PORD) | PM_BIT(PM_KSM);
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !is_not(v, i, PM_NORMAL))
            continue;
        uint32_t none = of_ordinary | (is_not(v, i, PM_PRESENT) ? PM_BIT(PM_HUGE) : 0);
        v->known[i] |= none;
        v->set[i] &= ~none;
        v->lo[i] = v->hi[i] = 0;
    }
}

static struct view view_of(struct pm__capture *c, size_t mapping)
{
    pm_mapping *m = &c->mappings[mapping];
    const struct pm__span *s = &c->spans[mapping];
    struct view v = {
        .c = c,
        .m = m,
        .set = c->pages.set + s->first,
        .known = c->pages.known + s->first,
        .lo = c->pages.mapcount_lo + s->first,
        .hi = c->pages.mapcount_hi + s->first,
        .entry = c->pages.entry + s->first,
        .n = s->n,
        .shared = m->perms & PM_SHARED_MAP,
        .own_vma = m->kind == PM_KIND_ANON || m->kind == PM_KIND_UNKNOWN,
    };
    v.still = is_still(&v);
    v.steady = v.still;
    v.migrating = may_be_migrating(&v);
    return v;
}

static int64_t before(const pm_mapping *m, enum pm_counter k)
{
    return m->before[k] < 0 ? 0 : m->before[k];
}

/* PAGEMAP_SCAN is asked only where counters leave a question open that it answers.
 * Asked between the two readings of the pages, so by the first reading of counters. */
bool pm__wants_scan(const struct pm__capture *c, size_t mapping, enum pm_bit bit)
{
    const pm_mapping *m = &c->mappings[mapping];
    const struct pm__span *s = &c->spans[mapping];
    int64_t candidates = 0, entries = 0, total = before(m, PM_C_ANONYMOUS);
    if (m->kind == PM_KIND_SPECIAL || (bit == PM_ZERO && (m->perms & PM_SHARED_MAP)))
        return false;
    if (bit == PM_HUGE)
        total = before(m, PM_C_ANON_HUGE_PAGES) + before(m, PM_C_SHMEM_PMD_MAPPED) +
                before(m, PM_C_FILE_PMD_MAPPED);
    for (size_t i = s->first; i < s->first + s->n; i++) {
        uint64_t e = c->pages.entry[i];
        bool files = (e & PM_PE_FILE) && m->kind != PM_KIND_ANON;
        candidates += (e & PM_PE_PRESENT) &&
                      (bit == PM_HUGE || (!files && !(c->pages.known[i] & PM_BIT(bit))));
        entries += !(e & (PM_PE_PRESENT | PM_PE_GUARD));
    }
    if (bit == PM_ZERO && entries && candidates)
        return true; /* counters may count a page on its way instead */
    return candidates && total && total / (int64_t)c->header.page_size != candidates;
}

void pm__infer(struct pm__capture *c, size_t mapping)
{
    struct view v = view_of(c, mapping);
    if (v.m->kind == PM_KIND_HUGETLB)
        return; /* nothing of it was captured, and nothing is said of it */
    for (size_t i = 0; i < v.n; i++) {
        if (raced(&v, i)) {
            v.known[i] = v.set[i] = PM_BIT(PM_RACED);
            v.lo[i] = 0;
            v.hi[i] = PM_UNBOUNDED;
            v.m->evidence[PM_RACED] |= 1u << PM_SRC_PAGEMAP;
            continue;
        }
        from_kpageflags(&v, i);
        from_pagemap(&v, i);
        from_frames(&v, i);
        if (internal(&v, i, PM__STALE))
            v.m->trouble |= PM_T_STALE;
    }
    tell_zero_from_anon(&v);
    tell_swap(&v);
    tell_huge_and_ksm(&v);
    tell_sharing(&v);
    check_pss(&v);
    tell_dirty_bits(&v);
    tell_referenced(&v);
    tell_from_numa(&v);
    tell_vdso(&v);
    tell_uptodate(&v);
    clear_flags_of_absent(&v);
    tell_dirty(&v);
}
