/* SPDX-License-Identifier: MIT
 *
 * Memory that does not show in a capture of ourselves: what is hidden and what is not,
 * what a forked child has of it, and that there is always enough or a clean error.
 */
#include "check.h"
#include "fakeproc.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t at(const void *p)
{
    return (uintptr_t)p;
}

/* The mapping around a block: its head lies in front of what was handed out. */
static uint64_t start_of_block(const void *block)
{
    return at(block) & ~(FK_PAGE - 1);
}

/* Pieces of ours are ours, anything that reaches beyond is not. */
static void only_ours_is_hidden(void)
{
    struct pm__arena a;
    CHECK_EQ(pm__arena_get(&a, 3 * FK_PAGE), 0);
    uint64_t base = at(a.base), end = base + a.size;
    CHECK(pm__is_ours(base, end, false));
    CHECK(pm__is_ours(base + FK_PAGE, end - FK_PAGE, false));
    CHECK(!pm__is_ours(base, end, true)); /* a child has no arenas */
    CHECK(!pm__is_ours(base, base, false));
    CHECK(!pm__is_ours(at(&a) & ~(FK_PAGE - 1), (at(&a) & ~(FK_PAGE - 1)) + FK_PAGE, false));
    CHECK(!pm__is_ours(0, UINT64_MAX, false));
    /* A page of somebody else's right beside it, merged by the kernel: not ours any more. */
    void *beside = mmap((void *)(uintptr_t)end, FK_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (beside != MAP_FAILED) {
        CHECK(!pm__is_ours(base, end + FK_PAGE, false));
        munmap(beside, FK_PAGE);
    }
    pm__arena_put(&a);
    CHECK(a.base == NULL);
    pm__arena_put(&a); /* of nothing: harmless */
}

/* What a capture worked with, frames among it, does not stay in memory. */
static void what_was_worked_with_is_wiped(void)
{
    struct pm__arena a;
    CHECK_EQ(pm__arena_get(&a, 3 * FK_PAGE), 0);
    char *words = pm__take(&a, FK_PAGE + 64, 1);
    char *base = a.base;
    memset(words, 'x', FK_PAGE + 64);
    pm__arena_put(&a);
    CHECK_EQ(pm__arena_get(&a, 3 * FK_PAGE), 0);
    CHECK(a.base == base); /* the same, kept */
    CHECK(!memchr(base, 'x', a.size));
    pm__arena_put(&a);
}

/* Several regions of ours side by side are one mapping to the kernel. */
static void neighbours_are_hidden_together(void)
{
    enum { N = 12 };
    void *blocks[N];
    unsigned pairs = 0;
    for (int i = 0; i < N; i++)
        CHECK((blocks[i] = pm__block_new(2 * FK_PAGE)) != NULL);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            uint64_t a = start_of_block(blocks[i]), b = start_of_block(blocks[k]);
            if (b != a + 3 * FK_PAGE)
                continue;
            pairs++;
            CHECK(pm__is_ours(a, b + 3 * FK_PAGE, false));
            CHECK(pm__is_ours(a + FK_PAGE, b + FK_PAGE, true));
            void *gone = blocks[i];
            pm__block_free(gone);
            CHECK(!pm__is_ours(a, b + 3 * FK_PAGE, false));
            CHECK((blocks[i] = pm__block_new(2 * FK_PAGE)) != NULL);
        }
    CHECK(pairs > 0);
    for (int i = 0; i < N; i++)
        pm__block_free(blocks[i]);
}

static bool shows(const pm_snapshot *s, uint64_t start)
{
    pm_columns c;
    pm_get_columns(s, &c);
    for (size_t i = 0; i < c.n_mappings; i++)
        if (c.mappings[i].start == start)
            return true;
    return false;
}

/* smaps of a process with a block of ours, or of another process with something there. */
static void capture_leaves_it_out(void)
{
    static const struct {
        bool self;
        const char *perms, *vmflags;
        uint64_t inode;
        bool shown;
    } cases[] = {
        {true, "rw-p", "rd wr mr mw me ac dd", 0, false},
        {true, "rw-p", NULL, 0, false},
        {true, "rw-s", "rd wr sh mr mw", 5, true},
        {false, "rw-p", "rd wr mr mw me ac dd", 0, false}, /* inherited by a child of ours */
        {false, "rw-p", "rd wr mr mw me ac", 0, true},     /* it is there by chance */
        {false, "rwxp", "rd wr ex mr mw dd", 0, true},
    };
    static struct fake fake;
    void *block = pm__block_new(FK_PAGE);
    struct fk_page page = {.what = FK_ANON, .pte_dirty = true, .mapcount = 1},
                   two[2] = {page, page};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fk_mapping m[] = {{.start = 0x10000, .n = 1, .pages = &page, .perms = "rw-p"},
                                 {.start = start_of_block(block),
                                  .n = 2,
                                  .pages = two,
                                  .perms = cases[i].perms,
                                  .vmflags = cases[i].vmflags,
                                  .inode = cases[i].inode}};
        struct fk_world w = {.mappings = m, .n = 2};
        pm_snapshot *snap;
        pm_error err;
        fk_init(&fake, &w);
        const pm_request r = {
            .pid = cases[i].self ? 0 : FK_PID, .depth = PM_FULL, .counters = 1, .stopper = -1};
        CHECK_EQ(pm__capture_with(&fake.io, &r, &snap, &err), 0);
        CHECK_EQ(pm_get_header(snap)->self, cases[i].self);
        CHECK_EQ(pm_get_header(snap)->appeared, 0);
        CHECK(shows(snap, 0x10000));
        CHECK_IN(shows(snap, m[1].start) == cases[i].shown, "case %zu", i);
        pm_free(snap);
    }
    pm__block_free(block);
}

