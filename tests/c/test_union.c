/* SPDX-License-Identifier: MIT
 *
 * Counting the pages of several processes once, held against sets of true frames: on
 * random families of processes, captured with frames visible and without.
 */
#include "check.h"
#include "fakeproc.h"

#include <unistd.h>

#define ROUNDS 400
#define PROCESSES 4
#define MAPPINGS 5
#define PAGES 12 /* of a mapping */
#define FILES 3
#define FRAMES 4096

/* ---- random families -------------------------------------------------------------------- */

struct process {
    struct fk_world world;
    struct fk_mapping mappings[MAPPINGS];
    struct fk_page pages[MAPPINGS][PAGES];
    pm_snapshot *snap;
};

struct family {
    struct process p[PROCESSES];
    size_t n;
    uint64_t next_frame;
};

/* What a page of every file is, whoever maps it. */
static uint64_t frame_of_file(uint64_t inode, uint64_t index)
{
    return 100 + inode * 64 + index;
}

/* Frames that several processes share: of pages at this place, or merged from anywhere. */
static uint64_t frame_of_crowd(struct rng *r, size_t place, bool merged)
{
    return merged ? 400 + rng_below(r, 3) : 500 + place * 2 + rng_below(r, 2);
}

static struct fk_page make_page(struct rng *r, struct family *f, const struct fk_mapping *m,
                                size_t place)
{
    struct fk_page p = {.what = FK_ANON, .pte_dirty = true, .frame = f->next_frame};
    uint32_t chance = rng_below(r, 10);
    if (chance < 2)
        return (struct fk_page){.what = FK_NONE};
    if (m->inode && chance < 7) {
        uint64_t index = m->offset / FK_PAGE + place;
        return (struct fk_page){.what = FK_FILE, .frame = frame_of_file(m->inode, index)};
    }
    if (!m->inode && chance == 2)
        return (struct fk_page){.what = FK_ZERO, .frame = 7};
    if (chance < 6) {
        f->next_frame++;
        return p;
    }
    p.ksm = chance == 9;
    p.frame = frame_of_crowd(r, place, p.ksm);
    return p;
}

static void make_process(struct rng *r, struct family *f, struct process *p)
{
    static const char *const names[] = {"", "/lib/a", "/lib/b", "/lib/c"};
    uint64_t at = 0x100000;
    *p = (struct process){.world = {.mappings = p->mappings, .n = MAPPINGS}};
    for (size_t i = 0; i < MAPPINGS; i++) {
        uint64_t inode = i == 0 ? 0 : rng_below(r, FILES + 1);
        struct fk_mapping *m = &p->mappings[i];
        *m = (struct fk_mapping){.start = at,
                                 .n = PAGES,
                                 .pages = p->pages[i],
                                 .perms = "rw-p",
                                 .vmflags = "rd wr mw ac",
                                 .inode = inode,
                                 .name = names[inode]};
        m->major = inode ? 0xfe : 0;
        m->offset = inode ? rng_below(r, 8) * FK_PAGE : 0;
        for (size_t k = 0; k < PAGES; k++)
            p->pages[i][k] = make_page(r, f, m, k);
        /* One process maps an anonymous page once, unless it is merged. */
        for (size_t j = 0; j < i; j++)
            for (size_t k = 0; k < PAGES; k++)
                if (p->pages[i][k].what == FK_ANON && !p->pages[i][k].ksm)
                    for (size_t l = 0; l < PAGES; l++)
                        if (p->pages[j][l].what == FK_ANON && !p->pages[j][l].ksm &&
                            p->pages[j][l].frame == p->pages[i][k].frame)
                            p->pages[i][k].what = FK_NONE;
        at += (PAGES + rng_below(r, 2)) * FK_PAGE;
    }
}

#define EACH_PAGE(f, proc, page)                                                                   \
    for (size_t proc = 0; proc < (f)->n; proc++)                                                   \
        for (struct fk_page *page = &(f)->p[proc].pages[0][0];                                     \
             page < &(f)->p[proc].pages[0][0] + MAPPINGS * PAGES; page++)

/* Mapcounts as they follow, and processes that are not of the family map some too. */
static void count_mappings(struct rng *r, struct family *f)
{
    static uint32_t counts[FRAMES];
    bool closed = rng_once_in(r, 2);
    for (size_t i = 0; i < FRAMES; i++)
        counts[i] = closed || i >= 600 || rng_once_in(r, 2) ? 0 : rng_below(r, 3);
    EACH_PAGE(f, a, page)
    counts[page->frame] += fk_normal(page);
    EACH_PAGE(f, b, page)
    page->mapcount = fk_normal(page) ? counts[page->frame] : 0;
}

