/* SPDX-License-Identifier: MIT
 *
 * Reading pagemap: every occupied page once and no other, few reads, and what the
 * second reading says of the first.
 */
#include "check.h"
#include "fakeproc.h"

static struct fake fake;
static struct fk_page ordinary = {.what = FK_ANON, .pte_dirty = true, .mapcount = 1, .frame = 9};

static struct fk_mapping anon(uint64_t start, size_t n, struct fk_page *pages)
{
    return (struct fk_mapping){
        .start = start, .n = n, .pages = pages, .perms = "rw-p", .vmflags = "rd wr mr mw me ac"};
}

static pm_snapshot *take(pm_columns *c)
{
    pm_snapshot *snap;
    pm_error err;
    int rc = fk_capture(&fake, &snap, &err);
    CHECK_IN(rc == 0, "rc %d stage %d %s", rc, err.stage, err.detail);
    CHECK(fk_tidy(&fake));
    if (rc == 0)
        pm_get_columns(snap, c);
    return rc == 0 ? snap : NULL;
}

/* Mappings a small gap apart are read in one go, distant ones are not read in between. */
static void neighbours_share_a_read(void)
{
    static const struct {
        uint64_t gap; /* pages */
        unsigned reads;
    } cases[] = {{0, 1}, {1, 1}, {64, 1}, {65, 10}, {1 << 20, 10}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct fk_page pages[10][3] = {0};
        struct fk_mapping m[10];
        struct fk_world w = {.mappings = m, .n = 10};
        pm_columns c;
        for (size_t i = 0; i < 10; i++) {
            m[i] = anon((0x100 + i * (3 + cases[k].gap)) * FK_PAGE, 3, pages[i]);
            pages[i][i % 3] = ordinary;
        }
        fk_init(&fake, &w);
        pm_snapshot *snap = take(&c);
        if (!snap)
            continue;
        CHECK_IN(fake.pagemap_reads == 2 * cases[k].reads, "gap %llu: %u reads",
                 (unsigned long long)cases[k].gap, fake.pagemap_reads);
        CHECK_EQ(c.n_ranges, 10);
        for (size_t i = 0; i < 10; i++) {
            CHECK_EQ(c.mappings[i].n_ranges, 1);
            CHECK_EQ(c.page[i], m[i].start / FK_PAGE + i % 3);
        }
        pm_free(snap);
    }
}

/* A mapping larger than the buffer, with pages where one read may end and the next begin. */
static void larger_than_the_buffer(void)
{
    const size_t n = 3 * 65536 + 17, each = 59392; /* ENTRIES in pagemap.c */
    const size_t at[] = {0,      each - 1,     each,     each + 1, 65535, 65536,
                         131071, 3 * each - 1, 3 * each, 196608,   n - 1};
    const size_t n_at = sizeof at / sizeof *at;
    struct fk_page *pages = calloc(n, sizeof *pages);
    struct fk_mapping m = anon(0x10000000, n, pages);
    struct fk_world w = {.mappings = &m, .n = 1};
    pm_columns c;
    for (size_t i = 0; i < n_at; i++)
        pages[at[i]] = ordinary;
    for (size_t max_read = 0; max_read < 200000; max_read += 100008) {
        fk_init(&fake, &w);
        fake.max_read = max_read; /* short reads are gone on with */
        pm_snapshot *snap = take(&c);
        if (!snap)
            continue;
        uint64_t counted = 0;
        for (size_t i = 0; i < n_at; i++)
            CHECK_EQ(fk_fact(&c, 0, m.start / FK_PAGE + at[i], PM_PRESENT), 1);
        for (size_t r = 0; r < c.n_ranges; r++)
            counted += c.count[r];
        CHECK_EQ(counted, n_at);
        CHECK_EQ(c.mappings[0].trouble, 0);
        pm_free(snap);
    }
    free(pages);
}

/* [vsyscall] lies beyond what pagemap covers; hugetlb is listed and not read. */
static void not_read(void)
{
    struct fk_page pages[2] = {ordinary, ordinary};
    struct fk_mapping m[] = {anon(0x10000, 1, pages), anon(0x200000, 1, pages),
                             anon(UINT64_C(0xffffffffff600000), 1, pages)};
    struct fk_world w = {.mappings = m, .n = 3};
    pm_columns c;
    m[1].vmflags = "rd wr ht";
    m[2].name = "[vsyscall]";
    m[2].perms = "--xp";
    fk_init(&fake, &w);
    pm_snapshot *snap = take(&c);
    if (!snap)
        return;
    CHECK_EQ(c.n_mappings, 3);
    CHECK_EQ(c.mappings[0].n_ranges, 1);
    CHECK_EQ(c.mappings[1].kind, PM_KIND_HUGETLB);
    CHECK_EQ(c.mappings[1].n_ranges, 0);
    CHECK_EQ(c.mappings[2].n_ranges, 0);
    CHECK_EQ(fake.pagemap_reads, 2);
    pm_free(snap);
}

