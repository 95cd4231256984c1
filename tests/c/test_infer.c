/* SPDX-License-Identifier: MIT
 *
 * What is concluded, scene by scene.  A scene is one mapping whose pages are letters;
 * what the engine should say of each page is a letter too: 1 set, 0 clear, ? unknown.
 *
 *   . nothing      F page of the file     A anonymous, written     Z zero page
 *   S swapped out  D the same, folio D    a read back from swap    G guard page
 *   M uffd marker  P the same, PTE dirty  L freed lazily           m anonymous, migrating
 *   R freed lazily, written again         l freed lazily, and not  n of the file, migrating
 *   H huge, anonymous                       counted by smaps yet   C a clean copy
 */
#include "check.h"
#include "fakeproc.h"

#define MAX_PAGES 16
#define ANY_TROUBLE UINT32_MAX

struct expected {
    int bit;
    const char *facts;
};

struct scene {
    const char *name;
    const char *pages;
    const char *kind;      /* anon, file, shfile, memfd, unknown, special */
    const char *mapcounts; /* a digit per page; default 1 */
    const char *young;     /* Y young, R referenced, f folio young, - none; default none */
    const char *active;    /* A active, U unevictable, - neither; default neither */
    const char *writeback; /* W, or - */
    const char *vmflags;
    bool kpage, scan, old, no_numa, no_unevictable, no_swap, all_ksm;
    int64_t lie[PM_N_COUNTERS], lie_after[PM_N_COUNTERS]; /* pages */
    struct expected expect[12];
    uint32_t trouble; /* exactly these */
    bool check_bounds;
    uint64_t dirty_lo, dirty_hi;
};

static struct fk_page page_of(char letter)
{
    struct fk_page p = {.what = FK_ANON, .mapcount = 1};
    switch (letter) {
    case '.':
        p.what = FK_NONE;
        break;
    case 'F':
        p.what = FK_FILE;
        break;
    case 'D':
        p = (struct fk_page){.what = FK_FILE, .mapcount = 1, .page_dirty = true};
        break;
    case 'P':
        p = (struct fk_page){.what = FK_FILE, .mapcount = 1, .pte_dirty = true};
        break;
    case 'A':
        p.pte_dirty = true;
        break;
    case 'K':
        p.ksm = true;
        break;
    case 'a':
        p.swapcache = true;
        break;
    case 'L':
        p.freed = p.swapless = true;
        break;
    case 'l':
        p.freed = true;
        break;
    case 'R':
        p.freed = p.swapless = p.pte_dirty = true;
        break;
    case 'C':
        break;
    case 'H':
        p.pte_dirty = p.huge = p.bad_bit56 = true;
        break;
    case 'Z':
        p.what = FK_ZERO;
        break;
    case 'S':
        p.what = FK_SWAPPED;
        break;
    case 'G':
        p.what = FK_GUARD;
        break;
    case 'M':
        p.what = FK_MARKER;
        break;
    case 'm':
        p.what = FK_MIGRATING_ANON;
        p.pte_dirty = true;
        break;
    case 'n':
        p.what = FK_MIGRATING_FILE;
        p.pte_dirty = true;
        break;
    default:
        abort();
    }
    return p;
}

static struct fk_mapping mapping_of(const struct scene *s, struct fk_page *pages)
{
    static const struct {
        const char *kind, *perms, *name;
        unsigned major;
        uint64_t inode;
    } kinds[] = {{"anon", "rw-p", NULL, 0, 0},
                 {"file", "rw-p", "/usr/lib/libfoo.so", 0xfe, 11},
                 {"shfile", "rw-s", "/srv/data", 0xfe, 12},
                 {"memfd", "rw-s", "/memfd:x (deleted)", 0, 13},
                 {"unknown", "rw-p", "/overlaid", 0, 14},
                 {"special", "rw-s", "anon_inode:[io_uring]", 0, 15}};
    struct fk_mapping m = {.start = 0x10000, .n = strlen(s->pages), .pages = pages};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(s->kind, kinds[i].kind) != 0)
            continue;
        m.perms = kinds[i].perms;
        m.name = kinds[i].name;
        m.major = kinds[i].major;
        m.inode = kinds[i].inode;
    }
    m.vmflags = s->vmflags                        ? s->vmflags
                : strcmp(s->kind, "special") == 0 ? "rd wr sh mm"
                                                  : "rd wr mr mw me ac";
    for (size_t k = 0; k < m.n; k++) {
        struct fk_page *p = &pages[k];
        *p = page_of(s->pages[k]);
        p->frame = 1000 + 2 * k;
        p->mapcount = s->mapcounts ? (uint32_t)(s->mapcounts[k] - '0') : p->mapcount;
        p->young = s->young && s->young[k] == 'Y';
        p->referenced = s->young && s->young[k] == 'R';
        p->folio_young = s->young && s->young[k] == 'f';
        p->active = s->active && s->active[k] == 'A';
        p->unevictable = s->active && s->active[k] == 'U';
        p->writeback = s->writeback && s->writeback[k] == 'W';
    }
    return m;
}

