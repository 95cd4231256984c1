/* SPDX-License-Identifier: MIT
 *
 * Threads that capture, count, free and fork at once: each gets what it would have got alone.
 * ThreadSanitizer has something to look at here.
 */
#include "check.h"
#include "fakeproc.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 40, REAL_ROUNDS = 6, PAGES = 200 };

static struct fk_page pages[PAGES];
static struct fk_mapping mapping = {.start = 0x100000,
                                    .n = PAGES,
                                    .pages = pages,
                                    .perms = "rw-p",
                                    .name = "[heap]",
                                    .vmflags = "rd wr mr mw me ac"};
static const struct fk_world world = {.mappings = &mapping, .n = 1};
static pm_snapshot *shared;
static pm_interval expected[PM_N_METRICS];
static pid_t target;
static unsigned wrong[THREADS]; /* CHECK is for one thread: each counts for itself */

struct thread {
    pthread_t id;
    unsigned number;
};

static void make_world(void)
{
    for (size_t i = 0; i < PAGES; i++)
        pages[i] = (struct fk_page){.what = i % 7 == 3 ? FK_NONE : FK_ANON,
                                    .frame = 1000 + i,
                                    .mapcount = i % 3 ? 1 : 2,
                                    .pte_dirty = true};
}

static pm_window window_of(const pm_snapshot *snap)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    return (pm_window){.start = c.mappings[0].start, .end = c.mappings[0].end, .mapping = 0};
}

static bool counts_as_expected(const pm_snapshot *snap)
{
    pm_interval got[PM_N_METRICS];
    pm_window w = window_of(snap);
    return pm_count(snap, &w, 1, got) == 0 && memcmp(got, expected, sizeof got) == 0;
}

static pm_snapshot *capture_fake(void)
{
    struct fake *f = malloc(sizeof *f);
    pm_snapshot *snap = NULL;
    pm_error err;
    fk_init(f, &world);
    f->show_frames = true;
    if (fk_capture(f, &snap, &err) < 0 || !fk_tidy(f))
        snap = NULL;
    free(f);
    return snap;
}

static bool try_fake(void)
{
    pm_snapshot *snap = capture_fake();
    bool good = snap && counts_as_expected(snap);
    pm_free(snap);
    return good && counts_as_expected(shared);
}

static bool try_real(void)
{
    const pm_request r = {.pid = target, .depth = PM_FULL, .counters = 1, .stopper = -1};
    pm_snapshot *snap = NULL;
    pm_error err;
    if (pm_capture(&r, &snap, &err) < 0)
        return false;
    pm_columns c;
    pm_get_columns(snap, &c);
    bool good = c.n_mappings > 3 && pm_get_header(snap)->complete &&
                !pm_get_header(snap)->raced_pages;
    pm_free(snap);
    return good;
}

/* The child of a process that is capturing can read what was captured, and capture.  Nothing
 * here but the engine: a sanitizer's malloc may be locked in the child for good. */
static bool try_fork(void)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(counts_as_expected(shared) && try_real() ? 0 : 1);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void *work(void *arg)
{
    const struct thread *t = arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        wrong[t->number] += !try_fake();
        if (i % 10 == t->number)
            wrong[t->number] += !try_fork();
        if (i < REAL_ROUNDS)
            wrong[t->number] += !try_real();
    }
    return NULL;
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static void all_at_once(void)
{
    struct thread threads[THREADS];
    pm_host host;
    pm_probe(&host); /* the first capture may load a program, and keeps it */
    unsigned files = open_files();
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i].number = i;
        CHECK_EQ(pthread_create(&threads[i].id, NULL, work, &threads[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i].id, NULL), 0);
        CHECK_IN(wrong[i] == 0, "thread %u: %u times", i, wrong[i]);
    }
    CHECK_EQ(open_files(), files);
}

/* Each asks whether this host has a feature, for the first time. */
static void *probe(void *arg)
{
    *(bool *)arg = pm__features()->scan;
    return NULL;
}

static void features_are_found_once(void)
{
    pthread_t ids[THREADS];
    bool scan[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&ids[i], NULL, probe, &scan[i]), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        CHECK_EQ(scan[i], scan[0]);
    }
}

/* A small process that sleeps; a copy of us would have a sanitizer's shadow memory. */
static pid_t start_sleeper(void)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        execlp("sleep", "sleep", "1000", (char *)NULL);
        _exit(1);
    }
    char byte;
    close(ready[1]);
    CHECK_EQ(read(ready[0], &byte, 1), 0); /* closed by exec */
    close(ready[0]);
    usleep(300000);
    return pid;
}

int main(void)
{
    make_world();
    RUN(features_are_found_once);
    target = start_sleeper();
    shared = capture_fake();
    CHECK(shared && target > 0);
    if (shared && target > 0) {
        pm_window w = window_of(shared);
        CHECK_EQ(pm_count(shared, &w, 1, expected), 0);
        CHECK(expected[PM_PRESENT].lo > PAGES / 2);
        RUN(all_at_once);
    }
    kill(target, SIGKILL);
    waitpid(target, NULL, 0);
    pm_free(shared);
    return check_done();
}
