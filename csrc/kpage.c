/* SPDX-License-Identifier: MIT
 *
 * kpage.c - /proc/kpageflags and /proc/kpagecount: what the kernel keeps of each
 * physical page.  Needs frame numbers, so CAP_SYS_ADMIN when pagemap was opened;
 * that the files open proves nothing.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>

#define BATCH 512

struct reader {
    struct pm__capture *c;
    uint64_t flags[BATCH], counts[BATCH];
    uint64_t last_tail, head_flags; /* the folio whose tails are being met */
    bool has_counts;
};

static uint64_t frame_of(uint64_t entry)
{
    return entry & PM_PE_PRESENT ? entry & PM_PE_PFN_MASK : 0;
}

/* Pages from i on whose frames follow each other. */
static size_t run_length(const struct pm__pages *p, size_t i)
{
    size_t n = 1;
    uint64_t frame = frame_of(p->entry[i]);
    while (n < BATCH && i + n < p->n && frame_of(p->entry[i + n]) == frame + n)
        n++;
    return n;
}

static void put(struct pm__pages *p, size_t i, int bit, bool value)
{
    p->known[i] |= PM_BIT(bit);
    if (value)
        p->set[i] |= PM_BIT(bit);
}

/* Before Linux 6.10 a tail page shows its own flags, which say nothing of the
 * folio: look for the head in front of it. */
static uint64_t flags_of_head(struct reader *r, uint64_t frame, uint64_t own)
{
    uint64_t before[BATCH];
    if (r->last_tail && frame == r->last_tail + 1) {
        r->last_tail = frame;
        return r->head_flags;
    }
    uint64_t from = frame > BATCH ? frame - BATCH : 0;
    ssize_t got = pm__pread_full(r->c->io, r->c->kpageflags, before, (frame - from) * 8, from * 8);
    for (ssize_t k = got / 8 - 1; k >= 0; k--) {
        if (before[k] & PM_KPF_COMPOUND_HEAD) {
            r->last_tail = frame;
            r->head_flags = before[k] & ~PM_KPF_COMPOUND_HEAD;
            return r->head_flags | PM_KPF_COMPOUND_TAIL;
        }
        if (!(before[k] & PM_KPF_COMPOUND_TAIL))
            break;
    }
    return own;
}

static void note_flags(struct reader *r, size_t i, uint64_t f)
{
    struct pm__pages *p = &r->c->pages;
    if ((f & PM_KPF_COMPOUND_TAIL) && !(f & PM_KPF_UPTODATE))
        f = flags_of_head(r, frame_of(p->entry[i]), f) | PM_KPF_COMPOUND_TAIL;
    bool zero = f & PM_KPF_ZERO;
    if (f & PM_KPF_NOPAGE)
        return; /* device memory: no struct page */
    if ((p->entry[i] & PM_PE_FILE) == 0 && !zero && !(f & (PM_KPF_MMAP | PM_KPF_ANON)))
        return; /* mapped without being counted, as PFN-mapped kernel pages are */
    if (!zero && !(f & PM_KPF_MMAP)) {
        p->set[i] |= PM_BIT(PM__STALE); /* freed since pagemap named it */
        return;
    }
    put(p, i, PM_REFERENCED, f & PM_KPF_REFERENCED);
    put(p, i, PM_ACTIVE, f & PM_KPF_ACTIVE);
    put(p, i, PM_UPTODATE, f & PM_KPF_UPTODATE);
    put(p, i, PM_PAGEDIRTY, f & PM_KPF_DIRTY);
    put(p, i, PM_WRITEBACK, f & PM_KPF_WRITEBACK);
    put(p, i, PM_KSM, f & PM_KPF_KSM);
    put(p, i, PM_ZERO, zero);
    put(p, i, PM__SWAPBACKED, f & PM_KPF_SWAPBACKED);
    put(p, i, PM__SWAPCACHE, f & PM_KPF_SWAPCACHE);
    put(p, i, PM__COMPOUND, f & (PM_KPF_COMPOUND_HEAD | PM_KPF_COMPOUND_TAIL));
}

static void note_count(struct reader *r, size_t i, uint64_t count)
{
    struct pm__pages *p = &r->c->pages;
    if (!(p->known[i] & PM_BIT(PM_ZERO)) || (p->set[i] & PM_BIT(PM_ZERO)))
        return; /* nothing to count, or a page of which kpageflags said nothing */
    if (count == 0) {
        p->set[i] |= PM_BIT(PM__STALE);
        return;
    }
    uint32_t n = count < PM_UNBOUNDED ? (uint32_t)count : PM_UNBOUNDED - 1;
    p->mapcount_lo[i] = p->mapcount_hi[i] = n;
    p->set[i] |= PM_BIT(PM__KCOUNT);
}

/* A page found stale is not claimed to be anything. */
static void drop_stale(struct pm__capture *c, size_t i)
{
    struct pm__pages *p = &c->pages;
    if (!(p->set[i] & PM_BIT(PM__STALE)))
        return;
    p->set[i] = PM_BIT(PM__STALE);
    p->known[i] = 0;
    p->mapcount_lo[i] = p->mapcount_hi[i] = 0;
}

static int read_run(struct reader *r, size_t i, size_t n)
{
    struct pm__capture *c = r->c;
    uint64_t at = frame_of(c->pages.entry[i]) * 8;
    ssize_t got = pm__pread_full(c->io, c->kpageflags, r->flags, n * 8, at);
    if (got < 0)
        return 0; /* not ours to read: R A U D W stay unknown */
    for (size_t k = 0; k < (size_t)got / 8; k++)
        note_flags(r, i + k, r->flags[k]);
    got = c->kpagecount < 0 ? -1 : pm__pread_full(c->io, c->kpagecount, r->counts, (size_t)got, at);
    for (size_t k = 0; got > 0 && k < (size_t)got / 8; k++)
        note_count(r, i + k, r->counts[k]);
    if (got > 0)
        r->has_counts = true;
    for (size_t k = 0; k < n; k++)
        drop_stale(c, i + k);
    return 1;
}

int pm__kpage_read(struct pm__capture *c)
{
    struct reader *r = pm__take(&c->arena, 1, sizeof *r);
    bool answered = false;
    if (!r)
        return -ENOBUFS;
    r->c = c;
    for (size_t i = 0, n; c->kpageflags >= 0 && i < c->pages.n; i += n) {
        n = 1;
        if (!frame_of(c->pages.entry[i]))
            continue; /* swapped, or the kernel does not show us frames */
        n = run_length(&c->pages, i);
        answered |= read_run(r, i, n);
    }
    if (answered)
        c->header.sources |= 1u << PM_SRC_KPAGEFLAGS;
    if (r->has_counts)
        c->header.sources |= 1u << PM_SRC_KPAGECOUNT;
    return 0;
}
