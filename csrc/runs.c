/* SPDX-License-Identifier: MIT
 *
 * runs.c - raw pages → runs of pages of which the same was read.
 *
 * A GiB that was written from end to end is one run of 262,144 pages: whatever is
 * inferred from here on is inferred once for all of them.  Runs take the place of the
 * pages, in their memory.
 */
#include "engine.h"
#include "uapi.h"

#define OF_KFLAGS                                                                                  \
    (PM_BIT(PM_REFERENCED) | PM_BIT(PM_ACTIVE) | PM_BIT(PM_UPTODATE) | PM_BIT(PM_PAGEDIRTY) |      \
     PM_BIT(PM_WRITEBACK) | PM_BIT(PM_KSM) | PM_BIT(PM_ZERO) | PM_BIT(PM__SWAPBACKED) |            \
     PM_BIT(PM__SWAPCACHE) | PM_BIT(PM__COMPOUND))

#define FROM_ENTRY (PM_BIT(PM__ENTRY_EXCLUSIVE) | PM_BIT(PM__ENTRY_FILE))

/* Whether the page may be a private one that others map too: then its frame is kept. */
static bool may_share_frame(uint64_t entry, uint32_t state, uint32_t mapcount)
{
    if (!(entry & PM_PE_PRESENT) || (entry & PM_PE_FILE) || !(entry & PM_PE_PFN_MASK))
        return false;
    bool once = entry & PM_PE_EXCLUSIVE;
    if (state & PM_BIT(PM__KFLAGS))
        once = (state & PM_BIT(PM__KCOUNT)) && mapcount == 1 &&
               (once || (state & PM_BIT(PM__COMPOUND)));
    return !once || (state & PM_BIT(PM__DRIFTED));
}

/* With frames hidden, the zero page turning into a private copy looks like drift. */
static bool may_have_been_zero(uint64_t entry, uint32_t state)
{
    return (state & PM_BIT(PM__DRIFTED)) && !(entry & (PM_PE_FILE | PM_PE_PFN_MASK));
}

/* `young`: the bit of Y, where it was asked for. */
static uint32_t known_of(const struct pm__span *span, uint64_t entry, uint32_t state,
                         uint32_t young)
{
    if (state & PM_BIT(PM_RACED))
        return PM_BIT(PM_RACED);
    uint32_t known = state & PM_BIT(PM__KFLAGS) ? OF_KFLAGS : 0;
    /* What a huge entry maps is one folio, or the huge zero page. */
    if (known && !(state & (PM_BIT(PM__COMPOUND) | PM_BIT(PM_ZERO))))
        known |= PM_BIT(PM_HUGE);
    if (entry & PM_PE_FILE ? span->asked_huge_zero : span->asked_zero)
        known |= PM_BIT(PM_ZERO);
    if ((state & PM_BIT(PM__PLAIN)) && !(entry & PM_PE_FILE))
        known |= PM_BIT(PM_ZERO);
    if (may_have_been_zero(entry, state))
        known &= ~PM_BIT(PM_ZERO);
    if (state & PM_BIT(PM__TOLD))
        known |= young | PM_BIT(PM_PTEDIRTY);
    return span->asked_huge ? known | PM_BIT(PM_HUGE) : known;
}

/* The page before the one that is looked at, as it was read: its place may hold a run by now. */
struct last {
    uint64_t vpn, entry;
    uint32_t state, mapcount;
};

static bool goes_on(const struct last *l, uint64_t vpn, uint64_t entry, uint32_t state,
                    uint32_t mapcount)
{
    if (vpn != l->vpn + 1 || state != l->state || mapcount != l->mapcount ||
        ((entry ^ l->entry) & ~PM_PE_PFN_MASK))
        return false;
    return entry == l->entry + 1 || !may_share_frame(entry, state, mapcount);
}

static void begin_run(struct pm__runs *r, const struct pm__span *span, const struct last *page,
                      uint32_t young)
{
    size_t j = r->n++;
    r->vpn[j] = page->vpn;
    r->entry[j] = page->entry;
    r->count[j] = 1;
    r->known[j] = known_of(span, page->entry, page->state, young);
    if (may_share_frame(page->entry, page->state, page->mapcount))
        r->known[j] |= PM_BIT(PM__FRAMED);
    r->set[j] = page->state & ~(PM_BIT(PM__TOLD) | PM_BIT(PM__PLAIN));
    r->lo[j] = r->hi[j] = page->mapcount;
}

