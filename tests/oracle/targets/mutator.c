/* SPDX-License-Identifier: MIT
 *
 * mutator.c - four threads that map, unmap, protect, write, read, drop and fork in random
 * order, each in a region of its own, and that publish what their pages are before and after
 * each step, so that a reader can tell whether what it saw was ever true.
 *
 *   mutator BOARD FILE SEED PACE BUSY IDLE FORKS BALLAST
 *
 * BOARD is the descriptor of a shared memory file to publish in, FILE that of a file to map,
 * of 64 pages.  A step every PACE microseconds or so, for about
 * BUSY microseconds, then nothing at all for about IDLE, over and over.  With BUSY 0 nothing
 * ever happens.  FORKS 0: none forks.  BALLAST pages lie behind each region, so that it takes a
 * reader longer to come from one to the next.
 */
#include "say.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* tests/oracle/witness.py knows these numbers and the order of the fields. */
enum { REGIONS = 4, PAGES = 64, RECORDS = 1 << 14, CHILDREN = 1 << 10 };
enum { ANON, ANON_TOO, FILE_COPY, SHMEM };
enum { START, MAP, UNMAP, PROTECT, WRITE, READ, DROP, FLICKER, FORK, OPS };

#define BASE UINT64_C(0x200000000)
#define APART UINT64_C(0x10000000)

/* What the pages of a region are from `end` on; one bit a page. */
struct record {
    uint64_t begin, end; /* CLOCK_REALTIME, ns: the step that led there */
    uint64_t mapped, readable, writable;
    uint64_t written; /* since it was mapped, or dropped */
    uint64_t read; /* the same; of a file, its neighbours are mapped with it */
    uint64_t op;
};

/* Alive from before `forked` to after `reaped`; 0 while it is. */
struct child {
    uint64_t forked, reaped;
};

struct region {
    uint64_t start, kind;
    _Atomic uint64_t seq; /* 2 * steps published, and 1 while one is being made */
    _Atomic uint64_t forks; /* the same of children */
    struct record records[RECORDS];
    struct child children[CHILDREN];
};

struct board {
    _Atomic uint64_t quiet; /* odd while every thread sleeps and nothing is being done */
    uint64_t sizes[3];
    _Atomic uint32_t gate, parked; /* futexes */
    uint64_t pad[3];
    struct region regions[REGIONS];
};

static struct board *board;
static unsigned pace;
static int may_fork, memory[REGIONS];

struct worker {
    struct region *r;
    struct record now;
    uint64_t random;
    pid_t child;
};

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static uint32_t below(uint64_t *random, uint32_t n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return n ? (uint32_t)((*random >> 16) % n) : 0;
}

static void rest(unsigned us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};
    nanosleep(&t, NULL);
}

/* ---- publishing --------------------------------------------------------------------- */
static void announce(struct worker *w, int op, struct record next)
{
    uint64_t seq = atomic_load_explicit(&w->r->seq, memory_order_relaxed);
    struct record *slot = &w->r->records[seq / 2 % RECORDS];
    next.op = (uint64_t)op;
    next.begin = clock_ns();
    next.end = 0;
    *slot = w->now = next;
    atomic_store(&w->r->seq, seq + 1);
}

static void done(struct worker *w)
{
    uint64_t seq = atomic_load_explicit(&w->r->seq, memory_order_relaxed);
    w->r->records[seq / 2 % RECORDS].end = w->now.end = clock_ns();
    atomic_store(&w->r->seq, seq + 1);
}

/* ---- the steps ------------------------------------------------------------------------ */
static char *page(const struct worker *w, unsigned i)
{
    return (char *)(uintptr_t)w->r->start + (size_t)i * PS;
}

static uint64_t bits(unsigned first, unsigned n)
{
    return (n == PAGES ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << first;
}

/* The run of pages from `first` on that are all in `mask`, `most` at most. */
static unsigned run(uint64_t mask, unsigned first, unsigned most)
{
    unsigned n = 0;
    while (n < most && first + n < PAGES && mask >> (first + n) & 1)
        n++;
    return n;
}

static void map_pages(struct worker *w, unsigned first, unsigned n)
{
    int shared = w->r->kind == SHMEM, fd = memory[w->r->kind];
    int flags = MAP_FIXED | MAP_NORESERVE | (shared ? MAP_SHARED : MAP_PRIVATE) |
                (fd < 0 ? MAP_ANONYMOUS : 0);
    void *p = mmap(page(w, first), (size_t)n * PS, PROT_READ | PROT_WRITE, flags, fd,
                   fd < 0 ? 0 : (off_t)first * PS);
    if (p != page(w, first))
        abort();
}

static void write_pages(struct worker *w, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++)
        *(volatile char *)page(w, i) = (char)i;
}