/* Whether PAGEMAP_SCAN is there tells how old a kernel is; that of this host does not matter. */
static void (*honest)(void *ctx, struct pm__here *out);
static bool old_kernel;

static void here_is(void *ctx, struct pm__here *out)
{
    honest(ctx, out);
    out->features.scan = !old_kernel;
}

static void pretend(struct fake *fake, bool old)
{
    honest = fake->io.here;
    fake->io.here = here_is;
    old_kernel = old;
}

static void check_facts(const struct scene *s, const pm_columns *c)
{
    for (const struct expected *e = s->expect; e->facts; e++) {
        char got[MAX_PAGES + 1] = {0};
        for (size_t k = 0; s->pages[k]; k++)
            got[k] = s->pages[k] == '.' ? '.' : "?01"[1 + fk_fact(c, 0, 0x10 + k, e->bit)];
        CHECK_IN(strcmp(got, e->facts) == 0, "%s: %s of %s is %s, not %s", s->name,
                 fk_bit_names[e->bit], s->pages, got, e->facts);
    }
}

static void play(const struct scene *s)
{
    static struct fake fake;
    struct fk_page pages[MAX_PAGES];
    struct fk_mapping before = mapping_of(s, pages), after = before;
    struct fk_world world = {
        .mappings = &before, .n = 1, .no_unevictable = s->no_unevictable, .no_swap = s->no_swap};
    struct fk_world later = {.mappings = &after, .n = 1};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    for (int k = 0; k < PM_N_COUNTERS; k++) {
        int64_t each = k < PM_C_NUMA_PAGES ? (int64_t)FK_PAGE : 1;
        before.lie[k] = s->lie[k] * each;
        after.lie[k] = (s->lie[k] + s->lie_after[k]) * each;
    }
    fk_init(&fake, &world);
    fake.at[FK_SMAPS2] = fake.at[FK_NUMA2] = &later;
    fake.show_frames = s->kpage;
    fake.no_kpage = !s->kpage;
    fake.no_scan = !s->scan;
    fake.no_numa = s->no_numa;
    fake.all_ksm = s->all_ksm;
    pretend(&fake, s->old);
    int rc = fk_capture(&fake, &snap, &err);
    CHECK_IN(rc == 0, "%s: rc %d stage %d %s", s->name, rc, err.stage, err.detail);
    if (rc < 0)
        return;
    pm_get_columns(snap, &c);
    check_facts(s, &c);
    CHECK_IN(c.mappings[0].trouble == s->trouble || s->trouble == ANY_TROUBLE,
             "%s: trouble %#x, not %#x", s->name, c.mappings[0].trouble, s->trouble);
    if (s->check_bounds)
        CHECK_IN(c.mappings[0].dirty_lo == s->dirty_lo && c.mappings[0].dirty_hi == s->dirty_hi,
                 "%s: %llu..%llu dirty, not %llu..%llu", s->name,
                 (unsigned long long)c.mappings[0].dirty_lo,
                 (unsigned long long)c.mappings[0].dirty_hi, (unsigned long long)s->dirty_lo,
                 (unsigned long long)s->dirty_hi);
    pm_free(snap);
}

#define PLAY(scenes)                                                                               \
    for (size_t i = 0; i < sizeof(scenes) / sizeof *(scenes); i++)                                 \
    play(&(scenes)[i])

/* A counter decides pages when it leaves room for none of them, or for all. */
static void all_or_none(void)
{
    static const struct scene scenes[] = {
        {"none dirty", "FFF", "shfile", .expect = {{PM_PORD, "000"}, {PM_DIRTY, "000"}}},
        {"all dirty", "DDP", "shfile", .expect = {{PM_PORD, "111"}, {PM_DIRTY, "???"}}},
        {"some dirty", "FDP", "shfile", .expect = {{PM_PORD, "???"}, {PM_DIRTY, "???"}}},
        {"none touched", "AAA", "anon", .expect = {{PM_TOUCHED, "000"}, {PM_YOUNG, "000"}}},
        {"all touched", "AAA", "anon", .young = "YRf",
         .expect = {{PM_TOUCHED, "111"}, {PM_YOUNG, "???"}, {PM_REFERENCED, "???"}}},
        {"some touched", "AAA", "anon", .young = "Y--", .expect = {{PM_TOUCHED, "???"}}},
        {"no writeback", "FFF", "file", .expect = {{PM_WRITEBACK, "000"}}},
        {"all in writeback", "DDD", "file", .writeback = "WWW", .expect = {{PM_WRITEBACK, "111"}}},
        {"some in writeback", "DDD", "file", .writeback = "-W-", .expect = {{PM_WRITEBACK, "???"}}},
        {"holes do not count", "A.A", "anon", .expect = {{PM_PORD, "1.1"}, {PM_NORMAL, "1.1"}}},
    };
    PLAY(scenes);
}

