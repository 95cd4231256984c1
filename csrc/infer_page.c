/* SPDX-License-Identifier: MIT
 *
 * infer_page.c - what each page is: of the file, a copy, the zero page, swapped out,
 * a marker, part of a huge mapping.
 */
#include "infer.h"
#include "uapi.h"

/* ---- what the page's own entries say -------------------------------------- */

/* Some kernels (seen on 6.12) show KSM in kpageflags of every anonymous page, merged or not. */
static void doubt_ksm(struct view *v, size_t i)
{
    if (v->c->ksm_told || !internal(v, i, PM_KSM))
        return;
    v->set[i] &= ~PM_BIT(PM_KSM);
    v->known[i] &= ~PM_BIT(PM_KSM);
}

/* kpage.c has put these in already; they are there together or not at all. */
static void from_kpageflags(struct view *v, size_t i)
{
    static const int facts[] = {PM_REFERENCED, PM_ACTIVE, PM_UPTODATE, PM_PAGEDIRTY,
                                PM_WRITEBACK,  PM_KSM,    PM_ZERO};
    if (!internal(v, i, PM__KFLAGS))
        return;
    doubt_ksm(v, i);
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++)
        if (!unknown(v, i, facts[k]))
            v->m->evidence[facts[k]] |= 1u << PM_SRC_KPAGEFLAGS;
    if (!internal(v, i, PM__COMPOUND) && !internal(v, i, PM_ZERO))
        v->m->evidence[PM_HUGE] |= 1u << PM_SRC_KPAGEFLAGS;
}

/* So has pte.c. */
static void from_page_table(struct view *v, size_t i)
{
    static const int facts[] = {PM_YOUNG, PM_PTEDIRTY};
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++)
        if (!unknown(v, i, facts[k]))
            v->m->evidence[facts[k]] |= 1u << PM_SRC_PTE;
    if (!unknown(v, i, PM_PTEDIRTY) && is_not(v, i, PM_ZERO) && !internal(v, i, PM__KFLAGS) &&
        !(v->m->evidence[PM_ZERO] & 1u << PM_SRC_SCAN))
        v->m->evidence[PM_ZERO] |= 1u << PM_SRC_PTE;
}

/* Bit 61 says "not anonymous": a page of the file, or the huge zero page, which only
 * anonymous memory maps (/dev/zero, which we may not have recognised, among it). */
static bool is_file_page(const struct view *v, uint64_t entry)
{
    return (entry & PM_PE_FILE) && (v->shared || !v->own_vma);
}

static void from_pagemap(struct view *v, size_t i)
{
    const struct pm__features *host = &v->c->features;
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

static void anon_from_zero(struct view *v)
{
    bool told = v->m->evidence[PM_ZERO] & 1u << PM_SRC_PTE;
    enum pm_source proof = told ? PM_SRC_PTE : PM_SRC_SCAN;
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !unknown(v, i, PM_ANON))
            continue;
        if (is(v, i, PM_ZERO) || v->shared)
            decide(v, i, PM_ANON, false, v->shared ? PM_SRC_MAPS : proof);
        else if (is_not(v, i, PM_ZERO) && is_ordinary(v))
            decide(v, i, PM_ANON, true, proof);
    }
}

/* Bit 56 is set of pages with one mapper, and the zero page has none.  Whether newer kernels say
 * so of the zero page too does not matter: there PAGEMAP_SCAN tells. */
static void anon_from_once(struct view *v)
{
    if (v->c->features.scan || !is_ordinary(v))
        return;
    for (size_t i = 0; i < v->n; i++) {
        bool once = (v->entry[i] & PM_PE_EXCLUSIVE) && !(v->entry[i] & PM_PE_FILE);
        if (!raced(v, i) && is(v, i, PM_PRESENT) && unknown(v, i, PM_ANON) && once)
            decide(v, i, PM_ANON, true, PM_SRC_PAGEMAP);
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
    int64_t rss = pages_of(v, PM_C_RSS), lo = (int64_t)pm__count_set(v, PM_NORMAL) + extra;
    return rss >= lo && rss <= lo + (int64_t)slack;
}

/* A page that is being migrated shows as a swap entry, and counters take it for
 * present.  Where all present pages are known without counters and make up Rss, no
 * page is; else counters are of no use here. */
static void rule_out_migration(struct view *v)
{
    if (!v->migrating)
        return;
    if (v->steady && pm__count_open(v, PM_NORMAL) == 0 && rss_fits(v, 0, 0))
        v->migrating = false;
    else
        v->steady = false;
}

/* Whether some pages may be one huge page, or several. */
static bool may_be_huge(const struct view *v)
{
    uint64_t whole = v->c->header.page_size / sizeof(uint64_t), from = 0, to = 0;
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i) || !is(v, i, PM_PRESENT) || (v->entry[i] & PM_PE_FILE))
            continue;
        if (v->vpn[i] != to)
            from = v->vpn[i];
        to = v->vpn[i] + v->count[i];
        if ((from + whole - 1) / whole * whole + whole <= to)
            return true;
    }
    return false;
}

