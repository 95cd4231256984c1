/* SPDX-License-Identifier: MIT
 *
 * Page tables as a source of a capture: what they say of a page is claimed where pagemap agrees,
 * and nothing of a page of which they say otherwise, moved, or were not to be had.
 */
#include "check.h"
#include "fakeproc.h"

#define N ((size_t)64)
#define TABLE PM__TABLE_MOST /* pages */
#define START UINT64_C(0x40000000) /* where a GiB begins */
#define FRAME UINT64_C(0x400000)
#define MANY (4 * TABLE)

static struct fk_page pages[MANY], others[MANY];
static struct fk_mapping mapping, moved_mapping;
static const struct fk_world world = {.mappings = &mapping, .n = 1};
static const struct fk_world moved = {.mappings = &moved_mapping, .n = 1};
static struct fake fake;

/* What the table function below does, and how often it was asked. */
static struct {
    unsigned asked, at; /* the so manieth: from 1; 0: each */
    int err;            /* errno */
    enum fk_fault fault;
    struct pm__table answer; /* pages: instead of small tables */
} t;

static int table(void *ctx, int fd, uint64_t address, size_t most, struct pm__table *out)
{
    struct fake *f = ctx;
    bool struck = ++t.asked == t.at || !t.at;
    if (struck && t.fault == FK_DIE)
        f->dead = true;
    if (struck && t.fault == FK_ZOMBIE)
        f->dead = f->zombie = true;
    if (struck && t.fault == FK_EXEC)
        f->generation++;
    if (struck && t.err)
        return -t.err;
    int rc = fk_table(ctx, fd, address, most, out);
    if (rc == 0 && t.answer.pages && address / FK_PAGE - t.answer.first < t.answer.pages)
        *out = t.answer;
    return rc;
}

/* An anonymous heap: every state of Y and P, on pages that are mapped once.  All are R and D, so
 * that nothing else tells of those two. */
static void make(size_t n)
{
    mapping = (struct fk_mapping){.start = START,
                                  .n = n,
                                  .pages = pages,
                                  .perms = "rw-p",
                                  .name = "[heap]",
                                  .vmflags = "rd wr mr mw me ac"};
    for (size_t i = 0; i < MANY; i++)
        pages[i] = (struct fk_page){.what = i % 16 == 15 ? FK_NONE : FK_ANON,
                                    .frame = FRAME + i,
                                    .mapcount = 1,
                                    .young = i % 2,
                                    .pte_dirty = i & 2,
                                    .page_dirty = true,
                                    .referenced = true};
    memcpy(others, pages, sizeof pages);
    moved_mapping = mapping;
    moved_mapping.pages = others;
    memset(&t, 0, sizeof t);
    t.at = UINT32_MAX;
    fk_init(&fake, &world);
    fake.io.table = table;
    fake.tables = fake.show_frames = true;
}

static bool is_present(size_t i)
{
    return fk_present(&pages[i]);
}

static size_t present_in(size_t first, size_t n)
{
    size_t sum = 0;
    for (size_t i = first; i < first + n; i++)
        sum += is_present(i);
    return sum;
}

static pm_snapshot *capture_as(const pm_request *r)
{
    pm_snapshot *snap;
    pm_error err;
    int rc = pm__capture_with(&fake.io, r, &snap, &err);
    CHECK_IN(rc == 0, "rc %d stage %d %s", rc, err.stage, err.detail);
    CHECK(fk_tidy(&fake));
    return snap;
}

static pm_request at_depth(int depth, bool young)
{
    return (pm_request){
        .pid = FK_PID, .depth = depth, .counters = 1, .stopper = -1, .young = young};
}

static pm_snapshot *capture(void)
{
    pm_request r = at_depth(PM_FULL, true);
    return capture_as(&r);
}

static int fact(const pm_snapshot *snap, size_t i, int bit)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    return fk_fact(&c, 0, START / FK_PAGE + i, bit);
}

static uint32_t evidence(const pm_snapshot *snap, int bit)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    return c.mappings[0].evidence[bit];
}

static bool used_tables(const pm_snapshot *snap)
{
    return pm_get_header(snap)->sources & 1u << PM_SRC_PTE;
}

