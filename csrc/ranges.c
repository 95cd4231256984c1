/* SPDX-License-Identifier: MIT
 *
 * ranges.c - runs → ranges, and the layout of a finished snapshot.
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
    size_t counters = add(&size, s->counters, sizeof(pm_counters));
    size_t objects = add(&size, s->objects, sizeof(pm_object));
    size_t parts = add(&size, s->parts, sizeof(pm_part));
    size_t page = add(&size, s->ranges, 8), count = add(&size, s->ranges, 8);
    size_t set = add(&size, s->ranges, 4), known = add(&size, s->ranges, 4);
    size_t lo = add(&size, s->ranges, 4), hi = add(&size, s->ranges, 4);
    size_t frame_page = add(&size, s->frames, 8), frame = add(&size, s->frames, 8);
    size_t frame_count = add(&size, s->frames, 8);
    size_t strings = add(&size, s->strings + 1, 1);
    char *base = pm__block_new(size);
    if (!base)
        return NULL;
    pm_snapshot *snap = (void *)(base + head);
    snap->columns = (pm_columns){
        .mappings = (void *)(base + mappings),
        .counters = s->counters ? (void *)(base + counters) : NULL,
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
    snap->frame_count = (void *)(base + frame_count);
    snap->n_frames = s->frames;
    return snap;
}

/* Whether run i says the same as the one in front of it, now that all is inferred. */
static bool joins(const struct pm__runs *r, size_t i)
{
    return r->vpn[i] == r->vpn[i - 1] + r->count[i - 1] &&
           ((r->known[i] ^ r->known[i - 1]) & PM__PUBLIC) == 0 &&
           (((r->set[i] & r->known[i]) ^ (r->set[i - 1] & r->known[i - 1])) & PM__PUBLIC) == 0 &&
           r->lo[i] == r->lo[i - 1] && r->hi[i] == r->hi[i - 1];
}

/* A physical page that others may map too, by which it can be recognised there. */
static bool keeps_frame(const struct pm__runs *r, size_t i)
{
    const uint32_t both = r->set[i] & r->known[i];
    return (both & PM_BIT(PM_ANON)) && !(both & PM_BIT(PM_EXCLUSIVE)) &&
           (r->known[i] & PM_BIT(PM__FRAMED));
}

static uint64_t frame_of(const struct pm__runs *r, size_t i)
{
    return r->entry[i] & PM_PE_PFN_MASK;
}

static bool joins_frames(const struct pm__runs *r, size_t i)
{
    return keeps_frame(r, i - 1) && r->vpn[i] == r->vpn[i - 1] + r->count[i - 1] &&
           frame_of(r, i) == frame_of(r, i - 1) + r->count[i - 1];
}

static void measure(const struct pm__capture *c, struct pm__sizes *s)
{
    const struct pm__runs *r = &c->runs;
    for (size_t k = 0; k < c->n_mappings; k++) {
        const struct pm__span *span = &c->spans[k];
        for (size_t i = span->first; i < span->first + span->n; i++)
            s->ranges += i == span->first || !joins(r, i);
    }
    for (size_t i = 0; i < r->n; i++)
        s->frames += keeps_frame(r, i) && (i == 0 || !joins_frames(r, i));
}

/* The columns are const to everyone but the one who fills them, here. */
typedef uint64_t u64;
typedef uint32_t u32;

static void fill_ranges(const struct pm__capture *c, pm_snapshot *snap)
{
    const struct pm__runs *r = &c->runs;
    pm_columns *col = &snap->columns;
    u64 *page = (u64 *)(uintptr_t)col->page, *count = (u64 *)(uintptr_t)col->count;
    u32 *set = (u32 *)(uintptr_t)col->set, *known = (u32 *)(uintptr_t)col->known;
    u32 *lo = (u32 *)(uintptr_t)col->mapcount_lo, *hi = (u32 *)(uintptr_t)col->mapcount_hi;
    pm_mapping *mappings = (pm_mapping *)(uintptr_t)col->mappings;
    size_t n = 0;
    for (size_t k = 0; k < c->n_mappings; k++) {
        const struct pm__span *span = &c->spans[k];
        mappings[k].first_range = (u32)n;
        for (size_t i = span->first; i < span->first + span->n; i++) {
            if (i != span->first && joins(r, i)) {
                count[n - 1] += r->count[i];
                continue;
            }
            page[n] = r->vpn[i];
            count[n] = r->count[i];
            known[n] = r->known[i] & PM__PUBLIC;
            set[n] = r->set[i] & known[n];
            lo[n] = r->lo[i];
            hi[n++] = r->hi[i];
        }
        mappings[k].n_ranges = (u32)n - mappings[k].first_range;
    }
}

static void fill_frames(const struct pm__capture *c, pm_snapshot *snap)
{
    const struct pm__runs *r = &c->runs;
    u64 *page = (u64 *)(uintptr_t)snap->frame_page, *frame = (u64 *)(uintptr_t)snap->frame;
    u64 *count = (u64 *)(uintptr_t)snap->frame_count;
    for (size_t i = 0, n = 0; i < r->n; i++) {
        if (!keeps_frame(r, i))
            continue;
        if (i && joins_frames(r, i)) {
            count[n - 1] += r->count[i];
            continue;
        }
        page[n] = r->vpn[i];
        frame[n] = frame_of(r, i);
        count[n++] = r->count[i];
    }
}

static void copy(const void *to, const void *from, size_t n, size_t each)
{
    if (n)
        memcpy((void *)(uintptr_t)to, from, n * each);
}

int pm__lay_out(struct pm__capture *c, pm_snapshot **out)
{
    struct pm__sizes s = {
        .mappings = c->n_mappings,
        .counters = c->counters ? c->n_mappings : 0,
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
    copy(snap->columns.mappings, c->mappings, s.mappings, sizeof *c->mappings);
    copy(snap->columns.counters, c->counters, s.counters, sizeof *c->counters);
    copy(snap->columns.objects, c->objects, s.objects, sizeof *c->objects);
    copy(snap->columns.parts, c->parts, s.parts, sizeof *c->parts);
    copy(snap->columns.strings, c->strings, s.strings, 1);
    fill_ranges(c, snap);
    fill_frames(c, snap);
    *out = snap;
    return 0;
}

void pm_free(pm_snapshot *snapshot)
{
    pm__block_free(snapshot);
}

void pm_drop(pm_snapshot *const *snapshot)
{
    if (*snapshot)
        pm_free(*snapshot);
}

const pm_header *pm_get_header(const pm_snapshot *snapshot)
{
    return &snapshot->header;
}

void pm_get_columns(const pm_snapshot *snapshot, pm_columns *out)
{
    *out = snapshot->columns;
}
