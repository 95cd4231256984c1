/* SPDX-License-Identifier: MIT
 *
 * The smaps parser: what it reads, what it keeps, what it refuses, and that nothing
 * makes it read or write beyond its buffers.
 */
#include "check.h"
#include "rig.h"

/* As Linux 6.18 prints it, with one mapping that has no VmFlags and no counters. */
static const char real[] =
    "55d0c7ad4000-55d0c7ad6000 r--p 00000000 fe:00 260386                     /usr/bin/head\n"
    "Size:                  8 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"
    "Rss:                   8 kB\nPss:                   4 kB\nPss_Dirty:             0 kB\n"
    "Shared_Clean:          8 kB\nShared_Dirty:          0 kB\nPrivate_Clean:         0 kB\n"
    "Private_Dirty:         0 kB\nReferenced:            8 kB\nAnonymous:             0 kB\n"
    "KSM:                   0 kB\nLazyFree:              0 kB\nAnonHugePages:         0 kB\n"
    "ShmemPmdMapped:        0 kB\nFilePmdMapped:         0 kB\nShared_Hugetlb:        0 kB\n"
    "Private_Hugetlb:       0 kB\nSwap:                  0 kB\nSwapPss:               0 kB\n"
    "Locked:                0 kB\nTHPeligible:           0\nProtectionKey:         0\n"
    "VmFlags: rd mr mw me sd \n"
    "55d0e9d4c000-55d0e9d6d000 rw-p 00000000 00:00 0                          [heap]\n"
    "Size:                132 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"
    "Rss:                  12 kB\nPss:                  12 kB\nPss_Dirty:            12 kB\n"
    "Shared_Clean:          0 kB\nShared_Dirty:          0 kB\nPrivate_Clean:         0 kB\n"
    "Private_Dirty:        12 kB\nReferenced:           12 kB\nAnonymous:            12 kB\n"
    "KSM:                   0 kB\nLazyFree:              0 kB\nAnonHugePages:         0 kB\n"
    "ShmemPmdMapped:        0 kB\nFilePmdMapped:         0 kB\nShared_Hugetlb:        0 kB\n"
    "Private_Hugetlb:       0 kB\nSwap:                  4 kB\nSwapPss:               4 kB\n"
    "Locked:                0 kB\nTHPeligible:           0\nVmFlags: rd wr mr mw me ac sd \n"
    "7f11c0000000-7f11c0002000 rw-s 00003000 00:01 1027                       /memfd:a b "
    "(deleted)\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
    "Size:                  4 kB\nRss:                   0 kB\nVmFlags: ex \n";

static int read_text(struct rig *g, enum pm__pass pass, const char *text, size_t len)
{
    g->fake.smaps[0] = g->fake.smaps[1] = text;
    g->fake.smaps_len[0] = g->fake.smaps_len[1] = len;
    if (g->c.smaps < 0)
        g->c.smaps = rig_open(g, "smaps");
    return pm__smaps_read(&g->c, pass);
}

static int parse(struct rig *g, const char *text)
{
    rig_make(g, 16, 1, 4096);
    return read_text(g, PM__BEFORE, text, strlen(text));
}

static bool text_is(const struct rig *g, uint32_t at, uint32_t len, const char *want)
{
    return len == strlen(want) && memcmp(g->c.strings + at, want, len) == 0;
}

/* Every field of a mapping line. */
static void header_fields(void)
{
    struct rig g;
    CHECK_EQ(parse(&g, "7f11c0000000-7f11c0002000 r-xs 00003000 fe:1f 1027      /lib/x.so\n"), 0);
    CHECK_EQ(g.c.n_mappings, 1);
    const pm_mapping *m = &g.c.mappings[0];
    CHECK_EQ(m->start, 0x7f11c0000000);
    CHECK_EQ(m->end, 0x7f11c0002000);
    CHECK_EQ(m->perms, PM_READ | PM_EXEC | PM_SHARED_MAP);
    CHECK_EQ(m->offset, 0x3000);
    CHECK_EQ(m->dev_major, 0xfe);
    CHECK_EQ(m->dev_minor, 0x1f);
    CHECK_EQ(m->inode, 1027);
    CHECK_EQ(m->index, 3);
    CHECK_EQ(m->index_trust, PM_INDEX_EXACT);
    CHECK(text_is(&g, m->name, m->name_len, "/lib/x.so"));
    rig_drop(&g);
}

