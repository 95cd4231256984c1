/* SPDX-License-Identifier: MIT
 *
 * regions.c - lists of addresses for pm_written and pm_touched, and what they say together of each
 * page.  Nothing here asks the kernel.
 */
#include "written.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int grow(struct pm__regions *list)
{
    size_t cap = list->cap ? 2 * list->cap : 1024;
    pm_region *at = pm__block_new(cap * sizeof *at);
    if (!at)
        return -ENOMEM;
    if (list->n)
        memcpy(at, list->at, list->n * sizeof *at);
    pm__block_free(list->at);
    list->at = at;
    list->cap = cap;
    return 0;
}

/* Appends, whatever lies in front of it. */
int pm__regions_push(struct pm__regions *list, uint64_t start, uint64_t end, uint32_t state)
{
    if (start >= end)
        return 0;
    if (list->n == list->cap) {
        int rc = grow(list);
        if (rc < 0)
            return rc;
    }
    list->at[list->n++] = (pm_region){.start = start, .end = end, .state = state};
    return 0;
}

/* Appends, or lengthens the last one where it goes on the same. */
int pm__regions_add(struct pm__regions *list, uint64_t start, uint64_t end, uint32_t state)
{
    pm_region *last = list->n ? &list->at[list->n - 1] : NULL;
    if (start >= end)
        return 0;
    if (last && last->end == start && last->state == state) {
        last->end = end;
        return 0;
    }
    return pm__regions_push(list, start, end, state);
}

void pm__regions_free(struct pm__regions *list)
{
    pm__block_free(list->at);
    *list = (struct pm__regions){0};
}

