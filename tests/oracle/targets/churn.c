/* SPDX-License-Identifier: MIT
 *
 * churn.c - memory that is mapped, protected, moved, split, collapsed, dropped and forked all the
 * time, of which all the same something is true at every moment.
 *
 *   churn DIRECTORY FORKS
 *
 * It makes a file in the directory; with FORKS 0 it has no children.  The state of an area says what is true of each
 * ordinary page in it, whenever one is there: "YP" and so on as ptes has it, with "?" for
 * what may be either; "xx" means P where it is anonymous, and no P where it is the file's.
 */
#include "blocks.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

enum { COLD = 20, COLLAPSE = 25 };
enum { WINDOW = 64, ROOM = 2 * WINDOW * PS };

static int file;
static char *dirty, *clean, *both, *large;

static uint32_t below(uint64_t *random, uint32_t n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)((*random >> 16) % n);
}

static void rest(uint64_t *random, unsigned us)
{
    struct timespec t = {.tv_nsec = (long)below(random, us) * 1000};
    nanosleep(&t, NULL);
}

/* Written by the kernel before anybody sees it mapped; so it is never present and clean. */
static void map_dirty(char *at, size_t pages)
{
    mmap(at, pages * PS, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0);
}

static void map_clean(char *at, size_t pages)
{
    mmap(at, pages * PS, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_POPULATE, file,
         (off_t)((uintptr_t)at / PS % 256 * PS));
}

/* Protects, moves, drops or unmaps some pages; whatever they are, they stay what they are. */
static void disturb(uint64_t *random, char *window, unsigned first, unsigned n)
{
    static const int prots[] = {PROT_NONE, PROT_READ};
    char *at = window + (size_t)first * PS, *other = window + (size_t)(WINDOW + first) * PS;
    switch (below(random, 5)) {
    case 0:
    case 1:
        mprotect(at, (size_t)n * PS, prots[below(random, 2)]);
        break;
    case 2:
        mremap(at, (size_t)n * PS, (size_t)n * PS, MREMAP_MAYMOVE | MREMAP_FIXED, other);
        break;
    case 3:
        madvise(at, (size_t)n * PS, MADV_DONTNEED);
        break;
    default:
        munmap(at, (size_t)n * PS);
    }
}

static void *churn_small(void *arg)
{
    uint64_t random = (uintptr_t)arg;
    for (;;) {
        unsigned first = below(&random, WINDOW), n = 1 + below(&random, WINDOW - first);
        unsigned which = below(&random, 3);
        char *window = which == 0 ? dirty : which == 1 ? clean : both;
        char *at = window + (size_t)first * PS;
        if (which == 0 || (which == 2 && below(&random, 2)))
            map_dirty(at, n);
        else
            map_clean(at, n);
        rest(&random, 100);
        first = below(&random, WINDOW), n = 1 + below(&random, WINDOW - first);
        disturb(&random, window, first, n);
        rest(&random, 100);
    }
    return NULL;
}

/* Huge pages, taken apart and put together again. */
static void *churn_large(void *arg)
{
    uint64_t random = (uintptr_t)arg;
    for (;;) {
        unsigned first = below(&random, 512), n = 1 + below(&random, 512 - first);
        char *part = large + (size_t)first * PS;
        mmap(large, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        madvise(large, HUGE, MADV_HUGEPAGE);
        write_pages(large, 512);
        rest(&random, 2000);
        switch (below(&random, 4)) {
        case 0:
            mprotect(part, (size_t)n * PS, PROT_READ);
            break;
        case 1:
            mprotect(part, (size_t)n * PS, PROT_NONE);
            break;
        case 2:
            madvise(part, (size_t)n * PS, MADV_DONTNEED);
            break;
        default:
            munmap(part, (size_t)n * PS);
        }
        rest(&random, 2000);
        madvise(large, HUGE, COLLAPSE);
        rest(&random, 2000);
    }
    return NULL;
}

static void fork_forever(void)
{
    uint64_t random = 99;
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            rest(&random, 3000);
            _exit(0);
        }
        if (child > 0)
            waitpid(child, NULL, 0);
        rest(&random, 10000);
    }
}

static void *wait_for_end(void *arg)
{
    char line[16];
    while (next_command(line, sizeof line))
        ;
    exit(0);
    return arg;
}

static char *room(void)
{
    char *p = isolate(ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, ROOM);
    return p;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    say_start();
    if (argc < 3)
        return 2;
    file = make_file(argv[1], 512, PS);
    dirty = room(), clean = room(), both = room();
    large = isolate(HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    stay_on_one_cpu(); /* advice passes over pages that another CPU still queues */
    char *written = anonymous(WINDOW), *hidden = anonymous(WINDOW), *freed = anonymous(WINDOW);
    char *cold = anonymous(WINDOW), *whole = isolate(HUGE, 3, 34, -1, HUGE);
    char *shm = isolate(WINDOW * PS, 3, MAP_SHARED | MAP_ANONYMOUS, -1, GROUP);
    char *seen = map_file(file, WINDOW, 3, MAP_PRIVATE);
    madvise(whole, HUGE, MADV_HUGEPAGE);
    write_pages(written, WINDOW), write_pages(hidden, WINDOW), write_pages(freed, WINDOW);
    write_pages(cold, WINDOW), write_pages(whole, 512), write_pages(shm, WINDOW);
    read_pages(seen, WINDOW);
    mprotect(hidden, WINDOW * PS, PROT_NONE);
    madvise(freed, WINDOW * PS, MADV_FREE);
    madvise(cold, WINDOW * PS, COLD);
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int i = 0; i < CPU_SETSIZE; i++)
        CPU_SET(i, &all);
    sched_setaffinity(0, sizeof all, &all);
    say_begin("churn");
    say_area("written", written, WINDOW, "?P", 0);
    say_area("hidden", hidden, WINDOW, "?P", 0);
    say_area("freed", freed, WINDOW, "__", 0);
    say_area("cold", cold, WINDOW, "_P", 0);
    say_area("whole", whole, 512, "?P", 0);
    say_area("shm", shm, WINDOW, "?P", 0);
    say_area("seen", seen, WINDOW, "?_", 0);
    say_area("dirty", dirty, 2 * WINDOW, "?P", 0);
    say_area("clean", clean, 2 * WINDOW, "?_", 0);
    say_area("both", both, 2 * WINDOW, "xx", 0);
    say_area("large", large, 512, "?P", 0);
    for (uintptr_t i = 1; i <= 2; i++)
        need(!pthread_create(&thread, NULL, churn_small, (void *)(i * 0x9e3779b97f4a7c15u)),
             "thread");
    need(!pthread_create(&thread, NULL, churn_large, (void *)0x2545f4914f6cdd1du), "thread");
    need(!pthread_create(&thread, NULL, wait_for_end, NULL), "thread");
    say_end();
    if (atoi(argv[2]))
        fork_forever();
    pause();
    return 0;
}