/* ---- fork --------------------------------------------------------------------------------- */
static int in_child(const void *block, struct pm__arena *arena)
{
    struct pm__arena mine = {0};
    struct fk_world empty = {.n = 0};
    struct fk_page page = {.what = FK_ANON, .pte_dirty = true, .mapcount = 1};
    struct fk_mapping m = {.start = 0x10000, .n = 1, .pages = &page, .perms = "rw-p"};
    static struct fake fake;
    pm_snapshot *snap;
    pm_error err;
    CHECK(!pm__is_ours(at(arena->base), at(arena->base) + arena->size, false));
    CHECK(pm__is_ours(start_of_block(block), start_of_block(block) + FK_PAGE, true));
    CHECK_EQ(((const char *)block)[5], 'x'); /* a snapshot is readable */
    pm__arena_put(arena);                    /* what the parent's capture held */
    CHECK_EQ(pm__arena_get(&mine, FK_PAGE), 0);
    memset(mine.base, 1, mine.size);
    pm__arena_put(&mine);
    empty.mappings = &m;
    empty.n = 1;
    fk_init(&fake, &empty);
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    pm_free(snap);
    pm__block_free((void *)(uintptr_t)block);
    return check_failures != 0;
}

/* A child forgets arenas, which it did not inherit, and may free blocks, which it did. */
static void fork_forgets_arenas(void)
{
    struct pm__arena arena;
    char *block = pm__block_new(100);
    block[5] = 'x';
    CHECK_EQ(pm__arena_get(&arena, FK_PAGE), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(in_child(block, &arena));
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
    CHECK(pm__is_ours(at(arena.base), at(arena.base) + arena.size, false));
    CHECK_EQ(block[5], 'x');
    pm__arena_put(&arena);
    pm__block_free(block);
}

/* ---- enough of it --------------------------------------------------------------------------- */

/* An arena gives what it has, aligned and zeroed, and then nothing. */
static void take(void)
{
    struct pm__arena a;
    CHECK_EQ(pm__arena_get(&a, FK_PAGE), 0);
    a.size = FK_PAGE; /* a kept one may be larger */
    memset(a.base, 0xff, a.size);
    char *p = pm__take_zeroed(&a, 3, 5), *q = pm__take(&a, 1, 64);
    CHECK(p && q && q >= p + 15 && at(p) % 64 == 0 && at(q) % 64 == 0);
    for (int i = 0; i < 15; i++)
        CHECK_EQ(p[i], 0);
    CHECK(pm__take(&a, 1, FK_PAGE) == NULL);
    CHECK(pm__take(&a, SIZE_MAX, 2) == NULL);
    CHECK(pm__take(&a, SIZE_MAX, 1) == NULL);
    CHECK(pm__take(&a, 1, SIZE_MAX - 10) == NULL);
    CHECK(pm__take(&a, 1, FK_PAGE - 128) != NULL);
    pm__arena_put(&a);
}

/* Every slot busy is an error, and every one comes back. */
static void as_many_as_there_are(void)
{
    struct pm__arena all[100];
    for (int round = 0; round < 2; round++) {
        int n = 0;
        while (n < 100 && pm__arena_get(&all[n], FK_PAGE) == 0)
            n++;
        CHECK_EQ(n, 64);
        CHECK_EQ(pm__arena_get(&all[99], FK_PAGE), -EAGAIN);
        while (n > 0)
            pm__arena_put(&all[--n]);
    }
}

/* Idle arenas that are too small make way for one that is large enough. */
static void small_idle_ones_make_way(void)
{
    struct pm__arena all[64], large;
    int n = 0;
    while (n < 64 && pm__arena_get(&all[n], FK_PAGE) == 0)
        n++;
    while (n > 0)
        pm__arena_put(&all[--n]);
    CHECK_EQ(pm__arena_get(&large, (size_t)16 << 20), 0);
    pm__arena_put(&large);
}

/* More of everything than the first guess has room for. */
static void rooms_grow(void)
{
    enum { MAPPINGS = 2600, PAGES = 40 };
    struct fk_page *pages = calloc((size_t)MAPPINGS * PAGES, sizeof *pages);
    struct fk_mapping *m = calloc(MAPPINGS, sizeof *m);
    char (*names)[120] = calloc(MAPPINGS, sizeof *names);
    struct fk_world w = {.mappings = m, .n = MAPPINGS};
    static struct fake fake;
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    for (size_t i = 0; i < MAPPINGS; i++) {
        snprintf(names[i], sizeof names[i],
                 "/a/rather/long/name/of/a/file/that/takes/its/room/in/"
                 "the/pool/of/strings/number/%zu",
                 i);
        m[i] = (struct fk_mapping){.start = 0x1000000 + i * 0x100000,
                                   .n = PAGES,
                                   .pages = pages + i * PAGES,
                                   .perms = "r--p",
                                   .major = 0xfe,
                                   .inode = 1 + i,
                                   .name = names[i],
                                   .vmflags = "rd mr mw me"};
        for (size_t k = 0; k < PAGES; k++)
            m[i].pages[k] = (struct fk_page){.what = FK_FILE, .mapcount = 1 + (uint32_t)(k & 1)};
    }
    fk_init(&fake, &w);
    int rc = fk_capture(&fake, &snap, &err);
    CHECK_IN(rc == 0, "rc %d stage %d %s", rc, err.stage, err.detail);
    CHECK(fk_tidy(&fake));
    if (rc == 0) {
        pm_get_columns(snap, &c);
        CHECK_EQ(c.n_mappings, MAPPINGS);
        CHECK_EQ(c.n_objects, MAPPINGS);
        CHECK_EQ(c.n_ranges, MAPPINGS * PAGES);
        CHECK_EQ(pm_get_header(snap)->complete, 1);
        CHECK_EQ(pm_get_header(snap)->raced_pages, 0);
        CHECK(c.mappings[MAPPINGS - 1].name_len == strlen(names[MAPPINGS - 1]) &&
              memcmp(c.strings + c.mappings[MAPPINGS - 1].name, names[MAPPINGS - 1],
                     c.mappings[MAPPINGS - 1].name_len) == 0);
        pm_free(snap);
    }
    free(names);
    free(m);
    free(pages);
}

/* ---- at the same time -------------------------------------------------------------------------- */
#define THREADS 70

static pthread_mutex_t crowd_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t crowd_moves = PTHREAD_COND_INITIALIZER;
static int inside, refused;

static int (*plain_open)(void *, int, const char *, int);

/* The first call behind the arena waits, holding it, until all have theirs. */
static int crowded_open(void *ctx, int dir, const char *path, int flags)
{
    if (strcmp(path, "smaps") == 0) {
        pthread_mutex_lock(&crowd_lock);
        inside++;
        pthread_cond_broadcast(&crowd_moves);
        while (inside + refused < THREADS)
            pthread_cond_wait(&crowd_moves, &crowd_lock);
        pthread_mutex_unlock(&crowd_lock);
    }
    return plain_open(ctx, dir, path, flags);
}

static void *one_of_many(void *arg)
{
    struct fk_page page = {.what = FK_ANON, .pte_dirty = true, .mapcount = 1};
    struct fk_mapping m = {.start = 0x10000, .n = 1, .pages = &page, .perms = "rw-p"};
    struct fk_world w = {.mappings = &m, .n = 1};
    struct fake *fake = malloc(sizeof *fake);
    pm_snapshot *snap;
    pm_error err;
    fk_init(fake, &w);
    fake->io.open = crowded_open;
    int rc = fk_capture(fake, &snap, &err);
    if (rc == 0) {
        pm_free(snap);
    } else {
        pthread_mutex_lock(&crowd_lock);
        refused++;
        pthread_cond_broadcast(&crowd_moves);
        pthread_mutex_unlock(&crowd_lock);
    }
    *(int *)arg = rc == 0 || (rc == -EAGAIN && err.code == EAGAIN && err.stage == PM_AT_ARENA);
    *(int *)arg &= fk_tidy(fake);
    free(fake);
    return NULL;
}

/* 70 captures at once: 64 succeed, 6 say that there is no room. */
static void many_at_once(void)
{
    pthread_t threads[THREADS];
    int good[THREADS] = {0};
    plain_open = fk_open;
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, one_of_many, &good[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(good[i], 1);
    }
    CHECK_EQ(inside, 64);
    CHECK_EQ(refused, 6);
}

int main(void)
{
    RUN(only_ours_is_hidden);
    RUN(what_was_worked_with_is_wiped);
    RUN(neighbours_are_hidden_together);
    RUN(capture_leaves_it_out);
    RUN(fork_forgets_arenas);
    RUN(take);
    RUN(rooms_grow);
    RUN(many_at_once);
    RUN(as_many_as_there_are);
    RUN(small_idle_ones_make_way); /* last: where they do not, no larger capture can follow */
    return check_done();
}
