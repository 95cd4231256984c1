/* SPDX-License-Identifier: MIT
 *
 * touched.c - what a process touched between two moments.
 *
 * The kernel clears Y of every page when it is asked to (clear_refs), the machine sets it again.
 * A window is one or more stretches, each from such a clearing to a capture.  What Y says of a
 * page, and what it cannot say, is judged here, stretch by stretch.
 */
#include "written.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct pm_touched {
    struct pm__regions told, sum;
    uint64_t moved;
    int32_t flush;
    void *spare;
};

/* A processor that has a page in its TLB does not set Y again, and clear_refs leaves TLBs alone,
 * but where it clears soft-dirty bits.  Unmapping more than 33 pages (tlb_single_page_flush_ceiling)
 * makes x86 flush all of this process, on every processor. */
#define SPARE ((size_t)1 << 20)

/* ---- what is said of one page ------------------------------------------------------- */

struct facts {
    uint32_t set, known;
    bool same; /* in the same mapping as the other one */
};

struct judging {
    const pm_snapshot *begin, *end;
    uint32_t how;
    bool eligible;   /* the mapping that is looked at may have huge pages */
    uint64_t stayed; /* anonymous pages that are where they were */
};

static bool yes(struct facts f, int bit)
{
    return f.known & f.set & PM_BIT(bit);
}

static bool no(struct facts f, int bit)
{
    return f.known & ~f.set & PM_BIT(bit);
}

static bool came(struct facts was)
{
    return !was.same || no(was, PM_PRESENT);
}

/* clear_refs 2 and 3 ask whether there is a file behind a mapping, not what a page is. */
static bool was_left_out(const struct judging *j, const pm_mapping *m)
{
    bool file = m->inode || m->dev_major || m->dev_minor;
    return (j->how & PM_HOW_ANON_ONLY && file) || (j->how & PM_HOW_FILE_ONLY && !file);
}

static uint32_t judge_absent(struct facts now, struct facts was)
{
    if (!no(now, PM_SWAPPED))
        return PM_Y_SWAPPED;
    return came(was) ? PM_Y_NOTHING : PM_Y_GONE;
}

/* smaps THPeligible: whether faults, or khugepaged, may make huge pages of any size there. */
static bool may_be_huge(const pm_snapshot *s, const pm_mapping *m)
{
    static const char key[] = "THPeligible:";
    const char *p = s->columns.strings + m->extra, *end = p + m->extra_len;
    uint64_t eligible = 1;
    p = memmem(p, m->extra_len, key, sizeof key - 1);
    for (p = p ? p + sizeof key - 1 : end; p < end && (*p == ' ' || *p == '\t'); p++)
        ;
    return !pm__dec(&p, end, &eligible) || eligible;
}

/* One fault brings one page of anonymous memory; of a file, those around it too. */
static bool came_alone(const struct judging *j, struct facts now, struct facts was)
{
    bool alone = (j->how & PM_HOW_SINGLE) || !j->eligible;
    return came(was) && yes(now, PM_ANON) && no(now, PM_HUGE) && alone;
}

static uint32_t judge_unseen(const struct judging *j, struct facts now, struct facts was)
{
    const uint32_t noted = PM_HOW_NOTED | PM_HOW_FLUSHED;
    if (came_alone(j, now, was))
        return PM_Y_CAME;
    return (j->how & noted) == noted && no(now, PM_TOUCHED) ? PM_Y_UNTOUCHED : PM_Y_UNSEEN;
}

static uint32_t judge_young(const struct judging *j, struct facts now, struct facts was)
{
    bool there = was.same && yes(was, PM_PRESENT);
    if (!no(now, PM_HUGE))
        return there && no(was, PM_HUGE) ? PM_Y_MADE : PM_Y_HUGE;
    if (there && !no(was, PM_HUGE))
        return PM_Y_HUGE; /* its parts are as young as the huge page was */
    if ((j->how & PM_HOW_MERGES) && yes(now, PM_ANON) && !no(now, PM_KSM))
        return PM_Y_MADE;
    if ((j->how & PM_HOW_COLLAPSES) && j->eligible && yes(now, PM_ANON))
        return PM_Y_MADE;
    if (there)
        return PM_Y_TOUCHED;
    return came_alone(j, now, was) ? PM_Y_TOUCHED : PM_Y_AROUND;
}

