/* SPDX-License-Identifier: MIT
 *
 * What lists of addresses say together of each page, held against a model that knows nothing of
 * lists; and windows over memory of this process.
 */
#include "check.h"
#include "fakeproc.h"
#include "uapi.h"
#include "written.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 48 };

#define NOTHING UINT32_MAX

static uint64_t addr(int page)
{
    return (uint64_t)(page + 16) * FK_PAGE;
}

/* A list of what an array says page by page, in as few or as many pieces as it likes. */
static void make(struct pm__regions *list, const uint32_t state[PAGES], struct rng *r)
{
    list->n = 0;
    for (int i = 0; i < PAGES; i++)
        if (state[i] != NOTHING)
            CHECK_EQ((rng_below(r, 2) ? pm__regions_add : pm__regions_push)(list, addr(i),
                                                                            addr(i + 1), state[i]),
                     0);
}

static void unmake(const struct pm__regions *list, uint32_t state[PAGES])
{
    uint64_t end = 0;
    for (int i = 0; i < PAGES; i++)
        state[i] = NOTHING;
    for (size_t i = 0; i < list->n; i++) {
        const pm_region *r = &list->at[i];
        CHECK(r->start >= end && r->start < r->end);
        end = r->end;
        for (int page = 0; page < PAGES; page++)
            if (addr(page) >= r->start && addr(page) < r->end)
                state[page] = r->state;
    }
}

/* Stretches of pages of one random value out of a few. */
static void fill(uint32_t state[PAGES], const uint32_t *values, uint32_t n, struct rng *r)
{
    for (int i = 0; i < PAGES;) {
        uint32_t value = values[rng_below(r, n)];
        for (uint32_t k = 1 + rng_below(r, 6); k && i < PAGES; k--)
            state[i++] = value;
    }
}

static uint32_t expected(uint32_t mapped, uint32_t is, bool armed, bool watched, uint32_t why,
                         bool doubt)
{
    bool file = is & PM_SCAN_FILE, shared = mapped & PM_SHARED_MAP;
    bool there = is != NOTHING && (is & (PM_SCAN_PRESENT | PM_SCAN_SWAPPED));
    if (mapped == NOTHING || (mapped & PM__V_OURS))
        return NOTHING;
    if (mapped & (PM__V_KERNELS | PM__V_SEALED))
        return PM_W_CLEAN;
    if (is == NOTHING)
        return PM_W_SPECIAL;
    if (armed && (is & PM_SCAN_WPALLOWED)) {
        if (there && !(is & PM_SCAN_WRITTEN))
            return PM_W_CLEAN;
        bool copy = shared || !file;
        bool plain = !(is & (PM_SCAN_ZERO | PM_SCAN_HUGE | PM_SCAN_GUARD));
        bool told = (is & PM_SCAN_PRESENT) || !doubt;
        return there && copy && plain && told ? PM_W_WRITTEN : PM_W_LOST;
    }
    if (!there || (file && !shared) || (is & (PM_SCAN_ZERO | PM_SCAN_GUARD)))
        return watched && !(is & PM_SCAN_WPALLOWED) ? PM_W_REPLACED : PM_W_EMPTY;
    return why != NOTHING ? why : PM_W_NEW;
}

