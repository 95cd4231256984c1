/* SPDX-License-Identifier: MIT
 *
 * pm_build takes what a file says, so it refuses whatever the engine could not live
 * with: every refusal is reached here, each from one good snapshot spoiled in one place.
 */
#include "check.h"
#include "engine.h"

#include <errno.h>

#define N_MAPPINGS 3
#define N_RANGES 4

struct sample {
    pm_header header;
    pm_columns columns;
    pm_mapping mappings[N_MAPPINGS];
    pm_counters counters[N_MAPPINGS];
    pm_object objects[2];
    pm_part parts[2];
    uint64_t page[N_RANGES], count[N_RANGES];
    uint32_t set[N_RANGES], known[N_RANGES], lo[N_RANGES], hi[N_RANGES];
};

static const char strings[] = "/lib/x.so"
                              "rd wr"
                              "New: 1\n";

static void make(struct sample *s)
{
    static const uint64_t starts[] = {0x10000, 0x14000, 0x20000};
    static const uint32_t n_ranges[] = {2, 0, 2};
    memset(s, 0, sizeof *s);
    s->header = (pm_header){.pid = 1, .page_size = 4096, .complete = 1, .depth = PM_FULL};
    for (uint32_t i = 0, r = 0; i < N_MAPPINGS; r += n_ranges[i++])
        s->mappings[i] = (pm_mapping){.start = starts[i],
                                      .end = starts[i] + 0x4000,
                                      .name_len = 9,
                                      .vmflags = 9,
                                      .vmflags_len = 5,
                                      .extra = 14,
                                      .extra_len = 7,
                                      .first_range = r,
                                      .n_ranges = n_ranges[i],
                                      .object = i,
                                      .kind = PM_KIND_FILE,
                                      .dirty_hi = 4};
    for (uint32_t r = 0; r < N_RANGES; r++) {
        s->page[r] = (r < 2 ? 0x10 : 0x20) + 2 * (r & 1);
        s->count[r] = 2;
        s->known[r] = 7;
        s->set[r] = r;
        s->lo[r] = 1;
        s->hi[r] = PM_UNBOUNDED;
    }
    for (uint32_t i = 0; i < 2; i++) {
        s->objects[i] = (pm_object){.name_len = 9, .first_part = i, .n_parts = 1};
        s->parts[i] = (pm_part){.start = 0x10000, .end = 0x11000, .object = i};
    }
    s->columns = (pm_columns){.mappings = s->mappings,
                              .counters = s->counters,
                              .objects = s->objects,
                              .parts = s->parts,
                              .strings = strings,
                              .n_mappings = N_MAPPINGS,
                              .n_objects = 2,
                              .n_parts = 2,
                              .n_strings = sizeof strings - 1,
                              .n_ranges = N_RANGES,
                              .page = s->page,
                              .count = s->count,
                              .set = s->set,
                              .known = s->known,
                              .mapcount_lo = s->lo,
                              .mapcount_hi = s->hi};
}

static int build(const struct sample *s, pm_snapshot **out, pm_error *err)
{
    memset(err, 0xee, sizeof *err);
    *out = (void *)err;
    return pm_build(&s->header, &s->columns, out, err);
}

/* What is good comes back as it went in. */
static void keeps_what_is_good(void)
{
    struct sample s;
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    make(&s);
    CHECK_EQ(build(&s, &snap, &err), 0);
    pm_get_columns(snap, &c);
    CHECK(memcmp(pm_get_header(snap), &s.header, sizeof s.header) == 0);
    CHECK(c.n_mappings == N_MAPPINGS && c.n_ranges == N_RANGES && c.n_objects == 2);
    CHECK(memcmp(c.mappings, s.mappings, sizeof s.mappings) == 0);
    CHECK(memcmp(c.objects, s.objects, sizeof s.objects) == 0);
    CHECK(memcmp(c.parts, s.parts, sizeof s.parts) == 0);
    CHECK(memcmp(c.strings, strings, sizeof strings - 1) == 0);
    CHECK(memcmp(c.page, s.page, sizeof s.page) == 0 &&
          memcmp(c.count, s.count, sizeof s.count) == 0);
    CHECK(memcmp(c.set, s.set, sizeof s.set) == 0 && memcmp(c.known, s.known, sizeof s.known) == 0);
    CHECK(memcmp(c.mapcount_lo, s.lo, sizeof s.lo) == 0 &&
          memcmp(c.mapcount_hi, s.hi, sizeof s.hi) == 0);
    pm_free(snap);
}