/* Counters that read differently before and after prove nothing. */
static void not_when_counters_moved(void)
{
    static const struct scene scenes[] = {
        {"dirty moved", "FFF", "shfile", .lie_after = {[PM_C_PRIVATE_DIRTY] = 1},
         .expect = {{PM_PORD, "???"}, {PM_TOUCHED, "000"}}},
        {"dirty moved, of pages shared with others", "FFF", "shfile", .mapcounts = "121",
         .lie_after = {[PM_C_SHARED_DIRTY] = 1}, .expect = {{PM_PORD, "0?0"}}},
        {"referenced moved", "FFF", "shfile", .lie_after = {[PM_C_REFERENCED] = 1},
         .expect = {{PM_PORD, "000"}, {PM_TOUCHED, "???"}}},
        {"Rss moved", "AAA", "anon", .lie_after = {[PM_C_RSS] = 1},
         .expect = {{PM_PORD, "???"}, {PM_TOUCHED, "???"}, {PM_ACTIVE, "???"}, {PM_ANON, "???"}},
         .trouble = PM_T_RACED},
        {"Anonymous moved", "AZA", "anon", .lie_after = {[PM_C_ANONYMOUS] = 1},
         .expect = {{PM_ANON, "???"}, {PM_DIRTY, "???"}, {PM_TOUCHED, "???"}},
         .trouble = PM_T_RACED},
        {"Swap moved", "SS", "anon", .lie_after = {[PM_C_SWAP] = -1},
         .expect = {{PM_SWAPPED, "??"}, {PM_DIRTY, "??"}}},
        {"active moved", "AAA", "anon", .lie_after = {[PM_C_NUMA_ACTIVE] = 1},
         .expect = {{PM_ACTIVE, "???"}, {PM_WRITEBACK, "000"}}},
    };
    PLAY(scenes);
}

/* Counters that do not fit the pages are a trouble of the mapping, and decide nothing. */
static void contradictions(void)
{
    static const struct scene scenes[] = {
        {"more resident than mapped", "AAA", "anon", .lie = {[PM_C_RSS] = 2}, .trouble = PM_T_RSS,
         .expect = {{PM_ANON, "???"},
                    {PM_DIRTY, "???"},
                    {PM_PORD, "???"},
                    {PM_TOUCHED, "???"},
                    {PM_ACTIVE, "???"},
                    {PM_WRITEBACK, "???"}}},
        {"fewer resident than mapped", "FFF", "file", .lie = {[PM_C_RSS] = -2}, .trouble = PM_T_RSS,
         .expect = {{PM_FILE, "111"}, {PM_PORD, "???"}, {PM_TOUCHED, "???"}}},
        {"more anonymous than possible", "AFA", "file", .lie = {[PM_C_ANONYMOUS] = 1},
         .trouble = PM_T_ANONYMOUS,
         .expect = {{PM_ANON, "?0?"}, {PM_DIRTY, "?0?"}, {PM_PORD, "???"}}},
        {"more dirty than resident", "AAA", "anon", .lie = {[PM_C_PRIVATE_DIRTY] = 1},
         .trouble = PM_T_DIRTY | PM_T_PRIVATE, .expect = {{PM_PORD, "???"}}},
        {"fewer swapped than seen to be", "SS", "anon", .lie = {[PM_C_SWAP] = 5},
         .trouble = PM_T_SWAP, .expect = {{PM_SWAPPED, "??"}, {PM_DIRTY, "??"}}},
        {"Pss too large", "AA", "anon", .lie = {[PM_C_PSS] = 9}, .trouble = PM_T_PSS,
         .expect = {{PM_EXCLUSIVE, "11"}}},
        {"Pss too small", "AA", "anon", .lie = {[PM_C_PSS] = -2}, .trouble = PM_T_PSS,
         .expect = {{PM_EXCLUSIVE, "11"}}},
        {"more exclusive than there are", "AA", "anon", .mapcounts = "12",
         .lie = {[PM_C_PRIVATE_CLEAN] = 1}, .trouble = PM_T_OTHERS,
         .expect = {{PM_EXCLUSIVE, "10"}}},
        {"numa_maps of other pages", "AAA", "anon", .lie = {[PM_C_NUMA_PAGES] = 1},
         .expect = {{PM_ACTIVE, "???"}, {PM_WRITEBACK, "???"}, {PM_PORD, "111"}}},
        {"more huge than mapped", "AA", "anon", .lie = {[PM_C_ANON_HUGE_PAGES] = 5},
         .trouble = PM_T_RSS, .expect = {{PM_HUGE, "??"}}},
    };
    PLAY(scenes);
}