/* Entries without a page: what each says of itself. */
static void odd_entries(void)
{
    static const struct {
        enum fk_what what;
        int swapped, guard, uffdwp;
    } cases[] = {{FK_SWAPPED, 1, 0, 0}, {FK_GUARD, 0, 1, 0}, {FK_MARKER, 0, 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fk_page page = {.what = cases[i].what};
        struct fk_mapping m = anon(0x10000, 1, &page);
        struct fk_world w = {.mappings = &m, .n = 1};
        pm_columns c;
        m.vmflags = "rd wr mr mw me ac uw";
        fk_init(&fake, &w);
        pm_snapshot *snap = take(&c);
        if (!snap)
            continue;
        CHECK_EQ(c.n_ranges, 1);
        CHECK_EQ(fk_fact(&c, 0, 0x10, PM_PRESENT), 0);
        CHECK_EQ(fk_fact(&c, 0, 0x10, PM_NORMAL), 0);
        CHECK_EQ(fk_fact(&c, 0, 0x10, PM_SWAPPED), cases[i].swapped);
        CHECK_EQ(fk_fact(&c, 0, 0x10, PM_UFFDWP), cases[i].uffdwp);
        if (pm__features()->guard)
            CHECK_EQ(fk_fact(&c, 0, 0x10, PM_GUARD), cases[i].guard);
        CHECK_EQ(fk_fact(&c, 0, 0x10, PM_DIRTY), cases[i].swapped);
        pm_free(snap);
    }
}

/* ---- the second reading ------------------------------------------------------------- */

/* One mapping of three pages between two others; the middle one is looked at. */
struct pair {
    struct fk_page before[9], after[9];
    struct fk_mapping m[2][3];
    struct fk_world world[2];
};

static void make_pair(struct pair *p)
{
    for (size_t k = 0; k < 9; k++) {
        p->before[k] = p->after[k] = ordinary;
        p->before[k].frame = p->after[k].frame = 100 + 2 * k;
    }
    for (size_t i = 0; i < 3; i++) {
        p->m[0][i] = anon(0x10000 + i * 0x3000, 3, p->before + 3 * i);
        p->m[1][i] = anon(0x10000 + i * 0x3000, 3, p->after + 3 * i);
    }
    p->world[0] = (struct fk_world){.mappings = p->m[0], .n = 3};
    p->world[1] = (struct fk_world){.mappings = p->m[1], .n = 3};
}

/* Only pagemap's second reading differs: the counters never saw it. */
static pm_snapshot *take_pair(struct pair *p, pm_columns *c)
{
    fk_init(&fake, &p->world[0]);
    fake.at[FK_PAGEMAP2] = &p->world[1];
    return take(c);
}

/* What the target did to one of its pages makes that page RACED and nothing else. */
static void own_changes_race(void)
{
    static const struct {
        enum fk_what before, after;
    } cases[] = {{FK_ANON, FK_NONE},    {FK_ANON, FK_SWAPPED}, {FK_SWAPPED, FK_ANON},
                 {FK_FILE, FK_ANON},    {FK_GUARD, FK_ANON},   {FK_NONE, FK_ANON},
                 {FK_NONE, FK_SWAPPED}, {FK_ZERO, FK_NONE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t at = 0; at < 9; at++) { /* at either end of a mapping too */
            struct pair p;
            pm_columns c;
            make_pair(&p);
            p.before[at].what = cases[i].before;
            p.after[at].what = cases[i].after;
            pm_snapshot *snap = take_pair(&p, &c);
            if (!snap)
                continue;
            for (size_t k = 0; k < 9; k++) {
                long r = fk_range(&c, k / 3, 0x10 + k);
                bool listed = k != at || cases[i].before != FK_NONE;
                CHECK_IN((r >= 0) == listed, "case %zu page %zu of %zu", i, k, at);
                if (r >= 0 && k == at)
                    CHECK(c.known[r] == PM_BIT(PM_RACED) && c.set[r] == PM_BIT(PM_RACED));
                else if (r >= 0)
                    CHECK_EQ(fk_fact(&c, k / 3, 0x10 + k, PM_RACED), 0);
            }
            for (size_t k = 0; k < 3; k++) {
                CHECK_EQ(c.mappings[k].raced_pages, k == at / 3);
                CHECK_EQ((c.mappings[k].trouble & PM_T_RACED) != 0, k == at / 3);
            }
            CHECK_EQ(pm_get_header(snap)->raced_pages, 1);
            pm_free(snap);
        }
}

/* A raced page keeps a mapcount that says nothing. */
static void raced_pages_have_no_mapcount(void)
{
    struct pair p;
    pm_columns c;
    make_pair(&p);
    p.after[4].what = FK_SWAPPED;
    pm_snapshot *snap = take_pair(&p, &c);
    if (!snap)
        return;
    long r = fk_range(&c, 1, 0x14);
    CHECK_EQ(c.mapcount_lo[r], 0);
    CHECK_EQ(c.mapcount_hi[r], UINT32_MAX);
    pm_free(snap);
}

/* Others sharing or leaving a page is not the target's doing: it drifted, no more. */
static void sharing_drifts(void)
{
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t from = 1 + k % 2;
        const bool frames = k / 2; /* kpagecount is read in between, and is as old as either */
        struct pair p;
        pm_columns c;
        make_pair(&p);
        p.before[4].mapcount = from;
        p.after[4].mapcount = 3 - from;
        fk_init(&fake, &p.world[0]);
        fake.at[FK_PAGEMAP2] = &p.world[1];
        fake.show_frames = frames;
        pm_snapshot *snap = take(&c);
        if (!snap)
            continue;
        long r = fk_range(&c, 1, 0x14);
        CHECK_EQ(c.mappings[1].raced_pages, 0);
        CHECK_EQ(c.mappings[1].drifted_pages, 1);
        CHECK_EQ(c.mappings[1].trouble & PM_T_RACED, 0);
        CHECK_EQ(fk_fact(&c, 1, 0x14, PM_RACED), 0);
        CHECK_EQ(fk_fact(&c, 1, 0x14, PM_PRESENT), 1);
        CHECK_EQ(fk_fact(&c, 1, 0x14, PM_EXCLUSIVE), -1);
        CHECK_EQ(fk_fact(&c, 1, 0x14, PM_SHARED), -1);
        CHECK(c.mapcount_lo[r] <= 1 && c.mapcount_hi[r] == UINT32_MAX);
        CHECK_EQ(fk_fact(&c, 1, 0x13, PM_EXCLUSIVE), 1); /* its neighbours are as they were */
        pm_free(snap);
    }
}

/* A mapping that is gone at the second reading: all of its pages raced. */
static void a_mapping_goes(void)
{
    struct pair p;
    pm_columns c;
    make_pair(&p);
    p.m[1][1] = p.m[1][2];
    p.world[1].n = 2;
    fk_init(&fake, &p.world[0]);
    fake.at[FK_PAGEMAP2] = fake.at[FK_SMAPS2] = fake.at[FK_NUMA2] = &p.world[1];
    pm_snapshot *snap = take(&c);
    if (!snap)
        return;
    CHECK_EQ(c.mappings[1].trouble & (PM_T_CHANGED | PM_T_RACED), PM_T_CHANGED | PM_T_RACED);
    CHECK_EQ(c.mappings[1].raced_pages, 3);
    CHECK_EQ(c.mappings[0].trouble, 0);
    CHECK_EQ(c.mappings[2].trouble, 0);
    pm_free(snap);
}

/* One that came is counted, not listed: nothing was looked up in it. */
static void a_mapping_comes(void)
{
    struct pair p;
    pm_columns c;
    make_pair(&p);
    p.m[0][1] = p.m[0][2];
    p.world[0].n = 2;
    fk_init(&fake, &p.world[0]);
    fake.at[FK_PAGEMAP2] = fake.at[FK_SMAPS2] = fake.at[FK_NUMA2] = &p.world[1];
    pm_snapshot *snap = take(&c);
    if (!snap)
        return;
    CHECK_EQ(c.n_mappings, 2);
    CHECK_EQ(pm_get_header(snap)->appeared, 1);
    CHECK_EQ(c.mappings[0].trouble | c.mappings[1].trouble, 0);
    pm_free(snap);
}

/* ---- PAGEMAP_SCAN ------------------------------------------------------------------- */

/* Regions come in bits and pieces, over more than one 64 MiB window. */
static void scan_windows(void)
{
    const size_t n = 3 * 16384 + 5;
    struct fk_page *pages = calloc(n, sizeof *pages);
    struct fk_mapping m = anon(0x10000000, n, pages);
    struct fk_world w = {.mappings = &m, .n = 1};
    pm_columns c;
    if (!pm__features()->scan)
        goto out;
    for (size_t k = 0; k < n; k += 1000)
        pages[k].what = FK_ZERO;
    pages[16383].what = pages[16384].what = FK_ZERO;
    pages[5] = ordinary;
    for (size_t regions = 0; regions < 4; regions++) {
        fk_init(&fake, &w);
        fake.scan_regions =
            regions; /* the kernel may return fewer than asked, and say where it is */
        pm_snapshot *snap = take(&c);
        if (!snap)
            continue;
        for (size_t k = 0; k < n; k++)
            if (pages[k].what != FK_NONE)
                CHECK_EQ(fk_fact(&c, 0, m.start / FK_PAGE + k, PM_ZERO), pages[k].what == FK_ZERO);
        CHECK_EQ(c.mappings[0].trouble, 0);
        CHECK(c.mappings[0].evidence[PM_ZERO] & 1u << PM_SRC_SCAN);
        pm_free(snap);
    }
out:
    free(pages);
}

/* A mapping much larger than what is in it is not read from end to end. */
static void sparse_mappings(void)
{
    const size_t n = 40000;
    struct fk_page *pages = calloc(n, sizeof *pages), few[3] = {ordinary, ordinary, ordinary};
    struct fk_mapping m[] = {anon(0x1000000, 3, few), anon(0x1003000, n, pages),
                             anon(0x1003000 + n * FK_PAGE, 3, few)};
    struct fk_world w = {.mappings = m, .n = 3};
    pm_columns c;
    static const size_t at[] = {0, 1, 2, 9, 10, 4095, 20000, 20001, 39998, 39999};
    static const enum fk_what what[] = {FK_ANON, FK_ZERO, FK_SWAPPED, FK_GUARD, FK_ANON};
    if (!pm__features()->scan)
        goto out;
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        pages[at[i]] = ordinary;
        pages[at[i]].what = what[i % 5];
    }
    for (size_t regions = 0; regions < 3; regions++)
        for (int lies = 0; lies < 2; lies++) {
            fk_init(&fake, &w);
            fake.status = "Name: a\nVmSize:\t 1000000000 kB\nVmRSS: 100 kB\n";
            fake.scan_regions = regions;
            fake.scan_lies = lies;
            pm_snapshot *snap = take(&c);
            if (!snap)
                continue;
            CHECK(fake.pagemap_entries < 500);
            for (size_t i = 0; i < sizeof at / sizeof *at; i++)
                CHECK_EQ(fk_fact(&c, 1, m[1].start / FK_PAGE + at[i], PM_SWAPPED),
                         what[i % 5] == FK_SWAPPED);
            for (size_t i = 0; i < 3; i++) {
                uint64_t counted = 0;
                for (uint32_t r = 0; r < c.mappings[i].n_ranges; r++)
                    counted += c.count[c.mappings[i].first_range + r];
                CHECK_EQ(counted, i == 1 ? sizeof at / sizeof *at : 3);
                CHECK_EQ(c.mappings[i].trouble, 0);
            }
            pm_free(snap);
        }
out:
    free(pages);
}

