/* SPDX-License-Identifier: MIT
 *
 * pte.c - page table entries: the two bits, Y and P, that no file of the kernel shows.
 *
 * Each entry is held against what pagemap said of the page: that it is present, and its frame
 * where frames are visible.  Where they disagree, or the table changed while it was read, Y and
 * P of the page stay unknown, and it is counted.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>

#define MAX_READS 4

/* Where counters are asked for, or Y is: at what pagemap alone is asked for, P is not worth it. */
bool pm__wants_tables(const pm_request *request)
{
    return request->depth == PM_FULL || (request->depth == PM_PAGES && request->young);
}

static uint64_t entry_of(const struct pm__table *t, uint64_t vpn)
{
    uint64_t at = vpn - t->first;
    if (t->n > 1)
        return t->entry[at];
    uint64_t frame = (t->entry[0] + at) & PM_PE_PFN_MASK; /* one for all: they follow each other */
    return t->entry[0] & PM_PE_PRESENT ? (t->entry[0] & ~PM_PE_PFN_MASK) | frame : 0;
}

static bool agrees(uint64_t told, uint64_t shown)
{
    uint64_t frame = shown & PM_PE_PFN_MASK;
    return (told & PM_PE_PRESENT) && (!frame || frame == (told & PM_PE_PFN_MASK));
}

/* `small`: by an entry of its own. */
static uint32_t state_of(uint64_t told, bool small, bool young)
{
    return PM_BIT(PM__TOLD) | (told & PM__PTE_DIRTY ? PM_BIT(PM_PTEDIRTY) : 0) |
           (young && (told & PM__PTE_YOUNG) ? PM_BIT(PM_YOUNG) : 0) |
           (small && !(told & PM__PTE_SPECIAL) ? PM_BIT(PM__PLAIN) : 0);
}

/* From a page to the last one that is there of its table. */
static size_t wanted(const struct pm__pages *p, size_t page)
{
    uint64_t first = p->vpn[page], end = (first | (PM__TABLE_MOST - 1)) + 1;
    size_t last = page;
    while (last + 1 < p->n && p->vpn[last + 1] < end)
        last++;
    return (size_t)(p->vpn[last] - first) + 1;
}

/* One that changes all the time is left out: it maps nothing for sure.  1: none can be read any
 * more, as where rights were given up. */
static int read_table(struct pm__capture *c, size_t page, struct pm__table *t)
{
    uint64_t vpn = c->pages.vpn[page];
    size_t most = wanted(&c->pages, page);
    int rc = -EAGAIN;
    for (int i = 0; rc == -EAGAIN && i < MAX_READS; i++)
        rc = c->io->table(c->io->ctx, c->pagemap, vpn * c->header.page_size, most, t);
    if (rc == -ESRCH)
        return pm__target_verify(c);
    if (rc < 0 && rc != -EAGAIN)
        return 1;
    if (rc == -EAGAIN) {
        t->first = vpn;
        t->pages = most;
        t->n = 1;
        t->entry[0] = 0;
    }
    c->header.sources |= 1u << PM_SRC_PTE;
    return 0;
}

int pm__pte_read(struct pm__capture *c)
{
    struct pm__pages *p = &c->pages;
    if (!c->features.pte || !pm__wants_tables(c->request))
        return 0;
    struct pm__table *t = pm__take_zeroed(&c->arena, 1, sizeof *t);
    if (!t)
        return -ENOBUFS;
    for (size_t i = 0; i < p->n; i++, c->compared = i) {
        if (!(p->entry[i] & PM_PE_PRESENT))
            continue;
        if (p->vpn[i] - t->first >= t->pages) {
            int rc = read_table(c, i, t);
            if (rc == 0)
                rc = pm__tick(c, 0);
            if (rc != 0)
                return rc < 0 ? rc : 0;
        }
        uint64_t told = entry_of(t, p->vpn[i]);
        if (agrees(told, p->entry[i]))
            p->state[i] |= state_of(told, t->n > 1 || t->pages == 1, c->request->young);
    }
    return 0;
}
