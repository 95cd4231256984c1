/* SPDX-License-Identifier: MIT
 *
 * ranges.c - page states → ranges, and the layout of a finished snapshot.
 *
 * A range breaks on a gap, on any difference in what is set or known, and on
 * mapcount, as the RFC's do.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>

static size_t add(size_t *at, size_t n, size_t each)
{
    size_t here = *at;
    *at += (n * each + 63) & ~(size_t)63;
    return here;
}

pm_snapshot *pm__snapshot_new(const struct pm__sizes *s)
{
    size_t size = 0;
    size_t head = add(&size, 1, sizeof(pm_snapshot));
    size_t mappings = add(&size, s->mappings, sizeof(pm_mapping));
    size_t objects = add(&size, s->objects, sizeof(pm_object));
    size_t parts = add(&size, s->parts, sizeof(pm_part));
    size_t page = add(&size, s->ranges, 8), count = add(&size, s->ranges, 8);
    size_t set = add(&size, s->ranges, 4), known = add(&size, s->ranges, 4);
    size_t lo = add(&size, s->ranges, 4), hi = add(&size, s->ranges, 4);
    size_t frame_page = add(&size, s->frames, 8), frame = add(&size, s->frames, 8);
    size_t strings = add(&size, s->strings + 1, 1);
    char *base = pm__block_new(size);
    if (!base)
        return NULL;
    pm_snapshot *snap = (void *)(base + head);
    snap->columns = (pm_columns){
        .mappings = (void *)(base + mappings),
        .objects = (void *)(base + objects),
        .parts = (void *)(base + parts),
        .strings = base + strings,
        .n_mappings = s->mappings,
        .n_objects = s->objects,
        .n_parts = s->parts,
        .n_strings = s->strings,
        .n_ranges = s->ranges,
        .page = (void *)(base + page),
        .count = (void *)(base + count),
        .set = (void *)(base + set),
        .known = (void *)(base + known),
        .mapcount_lo = (void *)(base + lo),
        .mapcount_hi = (void *)(base + hi),
    };
    snap->frame_page = (void *)(base + frame_page);
    snap->frame = (void *)(base + frame);
    snap->n_frames = s->frames;
    return snap;
}

static bool joins(const struct pm__pages *p, size_t i)
{
    return p->vpn[i] == p->vpn[i - 1] + 1 && !((p->known[i] ^ p->known[i - 1]) & PM__PUBLIC) &&
           !((p->set[i] ^ p->set[i - 1]) & p->known[i] & PM__PUBLIC) &&
           p->mapcount_lo[i] == p->mapcount_lo[i - 1] && p->mapcount_hi[i] == p->mapcount_hi[i - 1];
}

/* A physical page that others may map too, by which it can be recognised there. */
static bool keeps_frame(const struct pm__pages *p, size_t i)
{
    const uint32_t both = p->set[i] & p->known[i];
    return (both & PM_BIT(PM_ANON)) && !(both & PM_BIT(PM_EXCLUSIVE)) &&
           (p->entry[i] & PM_PE_PFN_MASK);
}

static void measure(const struct pm__capture *c, struct pm__sizes *s)
{
    const struct pm__pages *p = &c->pages;
    for (size_t k = 0; k < c->n_mappings; k++) {
        const struct pm__span *span = &c->spans[k];
        for (size_t i = span->first; i < span->first + span->n; i++) {
            s->ranges += i == span->first || !joins(p, i);
            s->frames += keeps_frame(p, i);
        }
    }
}

/* The columns are const to everyone but the one who fills them, here. */
typedef uint64_t u64;
typedef uint32_t u32;

static void fill_ranges(const struct pm__capture *c, pm_snapshot *snap)
{
    const struct pm__pages *p = &c->pages;
    pm_columns *col = &snap->columns;
    u64 *page = (u64 *)(uintptr_t)col->page, *count = (u64 *)(uintptr_t)col->count;
    u32 *set = (u32 *)(uintptr_t)col->set, *known = (u32 *)(uintptr_t)col->known;
    u32 *lo = (u32 *)(uintptr_t)col->mapcount_lo, *hi = (u32 *)(uintptr_t)col->mapcount_hi;
    pm_mapping *mappings = (pm_mapping *)(uintptr_t)col->mappings;
    size_t r = 0;
    for (size_t k = 0; k < c->n_mappings; k++) {
        const struct pm__span *span = &c->spans[k];
        mappings[k].first_range = (u32)r;
        for (size_t i = span->first; i < span->first + span->n; i++) {
            if (i != span->first && joins(p, i)) {
                count[r - 1]++;
                continue;
            }
            page[r] = p->vpn[i];
            count[r] = 1;
            known[r] = p->known[i] & PM__PUBLIC;
            set[r] = p->set[i] & known[r];
            lo[r] = p->mapcount_lo[i];
            hi[r++] = p->mapcount_hi[i];
        }
        mappings[k].n_ranges = (u32)r - mappings[k].first_range;
    }
}

static void fill_frames(const struct pm__capture *c, pm_snapshot *snap)
{
    const struct pm__pages *p = &c->pages;
    u64 *page = (u64 *)(uintptr_t)snap->frame_page, *frame = (u64 *)(uintptr_t)snap->frame;
    for (size_t i = 0, n = 0; i < p->n; i++) {
        if (!keeps_frame(p, i))
            continue;
        page[n] = p->vpn[i];
        frame[n++] = p->entry[i] & PM_PE_PFN_MASK;
    }
}

int pm__lay_out(struct pm__capture *c, pm_snapshot **out)
{
    struct pm__sizes s = {
        .mappings = c->n_mappings,
        .objects = c->n_objects,
        .parts = c->n_parts,
        .strings = c->n_strings,
    };
    measure(c, &s);
    if (s.ranges > UINT32_MAX)
        return -ENOMEM;
    pm_snapshot *snap = pm__snapshot_new(&s);
    if (!snap)
        return -ENOMEM;
    snap->header = c->header;
    memcpy((void *)(uintptr_t)snap->columns.mappings, c->mappings,
           c->n_mappings * sizeof *c->mappings);
    memcpy((void *)(uintptr_t)snap->columns.objects, c->objects, c->n_objects * sizeof *c->objects);
    memcpy((void *)(uintptr_t)snap->columns.parts, c->parts, c->n_parts * sizeof *c->parts);
    memcpy((void *)(uintptr_t)snap->columns.strings, c->strings, c->n_strings);
    fill_ranges(c, snap);
    fill_frames(c, snap);
    *out = snap;
    return 0;
}

void pm_free(pm_snapshot *snapshot)
{
    pm__block_free(snapshot);
}

const pm_header *pm_get_header(const pm_snapshot *snapshot)
{
    return &snapshot->header;
}

void pm_get_columns(const pm_snapshot *snapshot, pm_columns *out)
{
    *out = snapshot->columns;
}