static void every_page_is_judged_alone(void)
{
    static const uint32_t kinds[] = {NOTHING,
                                     0,
                                     PM_WRITE,
                                     PM_SHARED_MAP,
                                     PM__V_OURS,
                                     PM__V_KERNELS,
                                     PM__V_SEALED | PM_SHARED_MAP};
    static const uint32_t armings[] = {NOTHING, 0}, reasons[] = {NOTHING, PM_W_BUSY, PM_W_HUGETLB};
    struct rng r = {.state = 4};
    struct pm__seen seen = {0};
    struct pm__regions out = {0};
    for (int round = 0; round < 3000; round++) {
        uint32_t mapped[PAGES], is[PAGES], late[PAGES], armed[PAGES], watched[PAGES], why[PAGES],
            got[PAGES];
        uint32_t some[6];
        for (int i = 0; i < 6; i++)
            some[i] = rng_below(&r, 512);
        some[0] = NOTHING;
        fill(mapped, kinds, 7, &r);
        fill(is, some, 6, &r);
        fill(armed, armings, 2, &r);
        fill(watched, armings, 2, &r);
        fill(why, reasons, 3, &r);
        for (int i = 0; i < PAGES; i++)
            late[i] = is[i] != NOTHING && rng_below(&r, 8) == 0 ? is[i] : NOTHING;
        uint32_t first[PAGES];
        for (int i = 0; i < PAGES; i++)
            first[i] = late[i] != NOTHING ? NOTHING : is[i];
        make(&seen.mapped, mapped, &r);
        make(&seen.scanned, first, &r);
        make(&seen.late, late, &r);
        make(&seen.armed, armed, &r);
        make(&seen.registered, watched, &r);
        make(&seen.unwatched, why, &r);
        seen.doubt_swap = rng_below(&r, 2);
        out.n = 0;
        CHECK_EQ(pm__judge(&seen, &out), 0);
        unmake(&out, got);
        for (int i = 0; i < PAGES; i++)
            CHECK_IN(got[i] == expected(mapped[i], is[i], armed[i] != NOTHING,
                                        watched[i] != NOTHING, why[i], seen.doubt_swap),
                     "round %d page %d: %u", round, i, got[i]);
    }
    pm__regions_free(&seen.mapped);
    pm__regions_free(&seen.scanned);
    pm__regions_free(&seen.late);
    pm__regions_free(&seen.armed);
    pm__regions_free(&seen.registered);
    pm__regions_free(&seen.unwatched);
    pm__regions_free(&out);
}

/* Rows: what was told before; columns: what a second reading says; the table as it is meant. */
static void two_readings_are_one_window(void)
{
    enum { C = PM_W_CLEAN, W = PM_W_WRITTEN, E = PM_W_EMPTY, L = PM_W_LOST, N = PM_W_NEW };
    static const struct {
        uint32_t before, now, both;
    } table[] = {
        {C, C, C},
        {C, W, W},
        {C, L, L},
        {W, C, W},
        {W, W, W},
        {W, L, W},
        {L, C, L},
        {L, W, W},
        {N, C, N},
        {N, W, W},
        {N, L, N},
        {E, C, C},
        {E, L, L},
        {E, W, W},
        {W, N, N},
        {W, E, E},
        {NOTHING, C, C},
        {NOTHING, N, N},
        {NOTHING, W, W},
        {PM_W_BUSY, C, PM_W_BUSY},
        {L, L, L},
        {W, PM_W_REPLACED, PM_W_REPLACED},
        {PM_W_REPLACED, E, PM_W_REPLACED},
        {PM_W_REPLACED, C, PM_W_REPLACED},
        {PM_W_REPLACED, W, W},
        {PM_W_REPLACED, N, N},
        {PM_W_BUSY, W, W},
        {C, N, N},
        {N, NOTHING, NOTHING},
    };
    struct rng r = {.state = 5};
    struct pm__regions before = {0}, now = {0}, out = {0};
    for (int round = 0; round < 2000; round++) {
        uint32_t a[PAGES], b[PAGES], want[PAGES], got[PAGES];
        for (int i = 0; i < PAGES;) {
            uint32_t row = rng_below(&r, sizeof table / sizeof *table);
            for (uint32_t k = 1 + rng_below(&r, 4); k && i < PAGES; k--, i++) {
                a[i] = table[row].before;
                b[i] = table[row].now;
                want[i] = table[row].both;
            }
        }
        make(&before, a, &r);
        make(&now, b, &r);
        out.n = 0;
        CHECK_EQ(pm__combine(&before, &now, &out), 0);
        unmake(&out, got);
        for (int i = 0; i < PAGES; i++)
            CHECK_IN(got[i] == want[i], "round %d page %d: %u and %u is %u", round, i, a[i], b[i],
                     got[i]);
    }
    pm__regions_free(&before);
    pm__regions_free(&now);
    pm__regions_free(&out);
}