/* Present, of no file and in private memory: a copy, or the zero page. */
static void zero_pages(void)
{
    static const struct scene scenes[] = {
        {"all zero", "ZZZ", "anon",
         .expect = {{PM_ZERO, "111"},
                    {PM_ANON, "000"},
                    {PM_NORMAL, "000"},
                    {PM_DIRTY, "000"},
                    {PM_PRESENT, "111"},
                    {PM_TOUCHED, "000"}}},
        {"none zero", "AAA", "anon", .expect = {{PM_ZERO, "000"}, {PM_ANON, "111"}}},
        {"bit 56 is proof of a copy only with counters", "AZ", "anon",
         .expect = {{PM_ZERO, "??"}, {PM_ANON, "??"}, {PM_DIRTY, "??"}, {PM_NORMAL, "??"}}},
        {"bit 56 is on older kernels", "AZ", "anon", .old = true,
         .expect = {{PM_ZERO, "01"}, {PM_ANON, "10"}, {PM_DIRTY, "10"}, {PM_NORMAL, "10"}}},
        {"a copy that others map is not told", "AZ", "anon", .old = true, .mapcounts = "20",
         .expect = {{PM_ZERO, "??"}, {PM_ANON, "??"}, {PM_DIRTY, "??"}, {PM_NORMAL, "??"}}},
        {"a library's bss, on older kernels", "FZA", "file", .old = true,
         .expect = {{PM_FILE, "100"}, {PM_ZERO, "010"}, {PM_DIRTY, "001"}}},
        {"a library's bss, read and written", "FZA", "file",
         .expect = {{PM_FILE, "100"}, {PM_ZERO, "0??"}, {PM_DIRTY, "0??"}}},
        {"frames tell", "AZ", "anon", .kpage = true,
         .expect = {{PM_ZERO, "01"}, {PM_ANON, "10"}, {PM_DIRTY, "10"}}},
    };
    PLAY(scenes);
    static const struct scene scans[] = {
        {"the scan tells", "AZFZ", "file", .scan = true,
         .expect = {{PM_ZERO, "0101"},
                    {PM_ANON, "1000"},
                    {PM_NORMAL, "1010"},
                    {PM_DIRTY, "1000"},
                    {PM_PORD, "?0?0"}}},
    };
    if (pm__features()->scan)
        PLAY(scans);
}

/* Kernels that call every anonymous page merged are found out by it, and not believed. */
static void merged_pages(void)
{
    static const struct scene scenes[] = {
        {"kpageflags tell", "AKFZ", "file", .kpage = true, .expect = {{PM_KSM, "0100"}}},
        {"counters tell none", "AAFZ", "file", .kpage = true, .all_ksm = true,
         .expect = {{PM_KSM, "0000"}, {PM_ANON, "1100"}}},
        {"counters tell all", "KKFZ", "file", .kpage = true, .all_ksm = true,
         .expect = {{PM_KSM, "1100"}}},
        {"counters tell some", "AKF", "file", .kpage = true, .all_ksm = true,
         .expect = {{PM_KSM, "??0"}}},
        {"nothing tells", "AF", "file", .kpage = true, .all_ksm = true,
         .lie_after = {[PM_C_KSM] = 1}, .expect = {{PM_KSM, "?0"}}},
    };
    PLAY(scenes);
}

/* What looks like swap is swapped out as far as smaps Swap says so. */
static void swap_and_what_looks_like_it(void)
{
    static const struct scene scenes[] = {
        {"swapped", "SSA", "anon", .expect = {{PM_SWAPPED, "110"}, {PM_DIRTY, "111"}}},
        {"copies swapped", "SFA", "file", .expect = {{PM_SWAPPED, "100"}, {PM_DIRTY, "101"}}},
        {"markers", "MM", "anon", .vmflags = "rd wr mr mw me ac uw",
         .expect = {{PM_SWAPPED, "00"}, {PM_UFFDWP, "11"}, {PM_DIRTY, "00"}}},
        {"markers and swap", "MS", "anon", .vmflags = "rd wr mr mw me ac uw",
         .expect = {{PM_SWAPPED, "??"}, {PM_DIRTY, "??"}}},
        {"of a memory object Swap counts more than the entries", "F.", "memfd",
         .lie = {[PM_C_SWAP] = 7}, .expect = {{PM_SWAPPED, "0."}, {PM_NORMAL, "1."}}},
    };
    PLAY(scenes);
    static const struct scene guards[] = {
        {"guards", "GAG", "anon",
         .expect = {{PM_SWAPPED, "000"}, {PM_GUARD, "101"}, {PM_DIRTY, "010"}}},
        {"guards and swap", "GS", "anon",
         .expect = {{PM_SWAPPED, "01"}, {PM_GUARD, "10"}, {PM_DIRTY, "01"}}},
    };
    if (pm__features()->guard)
        PLAY(guards);
}