/* First region that ends above an address. */
static size_t first_above(const struct pm__regions *list, uint64_t at)
{
    size_t lo = 0, hi = list->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (list->at[mid].end > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* Adds the pages of [start, end) by state. */
void pm__regions_count(const struct pm__regions *list, uint64_t start, uint64_t end, uint64_t *out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (size_t i = first_above(list, start); i < list->n; i++) {
        const pm_region *r = &list->at[i];
        if (r->start >= end)
            return;
        uint64_t lo = r->start > start ? r->start : start, hi = r->end < end ? r->end : end;
        out[r->state] += (hi - lo) / page;
    }
}

/* Whether the list covers `at`, with what state; `until` moves down to where that changes. */
bool pm__walk_to(struct pm__walk *walk, uint64_t at, uint64_t *until, uint32_t *state)
{
    const struct pm__regions *list = walk->list;
    while (walk->i < list->n && list->at[walk->i].end <= at)
        walk->i++;
    *state = 0;
    if (walk->i == list->n)
        return false;
    const pm_region *r = &list->at[walk->i];
    uint64_t change = r->start <= at ? r->end : r->start;
    if (change < *until)
        *until = change;
    if (r->start > at)
        return false;
    *state = r->state;
    return true;
}

/* A page that was protected, and what it is now.  Only a write takes the protection away, unless
 * the page itself went: given back, it leaves nothing, then the zero page (or the file's) when it
 * is read, or a huge page at once. */
static uint32_t judge_armed(const struct pm__seen *seen, uint32_t mapping, uint64_t is)
{
    bool copied = (mapping & PM_SHARED_MAP) || !(is & PM_SCAN_FILE);
    bool sure = (is & PM_SCAN_PRESENT) || !seen->doubt_swap;
    if (!(is & (PM_SCAN_PRESENT | PM_SCAN_SWAPPED)))
        return PM_W_LOST;
    if (!(is & PM_SCAN_WRITTEN))
        return PM_W_CLEAN;
    if ((is & (PM_SCAN_ZERO | PM_SCAN_HUGE | PM_SCAN_GUARD)) || !copied || !sure)
        return PM_W_LOST;
    return PM_W_WRITTEN;
}

/* A page that was not: what holds nothing of its own holds nothing that was written. */
static uint32_t judge_other(uint32_t mapping, uint64_t is, uint32_t why)
{
    bool populated = is & (PM_SCAN_PRESENT | PM_SCAN_SWAPPED);
    bool files = !(mapping & PM_SHARED_MAP) && (is & PM_SCAN_FILE);
    if (!populated || files || (is & (PM_SCAN_ZERO | PM_SCAN_GUARD)))
        return PM_W_EMPTY;
    return why ? why : PM_W_NEW;
}

/* Gives the state of every page of every mapping that is not ours. */
int pm__judge(const struct pm__seen *seen, struct pm__regions *out)
{
    struct pm__walk scanned = {.list = &seen->scanned}, late = {.list = &seen->late},
                    armed = {.list = &seen->armed}, unwatched = {.list = &seen->unwatched},
                    registered = {.list = &seen->registered};
    for (size_t i = 0; i < seen->mapped.n; i++) {
        const pm_region *m = &seen->mapped.at[i];
        for (uint64_t at = m->start, until; at < m->end; at = until) {
            uint32_t is, ignored, why, state = PM_W_SPECIAL;
            until = m->end;
            bool told = pm__walk_to(&scanned, at, &until, &is);
            if (!told)
                told = pm__walk_to(&late, at, &until, &is);
            bool was_armed = pm__walk_to(&armed, at, &until, &ignored);
            bool was_watched = pm__walk_to(&registered, at, &until, &ignored);
            pm__walk_to(&unwatched, at, &until, &why);
            if (m->state & PM__V_OURS)
                continue;
            if (m->state & (PM__V_KERNELS | PM__V_SEALED))
                state = PM_W_CLEAN;
            else if (told && (is & PM_SCAN_WPALLOWED) && was_armed)
                state = judge_armed(seen, m->state, is);
            else if (told)
                state = judge_other(m->state, is, why);
            if (state == PM_W_EMPTY && was_watched && !(is & PM_SCAN_WPALLOWED))
                state = PM_W_REPLACED; /* what was written to the one before it went with it */
            int rc = pm__regions_add(out, at, until, state);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* What was told, and of what is wanted and not mapped that it went: what comes to these addresses
 * later is other memory. */
int pm__fill(const struct pm__regions *wanted, const struct pm__regions *mapped,
             const struct pm__regions *told, struct pm__regions *out)
{
    const uint64_t top = UINT64_C(1) << 63;
    struct pm__walk look = {.list = wanted}, here = {.list = mapped}, say = {.list = told};
    for (uint64_t at = 0, until; at < top; at = until) {
        uint32_t ignored, state;
        until = top;
        bool asked = pm__walk_to(&look, at, &until, &ignored);
        bool there = pm__walk_to(&here, at, &until, &ignored);
        bool known = pm__walk_to(&say, at, &until, &state);
        bool gone = asked && !there;
        if (!known && !gone)
            continue; /* not asked for, or ours */
        int rc = pm__regions_add(out, at, until, known ? state : PM_W_REPLACED);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static uint32_t both(bool known, uint32_t before, uint32_t now)
{
    if (known && before == PM_W_REPLACED && now == PM_W_EMPTY)
        return before; /* it came back with nothing in it; what went is still not known */
    if (!known || (now != PM_W_CLEAN && now != PM_W_LOST))
        return now; /* written since; or another mapping, of which the earlier state is not */
    if (now == PM_W_LOST && (before == PM_W_CLEAN || before == PM_W_EMPTY))
        return now;
    return before == PM_W_EMPTY ? now : before;
}

/* What two windows, one after the other, come to as one. */
int pm__combine(const struct pm__regions *before, const struct pm__regions *now,
                struct pm__regions *out)
{
    struct pm__walk walk = {.list = before};
    for (size_t i = 0; i < now->n; i++) {
        const pm_region *r = &now->at[i];
        for (uint64_t at = r->start, until; at < r->end; at = until) {
            uint32_t state;
            until = r->end;
            bool known = pm__walk_to(&walk, at, &until, &state);
            int rc = pm__regions_add(out, at, until, both(known, state, r->state));
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}
