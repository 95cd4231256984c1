/* SPDX-License-Identifier: MIT
 *
 * The principle "never claim what was not seen", tried on random processes: whatever
 * the engine decides of a page must be true of it.
 *
 * Each case makes up the truth first, derives from it what the kernel would show
 * (fakeproc.h), captures that, and compares every decided fact with the truth.
 */
#include "check.h"
#include "fakeproc.h"

#define ROUNDS 300 /* of each test; each captures */
#define MAPPINGS 48
#define PAGES 12 /* of a mapping, at most */
#define FOLIO 4  /* pages of a huge one here: the engine has no idea of their size */

enum shape {
    PRIVATE_ANON,
    PRIVATE_FILE,
    SHARED_FILE,
    SHARED_FILE_READONLY,
    SHARED_SHMEM,
    PRIVATE_SHMEM,
    PRIVATE_UNKNOWN, /* a file on a file system without block device that cannot be opened */
    PRIVATE_DEV_ZERO, /* looks like that, and is anonymous memory */
    SHAPES
};

struct sample {
    struct fk_world world;
    struct fk_mapping mappings[MAPPINGS];
    struct fk_page pages[MAPPINGS][PAGES];
    enum shape shapes[MAPPINGS];
    uint64_t next_frame;
};

/* How often a property holds in one mapping: never, always, or for some pages, so that
 * all-or-none has something to decide. */
struct mood {
    uint32_t of[16];
};

enum trait {
    M_YOUNG,
    M_FOLIO_YOUNG,
    M_REFERENCED,
    M_ACTIVE,
    M_PTE_DIRTY,
    M_PAGE_DIRTY,
    M_WRITEBACK,
    M_SHARED,
    M_KSM,
    M_HOLE,
    M_ODD,     /* neither present nor absent */
    M_ZERO,
    M_COPY,    /* of a private file mapping: copied */
    M_CLEAN,   /* anonymous and clean */
    M_UNEVICTABLE,
    M_UFFDWP
};

static struct mood make_mood(struct rng *r)
{
    static const uint32_t chances[] = {0, 0, 100, 50, 15, 85};
    struct mood m;
    for (size_t i = 0; i < 16; i++)
        m.of[i] = chances[rng_below(r, 6)];
    m.of[M_HOLE] = chances[rng_below(r, 6)] / 2;
    m.of[M_ODD] = rng_once_in(r, 2) ? 0 : 30;
    m.of[M_KSM] = rng_once_in(r, 6) ? chances[rng_below(r, 6)] : 0;
    m.of[M_ZERO] = rng_once_in(r, 2) ? 0 : chances[rng_below(r, 6)];
    return m;
}

static bool feels(struct rng *r, const struct mood *m, enum trait t)
{
    return rng_below(r, 100) < m->of[t];
}

static bool anonymous_vma(enum shape s)
{
    return s == PRIVATE_ANON || s == PRIVATE_DEV_ZERO;
}

static bool is_shared(enum shape s)
{
    return s == SHARED_FILE || s == SHARED_FILE_READONLY || s == SHARED_SHMEM;
}

static const char *vmflags_of(struct rng *r, enum shape s)
{
    if (rng_once_in(r, 20))
        return NULL;
    if (s == SHARED_FILE_READONLY)
        return rng_once_in(r, 4) ? "rd mr me ms lo" : "rd mr me ms";
    switch (rng_below(r, 4)) {
    case 0:
        return "rd wr mr mw me ac lo";
    case 1:
        return "rd wr mr mw me ac uw";
    default:
        return "rd wr mr mw me ac";
    }
}

static bool has(const struct fk_mapping *m, const char *flag)
{
    return m->vmflags && strstr(m->vmflags, flag);
}