/* A page that migrates looks like a swap entry, keeps its state, and counts in Rss. */
static void migrating_pages(void)
{
    static const struct scene scenes[] = {
        {"anonymous", "mA", "anon", .trouble = ANY_TROUBLE,
         .expect = {{PM_SWAPPED, "00"}, {PM_DIRTY, "??"}}},
        {"of a shared file, dirty", "nP", "shfile", .trouble = ANY_TROUBLE,
         .expect = {{PM_SWAPPED, "00"}, {PM_DIRTY, "??"}}},
        {"beside the zero page, which is not what Anonymous counts", "mZ", "anon",
         .trouble = ANY_TROUBLE, .expect = {{PM_ANON, "0?"}, {PM_ZERO, "0?"}, {PM_DIRTY, "??"}}},
    };
    PLAY(scenes);
}

/* smaps LazyFree lags behind: it proves pages freed, never that none is. */
static void lazily_freed(void)
{
    static const struct scene scenes[] = {
        {"dirty pages are not freed", "AAA", "anon",
         .expect = {{PM_LAZYFREE, "000"}, {PM_DIRTY, "111"}}},
        {"all freed", "LLL", "anon", .expect = {{PM_LAZYFREE, "111"}, {PM_DIRTY, "000"}}},
        {"freed and not counted yet", "lll", "anon",
         .expect = {{PM_LAZYFREE, "???"}, {PM_DIRTY, "???"}}},
        {"some counted yet", "lLl", "anon", .expect = {{PM_LAZYFREE, "???"}, {PM_DIRTY, "???"}},
         .check_bounds = true, .dirty_lo = 0, .dirty_hi = 2},
        {"written again", "RRR", "anon", .expect = {{PM_LAZYFREE, "000"}, {PM_DIRTY, "111"}}},
        {"read back from swap", "aaa", "anon", .expect = {{PM_LAZYFREE, "???"}, {PM_DIRTY, "???"}}},
        {"read back from swap, in sight", "aaa", "anon", .kpage = true,
         .expect = {{PM_DIRTY, "111"}}},
        {"some written", "AlA", "anon", .expect = {{PM_DIRTY, "???"}}, .check_bounds = true,
         .dirty_lo = 2, .dirty_hi = 3},
        {"copies of a file cannot be freed lazily", "CAF", "file",
         .expect = {{PM_LAZYFREE, "000"}, {PM_DIRTY, "110"}}},
        {"in sight, freed", "LAL", "anon", .kpage = true,
         .expect = {{PM_LAZYFREE, "101"}, {PM_PORD, "010"}, {PM_DIRTY, "010"}}},
        {"in sight, written again", "RAR", "anon", .kpage = true,
         .expect = {{PM_LAZYFREE, "000"}, {PM_DIRTY, "111"}}},
        {"in sight, some of both", "LAR", "anon", .kpage = true, .expect = {{PM_DIRTY, "???"}}},
    };
    PLAY(scenes);
}

/* PORD is P or D: any two of the three may give the third. */
static void p_and_d(void)
{
    static const struct scene scenes[] = {
        {"a private mapping's file page is not P, so D", "DDD", "file",
         .expect =
             {{PM_PTEDIRTY, "000"}, {PM_PORD, "111"}, {PM_PAGEDIRTY, "111"}, {PM_DIRTY, "000"}}},
        {"neither", "FFF", "file",
         .expect = {{PM_PTEDIRTY, "000"}, {PM_PAGEDIRTY, "000"}, {PM_PORD, "000"}}},
        {"one of both, nobody knows which", "AAA", "anon",
         .expect = {{PM_PTEDIRTY, "???"}, {PM_PAGEDIRTY, "???"}, {PM_PORD, "111"}}},
        {"exclusive pages by Private_Dirty, shared ones by Shared_Dirty", "FDFD", "file",
         .mapcounts = "1212", .expect = {{PM_PORD, "0101"}, {PM_PAGEDIRTY, "0101"}}},
        {"which of them, nobody knows", "AFA", "file", .expect = {{PM_PORD, "???"}}},
        {"D in sight and clear, so P", "PPP", "shfile", .kpage = true,
         .expect =
             {{PM_PAGEDIRTY, "000"}, {PM_PORD, "111"}, {PM_PTEDIRTY, "111"}, {PM_DIRTY, "111"}}},
        {"D in sight and set says nothing of P", "DDD", "shfile", .kpage = true,
         .expect =
             {{PM_PAGEDIRTY, "111"}, {PM_PORD, "111"}, {PM_PTEDIRTY, "???"}, {PM_DIRTY, "???"}}},
        {"D in sight, P of the rest", "DFP", "shfile", .kpage = true,
         .expect = {{PM_PORD, "1??"}, {PM_PTEDIRTY, "???"}}},
        {"D in sight, all the rest P", "DPP", "shfile", .kpage = true,
         .expect = {{PM_PORD, "111"}, {PM_PTEDIRTY, "?11"}, {PM_DIRTY, "?11"}}},
    };
    PLAY(scenes);
}