static void step_map(struct worker *w, unsigned first, unsigned n)
{
    uint64_t b = bits(first, n);
    struct record next = w->now;
    next.mapped |= b;
    next.readable |= b;
    next.writable |= b;
    next.written &= ~b;
    next.read &= ~b;
    announce(w, MAP, next);
    map_pages(w, first, n);
    done(w);
}

static void step_unmap(struct worker *w, unsigned first, unsigned n)
{
    uint64_t b = bits(first, n);
    struct record next = w->now;
    next.mapped &= ~b;
    next.readable &= ~b;
    next.writable &= ~b;
    next.written &= ~b;
    next.read &= ~b;
    announce(w, UNMAP, next);
    munmap(page(w, first), (size_t)n * PS);
    done(w);
}

static void step_protect(struct worker *w, unsigned first, unsigned n)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    int prot = prots[below(&w->random, 3)];
    if (!(n = run(w->now.mapped, first, n)))
        return;
    uint64_t b = bits(first, n);
    struct record next = w->now;
    next.readable = (next.readable & ~b) | (prot & PROT_READ ? b : 0);
    next.writable = (next.writable & ~b) | (prot & PROT_WRITE ? b : 0);
    announce(w, PROTECT, next);
    mprotect(page(w, first), (size_t)n * PS, prot);
    done(w);
}

static void step_write(struct worker *w, unsigned first, unsigned n)
{
    if (!(n = run(w->now.writable, first, n)))
        return;
    struct record next = w->now;
    next.written |= bits(first, n);
    announce(w, WRITE, next);
    write_pages(w, first, n);
    done(w);
}

static void step_read(struct worker *w, unsigned first, unsigned n)
{
    if (w->r->kind == SHMEM || !(n = run(w->now.readable, first, n)))
        return;
    struct record next = w->now;
    next.read |= w->r->kind == FILE_COPY ? ~UINT64_C(0) : bits(first, n);
    announce(w, READ, next);
    for (unsigned i = first; i < first + n; i++)
        (void)*(volatile char *)page(w, i);
    done(w);
}

static void step_drop(struct worker *w, unsigned first, unsigned n)
{
    if (!(n = run(w->now.mapped, first, n)))
        return;
    struct record next = w->now;
    next.written &= ~bits(first, n);
    next.read &= ~bits(first, n);
    announce(w, DROP, next);
    madvise(page(w, first), (size_t)n * PS, MADV_DONTNEED);
    done(w);
}

/* There and back again: a reader that looks before and after sees no difference. */
static void step_flicker(struct worker *w, unsigned first)
{
    if (!(w->now.writable >> first & 1))
        return;
    if (w->now.written >> first & 1) {
        step_drop(w, first, 1);
        step_write(w, first, 1);
    } else {
        step_write(w, first, 1);
        step_drop(w, first, 1);
    }
}

static void reap_child(struct worker *w)
{
    uint64_t forks = atomic_load_explicit(&w->r->forks, memory_order_relaxed);
    if (!w->child)
        return;
    waitpid(w->child, NULL, 0);
    w->child = 0;
    w->r->children[forks / 2 % CHILDREN].reaped = clock_ns();
    atomic_store(&w->r->forks, forks + 1);
}

/* The child lives for a while, and copies some pages for itself. */
static void step_fork(struct worker *w, unsigned first, unsigned n)
{
    unsigned lives = below(&w->random, 4) ? 0 : below(&w->random, 20000);
    reap_child(w);
    uint64_t forks = atomic_load_explicit(&w->r->forks, memory_order_relaxed);
    w->r->children[forks / 2 % CHILDREN] = (struct child){.forked = clock_ns()};
    atomic_store(&w->r->forks, forks + 1);
    announce(w, FORK, w->now);
    w->child = fork();
    if (w->child == 0) {
        write_pages(w, first, run(w->now.writable, first, n));
        rest(lives);
        _exit(0);
    }
    done(w);
}