/* Clean anonymous pages: read back from swap, copied for a pin, or freed lazily. */
static void make_clean(struct rng *r, const struct mood *mood, const struct sample *s,
                       enum shape shape, struct fk_page *p)
{
    p->pte_dirty = p->page_dirty = false;
    if (!anonymous_vma(shape) || (!s->world.no_swap && rng_once_in(r, 4))) {
        p->swapcache = !s->world.no_swap; /* else copied for a pin for reading */
        return;
    }
    p->freed = true;
    p->swapless = !rng_once_in(r, 3); /* the kernel notices in batches */
    if (rng_once_in(r, 4)) {
        p->pte_dirty = feels(r, mood, M_PTE_DIRTY); /* and written again */
        p->page_dirty = p->pte_dirty && rng_once_in(r, 2);
    }
}

static void make_normal(struct rng *r, const struct mood *mood, struct sample *s, size_t i,
                        struct fk_page *p)
{
    const struct fk_mapping *m = &s->mappings[i];
    enum shape shape = s->shapes[i];
    bool anon = !is_shared(shape) && (anonymous_vma(shape) || feels(r, mood, M_COPY));
    p->what = anon ? FK_ANON : FK_FILE;
    p->young = feels(r, mood, M_YOUNG);
    p->folio_young = feels(r, mood, M_FOLIO_YOUNG);
    p->referenced = feels(r, mood, M_REFERENCED);
    p->active = feels(r, mood, M_ACTIVE);
    p->page_dirty = feels(r, mood, M_PAGE_DIRTY);
    p->writeback = feels(r, mood, M_WRITEBACK);
    p->mapcount = feels(r, mood, M_SHARED) ? 2 + rng_below(r, 3) : 1;
    p->uffdwp = has(m, "uw") && feels(r, mood, M_UFFDWP);
    if (anon) {
        p->pte_dirty = feels(r, mood, M_PTE_DIRTY);
        p->page_dirty |= !p->pte_dirty;
        p->ksm = feels(r, mood, M_KSM);
        if (p->ksm) {
            p->page_dirty = true;
            p->pte_dirty = false;
        } else if (feels(r, mood, M_CLEAN)) {
            make_clean(r, mood, s, shape, p);
        }
    } else {
        p->pte_dirty = is_shared(shape) && shape != SHARED_FILE_READONLY &&
                       feels(r, mood, M_PTE_DIRTY);
    }
    /* Locked by us (of which VmFlags speak), or by another of its mappers; of memory
     * objects also by SHM_LOCK.  Such a page is on no active list. */
    bool may = has(m, "lo") || !m->vmflags || p->mapcount > 1 || shape == SHARED_SHMEM ||
               (shape == PRIVATE_SHMEM && !anon) || (shape == PRIVATE_UNKNOWN && !anon);
    if (may && !s->world.no_unevictable && feels(r, mood, M_UNEVICTABLE)) {
        p->unevictable = true;
        p->active = false;
    }
}

static void make_odd(struct rng *r, struct sample *s, size_t i, struct fk_page *p)
{
    if (rng_once_in(r, 3) && has(&s->mappings[i], "uw"))
        p->what = FK_MARKER;
    else if (is_shared(s->shapes[i]))
        p->what = FK_NONE;
    else
        p->what = rng_once_in(r, 2) || s->world.no_swap ? FK_GUARD : FK_SWAPPED;
}

static struct fk_page make_page(struct rng *r, const struct mood *mood, struct sample *s, size_t i)
{
    struct fk_page p = {.what = FK_NONE};
    p.softdirty = rng_once_in(r, 2);
    p.frame = s->next_frame++;
    if (rng_once_in(r, 5))
        s->next_frame += 3;
    if (feels(r, mood, M_HOLE))
        return p;
    if (feels(r, mood, M_ODD)) {
        make_odd(r, s, i, &p);
    } else if (!is_shared(s->shapes[i]) && feels(r, mood, M_ZERO)) {
        p.what = FK_ZERO;
        p.frame = 7;
    } else {
        make_normal(r, mood, s, i, &p);
    }
    return p;
}

