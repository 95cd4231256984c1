/* SPDX-License-Identifier: MIT
 *
 * heap.c - what malloc holds of this process: how much is in use, and having
 * the rest given back.
 *
 * Which allocator is loaded is looked up by name each time: it may be glibc's, a
 * preloaded one, or both at once.
 */
#include "engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* ISO C has no conversion from an object pointer to a function; POSIX demands this one. */
#define FIND(type, name) ((type)(uintptr_t)dlsym(RTLD_DEFAULT, name))

/* glibc's; declared here because older ones and musl have none. */
struct mallinfo_2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};

typedef int (*mallctl_fn)(const char *, void *, size_t *, void *, size_t);
typedef int (*trim_fn)(size_t);
typedef void (*collect_fn)(bool);
typedef void (*release_fn)(void);
typedef struct mallinfo_2 (*mallinfo_fn)(void);

static bool purge_jemalloc(void)
{
    mallctl_fn mallctl = FIND(mallctl_fn, "mallctl");
    if (!mallctl)
        return false;
    mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
    /* 4096 is MALLCTL_ARENAS_ALL */
    return mallctl("arena.4096.purge", NULL, NULL, NULL, 0) == 0;
}

uint32_t pm_purge(void)
{
    trim_fn trim = FIND(trim_fn, "malloc_trim");
    collect_fn collect = FIND(collect_fn, "mi_collect");
    release_fn release = FIND(release_fn, "MallocExtension_ReleaseFreeMemory");
    uint32_t purged = purge_jemalloc() ? PM_PURGED_JEMALLOC : 0;
    if (trim) {
        trim(0);
        purged |= PM_PURGED_GLIBC;
    }
    if (collect) {
        collect(true);
        purged |= PM_PURGED_MIMALLOC;
    }
    if (release) {
        release();
        purged |= PM_PURGED_TCMALLOC;
    }
    return purged;
}

int pm_heap(uint64_t *bytes)
{
    mallinfo_fn mallinfo = FIND(mallinfo_fn, "mallinfo2");
    if (!mallinfo)
        return -ENOTSUP;
    struct mallinfo_2 info = mallinfo();
    *bytes = info.uordblks + info.hblkhd; /* of arenas, and blocks with a mapping of their own */
    return 0;
}