/* Y and P of pages [first, first + n) are known, and as they are; or unknown. */
static void check_known(const pm_snapshot *snap, size_t first, size_t n, bool known)
{
    for (size_t i = first; i < first + n; i++) {
        int young = fact(snap, i, PM_YOUNG), dirty = fact(snap, i, PM_PTEDIRTY);
        if (!is_present(i))
            CHECK_IN(young == 0 && dirty == 0, "page %zu is absent: %d %d", i, young, dirty);
        else if (known)
            CHECK_IN(young == pages[i].young && dirty == pages[i].pte_dirty, "page %zu: %d %d", i,
                     young, dirty);
        else
            CHECK_IN(young == -1 && dirty == -1, "page %zu: %d %d", i, young, dirty);
    }
}

/* Nothing that is claimed of any page is false. */
static void check_truth(const pm_snapshot *snap, const struct fk_mapping *m)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    for (size_t i = 0; i < m->n; i++)
        for (int bit = 0; bit < PM_N_BITS; bit++) {
            int got = fk_fact(&c, 0, m->start / FK_PAGE + i, bit);
            CHECK_IN(got < 0 || got == fk_truth(m, &m->pages[i], bit), "page %zu: %s is %d", i,
                     fk_bit_names[bit], got);
        }
}

static void check_disagreed(const pm_snapshot *snap, uint64_t n)
{
    CHECK_EQ(pm_get_header(snap)->pte_disagreed, n);
}

/* ---- what agrees -------------------------------------------------------------------------- */
static void known_of_every_page(void)
{
    for (int frames = 0; frames < 2; frames++) {
        make(MANY);
        fake.show_frames = frames;
        fake.no_kpage = !frames;
        pm_snapshot *snap = capture();
        check_known(snap, 0, MANY, true);
        check_truth(snap, &mapping);
        check_disagreed(snap, 0);
        CHECK_EQ(t.asked, 4); /* once a table */
        CHECK(used_tables(snap));
        CHECK(evidence(snap, PM_YOUNG) & 1u << PM_SRC_PTE);
        CHECK(evidence(snap, PM_PTEDIRTY) & 1u << PM_SRC_PTE);
        pm_free(snap);
    }
}

/* Y moves by itself: whoever did not ask for it sees no ranges break on it. */
static void young_only_where_asked(void)
{
    size_t ranges[2][2];
    for (int asked = 0; asked < 2; asked++)
        for (int mixed = 0; mixed < 2; mixed++) {
            make(N);
            for (size_t i = 0; i < N && !mixed; i++)
                pages[i].young = true;
            pm_request r = at_depth(PM_FULL, asked);
            pm_snapshot *snap = capture_as(&r);
            pm_columns c;
            pm_get_columns(snap, &c);
            ranges[asked][mixed] = c.n_ranges;
            for (size_t i = 0; i < N; i++) {
                int young = fact(snap, i, PM_YOUNG);
                CHECK(!is_present(i) || young == (asked ? pages[i].young : -1));
                CHECK_EQ(fact(snap, i, PM_PTEDIRTY), is_present(i) && pages[i].pte_dirty);
            }
            CHECK_EQ((evidence(snap, PM_YOUNG) & 1u << PM_SRC_PTE) != 0, asked);
            pm_free(snap);
        }
    CHECK_EQ(ranges[0][0], ranges[0][1]);
    CHECK_EQ(ranges[1][0], ranges[0][0]);
    CHECK(ranges[1][1] > ranges[1][0]);
}

static void each_depth(void)
{
    for (int depth = PM_TOTALS; depth <= PM_FULL; depth++)
        for (int young = 0; young < 2; young++) {
            make(N);
            fake.smaps[0] = depth == PM_TOTALS
                                ? "00000000-00001000 ---p 00000000 00:00 0 [rollup]\n"
                                  "Rss: 4 kB\n"
                                : NULL;
            pm_request r = at_depth(depth, young);
            bool wanted = depth == PM_FULL || (depth == PM_PAGES && young);
            CHECK_EQ(pm__wants_tables(&r), wanted);
            if (depth < PM_PAGES)
                continue; /* it looks at no page */
            r.counters = 0;
            pm_snapshot *snap = capture_as(&r);
            CHECK_EQ(t.asked, wanted);
            CHECK_EQ(used_tables(snap), wanted);
            if (young)
                check_known(snap, 0, N, true);
            check_truth(snap, &mapping);
            for (size_t i = 0; i < N; i++)
                if (is_present(i) && !young)
                    CHECK_EQ(fact(snap, i, PM_YOUNG), -1);
            pm_free(snap);
        }
}

