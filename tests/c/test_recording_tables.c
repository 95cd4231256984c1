/* SPDX-License-Identifier: MIT
 *
 * Page tables in a recording: they replay to the same snapshot, name no frame of the kernel, and
 * do no harm when they are broken, or missing.
 */
#include "check.h"
#include "fakeproc.h"
#include "recording.h"

#define TABLE PM__TABLE_MOST
#define N (4 * TABLE) /* pages: small ones, a huge one, and half of them in a giant one */
#define GIANT UINT64_C(0x80000000)
#define START (GIANT - 2 * TABLE * FK_PAGE)
#define MUTANTS 12000

/* Frames that no other number in a recording looks like; where huge pages may lie. */
#define FRAME UINT64_C(0x5a3c00000)

static struct fk_page pages[N];
static struct fk_mapping mapping = {.start = START,
                                    .n = N,
                                    .pages = pages,
                                    .perms = "rw-p",
                                    .name = "[heap]",
                                    .vmflags = "rd wr mr mw me ac"};
static const struct fk_world world = {.mappings = &mapping, .n = 1};
static struct fake fake;
static unsigned asked, fail_at;
static int fail_errno;

/* The second table is one entry; what follows lies in a page of a GiB. */
static int table(void *ctx, int fd, uint64_t address, size_t most, struct pm__table *out)
{
    uint64_t at = (address - START) / FK_PAGE;
    if (++asked == fail_at)
        return -fail_errno;
    int rc = fk_table(ctx, fd, address, most, out);
    if (rc < 0 || at < TABLE)
        return rc;
    size_t first = at < 2 * TABLE ? TABLE : 2 * TABLE;
    *out = (struct pm__table){
        .first = START / FK_PAGE + first, .pages = at < 2 * TABLE ? TABLE : 262144, .n = 1};
    out->entry[0] = fk_table_entry(&pages[first]);
    return 0;
}

static uint64_t frame_of(size_t i)
{
    if (i < TABLE) /* here and there */
        return FRAME + 7 * 262144 + (i * 7919) % 8 * 512 + i;
    return i < 2 * TABLE ? FRAME + 31 * TABLE + i % TABLE : FRAME + 5 * 262144 + i - 2 * TABLE;
}

static void make(bool frames)
{
    for (size_t i = 0; i < N; i++) {
        bool huge = i >= TABLE;
        pages[i] = (struct fk_page){.what = huge || i % 5 ? FK_ANON : FK_NONE,
                                    .frame = frame_of(i),
                                    .mapcount = 1,
                                    .young = huge ? i < 2 * TABLE : i % 2,
                                    .pte_dirty = huge ? i >= 2 * TABLE : (i & 2) != 0,
                                    .page_dirty = true,
                                    .referenced = true};
    }
    fk_init(&fake, &world);
    fake.io.table = table;
    fake.tables = true;
    fake.show_frames = frames;
    fake.no_kpage = !frames;
    asked = fail_at = 0;
}

/* ---- recordings in memory ----------------------------------------------------------------- */
struct tape {
    unsigned char *data;
    size_t n, cap;
};