/* Pages that come to or leave a sparse mapping between the two readings are noticed. */
static void sparse_mappings_race(void)
{
    const size_t n = 8192;
    struct fk_page *pages = calloc(2 * n, sizeof *pages);
    struct fk_mapping m[] = {anon(0x1000000, n, pages), anon(0x1000000, n, pages + n)};
    struct fk_world w[] = {{.mappings = &m[0], .n = 1}, {.mappings = &m[1], .n = 1}};
    pm_columns c;
    for (size_t k = 10; k < n; k += 1000)
        pages[k] = pages[n + k] = ordinary;
    pages[5010].what = FK_NONE;
    pages[n + 3010].what = FK_NONE;
    fk_init(&fake, &w[0]);
    fake.at[FK_PAGEMAP2] = &w[1];
    fake.scan_by_pass = true;
    fake.status = "Name: a\nVmSize:\t 1000000000 kB\nVmRSS: 100 kB\n";
    pm_snapshot *snap = take(&c);
    if (snap) {
        CHECK_EQ(c.mappings[0].raced_pages, 2);
        CHECK_EQ(fk_fact(&c, 0, 0x1000 + 3010, PM_RACED), 1);
        CHECK_EQ(fk_fact(&c, 0, 0x1000 + 4010, PM_RACED), 0);
        pm_free(snap);
    }
    free(pages);
}

int main(void)
{
    RUN(neighbours_share_a_read);
    RUN(larger_than_the_buffer);
    RUN(not_read);
    RUN(odd_entries);
    RUN(own_changes_race);
    RUN(raced_pages_have_no_mapcount);
    RUN(sharing_drifts);
    RUN(a_mapping_goes);
    RUN(a_mapping_comes);
    RUN(scan_windows);
    RUN(sparse_mappings);
    RUN(sparse_mappings_race);
    return check_done();
}