/* Kernels before 6.6 leave huge pages out of smaps while nobody may access them: under
 * PROT_NONE, and while NUMA balancing waits for who does.  What is missing then need not be the
 * zero page.  A kernel with PAGEMAP_SCAN is newer. */
static void rule_out_uncounted(struct view *v)
{
    int64_t most = 0;
    if (!v->steady || v->c->features.scan)
        return;
    for (size_t i = 0; i < v->n; i++)
        most += if_so(v, i, is(v, i, PM_PRESENT) && !is_not(v, i, PM_ANON));
    if (pages_of(v, PM_C_ANONYMOUS) < most && may_be_huge(v))
        v->steady = false;
}

/* Before Anonymous decides which pages are copies, it must agree with Rss on how many. */
static void check_anonymous(struct view *v)
{
    int64_t total = pages_of(v, PM_C_ANONYMOUS), have = 0, open = 0;
    size_t others = 0;
    for (size_t i = 0; i < v->n; i++) {
        have += if_so(v, i, is(v, i, PM_ANON));
        open += if_so(v, i, is(v, i, PM_PRESENT) && unknown(v, i, PM_ANON));
        others += (size_t)if_so(v, i, is_not(v, i, PM_ANON) && unknown(v, i, PM_NORMAL));
    }
    if (!v->steady)
        return;
    if (total < have || total > have + open)
        pm__distrust(v, PM_T_ANONYMOUS);
    else if (is_ordinary(v) && !rss_fits(v, total - have, others))
        pm__distrust(v, PM_T_RSS);
}

static void tell_zero_from_anon(struct view *v)
{
    anon_from_zero(v);
    anon_from_once(v);
    normal_from_anon(v);
    rule_out_migration(v);
    rule_out_uncounted(v);
    check_anonymous(v);
    pm__settle(v, PM_ANON, PM_PRESENT, pages_of(v, PM_C_ANONYMOUS), PM_SRC_SMAPS);
    normal_from_anon(v);
    if (v->steady && !rss_fits(v, 0, pm__count_open(v, PM_NORMAL)))
        pm__distrust(v, PM_T_RSS);
    pm__settle(v, PM_NORMAL, PM_PRESENT, pages_of(v, PM_C_RSS), PM_SRC_SMAPS);
    file_from_normal(v);
}

/* ---- swap, KSM, huge pages --------------------------------------------------- */

/* smaps Swap counts this mapping's swap entries, but for memory objects those of
 * the object too, which no entry here shows. */
static bool counts_entries_only(const struct view *v)
{
    return v->m->kind == PM_KIND_ANON || (v->m->kind == PM_KIND_FILE && !v->shared);
}

/* Entries of which Swap does not say that they are swap: markers, or pages on their way. */
bool pm__may_be_migrating(const struct view *v)
{
    int64_t entries = 0, swap = pages_of(v, PM_C_SWAP);
    for (size_t i = 0; i < v->n; i++) {
        bool other = (v->entry[i] & PM_PE_PRESENT) ||
                     (v->c->features.guard && (v->entry[i] & PM_PE_GUARD));
        if (!other && (v->entry[i] & PM_PE_FILE))
            return true;
        entries += if_so(v, i, !other);
    }
    return entries && !(counts_entries_only(v) && entries == swap);
}

static void tell_swap(struct view *v)
{
    int64_t open = 0, have = 0, total = pages_of(v, PM_C_SWAP);
    if (!v->still || total < 0 || !counts_entries_only(v))
        return;
    for (size_t i = 0; i < v->n; i++) {
        open += if_so(v, i, unknown(v, i, PM_SWAPPED));
        have += if_so(v, i, is(v, i, PM_SWAPPED));
    }
    if (total < have || total > have + open) {
        pm__distrust(v, PM_T_SWAP);
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
    shmem = v->k->before[PM_C_SHMEM_PMD_MAPPED] < 0 ? 0 : shmem;
    file = v->k->before[PM_C_FILE_PMD_MAPPED] < 0 ? 0 : file;
    return sum(anon, sum(shmem, file));
}

static void tell_huge_and_ksm(struct view *v)
{
    if (!pm__settle(v, PM_HUGE, PM_NORMAL, huge_pages(v), PM_SRC_SMAPS))
        pm__distrust(v, PM_T_RSS);
    pm__settle(v, PM_KSM, PM_NORMAL, pages_of(v, PM_C_KSM), PM_SRC_SMAPS);
}

void pm__tell_pages(struct view *v)
{
    for (size_t i = 0; i < v->n; i++) {
        if (raced(v, i))
            continue;
        from_kpageflags(v, i);
        from_page_table(v, i);
        from_pagemap(v, i);
        from_frames(v, i);
        if (internal(v, i, PM__STALE))
            v->m->trouble |= PM_T_STALE;
    }
    tell_zero_from_anon(v);
    tell_swap(v);
    tell_huge_and_ksm(v);
}