/* Nothing at all is a snapshot too. */
static void keeps_nothing(void)
{
    pm_header header = {.page_size = 4096};
    pm_columns none = {0}, c;
    pm_snapshot *snap;
    pm_error err;
    CHECK_EQ(pm_build(&header, &none, &snap, &err), 0);
    pm_get_columns(snap, &c);
    CHECK_EQ(c.n_mappings, 0);
    pm_free(snap);
}

struct spoiled {
    const char *why;
    uint64_t line;
    size_t offset, width;
    uint64_t value;
};

#define AT(field) offsetof(struct sample, field), sizeof(((struct sample *)0)->field)

static void refuses(void)
{
    static const struct spoiled cases[] = {
        {"a page size that no machine has", 0, AT(header.page_size), 0},
        {"a page size that no machine has", 0, AT(header.page_size), 256},
        {"a page size that no machine has", 0, AT(header.page_size), 4097},
        {"a page size that no machine has", 0, AT(header.page_size), UINT64_C(1) << 31},
        {"more than fits", 0, AT(columns.n_ranges), UINT64_C(1) << 32},
        {"more than fits", 0, AT(columns.n_strings), UINT64_C(1) << 32},
        {"an object outside the columns", 0, AT(objects[1].name), 13},
        {"an object outside the columns", 0, AT(objects[1].name_len), UINT32_MAX},
        {"an object outside the columns", 0, AT(objects[1].first_part), 2},
        {"an object outside the columns", 0, AT(objects[1].n_parts), UINT32_MAX},
        {"a part that cannot be", 0, AT(parts[1].kind), PM_N_PARTS},
        {"a part that cannot be", 0, AT(parts[1].object), 2},
        {"a part that cannot be", 0, AT(parts[1].end), 0x10000},
        {"a part that cannot be", 0, AT(parts[1].start), 0x10001},
        {"a part that cannot be", 0, AT(parts[1].end), 0x10fff},
        {"mappings overlap or are out of order", 2, AT(mappings[1].start), 0x13000},
        {"mappings overlap or are out of order", 3, AT(mappings[1].end), 0x21000},
        {"ranges of another mapping", 1, AT(mappings[0].first_range), 1},
        {"ranges of another mapping", 2, AT(mappings[1].first_range), 0},
        {"ranges outside the columns", 3, AT(mappings[2].n_ranges), 3},
        {"ranges outside the columns", 3, AT(mappings[2].n_ranges), UINT32_MAX},
        {"ranges that belong to no mapping", 0, AT(mappings[2].n_ranges), 1},
        {"addresses that are no pages", 1, AT(mappings[0].start), 0x10001},
        {"addresses that are no pages", 1, AT(mappings[0].end), 0x13fff},
        {"addresses that are no pages", 1, AT(mappings[0].end), 0x10000},
        {"text outside the string pool", 1, AT(mappings[0].name_len), 22},
        {"text outside the string pool", 1, AT(mappings[0].vmflags), UINT32_MAX},
        {"text outside the string pool", 1, AT(mappings[0].extra_len), 8},
        {"an object that does not exist", 2, AT(mappings[1].object), 3},
        {"a kind that does not exist", 1, AT(mappings[0].kind), PM_KIND_HUGETLB + 1},
        {"a counter that cannot be", 1, AT(counters[0].after[PM_C_RSS]), UINT64_MAX - 1},
        {"a counter that cannot be", 1, AT(counters[0].before[0]), (UINT64_C(1) << 58) + 1},
        {"a counter that cannot be", 1, AT(counters[0].after[PM_N_COUNTERS - 1]), INT64_MAX},
        {"bounds that are the wrong way round", 1, AT(mappings[0].dirty_lo), 5},
        {"a range of no pages", 1, AT(count[0]), 0},
        {"ranges overlap or are out of order", 1, AT(page[0]), 0xf},
        {"ranges overlap or are out of order", 1, AT(page[1]), 0x11},
        {"ranges overlap or are out of order", 3, AT(page[2]), 0x10},
        {"a range outside its mapping", 1, AT(page[1]), 0x14},
        {"a range outside its mapping", 1, AT(count[1]), 3},
        {"a range outside its mapping", 1, AT(count[1]), UINT64_MAX},
        {"a fact that is set but not known", 1, AT(known[1]), 6},
        {"a fact that is set but not known", 1, AT(known[1]), 7 | UINT32_C(1) << PM_N_BITS},
        {"a mapcount whose bounds are the wrong way round", 1, AT(hi[0]), 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct spoiled *k = &cases[i];
        struct sample s;
        pm_snapshot *snap;
        pm_error err;
        make(&s);
        memcpy((char *)&s + k->offset, &k->value, k->width);
        int rc = build(&s, &snap, &err);
        CHECK_IN(rc == -PM_E_FORMAT && snap == NULL, "case %zu, %s: %d", i, k->why, rc);
        CHECK_IN(strcmp(err.detail, k->why) == 0, "case %zu: %s, not %s", i, err.detail, k->why);
        CHECK_IN(err.line == k->line, "case %zu, %s: line %llu", i, k->why,
                 (unsigned long long)err.line);
        CHECK(err.code == PM_E_FORMAT && err.stage == PM_AT_BUILD);
        if (rc == 0)
            pm_free(snap);
    }
}

/* Whatever is not refused can be counted without harm, and counts the right way round. */
static void what_passes_can_be_counted(void)
{
    struct rng r = {17};
    unsigned passed = 0;
    for (unsigned round = 0; round < 20000; round++) {
        struct sample s;
        pm_snapshot *snap;
        pm_error err;
        pm_interval out[PM_N_METRICS];
        make(&s);
        const size_t first = offsetof(struct sample, mappings);
        for (uint32_t k = 1 + rng_below(&r, 3); k > 0; k--) {
            size_t at = first + rng_below(&r, (uint32_t)(sizeof s - first));
            ((unsigned char *)&s)[at] = (unsigned char)(rng_once_in(&r, 2) ? rng_below(&r, 4)
                                                                           : rng_next(&r));
        }
        if (build(&s, &snap, &err) < 0)
            continue;
        passed++;
        for (uint32_t i = 0; i < N_MAPPINGS; i++) {
            pm_window w = {s.mappings[i].start, s.mappings[i].end, i};
            CHECK_EQ(pm_count(snap, &w, 1, out), 0);
            for (int x = 0; x < PM_N_METRICS; x++)
                CHECK_IN(out[x].lo <= out[x].hi, "round %u mapping %u metric %d: %llu..%llu", round,
                         i, x, (unsigned long long)out[x].lo, (unsigned long long)out[x].hi);
            CHECK_EQ(pm_new(snap, snap, &w, 1, out), 0);
            CHECK_EQ(pm_common(snap, &w, 1, snap, NULL, 0, out), 0);
        }
        pm_free(snap);
    }
    CHECK(passed > 1000);
}

/* Counters come from the file too: the largest that pass must not overflow what adds them. */
static void largest_counters(void)
{
    struct sample s;
    pm_snapshot *snap;
    pm_error err;
    pm_interval out[PM_N_METRICS];
    make(&s);
    s.mappings[1].kind = PM_KIND_HUGETLB;
    for (int k = 0; k < PM_N_COUNTERS; k++)
        s.counters[1].after[k] = s.counters[1].before[k] = INT64_C(1) << 58;
    CHECK_EQ(build(&s, &snap, &err), 0);
    if (!snap)
        return;
    pm_window w = {s.mappings[1].start, s.mappings[1].end, 1};
    CHECK_EQ(pm_count(snap, &w, 1, out), 0);
    CHECK_EQ(out[PM_DIRTY].hi, 4);
    pm_free(snap);
}

int main(void)
{
    RUN(keeps_what_is_good);
    RUN(keeps_nothing);
    RUN(refuses);
    RUN(what_passes_can_be_counted);
    RUN(largest_counters);
    return check_done();
}