static void not_where_there_are_none(void)
{
    make(N);
    fake.tables = false;
    pm_snapshot *snap = capture();
    CHECK_EQ(t.asked, 0);
    CHECK(!used_tables(snap));
    check_disagreed(snap, 0);
    check_truth(snap, &mapping);
    pm_free(snap);
}

/* ---- what does not ---------------------------------------------------------------------------- */
/* Of one page; where frames are hidden, another frame is not seen. */
static void another_frame(void)
{
    for (int frames = 0; frames < 2; frames++) {
        make(N);
        fake.show_frames = frames;
        fake.no_kpage = !frames;
        fake.at[FK_TABLE] = &moved;
        others[6].frame += 100;
        pm_snapshot *snap = capture();
        check_known(snap, 0, 6, true);
        check_known(snap, 6, 1, !frames);
        check_known(snap, 7, N - 7, true);
        check_disagreed(snap, frames);
        pm_free(snap);
    }
}

static void it_says_absent(void)
{
    for (int frames = 0; frames < 2; frames++) {
        make(N);
        fake.show_frames = frames;
        fake.no_kpage = !frames;
        fake.at[FK_TABLE] = &moved;
        for (size_t i = 4; i < 8; i++)
            others[i].what = FK_NONE;
        pm_snapshot *snap = capture();
        check_known(snap, 0, 4, true);
        check_known(snap, 4, 4, false);
        check_known(snap, 8, N - 8, true);
        check_disagreed(snap, 4);
        check_truth(snap, &mapping);
        pm_free(snap);
    }
}

/* Of what pagemap says is not there nothing is asked, and nothing is disputed. */
static void it_says_present(void)
{
    make(N);
    fake.at[FK_TABLE] = &moved;
    for (size_t i = 20; i < 24; i++)
        pages[i].what = i % 2 ? FK_SWAPPED : FK_GUARD;
    for (size_t i = 0; i < N; i++) {
        others[i].what = FK_ANON;
        others[i].frame += is_present(i) ? 0 : 100;
    }
    pm_snapshot *snap = capture();
    check_known(snap, 0, N, true);
    check_disagreed(snap, 0);
    pm_free(snap);
}

/* The target moved it between the two readings of pagemap: a race, and no dispute. */
static void raced(void)
{
    static const enum fk_moment from[] = {FK_TABLE, FK_KPAGE, FK_PAGEMAP2};
    for (size_t k = 0; k < 3; k++) {
        make(N);
        for (enum fk_moment m = from[k]; m < FK_MOMENTS; m++)
            fake.at[m] = &moved;
        others[3].frame += 100;
        others[9].what = FK_NONE;
        others[15] = (struct fk_page){.what = FK_ANON, .frame = FRAME + 900, .mapcount = 1};
        pm_snapshot *snap = capture();
        pm_columns c;
        pm_get_columns(snap, &c);
        check_disagreed(snap, 0);
        CHECK_EQ(pm_get_header(snap)->raced_pages, 3);
        for (size_t i = 3; i < 15; i += 6) {
            long r = fk_range(&c, 0, START / FK_PAGE + i);
            CHECK(r >= 0 && c.known[r] == PM_BIT(PM_RACED) && c.set[r] == PM_BIT(PM_RACED));
        }
        check_known(snap, 0, 3, true);
        check_known(snap, 16, N - 16, true);
        pm_free(snap);
    }
}

/* ---- what is not to be had ---------------------------------------------------------------------- */
static void it_always_moves(void)
{
    make(MANY);
    t.at = 0;
    t.err = EAGAIN;
    pm_snapshot *snap = capture();
    CHECK(t.asked >= 4 && t.asked <= 16);
    check_disagreed(snap, present_in(0, MANY));
    check_known(snap, 0, MANY, false);
    check_truth(snap, &mapping);
    pm_free(snap);
}

static void it_moves_once(void)
{
    make(MANY);
    t.at = 2;
    t.err = EAGAIN;
    pm_snapshot *snap = capture();
    CHECK_EQ(t.asked, 5);
    check_known(snap, 0, MANY, true);
    check_disagreed(snap, 0);
    pm_free(snap);
}