static void make_family(struct rng *r, struct family *f)
{
    f->n = 1 + rng_below(r, PROCESSES);
    f->next_frame = 1000;
    for (size_t i = 0; i < f->n; i++)
        make_process(r, f, &f->p[i]);
    count_mappings(r, f);
}

static void capture(struct family *f, bool show)
{
    static struct fake fake;
    pm_error err;
    for (size_t i = 0; i < f->n; i++) {
        fk_init(&fake, &f->p[i].world);
        fake.show_frames = show;
        CHECK_EQ(fk_capture(&fake, &f->p[i].snap, &err), 0);
    }
}

static void drop(struct family *f)
{
    for (size_t i = 0; i < f->n; i++)
        pm_free(f->p[i].snap);
}

/* ---- the truth ------------------------------------------------------------------------------ */

static size_t random_windows(struct rng *r, pm_window *w, const struct process *p)
{
    size_t n = 0;
    for (uint32_t k = 0; k < MAPPINGS; k++) {
        uint64_t from = rng_below(r, PAGES), to = from + rng_below(r, (uint32_t)(PAGES - from + 1));
        if (!rng_once_in(r, 3))
            w[n++] = (pm_window){p->mappings[k].start + from * FK_PAGE,
                                 p->mappings[k].start + to * FK_PAGE, k};
    }
    return n;
}

static uint64_t true_union(const struct family *f, const pm_member *members)
{
    static bool seen[FRAMES];
    uint64_t n = 0;
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0; k < MAPPINGS; k++)
            for (size_t page = 0; page < PAGES; page++) {
                const struct fk_page *p = &f->p[i].pages[k][page];
                uint64_t at = f->p[i].mappings[k].start + page * FK_PAGE;
                bool in = !members[i].windows;
                for (size_t j = 0; members[i].windows && j < members[i].n_windows; j++)
                    in |= members[i].windows[j].start <= at && at < members[i].windows[j].end;
                if (!in || !fk_normal(p) || seen[p->frame])
                    continue;
                seen[p->frame] = true;
                n++;
            }
    return n;
}

#define HOLDS(out, truth, ...)                                                                     \
    do {                                                                                           \
        char note[128];                                                                            \
        snprintf(note, sizeof note, __VA_ARGS__);                                                  \
        CHECK_IN((out).lo <= (truth) && (truth) <= (out).hi, "%s: %llu is not in %llu..%llu",      \
                 note, (unsigned long long)(truth), (unsigned long long)(out).lo,                  \
                 (unsigned long long)(out).hi);                                                    \
    } while (0)

#define IS(out, a, b)                                                                              \
    CHECK_IN((out).lo == (a) && (out).hi == (b), "%llu..%llu, not %llu..%llu",                     \
             (unsigned long long)(out).lo, (unsigned long long)(out).hi, (unsigned long long)(a),  \
             (unsigned long long)(b))

/* Whole processes: exact where frames are visible, else the truth lies in it. */
static void families(void)
{
    struct rng r = {31};
    uint64_t wide = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        static struct family f;
        pm_interval out;
        make_family(&r, &f);
        for (int show = 0; show < 2; show++) {
            pm_member members[PROCESSES] = {0};
            capture(&f, show);
            for (size_t i = 0; i < f.n; i++)
                members[i] = (pm_member){.snapshot = f.p[i].snap};
            uint64_t truth = true_union(&f, members);
            CHECK_EQ(pm_union(members, f.n, 0, &out), 0);
            HOLDS(out, truth, "round %u, frames %d", round, show);
            CHECK_IN(!show || out.lo == out.hi, "round %u: %llu..%llu", round,
                     (unsigned long long)out.lo, (unsigned long long)out.hi);
            wide += out.hi - out.lo;
            drop(&f);
        }
    }
    CHECK(wide > ROUNDS); /* or hidden frames would not have been tried */
}