/* A copy made for a pin for reading is clean; the file's page beside it is dirty.  The
 * numbers are those of a dirty copy beside a clean page. */
static void a_pinned_copy(void)
{
    static const struct scene scenes[] = {
        {"one copy, one dirty page: a copy pinned for reading is clean", "CD", "file",
         .no_swap = true, .expect = {{PM_PORD, "??"}, {PM_DIRTY, "10"}}},
    };
    PLAY(scenes);
}

/* Dirty in the project's sense, by kind of mapping: docs/dirty.md. */
static void dirty(void)
{
    static const struct scene scenes[] = {
        {"a library just copied: D, and clean", "DDF", "file", .expect = {{PM_DIRTY, "000"}},
         .check_bounds = true},
        {"its copied pages, exactly", "FAF", "file", .expect = {{PM_DIRTY, "010"}},
         .check_bounds = true, .dirty_lo = 1, .dirty_hi = 1},
        {"a copy nobody wrote counts", "CFF", "file", .expect = {{PM_DIRTY, "100"}}},
        {"shared, never mapped writable", "DDF", "shfile", .vmflags = "rd mr me ms",
         .expect = {{PM_DIRTY, "000"}, {PM_PTEDIRTY, "000"}}},
        {"the same without VmFlags is not sure", "DDF", "shfile", .vmflags = "",
         .expect = {{PM_DIRTY, "???"}}},
        {"shared and clean", "FFF", "shfile", .expect = {{PM_DIRTY, "000"}}},
        {"shared, some dirty: bounds", "PFD", "shfile", .expect = {{PM_DIRTY, "???"}},
         .check_bounds = true, .dirty_lo = 0, .dirty_hi = 2},
        {"memory object", "PPF", "memfd", .expect = {{PM_DIRTY, "???"}}, .check_bounds = true,
         .dirty_lo = 0, .dirty_hi = 2},
        {"memory object, clean", "FFF", "memfd", .expect = {{PM_DIRTY, "000"}}},
    };
    PLAY(scenes);
}

/* numa_maps counts active or unevictable pages: `all` proves A only where none can be the latter. */
static void unevictable(void)
{
    static const struct scene scenes[] = {
        {"none active", "AAA", "anon", .expect = {{PM_ACTIVE, "000"}}},
        {"all active, ours alone", "AAA", "anon", .active = "AAA", .expect = {{PM_ACTIVE, "111"}}},
        {"some", "AAA", "anon", .active = "A--", .expect = {{PM_ACTIVE, "???"}}},
        {"locked", "AAA", "anon", .active = "UUU", .vmflags = "rd wr mr mw me lo ac",
         .expect = {{PM_ACTIVE, "???"}}},
        {"shared with who may lock", "AAA", "anon", .active = "AUA", .mapcounts = "121",
         .expect = {{PM_ACTIVE, "1?1"}}},
        {"shared, on a host without such pages", "AAA", "anon", .active = "AAA", .mapcounts = "121",
         .no_unevictable = true, .expect = {{PM_ACTIVE, "111"}}},
        {"a memory object may be locked by itself", "FFF", "memfd", .active = "UUU",
         .expect = {{PM_ACTIVE, "???"}}},
        {"without VmFlags nobody knows", "AAA", "anon", .active = "AAA", .vmflags = "",
         .expect = {{PM_ACTIVE, "???"}}},
        {"without numa_maps", "AAA", "anon", .active = "AAA", .no_numa = true,
         .expect = {{PM_ACTIVE, "???"}, {PM_WRITEBACK, "???"}}},
    };
    PLAY(scenes);
}

/* Bit 56 says mapped once; of a huge entry it sees only the first page. */
static void sharing(void)
{
    static const struct scene scenes[] = {
        {"by bit 56", "AFA", "file", .mapcounts = "132",
         .expect = {{PM_EXCLUSIVE, "100"}, {PM_SHARED, "011"}}},
        {"huge pages by the counter", "HHHH", "anon",
         .expect = {{PM_HUGE, "1111"}, {PM_EXCLUSIVE, "1111"}, {PM_SHARED, "0000"}}},
        {"shared huge pages by the counter", "HHHH", "anon", .mapcounts = "2222",
         .expect = {{PM_EXCLUSIVE, "0000"}, {PM_SHARED, "1111"}}},
        {"huge and small, undecided which", "HHAA", "anon",
         .expect = {{PM_HUGE, "????"}, {PM_EXCLUSIVE, "1111"}}},
        {"huge and small, some shared", "HHAA", "anon", .mapcounts = "2211",
         .expect = {{PM_HUGE, "????"}, {PM_EXCLUSIVE, "????"}}},
        {"the zero page is not shared memory", "ZZ", "anon",
         .expect = {{PM_EXCLUSIVE, "00"}, {PM_SHARED, "00"}}},
    };
    PLAY(scenes);
}

