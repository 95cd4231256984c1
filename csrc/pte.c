/* SPDX-License-Identifier: MIT
 *
 * pte.c - page table entries: the two bits, Y and P, that no file of the kernel shows.
 *
 * Each entry is held against what pagemap said of the page: that it is present, and its frame
 * where frames are visible.  Where they disagree, or the table changed while it was read, Y and
 * P of the page stay unknown, and it is counted.  Where the kernel says nothing they are unknown
 * too, and nothing is disputed.
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

static uint32_t state_of(uint64_t told, uint64_t shown, bool young)
{
    if (!agrees(told, shown))
        return PM_BIT(PM__DISPUTED);
    return PM_BIT(PM__TOLD) | (told & PM__PTE_DIRTY ? PM_BIT(PM_PTEDIRTY) : 0) |
           (young && (told & PM__PTE_YOUNG) ? PM_BIT(PM_YOUNG) : 0);
}

/* The table of a page, or none for as many pages: one that changes all the time maps nothing for
 * sure, and one that is refused has no entries. */
static int read_table(struct pm__capture *c, uint64_t vpn, struct pm__table *t)
{
    int rc = -EAGAIN;
    for (int i = 0; rc == -EAGAIN && i < MAX_READS; i++)
        rc = c->io->table(c->io->ctx, c->pagemap, vpn * c->header.page_size, t);
    if (rc == -ESRCH)
        return pm__target_verify(c);
    if (rc >= 0)
        c->header.sources |= 1u << PM_SRC_PTE;
    else
        *t = (struct pm__table){.first = vpn & ~(uint64_t)(PM__TABLE_MOST - 1),
                                .pages = PM__TABLE_MOST,
                                .n = rc == -EAGAIN};
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
    for (size_t i = 0; i < p->n; i++) {
        if (!(p->entry[i] & PM_PE_PRESENT))
            continue;
        if (p->vpn[i] - t->first >= t->pages) {
            int rc = read_table(c, p->vpn[i], t);
            if (rc == 0)
                rc = pm__tick(c, 0);
            if (rc < 0)
                return rc;
        }
        if (t->n)
            p->state[i] |= state_of(entry_of(t, p->vpn[i]), p->entry[i], c->request->young);
    }
    return 0;
}