/* Parts of processes, some of which ran, while pages were migrated. */
static void parts_of_families(void)
{
    struct rng r = {32};
    for (unsigned round = 0; round < ROUNDS; round++) {
        static struct family f;
        pm_window w[PROCESSES][5];
        pm_member members[PROCESSES] = {0};
        pm_interval out, moved, still;
        make_family(&r, &f);
        capture(&f, round % 3 != 0);
        for (size_t i = 0; i < f.n; i++) {
            members[i] = (pm_member){.snapshot = f.p[i].snap, .windows = w[i]};
            members[i].n_windows = random_windows(&r, w[i], &f.p[i]);
        }
        uint64_t truth = true_union(&f, members);
        CHECK_EQ(pm_union(members, f.n, 0, &still), 0);
        HOLDS(still, truth, "round %u, parts", round);
        CHECK_IN(round % 3 == 0 || still.lo == still.hi, "round %u: %llu..%llu", round,
                 (unsigned long long)still.lo, (unsigned long long)still.hi);
        CHECK_EQ(pm_union(members, f.n, 3, &moved), 0);
        CHECK(moved.lo <= still.lo && moved.hi >= still.hi);
        for (size_t i = 0; i < f.n; i++) {
            members[i].ran = rng_once_in(&r, 2);
            members[i].again = rng_once_in(&r, 2) ? f.p[i].snap : NULL;
        }
        CHECK_EQ(pm_union(members, f.n, 0, &out), 0);
        HOLDS(out, truth, "round %u, some ran", round);
        CHECK(out.lo <= still.lo && out.hi >= still.hi);
        for (size_t i = 0; i < f.n; i++)
            members[i] = (pm_member){f.p[i].snap, f.p[i].snap, w[i], members[i].n_windows, 0, 1};
        CHECK_EQ(pm_union(members, f.n, 0, &out), 0);
        if (round % 3)
            IS(out, still.lo, still.hi); /* all stayed where it was */
        drop(&f);
    }
}

/* ---- one thing at a time ------------------------------------------------------------------------ */

struct plain {
    pm_header header;
    pm_mapping m;
    uint64_t page, count;
    uint32_t set, known, lo, hi;
    const char *name;
    pm_snapshot *snap;
};

#define A_FILE_PAGE (PM_BIT(PM_PRESENT) | PM_BIT(PM_NORMAL) | PM_BIT(PM_FILE))

/* Ten pages of a file, in one mapping. */
static struct plain plain(const char *name, unsigned major, unsigned minor, uint64_t inode)
{
    return (struct plain){
        .header = {.page_size = FK_PAGE, .complete = 1, .depth = PM_FULL},
        .m = {.start = UINT64_C(0x7f0000000000),
              .end = UINT64_C(0x7f000000a000),
              .dev_major = major,
              .dev_minor = minor,
              .inode = inode,
              .name_len = (uint32_t)strlen(name),
              .kind = PM_KIND_FILE,
              .n_ranges = 1,
              .dirty_hi = UINT64_MAX},
        .page = UINT64_C(0x7f0000000),
        .count = 10,
        .set = A_FILE_PAGE,
        .known = A_FILE_PAGE | PM_BIT(PM_ANON) | PM_BIT(PM_RACED) | PM_BIT(PM_KSM),
        .lo = 1,
        .hi = PM_UNBOUNDED,
        .name = name,
    };
}

static void build(struct plain *p)
{
    pm_error err;
    const pm_columns columns = {.mappings = &p->m,
                                .n_mappings = 1,
                                .page = &p->page,
                                .count = &p->count,
                                .set = &p->set,
                                .known = &p->known,
                                .mapcount_lo = &p->lo,
                                .mapcount_hi = &p->hi,
                                .n_ranges = p->m.n_ranges,
                                .strings = p->name,
                                .n_strings = p->m.name_len};
    int rc = pm_build(&p->header, &columns, &p->snap, &err);
    CHECK_IN(rc == 0, "%s", err.detail);
    if (rc < 0)
        exit(1);
}

/* Two processes of one mapping each. */
static pm_interval of_two(struct plain a, struct plain b, uint32_t place_a, uint32_t place_b)
{
    pm_interval out = {0, 0};
    build(&a);
    build(&b);
    const pm_member members[] = {{.snapshot = a.snap, .place = place_a},
                                 {.snapshot = b.snap, .place = place_b}};
    CHECK_EQ(pm_union(members, 2, 0, &out), 0);
    pm_free(a.snap);
    pm_free(b.snap);
    return out;
}

/* Real block devices give a file one number; others may give several files one, or one
 * file several. */
