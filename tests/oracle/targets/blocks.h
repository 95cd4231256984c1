/* SPDX-License-Identifier: MIT
 *
 * blocks.h - what targets put memory into states with.
 */
#ifndef BLOCKS_H
#define BLOCKS_H

#include "say.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/statfs.h>

enum { GROUP = 16 * PS, HUGE = 2 << 20 }; /* GROUP: what one read fault maps around it */

static volatile char sink;

static inline char *isolate(size_t length, int prot, int flags, int fd, size_t align)
{
    char *base = mmap(NULL, length + 2 * align + 2 * PS, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(base != MAP_FAILED, "mmap");
    char *start = (char *)(((uintptr_t)base + PS + align - 1) / align * align);
    start = mmap(start, length, prot, flags | MAP_FIXED, fd, 0);
    need(start != MAP_FAILED, "mmap");
    return start;
}

static inline char *anonymous(size_t pages)
{
    return isolate(pages * PS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, GROUP);
}

static inline void write_pages(char *start, size_t pages)
{
    static uint64_t unique;
    for (size_t i = 0; i < pages; i++)
        *(volatile uint64_t *)(start + i * PS) = 0x9e3779b97f4a7c15u * ++unique;
}

static inline void read_pages(const char *start, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        sink = ((const volatile char *)start)[i * PS];
}

/* A file of random-looking pages, written `step` bytes at a time, on disk, already unlinked. */
static inline int make_file(const char *where, size_t pages, size_t step)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/zoo-XXXXXX", where);
    int fd = mkstemp(path);
    need(fd >= 0, path);
    unlink(path);
    static char block[HUGE];
    for (size_t at = 0; at < pages * PS; at += step) {
        for (size_t i = 0; i < step; i += PS)
            *(uint64_t *)(block + i) = 0x2545f4914f6cdd1du * (at + i + 1);
        need(write(fd, block, step) == (ssize_t)step, "write");
    }
    need(fsync(fd) == 0, "fsync");
    return fd;
}

static inline char *map_file(int fd, size_t pages, int prot, int flags)
{
    return isolate(pages * PS, prot, flags, fd, GROUP);
}

/* Pages of a file that is nowhere but in memory are never cleaned by writing them back. */
static inline void need_disk(int fd)
{
    const unsigned tmpfs = 0x01021994, ramfs = 0x858458f6;
    struct statfs fs;
    need(!fstatfs(fd, &fs), "fstatfs");
    errno = EMEDIUMTYPE;
    need((unsigned)fs.f_type != tmpfs && (unsigned)fs.f_type != ramfs,
         "a file system on a disk (TMPDIR)");
}

/* The kernel queues fresh and freed pages per CPU, and madvise only pushes its own CPU's queue
 * through: a page left in another's is neither paged out nor seen as lazily freed.
 */
static inline void stay_on_one_cpu(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    need(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
}

#endif