/* Names are kept as maps prints them, whatever they hold. */
static void names(void)
{
    static const char *const all[] = {"",
                                      "/a b/c  d.so",
                                      "/gone (deleted)",
                                      "/memfd:x (deleted)",
                                      "[anon:an arena of mine]",
                                      "/new\\012line",
                                      "/Rss: 4 kB"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct rig g;
        char line[256];
        snprintf(line, sizeof line, "1000-2000 rw-p 00000000 00:00 0%s%s\nRss: 4 kB\n",
                 *all[i] ? "    " : " ", all[i]);
        CHECK_EQ(parse(&g, line), 0);
        CHECK_EQ(g.c.n_mappings, 1);
        CHECK_IN(text_is(&g, g.c.mappings[0].name, g.c.mappings[0].name_len, all[i]), "%s", all[i]);
        CHECK_EQ(g.c.counters[0].before[PM_C_RSS], 4096);
        rig_drop(&g);
    }
}

static const pm_counters *counters_of(const struct pm__capture *c, const pm_mapping *m)
{
    return &c->counters[m - c->mappings];
}

/* Counters are bytes; one that was not printed is -1, never 0. */
static void counters(void)
{
    struct rig g;
    CHECK_EQ(parse(&g, real), 0);
    CHECK_EQ(g.c.n_mappings, 4);
    const pm_mapping *heap = &g.c.mappings[1], *bare = &g.c.mappings[2], *vsyscall = heap + 2;
    CHECK_EQ(counters_of(&g.c, heap)->before[PM_C_SIZE], 132 << 10);
    CHECK_EQ(counters_of(&g.c, heap)->before[PM_C_PRIVATE_DIRTY], 12 << 10);
    CHECK_EQ(counters_of(&g.c, heap)->before[PM_C_SWAP], 4 << 10);
    CHECK_EQ(counters_of(&g.c, heap)->before[PM_C_LOCKED], 0);
    CHECK_EQ(counters_of(&g.c, heap)->before[PM_C_NUMA_PAGES], -1);
    for (int k = 0; k < PM_N_COUNTERS; k++) {
        CHECK_EQ(counters_of(&g.c, heap)->after[k], -1);
        CHECK_EQ(counters_of(&g.c, bare)->before[k], -1);
    }
    CHECK_EQ(counters_of(&g.c, vsyscall)->before[PM_C_RSS], 0);
    CHECK_EQ(counters_of(&g.c, vsyscall)->before[PM_C_PSS], -1);
    rig_drop(&g);
}

/* A number that no 64-bit count of bytes holds is not a number. */
static void counters_too_large(void)
{
    static const char *const lines[] = {"Rss: 99999999999999999999999 kB\n",
                                        "Rss: 18446744073709551615 kB\n",
                                        "Rss: 36028797018963969 kB\n", /* 1024 × it wraps to 1024 */
                                        "Rss: 9007199254740992 kB\n"}; /* 2^63 bytes */
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct rig g;
        char text[128];
        snprintf(text, sizeof text, "1000-2000 rw-p 00000000 00:00 0 \n%s", lines[i]);
        CHECK_EQ(parse(&g, text), 0);
        CHECK_IN(g.c.counters[0].before[PM_C_RSS] == -1, "%s reads as %lld", lines[i],
                 (long long)g.c.counters[0].before[PM_C_RSS]);
        rig_drop(&g);
    }
}

static void vmflags(void)
{
    struct rig g;
    CHECK_EQ(parse(&g, real), 0);
    const pm_mapping *m = g.c.mappings;
    CHECK(text_is(&g, m[0].vmflags, m[0].vmflags_len, "rd mr mw me sd"));
    CHECK(pm__has_vmflag(&g.c, &m[0], "mw") && pm__has_vmflag(&g.c, &m[0], "sd"));
    CHECK(!pm__has_vmflag(&g.c, &m[0], "wr") && !pm__has_vmflag(&g.c, &m[0], "d "));
    CHECK_EQ(m[2].vmflags_len, 0);
    CHECK(!pm__has_vmflag(&g.c, &m[2], "rd"));
    CHECK(text_is(&g, m[3].vmflags, m[3].vmflags_len, "ex"));
    rig_drop(&g);
}