/* Of kernel images, devices and rings nothing is inferred. */
static void special_memory(void)
{
    static const struct scene scenes[] = {
        {"a ring", "FF", "special", .expect = {{PM_UPTODATE, "??"}, {PM_FILE, "11"}}},
    };
    PLAY(scenes);
}

/* A frame that was freed and used again between two readings: what kpageflags says of it
 * is not said of the page. */
static void reuse(bool counts)
{
    static struct fake fake;
    struct scene s = {.name = "reused", .pages = "FDF", .kind = "shfile", .young = "YR-"};
    struct fk_page pages[MAX_PAGES], meanwhile[MAX_PAGES];
    struct fk_mapping m = mapping_of(&s, pages), n = m;
    struct fk_world world = {.mappings = &m, .n = 1}, other = {.mappings = &n, .n = 1};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    memcpy(meanwhile, pages, sizeof pages);
    n.pages = meanwhile;
    meanwhile[1].what = FK_NONE;
    fk_init(&fake, &world);
    fake.show_frames = true;
    fake.fail_kind = counts ? FK_CLOSED : FK_F_KCOUNT; /* kpagecount would give it away too */
    fake.fail_errno = EACCES;
    fake.at[FK_KPAGE] = &other;
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    if (!snap)
        return;
    pm_get_columns(snap, &c);
    CHECK(c.mappings[0].trouble & PM_T_STALE);
    for (int bit = 0; bit < PM_N_BITS; bit++) {
        int fact = fk_fact(&c, 0, 0x11, bit);
        CHECK_IN(fact < 0 || fact == fk_truth(&m, &pages[1], bit), "%s is %d", fk_bit_names[bit],
                 fact);
    }
    CHECK_EQ(fk_fact(&c, 0, 0x11, PM_REFERENCED), -1);
    CHECK_EQ(fk_fact(&c, 0, 0x10, PM_REFERENCED), 0);
    pm_free(snap);
}

static void reused_frames(void)
{
    reuse(true);
    reuse(false);
}

/* Tails of a large folio have their head's flags, also where the head is mapped elsewhere. */
static void tails_have_their_heads_flags(void)
{
    static struct fake fake;
    struct scene s = {.name = "tails", .pages = "DDDDDD", .kind = "shfile"};
    struct fk_page pages[MAX_PAGES], apart[1];
    struct fk_mapping m[2] = {mapping_of(&s, pages), mapping_of(&s, pages)};
    struct fk_world world = {.mappings = m, .n = 2};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    for (size_t k = 0; k < 6; k++) {
        pages[k].frame = 0x1001 + k;
        pages[k].tail = true;
        pages[k].referenced = pages[k].active = true;
    }
    pages[4].frame = 0x3000; /* a small page, and the next folio's head */
    pages[4].tail = pages[4].referenced = false;
    pages[5].frame = 0x4000;
    pages[5].head = !(pages[5].tail = false);
    pages[5].active = false;
    apart[0] = pages[0];
    apart[0].head = !(apart[0].tail = false);
    apart[0].frame = 0x1000;
    m[1].start = 0x100000;
    m[1].n = 1;
    m[1].pages = apart;
    fk_init(&fake, &world);
    fake.show_frames = true;
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    if (!snap)
        return;
    pm_get_columns(snap, &c);
    for (size_t k = 0; k < 6; k++)
        for (int bit = PM_REFERENCED; bit <= PM_WRITEBACK; bit++)
            if (bit != PM_PTEDIRTY)
                CHECK_IN(fk_fact(&c, 0, 0x10 + k, bit) == fk_truth(&m[0], &pages[k], bit),
                         "page %zu: %s is %d", k, fk_bit_names[bit], fk_fact(&c, 0, 0x10 + k, bit));
    pm_free(snap);
}

/* Counters as large as can be printed overflow nothing. */
static void absurd_counters(void)
{
    struct scene s = {"absurd counters", "AFZ", "file", .scan = true, .trouble = ANY_TROUBLE};
    for (int k = 0; k < PM_C_NUMA_PAGES; k++)
        s.lie[k] = (INT64_C(1) << 58) / (int64_t)FK_PAGE - 8; /* the most that is believed */
    play(&s);
}