static uint32_t judge_old(const struct judging *j, struct facts now, struct facts was)
{
    if (!came(was) && !(j->how & PM_HOW_FLUSHED))
        return PM_Y_STALE;
    if (j->how & PM_HOW_STAYS)
        return PM_Y_UNTOUCHED;
    return (j->how & PM_HOW_NOTED) && no(now, PM_TOUCHED) ? PM_Y_UNTOUCHED : PM_Y_CLEARED;
}

static uint32_t judge(const struct judging *j, const pm_mapping *m, struct facts now,
                      struct facts was)
{
    if (yes(now, PM_RACED) || !(now.known & PM_BIT(PM_PRESENT)))
        return PM_Y_RACED;
    if (no(now, PM_PRESENT))
        return judge_absent(now, was);
    if (no(now, PM_NORMAL)) /* the zero page, or a device's: it holds no memory */
        return !came(was) && yes(was, PM_ANON) ? PM_Y_GONE : PM_Y_NOTHING;
    if (!(now.known & PM_BIT(PM_NORMAL)) || !(now.known & PM_BIT(PM_YOUNG)))
        return was_left_out(j, m) && !came_alone(j, now, was) ? PM_Y_LEFT_OUT
                                                              : judge_unseen(j, now, was);
    if (was_left_out(j, m) && !came(was))
        return PM_Y_LEFT_OUT;
    return yes(now, PM_YOUNG) ? judge_young(j, now, was) : judge_old(j, now, was);
}

static bool is_open(uint32_t state)
{
    return state >= PM_Y_AROUND;
}

/* What two stretches, one after the other, come to as one. */
static uint32_t both(uint32_t before, uint32_t now)
{
    if (now == PM_Y_NOTHING || now == PM_Y_GONE)
        return before > PM_Y_UNTOUCHED || before == PM_Y_TOUCHED ? PM_Y_GONE : now;
    if (before == PM_Y_TOUCHED || now == PM_Y_TOUCHED)
        return PM_Y_TOUCHED;
    if (before == PM_Y_CAME || now == PM_Y_CAME)
        return PM_Y_CAME;
    if (!is_open(now) || now == PM_Y_UNSEEN || now == PM_Y_CLEARED)
        return is_open(before) ? before : now;
    return now;
}

/* ---- walking two snapshots ------------------------------------------------------------- */

static const struct facts nothing_there = {.known = PM__PUBLIC, .same = true};
static const struct facts unmapped = {.known = PM__PUBLIC};
static const struct facts unseen = {.same = true};

static bool same_memory(const pm_mapping *a, const pm_mapping *b)
{
    if (a->inode != b->inode || a->dev_major != b->dev_major || a->dev_minor != b->dev_minor ||
        a->kind != b->kind)
        return false;
    return a->inode == 0 || a->offset - a->start == b->offset - b->start;
}

