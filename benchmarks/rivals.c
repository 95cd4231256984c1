/* SPDX-License-Identifier: MIT
 *
 * rivals.c - other ways to read a process's pages, timed.
 *
 *     rivals PID
 *
 * Answers each line of its standard input, the name of a way, with one line:
 * nanoseconds of thread CPU time, and the number of system calls that took; or
 * "cannot: WHY".  Their results are thrown away: this is what reading costs.
 */
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAPS, SMAPS, PAGEMAP, KPAGEFLAGS, KPAGECOUNT, N_FILES };

#define BUFFER ((size_t)512 << 10) /* larger reads make no difference */
#define ENTRIES (BUFFER / 8)
#define PAGE_GAP 64 /* pages between mappings worth reading over */
#define FRAME_GAP 3 /* frames between frames worth reading over */
#define REGIONS 4096
#define COMPOUND (PM_KPF_COMPOUND_HEAD | PM_KPF_COMPOUND_TAIL)

static int pid;
static int fds[N_FILES];
static size_t page;
static uint64_t buffer[ENTRIES];
static struct pm_scan_region regions[REGIONS];
static unsigned long calls;

static _Noreturn void die(const char *what)
{
    printf("cannot: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static void *grow(void *p, size_t n, size_t *cap, size_t each)
{
    if (n < *cap)
        return p;
    *cap = *cap ? 2 * *cap : 1024;
    if (!(p = realloc(p, *cap * each)))
        die("memory");
    return p;
}

/* Pages or frames [first, first + n) of one of the files with 8 bytes each. */
static size_t read_entries(int file, uint64_t first, size_t n, uint64_t *to)
{
    ssize_t got = pread(fds[file], to, n * 8, (off_t)(first * 8));
    calls++;
    if (got < 0)
        die("pread");
    return (size_t)got / 8;
}

static void read_text(int file, char *to, size_t at_once)
{
    off_t at = 0;
    for (ssize_t got = 1; got > 0; at += got, calls++)
        if ((got = pread(fds[file], to, at_once, at)) < 0)
            die("reading text");
}

/* ---- mappings ------------------------------------------------------------ */
struct extent {
    uint64_t first, end; /* pages */
};

static struct extent *mappings;
static size_t n_mappings, cap_mappings;

static void find_mappings(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        die("maps");
    char *line = NULL;
    size_t size = 0;
    n_mappings = 0;
    while (getline(&line, &size, f) > 0) {
        unsigned long long start, end;
        if (sscanf(line, "%llx-%llx", &start, &end) != 2 || start >> 63)
            continue; /* [vsyscall] is not in pagemap */
        mappings = grow(mappings, n_mappings, &cap_mappings, sizeof *mappings);
        mappings[n_mappings++] = (struct extent){start / page, end / page};
    }
    free(line);
    fclose(f);
}

/* ---- the floor: the reads that cannot be saved, and nothing else ---------- */
struct op {
    int file;
    bool scan;
    uint64_t first, n;
};

struct frame {
    uint64_t number;
    bool exclusive;
};

static struct op *ops;
static size_t n_ops, cap_ops;
static struct frame *frames;
static size_t n_frames, cap_frames;

static void add_op(struct op op)
{
    ops = grow(ops, n_ops, &cap_ops, sizeof *ops);
    ops[n_ops++] = op;
}

static void plan_pages(uint64_t first, uint64_t end)
{
    for (uint64_t n; first < end; first += n) {
        n = end - first < ENTRIES ? end - first : ENTRIES;
        add_op((struct op){.file = PAGEMAP, .first = first, .n = n});
        n = read_entries(PAGEMAP, first, n, buffer);
        if (!n)
            return;
        for (uint64_t i = 0; i < n; i++) {
            if (!(buffer[i] & PM_PE_PRESENT) || !(buffer[i] & PM_PE_PFN_MASK))
                continue;
            frames = grow(frames, n_frames, &cap_frames, sizeof *frames);
            frames[n_frames++] = (struct frame){
                .number = buffer[i] & PM_PE_PFN_MASK,
                .exclusive = buffer[i] & PM_PE_EXCLUSIVE,
            };
        }
    }
}

static long scan(uint64_t first, uint64_t end, uint64_t *walked)
{
    struct pm_scan_arg arg = {
        .size = sizeof arg,
        .start = first * page,
        .end = end * page,
        .vec = (uintptr_t)regions,
        .vec_len = REGIONS,
        .category_anyof_mask = PM_SCAN_PRESENT | PM_SCAN_SWAPPED,
        .return_mask = PM_SCAN_PRESENT | PM_SCAN_SWAPPED,
    };
    long n = ioctl(fds[PAGEMAP], PM_IOC_SCAN, &arg);
    calls++;
    *walked = arg.walk_end / page;
    return n;
}

/* Windows over what lies close together: pages from `first` on, up to `end`. */
struct window {
    uint64_t first, end;
    uint64_t gap;
    void (*plan)(uint64_t first, uint64_t end);
};

static void flush(struct window *w)
{
    if (w->end > w->first)
        w->plan(w->first, w->end);
    w->first = w->end = 0;
}

static void cover(struct window *w, uint64_t first, uint64_t end)
{
    if (w->end == w->first || first > w->end + w->gap) {
        flush(w);
        w->first = first;
        w->end = end;
    } else if (end > w->end) {
        w->end = end;
    }
}

static bool scan_mapping(const struct extent *m, struct window *w)
{
    for (uint64_t at = m->first; at < m->end;) {
        uint64_t walked;
        long n = scan(at, m->end, &walked);
        if (n < 0)
            return false; /* before Linux 6.7 */
        add_op((struct op){.file = PAGEMAP, .scan = true, .first = at, .n = m->end - at});
        for (long i = 0; i < n; i++)
            cover(w, regions[i].start / page, regions[i].end / page);
        if (walked <= at)
            return true;
        at = walked;
    }
    return true;
}

static bool is_sparse(void)
{
    char path[64];
    unsigned long long size = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%llu %llu", &size, &resident) != 2)
        die("statm");
    fclose(f);
    return size > 2 * resident + ((uint64_t)128 << 20) / page;
}

static void plan_pagemap(void)
{
    struct window w = {.gap = PAGE_GAP, .plan = plan_pages};
    bool sparse = is_sparse();
    for (size_t i = 0; i < n_mappings; i++) {
        const struct extent *m = &mappings[i];
        bool large = m->end - m->first >= ((uint64_t)16 << 20) / page;
        if (!(sparse && large && scan_mapping(m, &w)))
            cover(&w, m->first, m->end);
    }
    flush(&w);
}

static void plan_counts(uint64_t first, uint64_t end)
{
    add_op((struct op){.file = KPAGECOUNT, .first = first, .n = end - first});
}

static size_t next_frame; /* in front of it, everything is planned */

/* Flags of a window of frames; of the counts those that the page table entry does not tell. */
static void plan_frames(uint64_t first, uint64_t end)
{
    struct window counts = {.gap = FRAME_GAP, .plan = plan_counts};
    for (uint64_t n; first < end; first += n) {
        n = end - first < ENTRIES ? end - first : ENTRIES;
        add_op((struct op){.file = KPAGEFLAGS, .first = first, .n = n});
        n = read_entries(KPAGEFLAGS, first, n, buffer);
        if (!n)
            return;
        for (; next_frame < n_frames && frames[next_frame].number < first + n; next_frame++) {
            uint64_t number = frames[next_frame].number;
            if (!frames[next_frame].exclusive || buffer[number - first] & COMPOUND)
                cover(&counts, number, number + 1);
        }
        flush(&counts);
    }
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = ((const struct frame *)a)->number, y = ((const struct frame *)b)->number;
    return x < y ? -1 : x > y;
}

static void plan(void)
{
    struct window w = {.gap = FRAME_GAP, .plan = plan_frames};
    n_ops = n_frames = next_frame = 0;
    plan_pagemap();
    if (fds[KPAGEFLAGS] < 0 || fds[KPAGECOUNT] < 0)
        n_frames = 0;
    if (!n_frames)
        return;
    qsort(frames, n_frames, sizeof *frames, by_number);
    for (size_t i = 0; i < n_frames; i++)
        cover(&w, frames[i].number, frames[i].number + 1);
    flush(&w);
}

static void replay(bool pages_only)
{
    uint64_t unused;
    for (size_t i = 0; i < n_ops; i++) {
        const struct op *op = &ops[i];
        if (op->scan)
            scan(op->first, op->first + op->n, &unused);
        else if (op->file == PAGEMAP || !pages_only)
            read_entries(op->file, op->first, op->n, buffer);
    }
}

static void floor_once(void)
{
    read_text(MAPS, (char *)buffer, BUFFER);
    replay(false);
}

/* For an engine that looks a second time what changed meanwhile. */
static void floor_twice(void)
{
    floor_once();
    read_text(MAPS, (char *)buffer, BUFFER);
    replay(true);
}

static void floor_pages(void)
{
    read_text(MAPS, (char *)buffer, BUFFER);
    replay(true);
}

/* ---- the way of the kernel's own page-types ------------------------------- */
/* pagemap in batches, mapping by mapping, then one read per page and file. */
static void page_types(void)
{
    read_text(MAPS, (char *)buffer, BUFFER);
    for (size_t i = 0; i < n_mappings; i++) {
        uint64_t n;
        for (uint64_t at = mappings[i].first; at < mappings[i].end; at += n) {
            n = mappings[i].end - at < ENTRIES ? mappings[i].end - at : ENTRIES;
            n = read_entries(PAGEMAP, at, n, buffer);
            if (!n)
                break;
            for (uint64_t j = 0; j < n; j++) {
                uint64_t number = buffer[j] & PM_PE_PFN_MASK, got;
                if (!(buffer[j] & PM_PE_PRESENT) || !number)
                    continue;
                read_entries(KPAGEFLAGS, number, 1, &got);
                read_entries(KPAGECOUNT, number, 1, &got);
            }
        }
    }
}

static void smaps(void)
{
    read_text(SMAPS, (char *)buffer, (size_t)64 << 10);
}

static const struct way {
    const char *name;
    void (*run)(void);
    bool needs_frames;
} ways[] = {
    {"floor", floor_once, true},
    {"floor-twice", floor_twice, true},
    {"floor-pages", floor_pages, false},
    {"page-types", page_types, true},
    {"smaps", smaps, false},
};

static void answer(const char *name)
{
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(ways[i].name, name) != 0)
            continue;
        if (ways[i].needs_frames && !n_frames) {
            puts("cannot: needs CAP_SYS_ADMIN to see page frames");
            return;
        }
        calls = 0;
        uint64_t start = cpu_ns();
        ways[i].run();
        printf("%llu %lu\n", (unsigned long long)(cpu_ns() - start), calls);
        return;
    }
    puts("cannot: no such way");
}

static int open_of(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(name);
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    pid = atoi(argv[1]);
    page = (size_t)sysconf(_SC_PAGESIZE);
    fds[MAPS] = open_of("maps");
    fds[SMAPS] = open_of("smaps");
    fds[PAGEMAP] = open_of("pagemap");
    fds[KPAGEFLAGS] = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    fds[KPAGECOUNT] = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
    find_mappings();
    plan();
    puts("ready");
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        answer(line);
    }
    return 0;
}