static int tape_write(void *ctx, const void *data, size_t n, uint64_t offset)
{
    struct tape *t = ctx;
    CHECK_EQ(offset, t->n);
    if (t->n + n > t->cap) {
        t->cap = 2 * (t->n + n);
        t->data = realloc(t->data, t->cap);
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
    return 0;
}

static int tape_clear(void *ctx)
{
    ((struct tape *)ctx)->n = 0;
    return 0;
}

static pm_request request_of(int depth, bool young)
{
    return (pm_request){
        .pid = FK_PID, .depth = depth, .counters = 1, .stopper = -1, .young = young};
}

static int record(struct tape *t, const pm_request *request, pm_snapshot **snap, pm_error *err)
{
    const struct pm__sink sink = {.write = tape_write, .clear = tape_clear, .ctx = t};
    return pm__record_with(&fake.io, request, "test 1.0", &sink, snap, err);
}

/* Every byte of what a caller sees of pages. */
static bool same(const pm_snapshot *x, const pm_snapshot *y)
{
    pm_columns a, b;
    pm_get_columns(x, &a);
    pm_get_columns(y, &b);
    return memcmp(pm_get_header(x), pm_get_header(y), sizeof(pm_header)) == 0 &&
           a.n_mappings == b.n_mappings && a.n_ranges == b.n_ranges &&
           memcmp(a.mappings, b.mappings, a.n_mappings * sizeof(pm_mapping)) == 0 &&
           memcmp(a.page, b.page, a.n_ranges * 8) == 0 &&
           memcmp(a.count, b.count, a.n_ranges * 8) == 0 &&
           memcmp(a.set, b.set, a.n_ranges * 4) == 0 &&
           memcmp(a.known, b.known, a.n_ranges * 4) == 0 &&
           memcmp(a.mapcount_lo, b.mapcount_lo, a.n_ranges * 4) == 0 &&
           memcmp(a.mapcount_hi, b.mapcount_hi, a.n_ranges * 4) == 0;
}

static int fact(const pm_snapshot *snap, size_t i, int bit)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    return fk_fact(&c, 0, START / FK_PAGE + i, bit);
}

static void check_known(const pm_snapshot *snap, size_t first, size_t n, bool known)
{
    for (size_t i = first; i < first + n; i++) {
        int young = fact(snap, i, PM_YOUNG), dirty = fact(snap, i, PM_PTEDIRTY);
        if (!fk_present(&pages[i]))
            CHECK_IN(young == 0 && dirty == 0, "page %zu is absent", i);
        else if (known)
            CHECK_IN(young == pages[i].young && dirty == pages[i].pte_dirty, "page %zu: %d %d", i,
                     young, dirty);
        else
            CHECK_IN(young == -1 && dirty == -1, "page %zu: %d %d", i, young, dirty);
    }
}

/* Records, replays, and holds one against the other; the replay's snapshot. */
static pm_snapshot *round_trip(struct tape *t, const pm_request *request)
{
    pm_snapshot *live, *again;
    pm_error err;
    t->n = 0;
    int rc = record(t, request, &live, &err);
    CHECK_IN(rc == 0, "%d %s", rc, err.detail);
    CHECK(fk_tidy(&fake));
    unsigned calls = fake.calls, tables = asked;
    rc = pm_replay(t->data, t->n, &again, &err);
    CHECK_IN(rc == 0, "%d %s", rc, err.detail);
    CHECK(fake.calls == calls && asked == tables);
    CHECK(live && again && same(live, again));
    pm_free(live);
    return again;
}

/* Where records begin. */
static size_t heads(const struct tape *t, size_t *at, size_t cap)
{
    size_t n = 0;
    for (size_t p = PM__PREFIX; p + PM__RECORD_HEAD <= t->n && n < cap;
         p += PM__RECORD_HEAD + pm__get32(t->data + p + 4))
        at[n++] = p;
    return n;
}

static unsigned count_of(const struct tape *t, uint32_t type)
{
    size_t at[4096], n = heads(t, at, 4096);
    unsigned found = 0;
    for (size_t i = 0; i < n; i++)
        found += pm__get32(t->data + at[i]) == type;
    return found;
}

/* ---- the same again -------------------------------------------------------------------------- */
static void each_request(void)
{
    struct tape t = {0};
    for (int frames = 0; frames < 2; frames++)
        for (int young = 0; young < 2; young++)
            for (int depth = PM_PAGES; depth <= PM_FULL; depth++) {
                make(frames);
                pm_request r = request_of(depth, young);
                pm_snapshot *snap = round_trip(&t, &r);
                bool wanted = depth == PM_FULL || young;
                /* Of a GiB no more is kept than has frames in one piece. */
                CHECK_EQ(count_of(&t, PM__R_TABLE), wanted ? 4 : 0);
                CHECK_EQ(pm_get_header(snap)->pte_disagreed, 0);
                if (young)
                    check_known(snap, 0, N, true);
                pm_free(snap);
            }
    free(t.data);
}