/* A table that is refused says nothing, neither this nor that, and no other is asked for. */
static void one_is_refused(void)
{
    static const int errors[] = {EIO, EPERM, ENODATA, EBADF, ENOMEM, EINTR, EINVAL};
    for (size_t k = 0; k < sizeof errors / sizeof *errors; k++)
        for (unsigned at = 0; at <= 4; at++) {
            make(MANY);
            t.at = at;
            t.err = errors[k];
            pm_snapshot *snap = capture();
            CHECK_EQ(t.asked, at ? at : 1);
            CHECK_EQ(used_tables(snap), at > 1);
            check_disagreed(snap, 0);
            for (unsigned i = 0; i < 4; i++)
                check_known(snap, i * TABLE, TABLE, i + 1 < at);
            check_truth(snap, &mapping);
            pm_free(snap);
        }
}

static int fail(enum fk_fault fault, int err, unsigned at, int depth, pm_error *e)
{
    pm_snapshot *snap;
    pm_request r = at_depth(depth, true);
    make(MANY);
    t.at = at;
    t.fault = fault;
    t.err = err;
    fake.gone_errno = ESRCH;
    fake.after_exec = &moved;
    moved_mapping.n = N;
    int rc = pm__capture_with(&fake.io, &r, &snap, e);
    CHECK(fk_tidy(&fake));
    CHECK_EQ(rc == 0, snap != NULL);
    if (rc == 0) { /* of the program that it is by now */
        pm_columns c;
        pm_get_columns(snap, &c);
        CHECK(c.mappings[0].end == START + N * FK_PAGE && pm_get_header(snap)->complete);
        CHECK(used_tables(snap) && !pm_get_header(snap)->pte_disagreed);
    }
    pm_free(snap);
    return rc;
}

static void the_target_is_gone(void)
{
    pm_error err;
    for (int depth = PM_PAGES; depth <= PM_FULL; depth++)
        for (unsigned at = 1; at <= 4; at++) {
            CHECK_EQ(fail(FK_DIE, 0, at, depth, &err), -PM_E_GONE);
            CHECK_EQ(fail(FK_DIE, ESRCH, at, depth, &err), -PM_E_GONE);
            CHECK_EQ(fail(FK_ZOMBIE, 0, at, depth, &err), -PM_E_GONE);
            CHECK_EQ(fail(FK_EXEC, 0, at, depth, &err), 0);
        }
    /* It is there, and its tables never are. */
    CHECK_EQ(fail(FK_NO_FAULT, ESRCH, 0, PM_FULL, &err), -PM_E_EXEC);
}

static int stop_here(void *arg, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    return *(unsigned *)arg && t.asked >= *(unsigned *)arg;
}

static int slow_table(void *ctx, int fd, uint64_t address, size_t most, struct pm__table *out)
{
    for (uint64_t from = pm__monotonic_ns(); pm__monotonic_ns() - from < 6000000;)
        ;
    return table(ctx, fd, address, most, out);
}

/* Between two tables it may be told to stop. */
static void cancelled(void)
{
    unsigned when = 2;
    pm_snapshot *snap;
    pm_error err;
    make(MANY);
    fake.io.table = slow_table;
    pm_request r = at_depth(PM_FULL, true);
    r.tick = stop_here;
    r.tick_arg = &when;
    CHECK_EQ(pm__capture_with(&fake.io, &r, &snap, &err), -ECANCELED);
    CHECK_EQ(t.asked, 2);
    CHECK(!snap && fk_tidy(&fake));
}

/* ---- one entry for many pages ------------------------------------------------------------------- */
static void leaf(uint64_t first, uint64_t n, uint64_t entry)
{
    t.answer = (struct pm__table){.first = START / FK_PAGE + first, .pages = n, .n = 1};
    t.answer.entry[0] = entry;
}

static void same_state(size_t first, size_t n, bool young, bool dirty)
{
    for (size_t i = first; i < first + n; i++) {
        pages[i].young = young;
        pages[i].pte_dirty = dirty;
    }
}