static void numbers_of_files(void)
{
    struct plain disk = plain("/lib/a", 8, 1, 5), link = plain("/lib/b", 8, 1, 5);
    struct plain next = plain("/lib/a", 8, 1, 6), other = plain("/lib/a", 8, 2, 5);
    IS(of_two(disk, link, 0, 1), 10, 10);
    IS(of_two(disk, next, 0, 0), 20, 20);
    IS(of_two(disk, other, 0, 0), 20, 20);
    struct plain view = plain("/lib/a", 0, 40, 5);
    IS(of_two(view, view, 0, 0), 10, 10);
    IS(of_two(view, view, 0, 1), 10, 20); /* of one name in two containers */
    IS(of_two(view, plain("/snap/b", 0, 40, 5), 0, 0), 10, 20);
    IS(of_two(view, plain("/lib/a", 0, 40, 6), 0, 0), 20, 20);
    IS(of_two(view, plain("/lib/a", 0, 41, 9), 0, 0), 10, 20); /* overlays of one file */
    IS(of_two(view, plain("/lib/b", 0, 41, 9), 0, 0), 20, 20);
    IS(of_two(view, plain("/lower/a (deleted)", 8, 1, 77), 0, 0), 10, 20);
    IS(of_two(view, plain("/lower/b", 8, 1, 77), 0, 0), 20, 20);
}

/* With a third in between. */
static void files_that_may_be_one(void)
{
    struct plain a = plain("/lib/a", 0, 40, 5), b = plain("/lib/b", 8, 1, 5);
    pm_interval out;
    build(&a);
    build(&b);
    const pm_member members[] = {
        {.snapshot = a.snap}, {.snapshot = b.snap}, {.snapshot = a.snap, .place = 1}};
    CHECK_EQ(pm_union(members, 3, 0, &out), 0);
    IS(out, 20, 30);
    pm_free(a.snap);
    pm_free(b.snap);
}

static void memory_objects(void)
{
    struct plain memfd = plain("/memfd:x (deleted)", 0, 1, 5), tmp = plain("/dev/shm/x", 0, 25, 5);
    struct plain segment = plain("/SYSV00000000 (deleted)", 0, 1, 5), gone = tmp;
    memfd.m.kind = tmp.m.kind = segment.m.kind = PM_KIND_SHMEM;
    IS(of_two(memfd, memfd, 0, 1), 10, 10);
    IS(of_two(memfd, plain("/x", 0, 1, 6), 0, 0), 20, 20);
    IS(of_two(tmp, tmp, 0, 1), 10, 10);
    IS(of_two(segment, segment, 0, 0), 10, 10);
    IS(of_two(segment, segment, 0, 1), 10, 20);
    IS(of_two(segment, memfd, 0, 0), 10, 20);
    segment.m.inode = 0; /* the first of an ipc namespace */
    segment.m.kind = PM_KIND_SPECIAL;
    IS(of_two(segment, segment, 0, 0), 10, 10);
    gone = plain("/dev/shm/x (deleted)", 0, 25, 5);
    gone.m.kind = PM_KIND_UNKNOWN;
    IS(of_two(gone, gone, 0, 0), 10, 10);
    IS(of_two(gone, tmp, 0, 0), 10, 20);
}

/* The kernel's own image is one for all; of other memory without a file nothing is known. */
static void special_memory(void)
{
    struct plain vdso = plain("[vdso]", 0, 0, 0), ring = plain("anon_inode:[x]", 0, 14, 9);
    vdso.m.kind = PM_KIND_SPECIAL;
    ring.m.kind = PM_KIND_UNKNOWN;
    struct plain narrow = vdso, small = vdso;
    IS(of_two(vdso, vdso, 0, 1), 10, 10);
    narrow.m.start = 0xf7000000;
    narrow.m.end = 0xf700a000;
    narrow.page = 0xf7000;
    IS(of_two(vdso, narrow, 0, 0), 10, 20);
    small.m.end -= FK_PAGE;
    small.count = 9;
    IS(of_two(vdso, small, 0, 0), 19, 19);
    IS(of_two(ring, ring, 0, 0), 0, 20);
    ring.known |= PM_BIT(PM_EXCLUSIVE);
    ring.set |= PM_BIT(PM_EXCLUSIVE);
    IS(of_two(ring, ring, 0, 0), 20, 20);
}