/* Under recording it comes to the same as without. */
static void recording_changes_nothing(void)
{
    struct tape t = {0};
    for (int frames = 0; frames < 2; frames++) {
        pm_snapshot *plain, *recorded;
        pm_error err;
        pm_request r = request_of(PM_FULL, true);
        make(frames);
        CHECK_EQ(pm__capture_with(&fake.io, &r, &plain, &err), 0);
        make(frames);
        CHECK_EQ(record(&t, &r, &recorded, &err), 0);
        recorded->header.captured_ns = plain->header.captured_ns;
        CHECK(same(plain, recorded));
        pm_free(plain);
        pm_free(recorded);
    }
    free(t.data);
}

/* In pieces, each of which is a recording; and of some addresses. */
static void pieces(void)
{
    static const pm_extent some[] = {{START + 100 * FK_PAGE, START + 600 * FK_PAGE},
                                     {START + 1500 * FK_PAGE, START + 1540 * FK_PAGE}};
    struct tape t = {0};
    for (uint64_t most = 0; most <= 2 * TABLE; most += 300) {
        make(true);
        pm_request r = request_of(PM_FULL, true);
        r.max_pages = most;
        pm_free(round_trip(&t, &r));
        make(true);
        r.extents = some;
        r.n_extents = 2;
        pm_free(round_trip(&t, &r));
    }
    free(t.data);
}

/* What failed fails again: moved and refused tables, and those of a target that is gone. */
static void failures(void)
{
    static const int errors[] = {EAGAIN, EIO, ENODATA, ESRCH, EPERM};
    struct tape t = {0};
    for (size_t k = 0; k < sizeof errors / sizeof *errors; k++)
        for (unsigned at = 1; at <= 5; at++) {
            make(true);
            fail_at = at;
            fail_errno = errors[k];
            pm_request r = request_of(PM_FULL, true);
            pm_snapshot *snap = round_trip(&t, &r);
            bool refused = (errors[k] == EIO || errors[k] == ENODATA || errors[k] == EPERM);
            for (unsigned i = 0; i < 4; i++)
                check_known(snap, i * TABLE, TABLE, !refused || i + 1 < at);
            pm_free(snap);
        }
    for (int fault = FK_DIE; fault <= FK_EXEC; fault++)
        for (unsigned call = 1; call < 40; call++) {
            pm_snapshot *live, *again;
            pm_error err, other;
            make(true);
            fake.fault = (enum fk_fault)fault;
            fake.fail_at = call;
            fake.gone_errno = ESRCH;
            t.n = 0;
            pm_request r = request_of(PM_FULL, true);
            int rc = record(&t, &r, &live, &err);
            CHECK_EQ(pm_replay(t.data, t.n, &again, &other), rc);
            CHECK_IN(rc < 0 || same(live, again), "fault %d at %u", fault, call);
            pm_free(live);
            pm_free(again);
        }
    free(t.data);
}

/* ---- what is in it --------------------------------------------------------------------------- */
static bool has(const struct tape *t, uint64_t number)
{
    return memmem(t->data, t->n, &number, 5) != NULL;
}

/* No frame of the process, nor that of a block, as far as a giant page reaches. */
static void no_frame_is_in_it(void)
{
    struct tape t = {0};
    make(true);
    pm_request r = request_of(PM_FULL, true);
    pm_free(round_trip(&t, &r));
    for (uint64_t i = 0; i < N; i++)
        CHECK_IN(!has(&t, frame_of(i)) && !has(&t, frame_of(i) / 512), "page %zu", (size_t)i);
    for (uint64_t frame = FRAME; frame < FRAME + 10 * 262144; frame += 512)
        CHECK_IN(!has(&t, frame) && !has(&t, frame / 512), "frame %#llx",
                 (unsigned long long)frame);
    free(t.data);
}