static void a_leaf_of_512(void)
{
    for (unsigned bits = 0; bits < 4; bits++) {
        make(MANY);
        same_state(TABLE, TABLE, bits & 1, bits & 2);
        leaf(TABLE, TABLE,
             PM_PE_PRESENT | (FRAME + TABLE) | (bits & 1 ? PM__PTE_YOUNG : 0) |
                 (bits & 2 ? PM__PTE_DIRTY : 0));
        pm_snapshot *snap = capture();
        CHECK_EQ(t.asked, 4);
        check_known(snap, 0, MANY, true);
        check_disagreed(snap, 0);
        pm_free(snap);
    }
}

static void a_leaf_of_a_gib(void)
{
    make(MANY);
    same_state(0, MANY, true, true);
    leaf(0, 262144, PM_PE_PRESENT | FRAME | PM__PTE_YOUNG | PM__PTE_DIRTY);
    pm_snapshot *snap = capture();
    CHECK_EQ(t.asked, 1);
    check_known(snap, 0, MANY, true);
    check_disagreed(snap, 0);
    pm_free(snap);
}

/* One frame off is off for all of them; where frames are hidden it cannot be seen. */
static void a_leaf_that_is_elsewhere(void)
{
    for (int frames = 0; frames < 2; frames++) {
        make(MANY);
        fake.show_frames = frames;
        fake.no_kpage = !frames;
        same_state(0, TABLE, true, true);
        leaf(0, TABLE, PM_PE_PRESENT | (FRAME + 1) | PM__PTE_YOUNG | PM__PTE_DIRTY);
        pm_snapshot *snap = capture();
        check_known(snap, TABLE, MANY - TABLE, true);
        check_disagreed(snap, frames ? present_in(0, TABLE) : 0);
        check_known(snap, 0, TABLE, !frames);
        check_truth(snap, &mapping);
        pm_free(snap);
    }
}

/* A higher entry that maps nothing: it is asked once, and the pages below are disputed. */
static void nothing_where_there_are_pages(void)
{
    make(MANY);
    leaf(0, 262144, 0);
    pm_snapshot *snap = capture();
    CHECK_EQ(t.asked, 1);
    CHECK(used_tables(snap));
    check_disagreed(snap, present_in(0, MANY));
    check_known(snap, 0, MANY, false);
    check_truth(snap, &mapping);
    pm_free(snap);
}

/* Frames that would grow into the bits beside them. */
static void frames_without_end(void)
{
    make(MANY);
    leaf(0, 262144, PM_PE_PRESENT | PM_PE_PFN_MASK);
    pm_snapshot *snap = capture();
    check_disagreed(snap, present_in(0, MANY));
    pm_free(snap);
    make(MANY);
    leaf(0, 262144, PM_PE_PRESENT | PM_PE_PFN_MASK);
    same_state(0, MANY, false, false);
    fake.show_frames = false;
    fake.no_kpage = true;
    snap = capture();
    check_known(snap, 0, MANY, true); /* neither young nor dirty, each of them */
    pm_free(snap);
}

/* ---- what comes of it ------------------------------------------------------------------------------ */
/* The zero page has these bits too; they are nobody's. */
static void zero_pages(void)
{
    for (unsigned how = 0; how < 16; how++) {
        make(N);
        fake.show_frames = how & 1;
        fake.no_kpage = !(how & 1);
        fake.no_scan = how & 2;
        for (size_t i = 0; i < N; i += 3) {
            pages[i].what = FK_ZERO;
            pages[i].frame = 7;
            pages[i].young = pages[i].pte_dirty = true;
            pages[i].page_dirty = false;
        }
        for (size_t i = 1; i < N; i += 3)
            pages[i].mapcount = 2; /* which looks like one, in its entry */
        pm_request r = at_depth(how & 4 ? PM_FULL : PM_PAGES, true);
        r.counters = how & 8;
        pm_snapshot *snap = capture_as(&r);
        for (size_t i = 0; i < N; i++) {
            if (fact(snap, i, PM_NORMAL) == 1)
                continue;
            CHECK_IN(fact(snap, i, PM_YOUNG) != 1 && fact(snap, i, PM_PTEDIRTY) != 1,
                     "%u: page %zu", how, i);
        }
        check_truth(snap, &mapping);
        check_disagreed(snap, 0);
        pm_free(snap);
    }
}