/* Without frames one process's shared pages may be all of another's, but not its own. */
static void hidden_crowds(void)
{
    struct plain a = plain("", 0, 0, 0), b;
    a.m.kind = PM_KIND_ANON;
    a.set = PM_BIT(PM_PRESENT) | PM_BIT(PM_NORMAL) | PM_BIT(PM_ANON) | PM_BIT(PM_SHARED);
    a.known = a.set | PM_BIT(PM_EXCLUSIVE) | PM_BIT(PM_FILE) | PM_BIT(PM_KSM);
    b = a;
    b.count = 7;
    IS(of_two(a, b, 0, 0), 10, 17);
    a.set |= PM_BIT(PM_KSM);
    IS(of_two(a, b, 0, 0), 7, 17); /* merged: all may be one */
    a.known &= ~PM_BIT(PM_KSM);
    a.set &= ~PM_BIT(PM_KSM);
    IS(of_two(a, b, 0, 0), 7, 17);
    a.known &= ~PM_BIT(PM_NORMAL);
    a.set &= ~PM_BIT(PM_NORMAL);
    IS(of_two(a, b, 0, 0), 7, 17);
    b.known &= ~PM_BIT(PM_FILE);
    b.known |= PM_BIT(PM_EXCLUSIVE);
    b.set |= PM_BIT(PM_EXCLUSIVE);
    b.known &= ~PM_BIT(PM_ANON);
    b.set &= ~PM_BIT(PM_ANON);
    IS(of_two(a, b, 0, 0), 7, 17); /* of no file, and nobody else's */
    b.m = plain("/lib/a", 8, 1, 5).m;
    b.name = "/lib/a";
    IS(of_two(a, b, 0, 0), 0, 17); /* of a file, perhaps */
    b.set = b.known = PM_BIT(PM_RACED);
    b.m.raced_pages = 9; /* two of them came and went */
    IS(of_two(a, b, 0, 0), 0, 19);
}

/* Of what ran meanwhile, nothing that is shared can be relied on. */
static void crowds_that_ran(void)
{
    struct plain a = plain("", 0, 0, 0);
    pm_interval out;
    a.m.kind = PM_KIND_ANON;
    a.set = PM_BIT(PM_PRESENT) | PM_BIT(PM_NORMAL) | PM_BIT(PM_ANON) | PM_BIT(PM_SHARED);
    a.known = a.set | PM_BIT(PM_EXCLUSIVE) | PM_BIT(PM_FILE) | PM_BIT(PM_KSM);
    build(&a);
    const pm_member member = {.snapshot = a.snap, .ran = 1};
    CHECK_EQ(pm_union(&member, 1, 0, &out), 0);
    IS(out, 0, 10);
    pm_free(a.snap);
}

enum { CROWD = 6 };

/* A process of pages that others map too, captured. */
static pm_snapshot *crowd(const uint64_t frames[CROWD], bool show)
{
    static struct fake fake;
    struct fk_page pages[CROWD];
    struct fk_mapping m = {
        .start = 0x10000, .n = CROWD, .pages = pages, .perms = "rw-p", .vmflags = "rd wr mw ac"};
    struct fk_world w = {.mappings = &m, .n = 1};
    pm_snapshot *snap;
    pm_error err;
    for (size_t i = 0; i < CROWD; i++)
        pages[i] = (struct fk_page){.what = frames[i] ? FK_ANON : FK_NONE,
                                    .pte_dirty = true,
                                    .mapcount = 2,
                                    .frame = frames[i]};
    fk_init(&fake, &w);
    fake.show_frames = show;
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    return snap;
}

/* Frames that are in place when looked at again are those of the first time. */
static void frames_in_place(void)
{
    pm_snapshot *parent = crowd((uint64_t[]){10, 11, 12, 13, 20, 21}, true);
    pm_snapshot *child = crowd((uint64_t[]){10, 11, 12, 13, 0, 21}, true);
    pm_snapshot *later = crowd((uint64_t[]){10, 0, 30, 13, 5, 22}, true);
    pm_snapshot *hidden = crowd((uint64_t[]){10, 11, 0, 0, 0, 0}, false);
    pm_interval out;
    pm_member m[] = {{.snapshot = parent}, {.snapshot = child}};
    CHECK_EQ(pm_union(m, 2, 0, &out), 0);
    IS(out, 6, 6);
    CHECK_EQ(pm_union(m, 2, 2, &out), 0); /* two of them may have been met at another place */
    IS(out, 4, 8);
    CHECK_EQ(pm_union(m, 2, 100, &out), 0);
    IS(out, 0, 11);
    m[1].ran = 1;
    CHECK_EQ(pm_union(m, 2, 0, &out), 0);
    IS(out, 6, 11);
    m[1].again = later; /* the second, third and last are not where they were */
    CHECK_EQ(pm_union(m, 2, 0, &out), 0);
    IS(out, 6, 9);
    m[1] = (pm_member){.snapshot = hidden};
    CHECK_EQ(pm_union(m, 2, 0, &out), 0);
    IS(out, 6, 8);
    m[0] = (pm_member){.snapshot = later, .again = later, .ran = 1};
    CHECK_EQ(pm_union(m, 2, 0, &out), 0);
    IS(out, 5, 7);
    pm_free(parent);
    pm_free(child);
    pm_free(later);
    pm_free(hidden);
}