/* Runs of FOLIO pages that a huge entry maps: one folio, so one state. */
static void make_folios(struct rng *r, struct fk_mapping *m, enum shape shape)
{
    for (size_t k = 0; k + FOLIO <= m->n; k += FOLIO) {
        struct fk_page head = m->pages[k];
        bool huge = (fk_normal(&head) && !head.ksm) ||
                    (head.what == FK_ZERO && anonymous_vma(shape));
        if (!huge || rng_once_in(r, 3))
            continue;
        for (size_t j = 0; j < FOLIO; j++) {
            m->pages[k + j] = head;
            m->pages[k + j].huge = true;
            if (j && fk_normal(&head) && rng_once_in(r, 4)) { /* others map a part of it */
                m->pages[k + j].head_mapcount = head.mapcount;
                m->pages[k + j].mapcount += 1 + rng_below(r, 3);
            }
            m->pages[k + j].bad_bit56 = fk_normal(&head) && rng_once_in(r, 2);
            m->pages[k + j].frame = head.what == FK_ZERO ? 7 : head.frame + j;
        }
    }
}

static void make_mapping(struct rng *r, struct sample *s, size_t i)
{
    static const char *const names[SHAPES] = {
        NULL,       "/usr/lib/libfoo.so", "/srv/data", "/srv/data", "/memfd:x (deleted)",
        "/memfd:x", "/usr/lib/overlaid",  "/dev/zero"};
    struct fk_mapping *m = &s->mappings[i];
    enum shape shape = s->shapes[i] = (enum shape)rng_below(r, SHAPES);
    struct mood mood = make_mood(r);
    bool on_disk = shape == PRIVATE_FILE || shape == SHARED_FILE || shape == SHARED_FILE_READONLY;
    *m = (struct fk_mapping){
        .start = UINT64_C(0x10000000) + i * UINT64_C(0x100000),
        .n = 1 + rng_below(r, PAGES),
        .pages = s->pages[i],
        .perms = shape == SHARED_FILE_READONLY ? "r--s"
                 : is_shared(shape)            ? "rw-s"
                                               : "rw-p",
        .major = on_disk ? 0xfe : 0,
        .minor = shape == PRIVATE_ANON ? 0 : 5,
        .inode = shape == PRIVATE_ANON ? 0 : 100 + i,
        .name = names[shape],
        .vmflags = vmflags_of(r, shape),
        .object_swap = shape == SHARED_SHMEM || shape == PRIVATE_SHMEM ? rng_below(r, 3) : 0,
    };
    for (size_t k = 0; k < m->n; k++)
        m->pages[k] = make_page(r, &mood, s, i);
    if (rng_once_in(r, 4))
        make_folios(r, m, shape);
}

static void make_sample(struct rng *r, struct sample *s)
{
    memset(s, 0, sizeof *s);
    s->next_frame = 1000;
    s->world = (struct fk_world){.mappings = s->mappings, .n = MAPPINGS};
    s->world.no_unevictable = rng_once_in(r, 3);
    s->world.no_swap = rng_once_in(r, 3);
    for (size_t i = 0; i < MAPPINGS; i++)
        make_mapping(r, s, i);
}

static void host_of(struct rng *r, struct fake *f, const struct sample *s)
{
    fk_init(f, &s->world);
    f->show_frames = rng_once_in(r, 4);
    f->no_kpage = rng_once_in(r, 3);
    f->all_ksm = rng_once_in(r, 4);
    f->no_numa = rng_once_in(r, 5);
    f->no_scan = rng_once_in(r, 3);
    f->scan_regions = rng_once_in(r, 3) ? 1 : 0;
    f->tables = rng_once_in(r, 2);
}

/* ---- held against the truth ----------------------------------------------------------- */
static unsigned long claims[PM_N_BITS], pages_seen[PM_N_BITS], mapcounts_exact;
static unsigned long unsure_mapcounts;

struct page_case {
    const pm_columns *c;
    const struct sample *s, *later; /* the truth before and after, where it moves */
    unsigned round;
    size_t mapping, page;
};