static void p_or_d(void)
{
    for (int kpage = 0; kpage < 2; kpage++) {
        make(N);
        fake.no_kpage = !kpage;
        for (size_t i = 0; i < N; i++) /* no dirtiness of an anonymous page is out of the world */
            pages[i].page_dirty = i & 4;
        for (size_t i = 0; i < N; i++)
            if (!pages[i].page_dirty && !pages[i].pte_dirty)
                pages[i].freed = pages[i].swapless = true;
        pm_request r = at_depth(PM_FULL, true);
        r.counters = 0;
        pm_snapshot *snap = capture_as(&r);
        for (size_t i = 0; i < N; i++) {
            bool p = pages[i].pte_dirty, either = p || pages[i].page_dirty;
            if (!is_present(i))
                continue;
            CHECK_EQ(fact(snap, i, PM_PORD), kpage || p ? either : -1);
            CHECK_EQ(fact(snap, i, PM_PAGEDIRTY), kpage ? pages[i].page_dirty : -1);
        }
        if (!kpage)
            CHECK_EQ(evidence(snap, PM_PORD), 1u << PM_SRC_PTE);
        pm_free(snap);
    }
}

/* Of shared memory P is what "dirty" means here, page by page. */
static void shared_memory(void)
{
    for (int tables = 0; tables < 2; tables++) {
        make(N);
        mapping.perms = "rw-s";
        mapping.name = "/srv/data";
        mapping.inode = 77;
        mapping.major = 0xfe;
        mapping.vmflags = "rd wr sh mr mw me ms";
        for (size_t i = 0; i < N; i++)
            if (is_present(i))
                pages[i].what = FK_FILE;
        fake.tables = tables;
        fake.no_kpage = true;
        pm_snapshot *snap = capture();
        for (size_t i = 0; i < N; i++)
            CHECK_EQ(fact(snap, i, PM_DIRTY), !is_present(i) ? 0
                                              : tables       ? pages[i].pte_dirty
                                                             : -1);
        CHECK_EQ((evidence(snap, PM_DIRTY) & 1u << PM_SRC_PTE) != 0, tables);
        check_truth(snap, &mapping);
        pm_free(snap);
    }
}

/* In pieces of so many pages each, as it is streamed. */
static void in_pieces(void)
{
    static const uint64_t sizes[] = {1, 7, 100, TABLE, TABLE + 1};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t n = sizes[k] < 100 ? 100 : MANY;
        pm_extent rest = {START, START + n * FK_PAGE};
        size_t seen = 0, met = 0, asked = 0;
        make(n);
        while (rest.start < rest.end && met < n) {
            pm_request r = at_depth(PM_FULL, true);
            r.max_pages = sizes[k];
            r.extents = &rest;
            r.n_extents = 1;
            pm_snapshot *snap = capture_as(&r);
            const pm_header *h = pm_get_header(snap);
            pm_columns c;
            pm_get_columns(snap, &c);
            check_disagreed(snap, 0);
            CHECK(used_tables(snap) && c.n_mappings == 1);
            for (size_t i = 0; i < n; i++) {
                if (fk_range(&c, 0, START / FK_PAGE + i) < 0)
                    continue;
                check_known(snap, i, 1, true);
                seen += is_present(i);
            }
            asked += t.asked;
            t.asked = 0;
            met++;
            rest.start = h->next ? h->next : rest.end;
            pm_free(snap);
        }
        CHECK_EQ(seen, present_in(0, n));
        CHECK(asked <= met + 4);
    }
}

int main(void)
{
    RUN(known_of_every_page);
    RUN(young_only_where_asked);
    RUN(each_depth);
    RUN(not_where_there_are_none);
    RUN(another_frame);
    RUN(it_says_absent);
    RUN(it_says_present);
    RUN(raced);
    RUN(it_always_moves);
    RUN(it_moves_once);
    RUN(one_is_refused);
    RUN(the_target_is_gone);
    RUN(cancelled);
    RUN(a_leaf_of_512);
    RUN(a_leaf_of_a_gib);
    RUN(a_leaf_that_is_elsewhere);
    RUN(nothing_where_there_are_pages);
    RUN(frames_without_end);
    RUN(zero_pages);
    RUN(p_or_d);
    RUN(shared_memory);
    RUN(in_pieces);
    return check_done();
}