static void step(struct worker *w)
{
    static const unsigned char often[] = {MAP,     UNMAP,   PROTECT, PROTECT, WRITE, WRITE,
                                          WRITE,   WRITE,   READ,    READ,    DROP,  DROP,
                                          FLICKER, FLICKER, FLICKER, FORK};
    unsigned op = often[below(&w->random, sizeof often)];
    unsigned first = below(&w->random, PAGES), n = 1 + below(&w->random, 12);
    n = n < PAGES - first ? n : PAGES - first;
    switch (op) {
    case MAP:
        step_map(w, first, n);
        break;
    case UNMAP:
        step_unmap(w, first, n);
        break;
    case PROTECT:
        step_protect(w, first, n);
        break;
    case WRITE:
        step_write(w, first, n);
        break;
    case READ:
        step_read(w, first, n);
        break;
    case DROP:
        step_drop(w, first, n);
        break;
    case FLICKER:
        step_flicker(w, first);
        break;
    default:
        if (may_fork && !below(&w->random, 4))
            step_fork(w, first, n);
        else if (w->child && waitpid(w->child, NULL, WNOHANG | WNOWAIT) == w->child)
            reap_child(w);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (;;) {
        if (!atomic_load(&board->gate)) {
            atomic_fetch_add(&board->parked, 1);
            while (!atomic_load(&board->gate))
                futex(&board->gate, FUTEX_WAIT, 0);
            atomic_fetch_sub(&board->parked, 1);
        }
        step(w);
        if (pace)
            rest(below(&w->random, 2 * pace));
    }
    return NULL;
}

static void start_worker(struct worker *w, unsigned i, uint64_t seed, size_t ballast)
{
    pthread_t thread;
    w->r = &board->regions[i];
    w->r->start = BASE + i * APART;
    w->r->kind = i;
    w->random = (seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    if (ballast) {
        char *p = mmap(page(w, 2 * PAGES), ballast * PS, PROT_READ | PROT_WRITE,
                       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t k = 0; k < ballast; k++)
            p[k * PS] = 1;
    }
    announce(w, START, w->now);
    map_pages(w, 0, PAGES); /* what is mapped first is written whole once, and dropped again */
    write_pages(w, 0, PAGES);
    madvise(page(w, 0), (size_t)PAGES * PS, MADV_DONTNEED);
    w->now.mapped = w->now.readable = w->now.writable = ~UINT64_C(0);
    done(w);
    w->r->records[0] = w->now;
    need(pthread_create(&thread, NULL, work, w) == 0, "pthread_create");
}

int main(int argc, char **argv)
{
    static struct worker workers[REGIONS];
    if (argc < 9)
        return 2;
    uint64_t random = strtoull(argv[3], NULL, 10) * 2 + 1;
    unsigned busy = (unsigned)atoi(argv[5]), idle = (unsigned)atoi(argv[6]);
    pace = (unsigned)atoi(argv[4]);
    may_fork = atoi(argv[7]);
    memory[ANON] = memory[ANON_TOO] = -1;
    memory[FILE_COPY] = atoi(argv[2]);
    memory[SHMEM] = memfd_create("mutator", 0);
    say_start();
    need(ftruncate(memory[SHMEM], (off_t)PAGES * PS) == 0, "memfd_create");
    need(ftruncate(atoi(argv[1]), sizeof *board) == 0, "ftruncate");
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                 atoi(argv[1]), 0);
    need(board != MAP_FAILED, "mmap");
    board->sizes[0] = sizeof *board;
    board->sizes[1] = sizeof(struct region);
    board->sizes[2] = sizeof(struct record);
    for (unsigned i = 0; i < REGIONS; i++)
        start_worker(&workers[i], i, random, strtoull(argv[8], NULL, 10));
    say_begin("mutator");
    say_end();
    for (;;) {
        while (atomic_load(&board->parked) != REGIONS)
            rest(100);
        rest(300); /* the last of them is asleep by now */
        atomic_fetch_add(&board->quiet, 1);
        rest(busy ? below(&random, 2 * idle) : 1000000);
        atomic_fetch_add(&board->quiet, 1);
        if (!busy)
            continue;
        atomic_store(&board->gate, 1);
        futex(&board->gate, FUTEX_WAKE, REGIONS);
        while (atomic_load(&board->parked))
            rest(50);
        rest(below(&random, 2 * busy));
        atomic_store(&board->gate, 0);
    }
}
