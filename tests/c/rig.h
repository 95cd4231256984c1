/* SPDX-License-Identifier: MIT
 *
 * rig.h - one step of a capture by itself: a `struct pm__capture` whose arrays are
 * malloc'ed to size, so that AddressSanitizer sees every step beyond their end.
 */
#ifndef PM_RIG_H
#define PM_RIG_H

#include "fakeproc.h"

struct rig {
    struct pm__capture c;
    pm_request request;
    struct pm__room room; /* as it was made */
    pm_error err;
    struct fake fake;
};

static inline void rig_make(struct rig *g, size_t mappings, size_t pages, size_t strings)
{
    static const struct fk_world nothing;
    memset(&g->err, 0, sizeof g->err);
    fk_init(&g->fake, &nothing);
    g->request = (pm_request){.pid = FK_PID, .depth = PM_FULL, .counters = 1, .stopper = -1};
    g->c = (struct pm__capture){
        .io = &g->fake.io,
        .request = &g->request,
        .err = &g->err,
        .room =
            {.mappings = mappings, .pages = pages, .strings = strings, .objects = 8, .parts = 32},
        .header = {.pid = FK_PID, .page_size = FK_PAGE},
        .dir = -1,
        .root = -1,
        .maps = -1,
        .smaps = -1,
        .rollup = -1,
        .numa = -1,
        .pagemap = -1,
        .kpageflags = -1,
        .kpagecount = -1,
        .mappings = calloc(mappings, sizeof(pm_mapping)),
        .spans = calloc(mappings, sizeof(struct pm__span)),
        .strings = malloc(strings),
        .objects = calloc(8, sizeof(pm_object)),
        .parts = calloc(32, sizeof(pm_part)),
        .counters = calloc(mappings, sizeof(pm_counters)),
        .end = UINT64_MAX,
        .pages = {.vpn = calloc(pages, 8),
                  .entry = calloc(pages, 8),
                  .state = calloc(pages, 4),
                  .mapcount = calloc(pages, 4),
                  .cap = pages},
        .aside = calloc(pages, PM__ASIDE),
        .scratch = malloc(PM__SCRATCH),
    };
    g->room = g->c.room;
}

static inline int rig_open(struct rig *g, const char *path)
{
    return g->c.io->open(g->c.io->ctx, AT_FDCWD, path, O_RDONLY);
}

static inline void rig_drop(struct rig *g)
{
    struct pm__pages *p = &g->c.pages;
    void *all[] = {g->c.mappings, g->c.counters, g->c.spans, g->c.strings,
                   g->c.objects,  g->c.parts,    p->vpn,     p->entry,
                   p->state,      p->mapcount,   g->c.aside, g->c.scratch};
    pm__target_close(&g->c);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

#endif