/* Those of the tables are the same as those of pagemap, whichever was met first. */
static void numbered_alike(void)
{
    make(true);
    struct pm__redactor *redactor = pm__redactor_new(&fake.io);
    const struct pm__io *io = pm__redacted(redactor);
    struct pm__here here;
    struct pm__table t;
    io->here(io->ctx, &here);
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY);
    int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    for (size_t i = 0; i < N; i++) {
        uint64_t shown = 0, vpn = START / FK_PAGE + i;
        bool table_first = i / 100 % 2;
        if (!table_first)
            CHECK_EQ(io->pread(io->ctx, map, &shown, 8, vpn * 8), 8);
        CHECK_EQ(io->table(io->ctx, map, vpn * FK_PAGE, TABLE, &t), 0);
        if (table_first)
            CHECK_EQ(io->pread(io->ctx, map, &shown, 8, vpn * 8), 8);
        CHECK(vpn - t.first < t.pages && t.pages <= TABLE && (t.n == 1 || t.n == t.pages));
        uint64_t told = t.n == 1 ? t.entry[0] + (vpn - t.first) : t.entry[vpn - t.first];
        if (!fk_present(&pages[i])) {
            CHECK(t.n == 1 || told == 0);
            continue;
        }
        CHECK_EQ(told & PM_PE_PFN_MASK, shown & PM_PE_PFN_MASK);
        CHECK_EQ((told & PM_PE_PFN_MASK) % 512, pages[i].frame % 512);
        CHECK((told & PM_PE_PFN_MASK) < 512 * 64);
        CHECK_EQ((told & PM__PTE_YOUNG) != 0, pages[i].young);
        CHECK_EQ((told & PM__PTE_DIRTY) != 0, pages[i].pte_dirty);
    }
    io->close(io->ctx, map);
    io->close(io->ctx, dir);
    CHECK(fk_tidy(&fake));
    pm__redactor_free(redactor);
}

/* ---- missing ones ------------------------------------------------------------------------------ */
static void append(struct tape *t, const void *data, size_t n)
{
    tape_write(t, data, n, t->n);
}

/* The same without some of its tables: bit i of `gone` stands for the i-th. */
static void leave_out(const struct tape *from, struct tape *to, unsigned gone)
{
    size_t at[4096], n = heads(from, at, 4096);
    uint64_t records = 0;
    unsigned tables = 0;
    to->n = 0;
    append(to, from->data, PM__PREFIX);
    for (size_t i = 0; i < n; i++) {
        const unsigned char *p = from->data + at[i];
        if (pm__get32(p) == PM__R_TABLE && gone >> tables++ & 1)
            continue;
        append(to, p, PM__RECORD_HEAD + pm__get32(p + 4));
        records++;
    }
    pm__put64(to->data + to->n - 8, records);
}

/* From the first of them on nothing is known: a reader takes it that none can be read any more. */
static void tables_that_are_not_there(void)
{
    struct tape t = {0}, less = {0};
    make(true);
    pm_request r = request_of(PM_FULL, true);
    pm_free(round_trip(&t, &r));
    for (unsigned gone = 0; gone < 16; gone++) {
        pm_snapshot *snap;
        pm_error err;
        leave_out(&t, &less, gone);
        int rc = pm_replay(less.data, less.n, &snap, &err);
        CHECK_IN(rc == 0, "%u: %d %s", gone, rc, err.detail);
        if (rc < 0)
            continue;
        for (unsigned i = 0; i < 4; i++)
            check_known(snap, i * TABLE, TABLE, !(gone & ((2u << i) - 1)));
        CHECK_EQ(pm_get_header(snap)->pte_disagreed, 0);
        pm_free(snap);
    }
    free(t.data);
    free(less.data);
}

/* As the versions before wrote them; and where it was known that there are none. */
static void old_recordings(void)
{
    struct tape t = {0};
    pm_snapshot *snap;
    pm_error err;
    make(true);
    fake.tables = false;
    pm_request r = request_of(PM_FULL, true);
    snap = round_trip(&t, &r);
    CHECK_EQ(count_of(&t, PM__R_TABLE), 0);
    check_known(snap, 0, N, false);
    pm_free(snap);
    unsigned char *flags = t.data + PM__PREFIX + PM__RECORD_HEAD + 24;
    CHECK(!(pm__get32(flags) & PM__H_PTE) && (pm__get32(flags) & PM__H_YOUNG));
    for (unsigned bits = 0; bits < 4; bits++) { /* it says that it could, and holds none */
        pm__put32(flags, (pm__get32(flags) & ~(uint32_t)(PM__H_PTE | PM__H_YOUNG)) |
                             (bits & 1 ? PM__H_PTE : 0) | (bits & 2 ? PM__H_YOUNG : 0));
        CHECK_EQ(pm_replay(t.data, t.n, &snap, &err), 0);
        if (!snap)
            continue;
        check_known(snap, 0, N, false);
        CHECK(!(pm_get_header(snap)->sources & 1u << PM_SRC_PTE));
        pm_free(snap);
    }
    free(t.data);
}

