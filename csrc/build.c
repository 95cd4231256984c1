/* SPDX-License-Identifier: MIT
 *
 * build.c - a snapshot out of columns handed in: everything that the rest of the
 * engine relies on is checked here, for a saved snapshot may come from anywhere.
 */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Counters add up without overflow; a live capture keeps to the same bound. */
#define MOST (INT64_C(1) << 58)

struct check {
    const pm_header *header;
    const pm_columns *in;
    pm_error *err;
};

static bool refuse(const struct check *k, size_t line, const char *why)
{
    k->err->code = PM_E_FORMAT;
    k->err->stage = PM_AT_BUILD;
    k->err->line = line;
    snprintf(k->err->detail, sizeof k->err->detail, "%s", why);
    return false;
}

static bool in_strings(const struct check *k, uint32_t at, uint32_t len)
{
    return (uint64_t)at + len <= k->in->n_strings;
}

static bool check_ranges(const struct check *k, const pm_mapping *m, size_t line)
{
    uint64_t ps = k->header->page_size, at = m->start / ps, end = m->end / ps;
    const pm_columns *in = k->in;
    for (size_t r = m->first_range; r < (size_t)m->first_range + m->n_ranges; r++) {
        if (in->count[r] == 0)
            return refuse(k, line, "a range of no pages");
        if (in->page[r] < at)
            return refuse(k, line, "ranges overlap or are out of order");
        if (in->page[r] >= end || in->count[r] > end - in->page[r])
            return refuse(k, line, "a range outside its mapping");
        if ((in->set[r] & ~in->known[r]) || (in->known[r] >> PM_N_BITS))
            return refuse(k, line, "a fact that is set but not known");
        if (in->mapcount_lo[r] > in->mapcount_hi[r])
            return refuse(k, line, "a mapcount whose bounds are the wrong way round");
        at = in->page[r] + in->count[r];
    }
    return true;
}

static bool check_mapping(const struct check *k, const pm_mapping *m, size_t line)
{
    uint64_t ps = k->header->page_size;
    if (m->start >= m->end || m->start % ps || m->end % ps)
        return refuse(k, line, "addresses that are no pages");
    if (!in_strings(k, m->name, m->name_len) || !in_strings(k, m->vmflags, m->vmflags_len) ||
        !in_strings(k, m->extra, m->extra_len))
        return refuse(k, line, "text outside the string pool");
    if ((uint64_t)m->first_range + m->n_ranges > k->in->n_ranges)
        return refuse(k, line, "ranges outside the columns");
    if (m->object > k->in->n_objects)
        return refuse(k, line, "an object that does not exist");
    if (m->kind > PM_KIND_HUGETLB)
        return refuse(k, line, "a kind that does not exist");
    const pm_counters *counters = k->in->counters ? &k->in->counters[line - 1] : NULL;
    for (int n = 0; counters && n < PM_N_COUNTERS; n++)
        if (counters->before[n] < -1 || counters->after[n] < -1 || counters->before[n] > MOST ||
            counters->after[n] > MOST)
            return refuse(k, line, "a counter that cannot be");
    if (m->dirty_lo > m->dirty_hi)
        return refuse(k, line, "bounds that are the wrong way round");
    return check_ranges(k, m, line);
}

static bool check_mappings(const struct check *k)
{
    uint64_t end = 0;
    size_t range = 0;
    for (size_t i = 0; i < k->in->n_mappings; i++) {
        const pm_mapping *m = &k->in->mappings[i];
        if (m->start < end)
            return refuse(k, i + 1, "mappings overlap or are out of order");
        if (m->first_range != range)
            return refuse(k, i + 1, "ranges of another mapping");
        if (!check_mapping(k, m, i + 1))
            return false;
        end = m->end;
        range += m->n_ranges;
    }
    return range == k->in->n_ranges || refuse(k, 0, "ranges that belong to no mapping");
}

static bool check_objects(const struct check *k)
{
    const pm_columns *in = k->in;
    for (size_t i = 0; i < in->n_objects; i++) {
        const pm_object *o = &in->objects[i];
        if (!in_strings(k, o->name, o->name_len) ||
            (uint64_t)o->first_part + o->n_parts > in->n_parts)
            return refuse(k, 0, "an object outside the columns");
    }
    for (size_t i = 0; i < in->n_parts; i++)
        if (in->parts[i].kind >= PM_N_PARTS || in->parts[i].object >= in->n_objects ||
            in->parts[i].start >= in->parts[i].end || in->parts[i].start % k->header->page_size ||
            in->parts[i].end % k->header->page_size)
            return refuse(k, 0, "a part that cannot be");
    return true;
}

static bool check_header(const struct check *k)
{
    uint64_t ps = k->header->page_size;
    if (ps < 512 || ps > (UINT64_C(1) << 30) || (ps & (ps - 1)))
        return refuse(k, 0, "a page size that no machine has");
    if (k->header->depth > PM_FULL)
        return refuse(k, 0, "a depth that does not exist");
    if (k->in->n_ranges > UINT32_MAX || k->in->n_strings > UINT32_MAX)
        return refuse(k, 0, "more than fits");
    return true;
}

static void copy(const void *to, const void *from, size_t n, size_t each)
{
    if (n)
        memcpy((void *)(uintptr_t)to, from, n * each);
}

int pm_build(const pm_header *header, const pm_columns *in, pm_snapshot **out, pm_error *err)
{
    struct check k = {.header = header, .in = in, .err = err};
    *out = NULL;
    memset(err, 0, sizeof *err);
    if (!check_header(&k) || !check_objects(&k) || !check_mappings(&k))
        return -PM_E_FORMAT;
    struct pm__sizes sizes = {
        .mappings = in->n_mappings,
        .counters = in->counters ? in->n_mappings : 0,
        .objects = in->n_objects,
        .parts = in->n_parts,
        .strings = in->n_strings,
        .ranges = in->n_ranges,
    };
    pm_snapshot *snap = pm__snapshot_new(&sizes);
    if (!snap) {
        err->code = ENOMEM;
        err->stage = PM_AT_BUILD;
        return -ENOMEM;
    }
    snap->header = *header;
    const pm_columns *col = &snap->columns;
    copy(col->mappings, in->mappings, in->n_mappings, sizeof *in->mappings);
    copy(col->counters, in->counters, sizes.counters, sizeof *in->counters);
    copy(col->objects, in->objects, in->n_objects, sizeof *in->objects);
    copy(col->parts, in->parts, in->n_parts, sizeof *in->parts);
    copy(col->strings, in->strings, in->n_strings, 1);
    copy(col->page, in->page, in->n_ranges, 8);
    copy(col->count, in->count, in->n_ranges, 8);
    copy(col->set, in->set, in->n_ranges, 4);
    copy(col->known, in->known, in->n_ranges, 4);
    copy(col->mapcount_lo, in->mapcount_lo, in->n_ranges, 4);
    copy(col->mapcount_hi, in->mapcount_hi, in->n_ranges, 4);
    *out = snap;
    return 0;
}
