/* SPDX-License-Identifier: MIT
 *
 * workloads.c - one idle process with memory of a known shape.
 *
 *     workloads SHAPE BYTES|COUNT [COUNT|FILE]
 *
 * Prints "ready" once its memory is as asked, or "cannot: WHY", and ends when
 * its standard input does.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)

static size_t page;

static _Noreturn void cannot(const char *what)
{
    printf("cannot: %s: %s\n", what, strerror(errno));
    exit(0);
}

static char *reserve(size_t bytes, int flags)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (p == MAP_FAILED)
        cannot("mmap");
    return p;
}

static uint64_t next_random(void)
{
    static uint64_t state = 20070411; /* the same order in every run */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void sequential(size_t bytes)
{
    char *p = reserve(bytes, 0);
    for (size_t at = 0; at < bytes; at += page)
        p[at] = 1;
}

/* The kernel hands out frames in the order of the touches: here they lie scattered. */
static void in_random_order(size_t bytes)
{
    size_t n = bytes / page;
    char *p = reserve(bytes, 0);
    uint32_t *order = (uint32_t *)reserve(n * sizeof *order, 0);
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = next_random() % (i + 1);
        uint32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (size_t i = 0; i < n; i++)
        p[order[i] * page] = 1;
    munmap(order, n * sizeof *order);
}

/* Every other page: as many page ranges as there can be. */
static void comb(size_t bytes)
{
    char *p = reserve(bytes, 0);
    for (size_t at = 0; at < bytes; at += 2 * page)
        p[at] = 1;
}

static void huge(size_t bytes)
{
    char *p = reserve(bytes + HUGE, 0);
    p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
    if (madvise(p, bytes, MADV_HUGEPAGE) < 0)
        cannot("no transparent huge pages (madvise)");
    for (size_t at = 0; at < bytes; at += page)
        p[at] = 1;
}

/* A sparse file: its page cache is real, and nothing is written to a disk. */
static void file(size_t bytes, const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        cannot("no file of that size");
    const volatile char *p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        cannot("mmap of a file");
    for (size_t at = 0; at < bytes; at += page)
        (void)p[at];
    close(fd);
}

/* One page each: every second one is read-only, so that the kernel does not merge them. */
static void mappings(size_t count)
{
    char *p = reserve(count * page, 0);
    for (size_t i = 0; i < count; i++)
        p[i * page] = 1;
    for (size_t i = 1; i < count; i += 2)
        if (mprotect(p + i * page, page, PROT_READ) < 0)
            cannot("that many mappings");
}

static void sparse(size_t bytes, size_t count)
{
    char *p = reserve(bytes, MAP_NORESERVE);
    for (size_t done = 0; done < count;) {
        char *at = p + next_random() % (bytes / page) * page;
        done += !*at;
        *at = 1;
    }
}

/* ---- a target that notices when it is held up --------------------------- */
static _Atomic uint64_t *longest; /* nanoseconds; the script sets it back to 0 */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* How long this thread has waited for a processor: that is the host's doing, not a reader's. */
static uint64_t queued_ns(int schedstat)
{
    char text[96] = "";
    unsigned long long ran, queued = 0;
    if (pread(schedstat, text, sizeof text - 1, 0) > 0)
        sscanf(text, "%llu %llu", &ran, &queued);
    return queued;
}

struct moment {
    uint64_t ns, queued;
};

static struct moment note(int schedstat, struct moment since)
{
    struct moment now = {now_ns(), queued_ns(schedstat)};
    uint64_t took = now.ns - since.ns, queued = now.queued - since.queued;
    if (took > queued && took - queued > *longest)
        *longest = took - queued;
    now.ns = now_ns();
    return now;
}

static void *keep_mapping(void *unused)
{
    (void)unused;
    int schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
    const struct timespec pause = {.tv_nsec = 20000}; /* leaves the processor to others */
    for (;;) {
        struct moment t = {now_ns(), queued_ns(schedstat)};
        char *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        t = note(schedstat, t);
        *p = 1;
        t = note(schedstat, t);
        munmap(p, page);
        note(schedstat, t);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void stall(size_t bytes, const char *path)
{
    int fd = open(path, O_RDWR);
    if (fd < 0)
        cannot("no file to publish in");
    longest = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (longest == MAP_FAILED)
        cannot("mmap of a file");
    sequential(bytes);
    pthread_t thread;
    if (pthread_create(&thread, NULL, keep_mapping, NULL))
        cannot("no thread");
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    page = (size_t)sysconf(_SC_PAGESIZE);
    const char *shape = argv[1], *more = argc > 3 ? argv[3] : "";
    size_t size = strtoull(argv[2], NULL, 10);
    if (strcmp(shape, "huge") != 0)
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (!strcmp(shape, "sequential"))
        sequential(size);
    else if (!strcmp(shape, "random"))
        in_random_order(size);
    else if (!strcmp(shape, "comb"))
        comb(size);
    else if (!strcmp(shape, "huge"))
        huge(size);
    else if (!strcmp(shape, "file"))
        file(size, more);
    else if (!strcmp(shape, "mappings"))
        mappings(size);
    else if (!strcmp(shape, "sparse"))
        sparse(size, strtoull(more, NULL, 10));
    else if (!strcmp(shape, "stall"))
        stall(size, more);
    else
        return 2;
    puts("ready");
    fflush(stdout);
    char end;
    return read(STDIN_FILENO, &end, 1) < 0;
}