/* New kernels add lines; they are kept verbatim, wherever they stand. */
static void unknown_lines_are_kept(void)
{
    static const struct {
        const char *text, *extra;
    } cases[] = {
        {"Rss: 4 kB\n", ""},
        {"THPeligible:    0\nProtectionKey:   0\n", "THPeligible:    0\nProtectionKey:   0\n"},
        {"Rss: 4 kB\nNew: a b\nPss: 4 kB\nNewer:1\n", "New: a b\nNewer:1\n"},
        {"New: 1\nVmFlags: rd wr \n", "New: 1\n"},
        {"VmFlags: rd wr \nNew: 1\n", "New: 1\n"},
        {"New: 1\nVmFlags: rd wr \nNewer: 2\n", "New: 1\nNewer: 2\n"},
        {"Rss: many kB\n", "Rss: many kB\n"},
        {"Rss: 4 MB\n", "Rss: 4 MB\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig g;
        char text[256];
        snprintf(text, sizeof text,
                 "1000-2000 rw-p 00000000 00:00 0 \n%s2000-3000 rw-p 00000000 "
                 "00:00 0 \n",
                 cases[i].text);
        CHECK_EQ(parse(&g, text), 0);
        CHECK_EQ(g.c.n_mappings, 2);
        const pm_mapping *m = g.c.mappings;
        CHECK_IN(text_is(&g, m[0].extra, m[0].extra_len, cases[i].extra), "%s gives %.*s",
                 cases[i].text, (int)m[0].extra_len, g.c.strings + m[0].extra);
        CHECK_EQ(m[1].extra_len, 0);
        rig_drop(&g);
    }
}

/* What does not read as a mapping line is an error that says where, not a guess. */
static void refuses(void)
{
    static const char *const all[] = {
        "Rss: 4 kB\n",
        "1000\n",
        "1000-\n",
        "1000-2000\n",
        "1000-2000 rw-p\n",
        "1000-2000 rw- 00000000 00:00 0 \n",
        "1000-2000 rw-p 00000000 0000 0 \n",
        "1000-2000 rw-p 00000000 00:00\n",
        "1000-2000 rw-p 00000000 00:00 x\n",
        "2000-1000 rw-p 00000000 00:00 0 \n",
        "1000-1000 rw-p 00000000 00:00 0 \n",
        "10000000000000000-20000000000000000 rw-p 00000000 00:00 0 \n",
        "1000-2000 rw-p 00000000 00:00 99999999999999999999999 \n",
        "zzzz\n",
        "-\n",
        " \n",
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct rig g;
        int rc = parse(&g, all[i]);
        CHECK_IN(rc == -PM_E_FORMAT, "%s gives %d", all[i], rc);
        CHECK_EQ(g.err.code, PM_E_FORMAT);
        CHECK_EQ(g.err.stage, PM_AT_SMAPS);
        rig_drop(&g);
    }
}

/* What kind of memory it is, by what maps alone says. */
static void kinds(void)
{
    static const struct {
        const char *line, *flags;
        enum pm_kind kind;
    } cases[] = {
        {"rw-p 00000000 00:00 0 ", "rd wr", PM_KIND_ANON},
        {"rw-p 00000000 00:00 0      [heap]", "rd wr", PM_KIND_ANON},
        {"rw-p 00000000 00:00 0      [stack]", "rd wr gd", PM_KIND_ANON},
        {"rw-p 00000000 00:00 0      [anon:jit]", "rd wr", PM_KIND_ANON},
        {"rw-s 00000000 00:01 9      [anon_shmem:x]", "rd wr sh", PM_KIND_SHMEM},
        {"r-xp 00000000 00:00 0      [vdso]", "rd ex", PM_KIND_SPECIAL},
        {"r--p 00000000 00:00 0      [vvar]", "rd pf io", PM_KIND_SPECIAL},
        {"r-xp 00000000 fe:00 9      /usr/lib/libc.so.6", "rd ex mr", PM_KIND_FILE},
        {"r-xp 00000000 00:2a 9      /overlaid", "rd ex mr", PM_KIND_UNKNOWN},
        {"rw-s 00000000 00:01 9      /memfd:x (deleted)", "rd wr sh", PM_KIND_SHMEM},
        {"rw-s 00000000 00:01 9      /SYSV00000000 (deleted)", "rd wr sh", PM_KIND_SHMEM},
        {"rw-s 00000000 00:01 9      /dev/zero (deleted)", "rd wr sh", PM_KIND_SHMEM},
        {"rw-s 00000000 00:0e 9      anon_inode:[io_uring]", "rd wr sh mm", PM_KIND_SPECIAL},
        {"rw-s 00000000 00:06 9      /dev/dri/card0", "rd wr sh pf io", PM_KIND_SPECIAL},
        {"rw-p 00000000 00:0f 9      /anon_hugepage (deleted)", "rd wr ht", PM_KIND_HUGETLB},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig g;
        char text[256];
        snprintf(text, sizeof text, "1000-2000 %s\nVmFlags: %s \n", cases[i].line, cases[i].flags);
        CHECK_EQ(parse(&g, text), 0);
        CHECK_IN(g.c.mappings[0].kind == cases[i].kind, "%s: kind %d", cases[i].line,
                 g.c.mappings[0].kind);
        rig_drop(&g);
    }
}

/* The page size of a hugetlb mapping is what marks it where VmFlags do not. */
static void hugetlb_by_page_size(void)
{
    struct rig g;
    CHECK_EQ(parse(&g, "200000-400000 rw-p 00000000 00:0f 9 /x\nKernelPageSize: 2048 kB\n"), 0);
    CHECK_EQ(g.c.mappings[0].kind, PM_KIND_HUGETLB);
    rig_drop(&g);
}

/* The RFC's page index: file offset, or address for anonymous memory, or 0. */
static void first_index(void)
{
    static const struct {
        const char *line;
        uint64_t index;
        uint8_t trust;
        bool deep;
    } cases[] = {
        {"5000-7000 rw-p 00003000 fe:00 9  /x", 3, PM_INDEX_EXACT, false},
        {"5000-7000 rw-p 00000000 00:00 0 ", 5, PM_INDEX_GUESS, false},
        {"5000-7000 rw-p 00000000 00:00 0  [heap]", 5, PM_INDEX_GUESS, false},
        {"5000-7000 r-xp 00000000 00:00 0  [vdso]", 0, PM_INDEX_EXACT, false},
#if defined(__x86_64__)
        {"5000-7000 rw-p 00000000 00:00 0  [stack]", 0x7fffffffd, PM_INDEX_GUESS, false},
        {"5000-7000 rw-p 00000000 00:00 0  [stack]", 0xffffffffffd, PM_INDEX_GUESS, true},
#endif
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig g;
        rig_make(&g, 16, 1, 4096);
        g.c.features.deep = cases[i].deep;
        CHECK_EQ(read_text(&g, PM__BEFORE, cases[i].line, strlen(cases[i].line)), 0);
        CHECK_IN(g.c.mappings[0].index == cases[i].index &&
                     g.c.mappings[0].index_trust == cases[i].trust,
                 "%s: %llu", cases[i].line, (unsigned long long)g.c.mappings[0].index);
        rig_drop(&g);
    }
}

/* The second reading is held against the first: gone, appeared, changed, counters moved. */
static void second_reading(void)
{
    static const char before[] = "1000-2000 rw-p 00000000 00:00 0 \nRss: 4 kB\n"
                                 "3000-4000 rw-p 00000000 00:00 0 \nRss: 4 kB\n"
                                 "5000-8000 rw-p 00000000 00:00 0 \nRss: 4 kB\n"
                                 "9000-a000 rw-p 00000000 00:00 0 \nRss: 4 kB\n";
    static const char after[] = "1000-2000 rw-p 00000000 00:00 0 \nRss: 4 kB\nNew: 1\n"
                                "3000-4000 rw-p 00000000 00:00 0 \nRss: 0 kB\n"
                                "5000-6000 rw-p 00000000 00:00 0 \nRss: 4 kB\n"
                                "6000-7000 r--p 00000000 00:00 0 \nRss: 4 kB\n";
    struct rig g;
    CHECK_EQ(parse(&g, before), 0);
    size_t strings = g.c.n_strings;
    CHECK_EQ(read_text(&g, PM__AFTER, after, strlen(after)), 0);
    const pm_mapping *m = g.c.mappings;
    CHECK_EQ(g.c.n_mappings, 4);
    CHECK_EQ(m[0].trouble, 0);
    CHECK_EQ(m[0].counters_moved, 0);
    CHECK_EQ(g.c.counters[0].after[PM_C_RSS], 4096);
    CHECK_EQ(m[1].trouble, PM_T_RACED);
    CHECK_EQ(m[1].counters_moved, 1);
    CHECK_EQ(m[2].trouble, PM_T_CHANGED); /* split */
    CHECK_EQ(g.c.header.appeared, 1); /* its other half */
    CHECK_EQ(m[3].trouble, PM_T_CHANGED); /* gone */
    CHECK_EQ(g.c.counters[3].after[PM_C_RSS], -1);
    CHECK_EQ(g.c.n_strings, strings);
    rig_drop(&g);
}

/* Whatever the text, the columns stay inside what was given, and what is stored is sane. */
static void check_parsed(const struct rig *g)
{
    const struct pm__capture *c = &g->c;
    CHECK(c->n_mappings <= g->room.mappings && c->n_strings <= g->room.strings);
    for (size_t i = 0; i < c->n_mappings; i++) {
        const pm_mapping *m = &c->mappings[i];
        CHECK(m->start < m->end);
        CHECK((size_t)m->name + m->name_len <= c->n_strings);
        CHECK((size_t)m->vmflags + m->vmflags_len <= c->n_strings);
        CHECK((size_t)m->extra + m->extra_len <= c->n_strings);
    }
}

static bool expected(int rc)
{
    /* ENOBUFS asks for more room, PM_E_EXEC is how an empty smaps of a live process reads. */
    return rc == 0 || rc == -PM_E_FORMAT || rc == -ENOBUFS || rc == -PM_E_EXEC;
}

/* Cut off at every byte, on both readings. */
static void truncated_anywhere(void)
{
    for (size_t n = 1; n < sizeof real; n++) {
        struct rig g;
        char *text = malloc(n); /* to size: ASan sees a step beyond */
        memcpy(text, real, n);
        rig_make(&g, 4, 1, 4096);
        int rc = read_text(&g, PM__BEFORE, text, n);
        CHECK_IN(expected(rc), "%zu bytes: %d", n, rc);
        check_parsed(&g);
        rig_drop(&g);
        rig_make(&g, 4, 1, 4096);
        CHECK_EQ(read_text(&g, PM__BEFORE, real, sizeof real - 1), 0);
        rc = read_text(&g, PM__AFTER, text, n);
        CHECK_IN(expected(rc), "%zu bytes: %d", n, rc);
        check_parsed(&g);
        rig_drop(&g);
        free(text);
    }
}

static void mutate(struct rng *r, char *text, size_t n)
{
    static const char likely[] = "\n -:0fF9 kB\\";
    for (uint32_t k = 1 + rng_below(r, 6); k > 0; k--)
        text[rng_below(r, (uint32_t)n)] = rng_once_in(r, 3)
                                              ? (char)rng_next(r)
                                              : likely[rng_below(r, sizeof likely - 1)];
}

/* Random damage, with too little room for half of it. */
static void mutations(void)
{
    struct rng r = {7};
    char text[sizeof real];
    for (unsigned round = 0; round < 4000; round++) {
        struct rig g;
        size_t n = sizeof real - 1;
        rig_make(&g, 1 + rng_below(&r, 6), 1, 64 + rng_below(&r, 400));
        memcpy(text, real, sizeof real);
        mutate(&r, text, n);
        int rc = read_text(&g, PM__BEFORE, text, n);
        CHECK_IN(expected(rc), "round %u: %d", round, rc);
        check_parsed(&g);
        if (rc == 0) {
            mutate(&r, text, n);
            rc = read_text(&g, PM__AFTER, text, n);
            CHECK_IN(expected(rc), "round %u, again: %d", round, rc);
            check_parsed(&g);
        }
        rig_drop(&g);
    }
}

/* A name of 200 kB needs more than one doubling; a line without end is refused. */
static void long_lines(void)
{
    struct rig g;
    size_t n = PM__SCRATCH + 10;
    char *text = malloc(n + 1);
    memset(text, 'x', n);
    text[n] = '\0';
    memcpy(text, "1000-2000 rw-p 00000000 fe:00 9 /", 33);
    CHECK_EQ(parse(&g, text), -PM_E_FORMAT);
    rig_drop(&g);
    text[200000] = '\0';
    CHECK_EQ(parse(&g, text), -ENOBUFS);
    CHECK(g.c.room.strings > g.room.strings);
    rig_drop(&g);
    free(text);
}

int main(void)
{
    RUN(header_fields);
    RUN(names);
    RUN(counters);
    RUN(counters_too_large);
    RUN(vmflags);
    RUN(unknown_lines_are_kept);
    RUN(refuses);
    RUN(kinds);
    RUN(hugetlb_by_page_size);
    RUN(first_index);
    RUN(second_reading);
    RUN(truncated_anywhere);
    RUN(mutations);
    RUN(long_lines);
    return check_done();
}
