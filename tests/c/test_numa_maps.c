/* SPDX-License-Identifier: MIT
 *
 * The numa_maps parser.  The kernel leaves out keys, and each absence means a number:
 * `active` all pages, `mapmax` 1, the others 0.
 */
#include "check.h"
#include "rig.h"

static int read_text(struct rig *g, enum pm__pass pass, const char *text, size_t len)
{
    g->fake.numa[0] = g->fake.numa[1] = text;
    g->fake.numa_len[0] = g->fake.numa_len[1] = len;
    if (g->c.numa < 0)
        g->c.numa = rig_open(g, "numa_maps");
    return pm__numa_read(&g->c, pass);
}

static void make(struct rig *g, const uint64_t *starts, size_t n)
{
    rig_make(g, 8, 1, 64);
    for (size_t i = 0; i < n; i++) {
        g->c.mappings[i].start = starts[i];
        g->c.mappings[i].end = starts[i] + FK_PAGE;
        for (int k = 0; k < PM_N_COUNTERS; k++)
            g->c.counters[i].before[k] = g->c.counters[i].after[k] = -1;
    }
    g->c.n_mappings = n;
}

/* pages dirty mapmax active writeback */
static void keys(void)
{
    static const struct {
        const char *line;
        int64_t want[5];
    } cases[] = {
        {"1000 default", {0, 0, 1, 0, 0}},
        {"1000 default file=/x mapped=6 N0=6 kernelpagesize_kB=4", {6, 0, 1, 6, 0}},
        {"1000 default anon=3 dirty=3 active=0 N0=3 kernelpagesize_kB=4", {3, 3, 1, 0, 0}},
        {"1000 default file=/x mapped=6 mapmax=41 active=2 N0=6", {6, 0, 41, 2, 0}},
        {"1000 bind:0-1 heap anon=7 dirty=1 writeback=2 N0=3 N1=4 N12=5", {12, 1, 1, 12, 2}},
        {"1000 default file=/a\\040dirty=5 mapped=1 N0=1", {1, 0, 1, 1, 0}},
        {"1000 default stack anon=1 dirty=1 swapcache=9 N0=1 new=4 N=3 Nx=2", {1, 1, 1, 1, 0}},
        {"1000 default active= mapmax=x dirty N0=2", {2, 0, 1, 2, 0}},
        {"1000  default  N0=2 ", {2, 0, 1, 2, 0}},
    };
    static const uint64_t start = 0x1000;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig g;
        make(&g, &start, 1);
        CHECK_EQ(read_text(&g, PM__BEFORE, cases[i].line, 0), 0);
        for (int k = 0; k < 5; k++) {
            int64_t got = g.c.counters[0].before[PM_C_NUMA_PAGES + k];
            CHECK_IN(got == cases[i].want[k], "%s: key %d is %lld", cases[i].line, k,
                     (long long)got);
            CHECK_EQ(g.c.counters[0].after[PM_C_NUMA_PAGES + k], -1);
        }
        rig_drop(&g);
    }
}

/* Lines find their mapping by address; ones of no mapping are passed over. */
static void lines_find_their_mapping(void)
{
    static const uint64_t starts[] = {0x1000, 0x3000, 0x5000};
    static const char text[] = "0800 default N0=9\n1000 default N0=1\n2000 default N0=9\n"
                               "5000 default N0=5\n7000 default N0=9\n";
    struct rig g;
    make(&g, starts, 3);
    CHECK_EQ(read_text(&g, PM__AFTER, text, 0), 0);
    CHECK_EQ(g.c.counters[0].after[PM_C_NUMA_PAGES], 1);
    CHECK_EQ(g.c.counters[1].after[PM_C_NUMA_PAGES], -1);
    CHECK_EQ(g.c.counters[2].after[PM_C_NUMA_PAGES], 5);
    CHECK_EQ(g.c.counters[0].before[PM_C_NUMA_PAGES], -1);
    CHECK_EQ(g.c.header.sources, 1u << PM_SRC_NUMA_MAPS);
    rig_drop(&g);
}

static void refuses_what_has_no_address(void)
{
    static const uint64_t start = 0x1000;
    static const char *const all[] = {"xdefault N0=1", " 1000", "11112222333344445555 default"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct rig g;
        make(&g, &start, 1);
        CHECK_IN(read_text(&g, PM__BEFORE, all[i], 0) == -PM_E_FORMAT, "%s", all[i]);
        CHECK_EQ(g.err.stage, PM_AT_NUMA_MAPS);
        rig_drop(&g);
    }
}

/* Cut off at every byte, and damaged at random: an error or numbers, never a crash. */
static void damaged_anyhow(void)
{
    static const char text[] = "1000 default file=/usr/lib/a\\040b mapped=6 mapmax=41 active=2 "
                               "N0=6 N1=18446744073709551615 kernelpagesize_kB=4\n"
                               "3000 default anon=3 dirty=3 active=0 N0=3 kernelpagesize_kB=4\n";
    static const uint64_t starts[] = {0x1000, 0x3000};
    struct rng r = {11};
    for (unsigned round = 0; round < 3000; round++) {
        struct rig g;
        size_t n = round < sizeof text - 1 ? round + 1 : sizeof text - 1;
        char *copy = malloc(n);
        memcpy(copy, text, n);
        for (uint32_t k = round < sizeof text ? 0 : 1 + rng_below(&r, 5); k > 0; k--)
            copy[rng_below(&r, (uint32_t)n)] = rng_once_in(&r, 2) ? (char)rng_next(&r)
                                                                  : " =\nN0a"[rng_below(&r, 6)];
        make(&g, starts, 2);
        int rc = read_text(&g, PM__BEFORE, copy, n);
        CHECK_IN(rc == 0 || rc == -PM_E_FORMAT, "round %u: %d", round, rc);
        rig_drop(&g);
        free(copy);
    }
}

/* Kernels without CONFIG_NUMA have no such file: not an error, and no source. */
static void it_is_optional(void)
{
    static const uint64_t start = 0x1000;
    struct rig g;
    make(&g, &start, 1);
    CHECK_EQ(pm__numa_read(&g.c, PM__BEFORE), 0);
    CHECK_EQ(g.c.header.sources, 0);
    CHECK_EQ(g.c.counters[0].before[PM_C_NUMA_ACTIVE], -1);
    rig_drop(&g);
}

int main(void)
{
    RUN(keys);
    RUN(lines_find_their_mapping);
    RUN(refuses_what_has_no_address);
    RUN(damaged_anyhow);
    RUN(it_is_optional);
    return check_done();
}