/* What was asked for and is not mapped went; what is ours, or nobody asked for, is not told. */
static void what_went_is_told(void)
{
    static const uint32_t asks[] = {NOTHING, 0}, maps[] = {NOTHING, 0, PM__V_OURS};
    struct rng r = {.state = 7};
    struct pm__regions wanted = {0}, mapped = {0}, told = {0}, out = {0};
    for (int round = 0; round < 500; round++) {
        uint32_t ask[PAGES], map[PAGES], say[PAGES], got[PAGES];
        fill(ask, asks, 2, &r);
        fill(map, maps, 3, &r);
        for (int i = 0; i < PAGES; i++)
            say[i] = map[i] == 0 ? rng_below(&r, PM_W_REPLACED) : NOTHING;
        make(&wanted, ask, &r);
        make(&mapped, map, &r);
        make(&told, say, &r);
        out.n = 0;
        CHECK_EQ(pm__fill(&wanted, &mapped, &told, &out), 0);
        unmake(&out, got);
        for (int i = 0; i < PAGES; i++) {
            bool gone = ask[i] != NOTHING && map[i] == NOTHING;
            CHECK_IN(got[i] == (gone ? PM_W_REPLACED : say[i]), "round %d page %d: %u", round, i,
                     got[i]);
        }
    }
    pm__regions_free(&wanted);
    pm__regions_free(&mapped);
    pm__regions_free(&told);
    pm__regions_free(&out);
}

/* Only what held something and holds nothing now was given back for certain. */
static void soft_dirty_bits_know_what_was_given_back(void)
{
    enum { C = PM_W_CLEAN, W = PM_W_WRITTEN, E = PM_W_EMPTY };
    static const uint32_t table[][3] = {
        {C, E, PM_W_LOST},
        {E, E, E},
        {C, C, C},
        {C, W, W},
        {E, W, W},
        {NOTHING, E, E},
        {E, C, C},
        {C, NOTHING, NOTHING},
        {C, PM_W_NEW, PM_W_NEW},
    };
    struct rng r = {.state = 6};
    struct pm__regions before = {0}, now = {0}, out = {0};
    for (int round = 0; round < 500; round++) {
        uint32_t a[PAGES], b[PAGES], want[PAGES], got[PAGES];
        for (int i = 0; i < PAGES; i++) {
            const uint32_t *row = table[rng_below(&r, sizeof table / sizeof *table)];
            a[i] = row[0];
            b[i] = row[1];
            want[i] = row[2];
        }
        make(&before, a, &r);
        make(&now, b, &r);
        out.n = 0;
        CHECK_EQ(pm__softdirty_compare(&before, &now, &out), 0);
        unmake(&out, got);
        for (int i = 0; i < PAGES; i++)
            CHECK_IN(got[i] == want[i], "round %d page %d: %u", round, i, got[i]);
    }
    pm__regions_free(&before);
    pm__regions_free(&now);
    pm__regions_free(&out);
}

/* Of maps and smaps: what is what by its line, and which mappings are soft-dirty as a whole. */
static void mappings_are_read(void)
{
    static const char text[] =
        "1000-3000 rw-p 00000000 00:00 0 \n"
        "VmFlags: rd wr mr mw me ac sd \n"
        "3000-4000 r--s 00001000 fe:00 77   /lib/some thing.so\n"
        "VmFlags: rd mr me \n"
        "5000-6000 r--p 00000000 00:00 0    [vvar_vclock]\n"
        "6000-7000 rw-s 00000000 00:06 9    /dev/dri/card0\n"
        "7000-8000 rw-s 00000000 00:06 9    /dev/shm/mine\n"
        "8000-9000 rw-s 00000000 00:0e 5    anon_inode:[io_uring]\n"
        "9000-a000 rw-p 00000000 00:00 0    [heap]\n"
        "VmFlags: rd wr ht pf \n"
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n"
        "VmFlags: ex sd \n"
        "ffffffffff601000-ffffffffff602000 --xp 00000000 00:00 0   [vsyscall]\n";
    static const uint32_t states[] = {
        PM_WRITE | PM__V_MARKED,
        PM_SHARED_MAP,
        PM__V_KERNELS,
        PM_WRITE | PM_SHARED_MAP | PM__V_SPECIAL,
        PM_WRITE | PM_SHARED_MAP,
        PM_WRITE | PM_SHARED_MAP | PM__V_SPECIAL,
        PM_WRITE | PM__V_HEAP | PM__V_HUGETLB | PM__V_SPECIAL,
    };
    static char buf[PM__LINES];
    char path[] = "/tmp/written-XXXXXX";
    struct pm__regions out = {0};
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1);
    CHECK_EQ(pm__read_mapped(path, buf, &out), 0);
    CHECK_EQ(out.n, 7);
    for (size_t i = 0; i < out.n && i < 7; i++)
        CHECK_IN(out.at[i].state == states[i], "line %zu: %#x", i, out.at[i].state);
    CHECK_EQ(out.at[0].start, 0x1000);
    CHECK_EQ(out.at[0].end, 0x3000);
    out.n = 0;
    CHECK(ftruncate(fd, 30) == 0);
    CHECK_EQ(pm__read_mapped(path, buf, &out), -PM_E_FORMAT);
    CHECK_EQ(pm__read_mapped("/nowhere", buf, &out), -ENOENT);
    pm__regions_free(&out);
    close(fd);
    unlink(path);
}