/* ---- mapcount ------------------------------------------------------------------------- */
static void bounds(const char *mapcounts, const char *kind, bool no_numa, bool kpage,
                   const uint32_t *lo, const uint32_t *hi)
{
    static struct fake fake;
    struct scene s = {.name = "mapcounts", .pages = "FFF", .kind = kind, .mapcounts = mapcounts};
    struct fk_page pages[MAX_PAGES];
    struct fk_mapping m = mapping_of(&s, pages);
    struct fk_world world = {.mappings = &m, .n = 1};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    fk_init(&fake, &world);
    fake.no_numa = no_numa;
    fake.show_frames = kpage;
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    if (!snap)
        return;
    pm_get_columns(snap, &c);
    for (size_t k = 0; k < 3; k++) {
        long r = fk_range(&c, 0, 0x10 + k);
        CHECK_IN(c.mapcount_lo[r] == lo[k] && c.mapcount_hi[r] == hi[k], "%s: page %zu is %u..%u",
                 mapcounts, k, c.mapcount_lo[r], c.mapcount_hi[r]);
    }
    pm_free(snap);
}

/* 1 by bit 56; else from 2 to numa_maps' mapmax; exact from kpagecount. */
static void mapcount_bounds(void)
{
    bounds("111", "file", false, false, (uint32_t[]){1, 1, 1}, (uint32_t[]){1, 1, 1});
    bounds("122", "file", false, false, (uint32_t[]){1, 2, 2}, (uint32_t[]){1, 2, 2});
    bounds("147", "file", false, false, (uint32_t[]){1, 2, 2}, (uint32_t[]){1, 7, 7});
    bounds("147", "file", true, false, (uint32_t[]){1, 2, 2},
           (uint32_t[]){1, UINT32_MAX, UINT32_MAX});
    bounds("147", "file", false, true, (uint32_t[]){1, 4, 7}, (uint32_t[]){1, 4, 7});
}

/* Kernels before 6.6 do not count a huge page that nobody may access: as many pages as one has
 * are no zero pages because they are missing, and one fewer are. */
static void uncounted(uint64_t first, size_t n, uint32_t mapcount, bool old, int normal)
{
    static struct fake fake;
    static struct fk_page pages[2048];
    struct fk_mapping m = {.start = first * FK_PAGE, .n = n, .pages = pages, .perms = "---p"};
    struct fk_world world = {.mappings = &m, .n = 1};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    m.vmflags = "mr mw me ac";
    for (size_t i = 0; i < n; i++)
        pages[i] = (struct fk_page){
            .what = FK_ANON, .mapcount = mapcount, .pte_dirty = true, .frame = 4096 + i};
    static const int counters[] = {PM_C_RSS, PM_C_ANONYMOUS};
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        m.lie[counters[i]] = -(int64_t)n * FK_PAGE;
    int dirty = mapcount == 1 ? PM_C_PRIVATE_DIRTY : PM_C_SHARED_DIRTY;
    m.lie[dirty] = -(int64_t)n * FK_PAGE;
    m.lie[PM_C_PSS] = -(int64_t)(n * FK_PAGE / mapcount);
    fk_init(&fake, &world);
    fake.no_kpage = fake.no_scan = true;
    pretend(&fake, old);
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    pm_get_columns(snap, &c);
    CHECK_EQ(c.mappings[0].trouble, 0);
    for (size_t i = 0; i < n; i++) {
        CHECK_EQ(fk_fact(&c, 0, first + i, PM_NORMAL), normal);
        /* freed lazily, for all that counters tell */
        CHECK_EQ(fk_fact(&c, 0, first + i, PM_DIRTY), normal ? -1 : 0);
    }
    pm_free(snap);
}

static void huge_pages_that_nobody_may_access(void)
{
    uncounted(1024, 512, 1, true, 1); /* bit 56 tells */
    uncounted(1024, 512, 2, true, -1);
    uncounted(1024, 511, 2, true, 0);
    uncounted(1025, 1022, 2, true, 0);
    uncounted(1025, 1023, 2, true, -1);
    uncounted(1024, 512, 2, false, 0);
}

int main(void)
{
    RUN(huge_pages_that_nobody_may_access);
    RUN(all_or_none);
    RUN(not_when_counters_moved);
    RUN(contradictions);
    RUN(zero_pages);
    RUN(merged_pages);
    RUN(swap_and_what_looks_like_it);
    RUN(migrating_pages);
    RUN(lazily_freed);
    RUN(p_and_d);
    RUN(a_pinned_copy);
    RUN(dirty);
    RUN(unevictable);
    RUN(sharing);
    RUN(special_memory);
    RUN(mapcount_bounds);
    RUN(reused_frames);
    RUN(tails_have_their_heads_flags);
    RUN(absurd_counters);
    return check_done();
}