static bool true_once(const struct page_case *k, int bit, bool claim)
{
    const struct fk_mapping *m = &k->s->mappings[k->mapping];
    return fk_truth(m, &m->pages[k->page], bit) == claim ||
           fk_truth(m, &k->later->mappings[k->mapping].pages[k->page], bit) == claim;
}

static void check_mapcount(const struct page_case *k, long r)
{
    const struct fk_page *p = &k->s->mappings[k->mapping].pages[k->page];
    const struct fk_page *q = &k->later->mappings[k->mapping].pages[k->page];
    uint32_t lo = k->c->mapcount_lo[r], hi = k->c->mapcount_hi[r];
    uint32_t a = fk_normal(p) ? p->mapcount : 0, b = fk_normal(q) ? q->mapcount : 0;
    CHECK_IN((lo <= a && a <= hi) || (lo <= b && b <= hi),
             "round %u mapping %zu page %zu: mapcount %u or %u, claimed %u..%u", k->round,
             k->mapping, k->page, a, b, lo, hi);
    mapcounts_exact += lo == hi && lo > 0;
}

static void check_page(const struct page_case *k)
{
    const struct fk_mapping *m = &k->s->mappings[k->mapping];
    uint64_t vpn = m->start / FK_PAGE + k->page;
    long r = fk_range(k->c, k->mapping, vpn);
    if (r >= 0 && fk_fact(k->c, k->mapping, vpn, PM_RACED) == 1) {
        CHECK_IN(k->c->known[r] == PM_BIT(PM_RACED), "round %u: more is claimed of a raced page",
                 k->round);
        return;
    }
    for (int bit = 0; bit < PM_N_BITS; bit++) {
        int fact = fk_fact(k->c, k->mapping, vpn, bit);
        if (bit == PM_SOFTDIRTY && r < 0)
            continue;
        pages_seen[bit] += r >= 0;
        claims[bit] += r >= 0 && fact >= 0;
        CHECK_IN(fact < 0 || true_once(k, bit, fact),
                 "round %u mapping %zu (shape %d, %s) page %zu (is %d): %s claimed %d", k->round,
                 k->mapping, k->s->shapes[k->mapping], m->vmflags ? m->vmflags : "no flags",
                 k->page, m->pages[k->page].what, fk_bit_names[bit], fact);
    }
    if (r >= 0 && fk_fact(k->c, k->mapping, vpn, PM_NORMAL) >= 0)
        check_mapcount(k, r);
    else if (r >= 0)
        unsure_mapcounts += k->c->mapcount_hi[r] < 2; /* see no_mapcount_of_what_is_unknown */
}

static uint64_t count_dirty(const struct fk_mapping *m)
{
    uint64_t n = 0;
    for (size_t k = 0; k < m->n; k++)
        n += fk_dirty(m, &m->pages[k]);
    return n;
}

static void check_dirty_bounds(const struct page_case *k)
{
    const pm_mapping *got = &k->c->mappings[k->mapping];
    uint64_t a = count_dirty(&k->s->mappings[k->mapping]);
    uint64_t b = count_dirty(&k->later->mappings[k->mapping]);
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    CHECK_IN(got->dirty_lo <= got->dirty_hi && got->dirty_lo <= high && got->dirty_hi >= low,
             "round %u mapping %zu: %llu..%llu dirty, claimed %llu..%llu", k->round, k->mapping,
             (unsigned long long)low, (unsigned long long)high, (unsigned long long)got->dirty_lo,
             (unsigned long long)got->dirty_hi);
}

static void check_sample(const pm_snapshot *snap, const struct sample *s,
                         const struct sample *later, unsigned round)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    CHECK_EQ(c.n_mappings, MAPPINGS);
    struct page_case k = {.c = &c, .s = s, .later = later, .round = round};
    for (k.mapping = 0; k.mapping < c.n_mappings; k.mapping++) {
        check_dirty_bounds(&k);
        for (k.page = 0; k.page < s->mappings[k.mapping].n; k.page++)
            check_page(&k);
    }
}