/* The first mapping that ends above an address. */
static size_t mapping_above(const pm_columns *c, uint64_t at)
{
    size_t lo = 0, hi = c->n_mappings;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (c->mappings[mid].end > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* What one mapping's ranges say of a page; `until` (a page) moves down to where that changes. */
static struct facts facts_at(const pm_snapshot *s, const pm_mapping *m, uint64_t page,
                             uint64_t *until)
{
    const pm_columns *c = &s->columns;
    size_t stop = (size_t)m->first_range + m->n_ranges, r = pm__first_range_at(c, m, page);
    struct facts gap = s->header.complete ? nothing_there : unseen;
    if (r >= stop || c->page[r] > page) {
        if (r < stop && c->page[r] < *until)
            *until = c->page[r];
        return gap;
    }
    if (c->page[r] + c->count[r] < *until)
        *until = c->page[r] + c->count[r];
    return (struct facts){.set = c->set[r], .known = c->known[r], .same = true};
}

static struct facts facts_before(const struct judging *j, const pm_mapping *m, uint64_t page,
                                 uint64_t *until)
{
    const pm_columns *c = &j->begin->columns;
    uint64_t size = j->begin->header.page_size;
    size_t i = mapping_above(c, page * size);
    const pm_mapping *old = i < c->n_mappings ? &c->mappings[i] : NULL;
    if (old && old->start / size > page) {
        if (old->start / size < *until)
            *until = old->start / size;
        old = NULL;
    }
    if (old && old->end / size < *until)
        *until = old->end / size;
    if (!old)
        return j->begin->header.complete ? unmapped : unseen;
    return same_memory(old, m) ? facts_at(j->begin, old, page, until) : unmapped;
}

static bool is_anonymous(struct facts f)
{
    return yes(f, PM_PRESENT) && !yes(f, PM_FILE) && !no(f, PM_ANON);
}

static int judge_mapping(struct judging *j, const pm_mapping *m, struct pm__walk *before,
                         struct pm__regions *out)
{
    uint64_t size = j->end->header.page_size;
    j->eligible = may_be_huge(j->end, m);
    for (uint64_t page = m->start / size, until; page < m->end / size; page = until) {
        uint32_t told, state = PM_Y_LEFT_OUT;
        until = m->end / size;
        struct facts now = facts_at(j->end, m, page, &until);
        struct facts was = facts_before(j, m, page, &until);
        uint64_t at = page * size, change = until * size;
        bool earlier = pm__walk_to(before, at, &change, &told);
        until = change / size;
        if (m->kind != PM_KIND_HUGETLB)
            state = judge(j, m, now, was);
        if (was.same && is_anonymous(was) && is_anonymous(now))
            j->stayed += until - page;
        int rc = pm__regions_add(out, at, change, earlier && was.same ? both(told, state) : state);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static uint64_t anonymous_pages(const pm_snapshot *s)
{
    const pm_columns *c = &s->columns;
    uint64_t n = 0;
    for (size_t i = 0; i < c->n_ranges; i++)
        n += is_anonymous((struct facts){.set = c->set[i], .known = c->known[i]}) ? c->count[i] : 0;
    return n;
}

/* ---- the public side --------------------------------------------------------------------- */

int pm_touched_new(int32_t flush, pm_touched **out)
{
    pm_touched *t = pm__block_new(sizeof *t);
    if (t && flush == PM_FLUSH_OURS)
        t->spare = pm__block_new(SPARE);
    if (!t || (flush == PM_FLUSH_OURS && !t->spare)) {
        pm__block_free(t);
        return -ENOMEM;
    }
    t->flush = flush;
    *out = t;
    return 0;
}

int pm_touched_add(pm_touched *t, const pm_snapshot *begin, const pm_snapshot *end, uint32_t how)
{
    struct judging j = {.begin = begin, .end = end, .how = how};
    struct pm__walk before = {.list = &t->told};
    if (begin->header.page_size != end->header.page_size)
        return -PM_E_FOREIGN;
    t->sum.n = 0;
    for (size_t i = 0; i < end->columns.n_mappings; i++) {
        int rc = judge_mapping(&j, &end->columns.mappings[i], &before, &t->sum);
        if (rc < 0)
            return rc;
    }
    uint64_t were = anonymous_pages(begin);
    t->moved += were > j.stayed ? were - j.stayed : 0;
    struct pm__regions told = t->told;
    t->told = t->sum;
    t->sum = told;
    return 0;
}

void pm_touched_free(pm_touched *t)
{
    if (!t)
        return;
    pm__regions_free(&t->told);
    pm__regions_free(&t->sum);
    pm__block_free(t->spare);
    pm__block_free(t);
}

void pm_touched_drop(pm_touched *const *touched)
{
    if (*touched)
        pm_touched_free(*touched);
}

uint64_t pm_touched_moved(const pm_touched *t)
{
    return t->moved;
}

void pm_touched_regions(const pm_touched *t, const pm_region **out, size_t *n)
{
    *out = t->told.at;
    *n = t->told.n;
}

void pm_touched_count(const pm_touched *t, uint64_t start, uint64_t end,
                      uint64_t out[PM_Y_N_STATES])
{
    pm__regions_count(&t->told, start, end, out);
}

/* ---- clearing Y ----------------------------------------------------------------------------- */

static int ask(int fd, const char *what)
{
    ssize_t n = write(fd, what, 1);
    return n == 1 ? 0 : n < 0 ? -errno : -EIO;
}

int pm_touched_clear(pm_touched *t, int32_t fd, int32_t which)
{
    static const char *const kinds[] = {"1", "2", "3"};
    if (which < 1 || which > 3)
        return -EINVAL;
    int rc = ask(fd, kinds[which - 1]);
    if (rc == 0 && t->flush == PM_FLUSH_SOFT_DIRTY)
        rc = ask(fd, "4");
    pm__block_free(t->spare);
    t->spare = NULL;
    return rc;
}