/* ---- windows over memory of this process --------------------------------------------- */

static char *map_pages(size_t n)
{
    char *p = mmap(NULL, n * FK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, n * FK_PAGE, MADV_NOHUGEPAGE);
    return p;
}

static uint64_t pages_in(const pm_written *w, const char *p, size_t n, uint32_t state)
{
    uint64_t out[PM_W_N_STATES] = {0}, at = (uintptr_t)p;
    pm_written_count(w, at, at + n * FK_PAGE, out);
    return out[state];
}

static pm_written *begin(const pm_extent *extents, size_t n)
{
    pm_error err[2];
    pm_written *w;
    int rc = pm_written_begin(extents, n, &w, err);
    if (rc < 0)
        fprintf(stderr, "no windows here: %s\n", strerror(err[0].code));
    return rc < 0 ? NULL : w;
}

static void a_window_tells_what_was_written(void)
{
    volatile char *p = map_pages(64);
    p[0] = 1;
    pm_written *w = begin(NULL, 0);
    if (!w)
        return;
    p[3 * FK_PAGE] = 1;
    p[0] = 2;
    CHECK_EQ(pm_written_end(&w), 0);
    CHECK_EQ(pm_written_end(&w), 0); /* once more: harmless */
    if (pm_written_method(w) == PM_WRITTEN_UFFD) {
        CHECK_EQ(pages_in(w, (char *)p, 64, PM_W_WRITTEN), 2);
        CHECK_EQ(pages_in(w, (char *)p, 64, PM_W_CLEAN), 62);
        CHECK_EQ(pages_in(w, (char *)p + 3 * FK_PAGE, 1, PM_W_WRITTEN), 1);
    }
    const pm_region *at;
    size_t n;
    pm_written_regions(w, &at, &n);
    CHECK(n > 3);
    pm_written_free(w);
    munmap((char *)p, 64 * FK_PAGE);
}

static void extents_are_checked(void)
{
    pm_error err[2];
    pm_written *w;
    char *p = map_pages(8);
    uint64_t at = (uintptr_t)p;
    const pm_extent bad[][2] = {
        {{at, at}, {at + FK_PAGE, at + 2 * FK_PAGE}},
        {{at + 1, at + FK_PAGE}, {at + FK_PAGE, at + 2 * FK_PAGE}},
        {{at + FK_PAGE, at + 2 * FK_PAGE}, {at, at + FK_PAGE}},
    };
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pm_written_begin(bad[i], 2, &w, err), -EINVAL);
    const pm_extent good[] = {{at, at + FK_PAGE}, {at + 4 * FK_PAGE, at + 8 * FK_PAGE}};
    w = begin(good, 2);
    if (!w)
        return;
    memset(p, 1, 8 * FK_PAGE);
    CHECK_EQ(pm_written_end(&w), 0);
    if (pm_written_method(w) == PM_WRITTEN_UFFD)
        CHECK_EQ(pages_in(w, p, 8, PM_W_WRITTEN), 5);
    pm_written_free(w);
    munmap(p, 8 * FK_PAGE);
}

static void a_child_has_none(void)
{
    pm_written *w = begin(NULL, 0);
    if (!w)
        return;
    pid_t child = fork();
    if (child == 0) {
        bool right = pm_written_end(&w) == -ESRCH;
        pm_written_free(w);
        pm_written *own = begin(NULL, 0);
        right &= own && pm_written_end(&own) == 0;
        pm_written_free(own);
        _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(pm_written_end(&w), 0);
    pm_written_free(w);
}

int main(void)
{
    RUN(every_page_is_judged_alone);
    RUN(two_readings_are_one_window);
    RUN(what_went_is_told);
    RUN(soft_dirty_bits_know_what_was_given_back);
    RUN(mappings_are_read);
    RUN(a_window_tells_what_was_written);
    RUN(extents_are_checked);
    RUN(a_child_has_none);
    return check_done();
}