/* ---- the tests ---------------------------------------------------------------------- */
static struct sample first, second;
static struct fake fake;

static bool capture(pm_snapshot **out, unsigned round)
{
    pm_error err;
    int rc = fk_capture(&fake, out, &err);
    CHECK_IN(rc == 0, "round %u: rc %d stage %d %s", round, rc, err.stage, err.detail);
    CHECK(fk_tidy(&fake));
    return rc == 0;
}

/* A process that holds still: nothing claimed is wrong, and nothing fails to add up. */
static void still_process(void)
{
    struct rng r = {1};
    unsigned long false_alarms = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        pm_snapshot *snap;
        make_sample(&r, &first);
        host_of(&r, &fake, &first);
        if (!capture(&snap, round))
            continue;
        check_sample(snap, &first, &first, round);
        pm_columns c;
        pm_get_columns(snap, &c);
        for (size_t i = 0; i < c.n_mappings; i++)
            if (c.mappings[i].trouble && !false_alarms++)
                CHECK_FAIL("round %u mapping %zu (shape %d): trouble %#x", round, i,
                           first.shapes[i], c.mappings[i].trouble);
        pm_free(snap);
    }
    CHECK_EQ(false_alarms, 0);
}

/* The test above would also pass if nothing were ever claimed. */
static void much_is_decided(void)
{
    static const struct {
        int bit;
        unsigned percent;
    } least[] = {{PM_PRESENT, 100},  {PM_FILE, 95},    {PM_NORMAL, 85},  {PM_DIRTY, 60},
                 {PM_EXCLUSIVE, 80}, {PM_PORD, 50},    {PM_TOUCHED, 50}, {PM_ACTIVE, 50},
                 {PM_WRITEBACK, 50}, {PM_SWAPPED, 80}, {PM_ZERO, 80},    {PM_YOUNG, 50},
                 {PM_PTEDIRTY, 50}};
    for (size_t i = 0; i < sizeof least / sizeof *least; i++) {
        unsigned long all = pages_seen[least[i].bit], some = claims[least[i].bit];
        CHECK_IN(all > 0 && some * 100 >= all * least[i].percent, "%s: %lu of %lu",
                 fk_bit_names[least[i].bit], some, all);
    }
    CHECK(mapcounts_exact > pages_seen[PM_NORMAL] / 4);
}

/* Where it is not known whether a page counts at all, its mapcount is not known to be 0. */
static void no_mapcount_of_what_is_unknown(void)
{
    CHECK_EQ(unsure_mapcounts, 0);
}

/* Others share, unshare, reference, clean and write back pages while we look: state from
 * before or from after may be claimed, but none that never was. */
static void mover(struct rng *r, struct fk_page *p, bool shared_map)
{
    if (!fk_normal(p))
        return;
    switch (rng_below(r, 6)) {
    case 0:
        p->mapcount = 1;
        p->unevictable = false; /* whoever locked it has left */
        break;
    case 1:
        p->mapcount = 2 + rng_below(r, 3);
        break;
    case 2:
        p->referenced = !p->referenced;
        break;
    case 3:
        p->active = !p->active && !p->unevictable;
        break;
    case 4:
        if (p->what == FK_FILE) {
            p->page_dirty = !p->page_dirty;
            p->pte_dirty &= !shared_map;
        }
        break;
    default:
        p->writeback = !p->writeback;
        break;
    }
}

/* What every moment but the first shows: `second` from a random moment on. */
static void move_at(struct rng *r, struct fake *f)
{
    unsigned from = 1 + rng_below(r, FK_MOMENTS - 1);
    for (unsigned k = from; k < FK_MOMENTS; k++)
        f->at[k] = &second.world;
}

static void copy_first(void)
{
    memcpy(&second, &first, sizeof first);
    second.world.mappings = second.mappings;
    for (size_t i = 0; i < MAPPINGS; i++)
        second.mappings[i].pages = second.pages[i];
}