/* What was missed, or met twice, may be anywhere. */
static void missed_pages(void)
{
    struct plain a = plain("/lib/a", 8, 1, 5), b = plain("/lib/b", 8, 1, 6);
    a.header.missed_pages = 3;
    IS(of_two(a, b, 0, 0), 17, 23);
    b.header.missed_pages = 30;
    IS(of_two(a, b, 0, 0), 0, 53);
}

/* At different places in the file, more than once, and beyond 4 GiB of pages. */
static void places_in_a_file(void)
{
    struct plain a = plain("/lib/a", 8, 1, 5), b = a;
    b.m.offset = 4 * FK_PAGE;
    IS(of_two(a, b, 0, 0), 14, 14);
    b.m.offset = UINT64_C(1) << 50;
    IS(of_two(a, b, 0, 0), 20, 20);
    b.m.offset += FK_PAGE;
    a.m.offset = UINT64_C(1) << 50;
    IS(of_two(a, b, 0, 0), 11, 11);
}

static void refusals(void)
{
    struct plain a = plain("/lib/a", 8, 1, 5), b = a;
    pm_interval out;
    b.header.page_size = 8192;
    b.page /= 2;
    b.count /= 2;
    b.m.end = b.m.start + 5 * 8192;
    build(&a);
    build(&b);
    const pm_member foreign[] = {{.snapshot = a.snap}, {.snapshot = b.snap}};
    CHECK_EQ(pm_union(foreign, 2, 0, &out), -PM_E_FOREIGN);
    const pm_window bad[] = {{a.m.start - FK_PAGE, a.m.end, 0},
                             {a.m.start, a.m.end + FK_PAGE, 0},
                             {a.m.end, a.m.start, 0},
                             {a.m.start, a.m.end, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const pm_member member = {.snapshot = a.snap, .windows = &bad[i], .n_windows = 1};
        CHECK_EQ(pm_union(&member, 1, 0, &out), -EINVAL);
    }
    const pm_window twice[] = {{a.m.start, a.m.end, 0}, {a.m.start, a.m.end, 0}};
    const pm_member overlapping = {.snapshot = a.snap, .windows = twice, .n_windows = 2};
    CHECK_EQ(pm_union(&overlapping, 1, 0, &out), -EINVAL);
    const pm_member nothing = {.snapshot = a.snap, .windows = bad, .n_windows = 0};
    CHECK_EQ(pm_union(&nothing, 1, 0, &out), 0);
    IS(out, 0, 0);
    CHECK_EQ(pm_union(NULL, 0, 0, &out), 0);
    IS(out, 0, 0);
    pm_free(a.snap);
    pm_free(b.snap);
}

/* ---- the kernel at hand --------------------------------------------------------------------------- */

static void kinship(void)
{
    uint64_t before, after, moved;
    volatile unsigned work = 0;
    CHECK_EQ(pm_cpu_time(getpid(), &before), 0);
    for (unsigned i = 0; i < 100000; i++)
        work += i;
    CHECK_EQ(pm_cpu_time(getpid(), &after), 0);
    CHECK(after > before);
    CHECK(pm_cpu_time(FK_PID, &after) < 0);
    int rc = pm_same_mm(getpid(), getpid());
    CHECK(rc == 1 || rc == -ENOSYS || rc == -EPERM);
    CHECK(pm_same_mm(getpid(), FK_PID) < 0);
    rc = pm_migrated(&moved);
    CHECK(rc == 0 || rc == -ENODATA || rc == -ENOENT || rc == -EACCES);
}

int main(void)
{
    RUN(families);
    RUN(parts_of_families);
    RUN(numbers_of_files);
    RUN(files_that_may_be_one);
    RUN(memory_objects);
    RUN(special_memory);
    RUN(hidden_crowds);
    RUN(crowds_that_ran);
    RUN(frames_in_place);
    RUN(missed_pages);
    RUN(places_in_a_file);
    RUN(refusals);
    RUN(kinship);
    return check_done();
}