/* ---- broken ones ---------------------------------------------------------------------------------- */
static unsigned refused, read_well;

static void try_broken(const unsigned char *data, size_t n, const char *note)
{
    pm_snapshot *snap;
    pm_error err;
    unsigned char *exact = malloc(n ? n : 1); /* for AddressSanitizer to see its end */
    memcpy(exact, data, n);
    memset(&err, 0xee, sizeof err);
    int rc = pm_replay(exact, n, &snap, &err);
    CHECK_IN((rc == 0) == (snap != NULL) && (rc == 0 || err.code == -rc), "%s: %d", note, rc);
    refused += rc < 0;
    read_well += rc == 0;
    pm_free(snap);
    free(exact);
}

/* The data of the i-th table, behind the head. */
static unsigned char *table_of(const struct tape *t, unsigned i)
{
    size_t at[4096], n = heads(t, at, 4096);
    for (size_t k = 0; k < n; k++)
        if (pm__get32(t->data + at[k]) == PM__R_TABLE && i-- == 0)
            return t->data + at[k] + PM__RECORD_HEAD;
    CHECK_FAIL("no such table");
    return NULL;
}

/* Each by itself is refused.  The first is of 512 entries, the second of one for all. */
static void each_lie(void)
{
    const uint64_t vpn = START / FK_PAGE;
    const struct {
        const char *name;
        unsigned table;
        int at, size;
        uint64_t value;
    } lies[] = {
        {"of no file", 0, 0, 4, 1000},
        {"of a success", 0, 4, 4, 1},
        {"of no error", 0, 4, 4, 0x80000000},
        {"of an error, with entries", 0, 4, 4, (uint32_t)-EIO},
        {"of an address below", 0, 8, 8, START - 1},
        {"of an address beyond", 0, 8, 8, START + TABLE * FK_PAGE},
        {"of the last address", 0, 8, 8, UINT64_MAX},
        {"that begins behind", 0, 16, 8, vpn + 300},
        {"that begins elsewhere", 0, 16, 8, 0},
        {"that begins at the end", 0, 16, 8, UINT64_MAX},
        {"of no pages", 0, 24, 8, 0},
        {"of fewer pages than entries", 0, 24, 8, TABLE - 1},
        {"of more pages than entries", 0, 24, 8, TABLE + 1},
        {"of all pages", 0, 24, 8, UINT64_MAX},
        {"of an empty chunk", 0, PM__TABLE_SIZE, 4, 0},
        {"of a chunk beyond its end", 0, PM__TABLE_SIZE, 4, 0x7fffffff},
        {"of too small a chunk", 0, PM__TABLE_SIZE, 4, 1},
        {"of a run of many", 0, PM__TABLE_SIZE, 4, UINT32_MAX},
        {"too short", 0, -4, 4, PM__TABLE_SIZE - 1},
        {"without entries", 1, -4, 4, PM__TABLE_SIZE},
        {"of no pages at all", 1, 24, 8, 0},
        {"of two entries for one page", 1, PM__TABLE_SIZE, 4, 2},
        {"of a run of pages", 1, PM__TABLE_SIZE, 4, PM__RUN | 1},
        {"that is no table", 0, -8, 4, PM__R_SCAN},
        {"of a type of its own", 0, -8, 4, PM__R_TABLE + 1},
    };
    struct tape t = {0};
    make(true);
    for (size_t i = 0; i < TABLE; i++)
        pages[i].what = FK_ANON;
    pm_request r = request_of(PM_FULL, true);
    pm_free(round_trip(&t, &r));
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct tape broken = {.data = malloc(t.n), .n = t.n};
        memcpy(broken.data, t.data, t.n);
        unsigned char *p = table_of(&broken, lies[i].table);
        uint64_t v = htole64(lies[i].value);
        if (p)
            memcpy(p + lies[i].at, &v, (size_t)lies[i].size);
        refused = 0;
        try_broken(broken.data, broken.n, lies[i].name);
        CHECK_IN(refused == 1, "a table %s was believed", lies[i].name);
        free(broken.data);
    }
    free(t.data);
}