static void others_move(void)
{
    struct rng r = {2};
    for (unsigned round = 0; round < ROUNDS; round++) {
        pm_snapshot *snap;
        make_sample(&r, &first);
        copy_first();
        for (size_t i = 0; i < MAPPINGS; i++)
            for (size_t k = 0; k < second.mappings[i].n; k++)
                if (rng_once_in(&r, 4) && !second.pages[i][k].huge)
                    mover(&r, &second.pages[i][k], fk_shared_map(&second.mappings[i]));
        host_of(&r, &fake, &first);
        move_at(&r, &fake);
        if (!capture(&snap, round))
            continue;
        check_sample(snap, &first, &second, round);
        pm_free(snap);
    }
}

/* The target itself goes on: one page of each mapping becomes something else. */
static void target_moves(void)
{
    struct rng r = {3};
    for (unsigned round = 0; round < ROUNDS; round++) {
        pm_snapshot *snap;
        make_sample(&r, &first);
        copy_first();
        for (size_t i = 0; i < MAPPINGS; i++) {
            struct fk_page *p = &second.pages[i][rng_below(&r, (uint32_t)second.mappings[i].n)];
            struct mood mood = make_mood(&r);
            if (!p->huge)
                *p = make_page(&r, &mood, &second, i);
        }
        host_of(&r, &fake, &first);
        move_at(&r, &fake);
        if (!capture(&snap, round))
            continue;
        check_sample(snap, &first, &second, round);
        pm_free(snap);
    }
}

/* The two bits move without a fault: the processor sets both, what ages pages clears Y and keeps
 * a note of it, writeback takes P away and leaves D. */
static void bits_move(void)
{
    struct rng r = {5};
    for (unsigned round = 0; round < ROUNDS; round++) {
        pm_snapshot *snap;
        make_sample(&r, &first);
        copy_first();
        for (size_t i = 0; i < MAPPINGS; i++)
            for (size_t k = 0; k < second.mappings[i].n; k++) {
                struct fk_page *p = &second.pages[i][k];
                if (!fk_normal(p) || p->huge || !rng_once_in(&r, 3))
                    continue;
                if (rng_once_in(&r, 2)) {
                    p->folio_young |= p->young;
                    p->young = !p->young;
                } else if (fk_shared_map(&second.mappings[i])) {
                    p->page_dirty |= p->pte_dirty;
                    p->pte_dirty = !p->pte_dirty;
                }
            }
        host_of(&r, &fake, &first);
        fake.tables = true;
        move_at(&r, &fake);
        if (!capture(&snap, round))
            continue;
        check_sample(snap, &first, &second, round);
        pm_free(snap);
    }
}

/* Pages that are migrating look like swap entries and count in Rss.  None may be
 * claimed clean that is dirty, or make others be claimed to be what they are not. */
static void pages_migrate(void)
{
    struct rng r = {4};
    for (unsigned round = 0; round < ROUNDS; round++) {
        pm_snapshot *snap;
        make_sample(&r, &first);
        for (size_t i = 0; i < MAPPINGS; i++)
            for (size_t k = 0; k < first.mappings[i].n; k++) {
                struct fk_page *p = &first.pages[i][k];
                if (fk_normal(p) && !p->huge && rng_once_in(&r, 6))
                    p->what = p->what == FK_ANON ? FK_MIGRATING_ANON : FK_MIGRATING_FILE;
            }
        host_of(&r, &fake, &first);
        if (!capture(&snap, round))
            continue;
        check_sample(snap, &first, &first, round);
        pm_free(snap);
    }
}

int main(void)
{
    RUN(still_process);
    RUN(much_is_decided);
    RUN(no_mapcount_of_what_is_unknown);
    RUN(others_move);
    RUN(target_moves);
    RUN(bits_move);
    RUN(pages_migrate);
    return check_done();
}