/* Known only now, from its file: of hugetlb memory the RFC lists nothing. */
static bool is_huge_file(const struct pm__capture *c, const struct pm__span *span)
{
    return c->mappings[span - c->spans].kind == PM_KIND_HUGETLB;
}

/* Its page table entry said otherwise than pagemap, which said twice the same. */
static bool is_disputed(const struct pm__capture *c, size_t page)
{
    return page < c->compared && (c->pages.entry[page] & PM_PE_PRESENT) &&
           !(c->pages.state[page] & (PM_BIT(PM_RACED) | PM_BIT(PM__TOLD)));
}

static void join_mapping(struct pm__capture *c, struct pm__span *span)
{
    const struct pm__pages *p = &c->pages;
    struct pm__runs *r = &c->runs;
    struct last last = {0};
    size_t first = r->n, pages = is_huge_file(c, span) ? 0 : span->n;
    for (size_t i = span->first; i < span->first + pages; i++) {
        uint32_t state = p->state[i] & ~FROM_ENTRY;
        uint32_t counted = state & PM_BIT(PM__KCOUNT) ? p->mapcount[i] : 0;
        struct last page = {p->vpn[i], p->entry[i], state, counted};
        c->header.pte_disagreed += is_disputed(c, i);
        if (i != span->first && goes_on(&last, page.vpn, page.entry, page.state, page.mapcount))
            r->count[r->n - 1]++;
        else
            begin_run(r, span, &page, c->request->young ? PM_BIT(PM_YOUNG) : 0);
        last = page;
    }
    span->first = first;
    span->n = r->n - first;
}

/* Pages that one entry of a higher table can map: 2 MiB on x86-64. */
static uint64_t pages_per_table(const struct pm__capture *c)
{
    return c->io->table_pages ? c->io->table_pages : c->header.page_size / sizeof(uint64_t);
}

/* Whether an aligned table's worth of pages lies in [from, to) and touches [run, end). */
static bool holds_table(uint64_t each, uint64_t from, uint64_t to, uint64_t run, uint64_t end)
{
    uint64_t table = run - run % each;
    table += table < from ? each : 0;
    return table < end && table + each <= to;
}

/* A huge entry maps all pages of an aligned table; where some of them are not there, or lie
 * outside of the mapping, it maps none. */
static void rule_out_huge(struct pm__capture *c, const struct pm__span *span)
{
    struct pm__runs *r = &c->runs;
    uint64_t each = pages_per_table(c);
    for (size_t i = span->first, stop = span->first + span->n, next; i < stop && !span->cut;
         i = next) {
        uint64_t to = r->vpn[i] + r->count[i];
        for (next = i + 1; next < stop && r->vpn[next] == to; next++)
            to += r->count[next];
        for (size_t k = i; k < next; k++) {
            if ((r->known[k] & (PM_BIT(PM_HUGE) | PM_BIT(PM_RACED))) ||
                holds_table(each, r->vpn[i], to, r->vpn[k], r->vpn[k] + r->count[k]))
                continue;
            r->known[k] |= PM_BIT(PM_HUGE);
            c->mappings[span - c->spans].evidence[PM_HUGE] |= 1u << PM_SRC_PAGEMAP;
        }
    }
}

void pm__join_pages(struct pm__capture *c)
{
    struct pm__pages *p = &c->pages;
    char *aside = c->aside;
    c->runs = (struct pm__runs){
        .vpn = p->vpn,
        .entry = p->entry,
        .set = p->state,
        .lo = p->mapcount,
        .count = (void *)aside,
        .known = (void *)(aside + 8 * p->cap),
        .hi = (void *)(aside + 12 * p->cap),
    };
    for (size_t k = 0; k < c->n_mappings; k++)
        join_mapping(c, &c->spans[k]);
    for (size_t k = 0; k < c->n_mappings; k++)
        rule_out_huge(c, &c->spans[k]);
}