static void mutate(struct rng *rng, struct tape *t)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   511,
                                   512,
                                   513,
                                   0x7fffffff,
                                   0x80000000,
                                   0x80000001,
                                   UINT32_MAX,
                                   UINT64_MAX,
                                   PM_PE_PRESENT,
                                   PM_PE_PRESENT | PM_PE_PFN_MASK,
                                   PM_PE_PRESENT | PM__PTE_YOUNG | PM__PTE_DIRTY,
                                   START / FK_PAGE,
                                   START};
    unsigned char *p = table_of(t, rng_below(rng, 4));
    if (!p)
        return;
    uint32_t size = PM__RECORD_HEAD + pm__get32(p - 4);
    size_t most = (size_t)(t->data + t->n - (p - PM__RECORD_HEAD));
    size = size < most ? size : (uint32_t)most;
    uint32_t at = rng_once_in(rng, 3) ? rng_below(rng, size) : rng_below(rng, 52);
    at = at < size ? at : size - 1;
    uint64_t v = odd[rng_below(rng, sizeof odd / sizeof *odd)];
    size_t n = rng_once_in(rng, 2) ? 4 : 8;
    if (rng_once_in(rng, 3))
        p[(int)at - PM__RECORD_HEAD] ^= (unsigned char)(1u << rng_below(rng, 8));
    else
        memcpy(p + (int)at - PM__RECORD_HEAD, &v, n < size - at ? n : size - at);
}

static void mutants(void)
{
    struct rng rng = {1994};
    struct tape t = {0};
    refused = read_well = 0;
    make(true);
    pm_request r = request_of(PM_FULL, true);
    pm_free(round_trip(&t, &r));
    for (unsigned i = 0; i < MUTANTS; i++) {
        struct tape broken = {.data = malloc(t.n), .n = t.n};
        memcpy(broken.data, t.data, t.n);
        mutate(&rng, &broken);
        try_broken(broken.data, broken.n, "mutant");
        free(broken.data);
    }
    CHECK_IN(refused > MUTANTS / 10 && read_well > MUTANTS / 10, "%u refused, %u read", refused,
             read_well);
    free(t.data);
}

/* Of a larger piece than a table, with an entry that maps nothing, or something: as recorded by a
 * version that narrows nothing. */
static void of_many_pages(void)
{
    struct tape t = {0};
    pm_snapshot *snap;
    pm_error err;
    make(false);
    pm_request r = request_of(PM_FULL, true);
    pm_free(round_trip(&t, &r));
    unsigned char *p = table_of(&t, 1);
    CHECK_EQ(pm__get32(p - 4), PM__TABLE_SIZE + 12);
    pm__put64(p + 24, 3 * TABLE);
    for (int mapped = 0; mapped < 2; mapped++) {
        pm__put64(p + PM__TABLE_SIZE + 4,
                  mapped ? PM_PE_PRESENT | PM__PTE_YOUNG : (uint64_t)PM_PE_SWAP);
        CHECK_EQ(pm_replay(t.data, t.n, &snap, &err), 0);
        check_known(snap, 0, TABLE, true);
        check_known(snap, TABLE, TABLE, mapped);
        pm_free(snap);
    }
    free(t.data);
}

int main(void)
{
    RUN(each_request);
    RUN(recording_changes_nothing);
    RUN(pieces);
    RUN(failures);
    RUN(no_frame_is_in_it);
    RUN(numbered_alike);
    RUN(tables_that_are_not_there);
    RUN(old_recordings);
    RUN(each_lie);
    RUN(mutants);
    RUN(of_many_pages);
    return check_done();
}
