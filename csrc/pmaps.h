/* SPDX-License-Identifier: MIT
 *
 * pmaps.h - the one public header of the capture engine.
 *
 * A capture turns kernel files into a snapshot: one flat, immutable block that
 * holds the process, its mappings, and columns of page ranges.  Which call
 * fills which field:
 *
 *   pm_capture()  what a request asks for, from a live process
 *   pm_record()   the same, and writes down all that the kernel said
 *   pm_replay()   what pm_record() gave, out of what it wrote down
 *   pm_build()    what the caller hands in, after checking it (saved snapshots)
 *   pm_count()    interval counts over address windows of one snapshot
 *   pm_new()      interval counts of pages that are new against another one
 *   pm_common()   interval count of pages that two processes share
 *   pm_union()    interval count of pages that several processes hold between them
 *   pm_touched_add()  what two snapshots say of which pages were touched between them
 *   pm_written_*  what this process wrote between two moments
 *   pm_heap()     bytes that malloc has handed out to this process
 *   pm_probe()    what this host lets us see
 *
 * Every function returns 0 or a negative code: -errno, or one of -PM_E_*.
 * Nothing prints, nothing exits, and page frame numbers stay in here.
 */
#ifndef PMAPS_H
#define PMAPS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PM_API __attribute__((visibility("default")))
#else
#define PM_API
#endif

/* ---- page states -------------------------------------------------------
 * Each is three-valued: a bit in `known` says whether the bit in `set` means
 * anything.  0..6 are the RFC's flags in the RFC's order.
 */
enum pm_bit {
    PM_YOUNG = 0,      /* Y: PTE accessed */
    PM_REFERENCED = 1, /* R: PG_referenced, folio-wide */
    PM_ACTIVE = 2,     /* A: PG_active, folio-wide */
    PM_UPTODATE = 3,   /* U: PG_uptodate, folio-wide */
    PM_PTEDIRTY = 4,   /* P: PTE dirty */
    PM_PAGEDIRTY = 5,  /* D: PG_dirty, folio-wide */
    PM_WRITEBACK = 6,  /* W: PG_writeback, folio-wide */

    PM_PRESENT = 7,     /* the page table entry maps something */
    PM_NORMAL = 8,      /* ... that is an ordinary page: it counts in Rss, the RFC lists it */
    PM_SWAPPED = 9,     /* really swapped out (not a guard, uffd or migration entry) */
    PM_FILE = 10,       /* page of a file or shmem object, not a private copy */
    PM_ANON = 11,       /* present anonymous page or private copy: smaps Anonymous */
    PM_EXCLUSIVE = 12,  /* mapped exactly once */
    PM_HUGE = 13,       /* mapped by a PMD or larger entry */
    PM_ZERO = 14,       /* the shared zero page, or the huge zero page */
    PM_SOFTDIRTY = 15,  /* written since clear_refs 4, where the kernel has it */
    PM_UFFDWP = 16,     /* write-protected by userfaultfd */
    PM_KSM = 17,        /* merged by KSM */
    PM_GUARD = 18,      /* guard page (MADV_GUARD_INSTALL) */
    PM_LAZYFREE = 19,   /* clean after MADV_FREE: the kernel may drop it */
    PM_DIRTY = 20,      /* dirty in this project's sense; see docs/dirty.md */
    PM_TOUCHED = 21,    /* what smaps Referenced counts: Y, or R, or the kernel's own note of Y */
    PM_PORD = 22,       /* P or D: what smaps Private_Dirty + Shared_Dirty count */
    PM_RACED = 23,      /* changed while it was captured: nothing else is claimed of it */
    PM_SHARED = 24,     /* NORMAL and mapped more than once */
    PM_N_BITS = 25,
    PM_MAPCOUNT = 25,   /* not a bit: the slot for mapcount in `evidence` */
    PM_N_FACTS = 26
};

/* ---- sources: the kernel interfaces that can prove a fact --------------- */
enum pm_source {
    PM_SRC_MAPS = 0,   /* /proc/PID/maps: kind and permissions of the mapping */
    PM_SRC_PAGEMAP,    /* /proc/PID/pagemap */
    PM_SRC_SCAN,       /* PAGEMAP_SCAN */
    PM_SRC_KPAGEFLAGS, /* /proc/kpageflags */
    PM_SRC_KPAGECOUNT, /* /proc/kpagecount */
    PM_SRC_SMAPS,      /* /proc/PID/smaps */
    PM_SRC_NUMA_MAPS,  /* /proc/PID/numa_maps */
    PM_SRC_PTE,        /* page table entries themselves */
    PM_SRC_FILE,       /* the mapped file (ELF program headers, its type) */
    PM_SRC_TEXT,       /* said by an RFC text or a JSON file without naming its source */
    PM_N_SOURCES
};

/* ---- smaps counters, in bytes; -1 where the kernel did not print it ------ */
enum pm_counter {
    PM_C_SIZE = 0,
    PM_C_KERNEL_PAGE_SIZE,
    PM_C_MMU_PAGE_SIZE,
    PM_C_RSS,
    PM_C_PSS,
    PM_C_PSS_DIRTY,
    PM_C_SHARED_CLEAN,
    PM_C_SHARED_DIRTY,
    PM_C_PRIVATE_CLEAN,
    PM_C_PRIVATE_DIRTY,
    PM_C_REFERENCED,
    PM_C_ANONYMOUS,
    PM_C_KSM,
    PM_C_LAZY_FREE,
    PM_C_ANON_HUGE_PAGES,
    PM_C_SHMEM_PMD_MAPPED,
    PM_C_FILE_PMD_MAPPED,
    PM_C_SHARED_HUGETLB,
    PM_C_PRIVATE_HUGETLB,
    PM_C_SWAP,
    PM_C_SWAP_PSS,
    PM_C_LOCKED,
    /* numa_maps, in pages of the mapping; -1 where it was not printed or not read */
    PM_C_NUMA_PAGES,
    PM_C_NUMA_DIRTY,
    PM_C_NUMA_MAPMAX,
    PM_C_NUMA_ACTIVE,
    PM_C_NUMA_WRITEBACK,
    PM_N_COUNTERS
};

/* ---- mappings ----------------------------------------------------------- */
enum pm_perm { PM_READ = 1, PM_WRITE = 2, PM_EXEC = 4, PM_SHARED_MAP = 8 };

enum pm_kind {
    PM_KIND_UNKNOWN = 0,
    PM_KIND_ANON,    /* anonymous VMA: heap, stack, malloc, private /dev/zero */
    PM_KIND_FILE,    /* regular file */
    PM_KIND_SHMEM,   /* tmpfs, memfd, SysV, shared anonymous */
    PM_KIND_SPECIAL, /* [vdso], [vvar], devices, ring buffers: nothing is inferred */
    PM_KIND_HUGETLB  /* listed and marked; the RFC skips it whole */
};

/* Per mapping, what went wrong; 0 is good. */
enum pm_trouble {
    PM_T_CHANGED = 1 << 0,    /* the mapping itself differed after the capture */
    PM_T_RACED = 1 << 1,      /* pages or counters of the target changed meanwhile */
    PM_T_RSS = 1 << 2,        /* pages do not add up to smaps Rss */
    PM_T_ANONYMOUS = 1 << 3,  /* private copies do not add up to smaps Anonymous */
    PM_T_DIRTY = 1 << 4, /* P or D of its own pages contradicts Private_Dirty + Shared_Dirty */
    PM_T_PRIVATE = 1 << 5, /* mapcounts contradict Private_Clean + Private_Dirty */
    PM_T_PSS = 1 << 6, /* mapcounts contradict Pss */
    PM_T_SWAP = 1 << 7, /* swap entries contradict smaps Swap */
    PM_T_OTHERS = 1 << 8, /* other processes, or the kernel, moved shared states meanwhile */
    PM_T_STALE = 1 << 9 /* physical pages were reused while they were looked up */
};

/* Index of a mapping's first page: how far to trust it. */
enum pm_index_trust {
    PM_INDEX_EXACT = 0, /* file offset */
    PM_INDEX_GUESS = 1 /* anonymous memory: right unless it was mremapped (or moved: [stack]) */
};

typedef struct pm_mapping {
    uint64_t start, end; /* addresses; end is exclusive */
    uint64_t offset; /* as maps prints it, bytes */
    uint64_t inode;
    uint64_t index; /* page index of the first page, see index_trust */
    uint32_t dev_major, dev_minor;
    uint32_t name, name_len; /* in the string pool; unescaped; "" when maps prints none */
    uint32_t vmflags, vmflags_len; /* smaps VmFlags, e.g. "rd wr mr"; len 0 when unseen */
    uint32_t extra, extra_len; /* smaps lines this version does not know, verbatim */
    uint32_t first_range, n_ranges;
    uint32_t object; /* 1 + index of its file in objects; 0: no file */
    uint32_t trouble;
    uint8_t perms, kind, index_trust, counters_moved;
    uint32_t raced_pages; /* pages of it that changed during the capture */
    uint32_t drifted_pages; /* pages whose sharing others changed during the capture */
    uint16_t evidence[PM_N_FACTS]; /* mask of 1 << pm_source, per fact */
    uint64_t dirty_lo, dirty_hi; /* dirty pages of the whole mapping, as counters bound them */
} pm_mapping;

/* The counters of one mapping, as pm_counter tells; read once they are twice the same. */
typedef struct pm_counters {
    int64_t before[PM_N_COUNTERS]; /* read before the pages ... */
    int64_t after[PM_N_COUNTERS]; /* ... and after them */
} pm_counters;

/* A mapped file whose ELF program headers were asked for. */
enum pm_elf_status {
    PM_ELF_OK = 0,
    PM_ELF_NOT = 1, /* read, and it is not ELF (or has no loadable segment) */
    PM_ELF_UNREADABLE = 2, /* could not be opened: see err */
    PM_ELF_REPLACED = 3, /* the path now holds another file than the one mapped */
    PM_ELF_PLAIN = 4, /* ELF, but mapped as plain data, not by a loader */
    PM_ELF_UNASKED = 5 /* this depth does not ask for headers */
};

typedef struct pm_object {
    uint32_t name, name_len; /* path as in maps */
    uint32_t dev_major, dev_minor;
    uint64_t inode;
    uint32_t first_part, n_parts;
    int32_t status; /* pm_elf_status */
    int32_t err; /* errno when unreadable */
} pm_object;

enum pm_part_kind { PM_TEXT = 0, PM_RODATA, PM_RELRO, PM_DATA, PM_BSS, PM_N_PARTS };

typedef struct pm_part {
    uint64_t start, end; /* page-aligned addresses */
    uint32_t kind, object;
} pm_part;

/* ---- the snapshot ------------------------------------------------------- */
typedef struct pm_header {
    int64_t pid;
    uint64_t start_time; /* /proc/PID/stat field 22, clock ticks since boot; 0 unknown */
    uint64_t captured_ns; /* CLOCK_REALTIME; 0 unknown */
    uint64_t page_size;
    uint64_t vm_hwm, vm_rss, vm_pte, vm_swap; /* /proc/PID/status, bytes; UINT64_MAX unseen */
    uint32_t sources; /* mask of 1 << pm_source that answered in this capture */
    uint32_t complete; /* 1: every mapping and page was read to the end */
    uint32_t self; /* 1: the process captured itself */
    uint32_t appeared; /* mappings that appeared meanwhile and are not listed */
    uint64_t raced_pages; /* pages that changed, came or went meanwhile */
    uint64_t missed_pages; /* pages that totals say were missed, or met twice, as memory moved */
    uint32_t depth; /* pm_depth */
    uint32_t partial; /* 1: only some addresses were asked for, or reached */
    uint64_t next; /* where a capture that was full before the end goes on; 0: it got there */
    uint64_t stopped_ns; /* for how long the target stood still; 0: it ran */
    uint64_t faults; /* page faults of the target meanwhile: it did something, somewhere */
    uint64_t pte_disagreed; /* present pages whose page table entry said otherwise, or moved */
    uint64_t hidden_rss; /* self: bytes of the engine's own memory, in vm_rss and left out else */
    char comm[16];
} pm_header;

typedef struct pm_snapshot pm_snapshot;

/* All pointers are into the snapshot and live as long as it does. */
typedef struct pm_columns {
    const pm_mapping *mappings;
    const pm_counters *counters; /* of each mapping; NULL where none were read */
    const pm_object *objects;
    const pm_part *parts;
    const char *strings;
    size_t n_mappings, n_objects, n_parts, n_strings, n_ranges;
    const uint64_t *page; /* virtual page number: address / page_size */
    const uint64_t *count; /* pages */
    const uint32_t *set, *known;
    const uint32_t *mapcount_lo, *mapcount_hi; /* hi UINT32_MAX: no bound */
} pm_columns;

/* How deep a capture looks; a caller pays for what it asks. */
enum pm_depth {
    PM_TOTALS = 0, /* smaps_rollup: one mapping, [rollup], with the counters of all */
    PM_MAPPINGS, /* every mapping with its counters, and no page */
    PM_PAGES, /* maps and pagemap, read once: what a page table entry alone says */
    PM_FULL /* everything, read twice and held against each other */
};

/* Addresses [start, end). */
typedef struct pm_extent {
    uint64_t start, end;
} pm_extent;

typedef struct pm_request {
    int64_t pid; /* 0: this process */
    int32_t depth; /* pm_depth */
    int32_t counters; /* 0 leaves smaps and numa_maps, which hold up the target, alone */
    const pm_extent *extents; /* only these addresses, ascending and apart; none: all */
    size_t n_extents;
    uint64_t max_pages; /* stop after so many pages, and say in `next` where; 0: no limit */
    int32_t stopper; /* socket to a pmaps-tracer of the target; -1: let it run */
    int32_t young; /* 1: Y of each page too, where page tables can be read; it moves by itself */
    int32_t held; /* 1: somebody else holds it still: stopped_ns says so, nothing relies on it */
    int32_t thread; /* look through this thread of it, whose first has ended; 0: no need to */
    /* Every few milliseconds, outside of a stop; not 0 cancels (-ECANCELED). */
    int (*tick)(void *arg, uint64_t done, uint64_t total);
    void *tick_arg;
} pm_request;

/* Where a failure happened; with the code it makes the message. */
enum pm_stage {
    PM_AT_NOTHING = 0,
    PM_AT_PROC,
    PM_AT_STAT,
    PM_AT_MAPS,
    PM_AT_SMAPS,
    PM_AT_NUMA_MAPS,
    PM_AT_PAGEMAP,
    PM_AT_KPAGEFLAGS,
    PM_AT_KPAGECOUNT,
    PM_AT_SCAN,
    PM_AT_ARENA,
    PM_AT_BUILD,
    PM_AT_STOP,
    PM_AT_REQUEST,
    PM_AT_RECORDING
};

/* Codes beyond errno (returned negated). */
enum pm_code {
    PM_E_GONE = 10001, /* exited (or was never there) */
    PM_E_ZOMBIE = 10002, /* exited, not yet reaped: it has no memory */
    PM_E_KTHREAD = 10003, /* kernel thread: it has no memory of its own */
    PM_E_EXEC = 10004, /* replaced its program while it was captured */
    PM_E_FORMAT = 10005, /* a kernel file or a saved snapshot does not read as expected */
    PM_E_BUSY = 10006, /* kept growing faster than it could be captured */
    PM_E_FOREIGN = 10007, /* the snapshots are of different page sizes */
    PM_E_HEADLESS = 10008 /* its main thread has ended, others go on: /proc/PID has no memory */
};

typedef struct pm_error {
    int32_t code; /* as returned, not negated */
    int32_t stage; /* pm_stage */
    uint64_t line; /* pm_build: 1 + index of the offending mapping; else 0 */
    char detail[160];
} pm_error;

PM_API int pm_capture(const pm_request *request, pm_snapshot **out, pm_error *err);
PM_API int pm_build(const pm_header *header, const pm_columns *columns, pm_snapshot **out,
                    pm_error *err);
/* pm_capture(), with its raw input written to the file `fd`, which is cut to it.  Of a
 * capture that failed too, unless with stage PM_AT_RECORDING.  `writer` names the program. */
PM_API int pm_record(const pm_request *request, int32_t fd, const char *writer, pm_snapshot **out,
                     pm_error *err);
/* From a recording alone; -PM_E_FORMAT with stage PM_AT_RECORDING where it is none, is damaged,
 * or does not hold what this version reads. */
PM_API int pm_replay(const void *data, size_t len, pm_snapshot **out, pm_error *err);
PM_API void pm_free(pm_snapshot *snapshot);
/* Frees what lies there, if anything does; for finalizers, as are the two below. */
PM_API void pm_drop(pm_snapshot *const *snapshot);
PM_API const pm_header *pm_get_header(const pm_snapshot *snapshot);
PM_API void pm_get_columns(const pm_snapshot *snapshot, pm_columns *out);

/* ---- counting ----------------------------------------------------------- */
/* A window of one mapping; start and end page-aligned and inside it. */
typedef struct pm_window {
    uint64_t start, end;
    uint32_t mapping;
} pm_window;

/* What page ranges alone say, in pages, each as lo..hi.  pss is in bytes. */
enum pm_metric {
    /* 0..PM_N_BITS-1: pages with that bit set */
    PM_M_PRIVATE_CLEAN = PM_N_BITS,
    PM_M_PRIVATE_DIRTY,
    PM_M_SHARED_CLEAN,
    PM_M_SHARED_DIRTY,
    PM_M_PSS,
    PM_N_METRICS
};

typedef struct pm_interval {
    uint64_t lo, hi;
} pm_interval;

PM_API int pm_count(const pm_snapshot *snapshot, const pm_window *windows, size_t n,
                    pm_interval out[PM_N_METRICS]);
/* Pages for which the bit is set in `later` and was not in `earlier` at the
 * same address of the same mapping (same file and page index, or anonymous). */
PM_API int pm_new(const pm_snapshot *later, const pm_snapshot *earlier, const pm_window *windows,
                  size_t n, pm_interval out[PM_N_BITS]);
/* The same page by page, for reports: fills up to cap ranges of pages that are
 * (or, where undecided, may be) new for one bit; *n_out is how many there are. */
PM_API int pm_new_ranges(const pm_snapshot *later, const pm_snapshot *earlier,
                         const pm_window *windows, size_t n, uint32_t bit, uint64_t *page,
                         uint64_t *count, uint8_t *sure, size_t cap, size_t *n_out);
/* Pages of a's windows that are the very same physical page in b: by file and
 * index, or by frame where frames were visible to both captures.  Only pages of
 * b's windows count; none given means all of it. */
PM_API int pm_common(const pm_snapshot *a, const pm_window *windows, size_t n, const pm_snapshot *b,
                     const pm_window *b_windows, size_t b_n, pm_interval *out);

/* ---- several processes --------------------------------------------------- */
/* One of several processes, each of another mm, and the windows of it that count. */
typedef struct pm_member {
    const pm_snapshot *snapshot;
    const pm_snapshot *again; /* captured after all others; NULL: not */
    const pm_window *windows; /* ascending and apart; NULL: all of it */
    size_t n_windows;
    uint32_t place; /* equal: one mount and ipc namespace, where a path names one file */
    uint32_t ran; /* 1: it may have changed after `snapshot`, while others were captured */
} pm_member;

/* Physical pages in the members' windows, each counted once.  `migrated`: so many pages
 * may have moved to other frames between the first capture and the last. */
PM_API int pm_union(const pm_member *members, size_t n, uint64_t migrated, pm_interval *out);

/* 1: two processes share one mm, as after vfork; 0: they do not; or -errno. */
PM_API int pm_same_mm(int64_t a, int64_t b);
/* CPU time of a process, all of its threads, in ns: one that used none changed nothing. */
PM_API int pm_cpu_time(int64_t pid, uint64_t *ns);
/* Pages that the kernel moved to other frames since boot; -ENODATA: it does not say. */
PM_API int pm_migrated(uint64_t *pages);

/* ---- what this process wrote -------------------------------------------- */
/* A page between two moments, the beginning and the end of a window. */
enum pm_written_state {
    PM_W_CLEAN = 0, /* watched all the time, and not written */
    PM_W_WRITTEN,   /* written, by this process or by the kernel for it */
    PM_W_EMPTY,     /* not watched, and holds nothing that could have been written */
    /* not known: */
    PM_W_LOST,    /* given back or collapsed meanwhile, and its watch with it */
    PM_W_NEW,     /* in memory that came, or moved, meanwhile */
    PM_W_HUGETLB, /* in memory that cannot be watched: hugetlb, */
    PM_W_SPECIAL, /* of a device or the kernel, */
    PM_W_BUSY,    /* watched by another userfaultfd, */
    PM_W_REFUSED, /* or for no reason that we know */
    PM_W_REPLACED, /* watched, but now there is another mapping; or asked for, and now none */
    PM_W_N_STATES
};

enum pm_written_method {
    PM_WRITTEN_UFFD = 1,  /* userfaultfd and PAGEMAP_SCAN */
    PM_WRITTEN_SOFTDIRTY, /* soft-dirty bits: also says "written" where it was not */
};

typedef struct pm_region {
    uint64_t start, end;
    uint32_t state; /* pm_written_state or pm_touched_state */
    uint32_t unused;
} pm_region;

typedef struct pm_written pm_written;

/* Begins a window over some addresses of this process; none: all of them.  What fails says why
 * each method does: err[0] of userfaultfd, err[1] of soft-dirty bits; where the second is used,
 * err[0] says why the first is not.  Windows may overlap, but not with soft-dirty bits: -EBUSY. */
PM_API int pm_written_begin(const pm_extent *extents, size_t n, pm_written **out, pm_error err[2]);
/* Ends it; from here on it can be asked.  -ESRCH: it is of the process that forked this one.
 * Given where the window is, so that a caller needs nothing new in the moment in which it ends. */
PM_API int pm_written_end(pm_written *const *window);
PM_API void pm_written_free(pm_written *window);
PM_API void pm_written_drop(pm_written *const *window);
PM_API int pm_written_method(const pm_written *window);
/* All that was mapped when it ended, and all that it was limited to; ascending and apart. */
PM_API void pm_written_regions(const pm_written *window, const pm_region **out, size_t *n);
/* Adds the pages of [start, end) by state. */
PM_API void pm_written_count(const pm_written *window, uint64_t start, uint64_t end,
                             uint64_t out[PM_W_N_STATES]);

/* ---- what a process touched --------------------------------------------- */
/* A page between the moment in which Y was cleared, and a capture that asked for it. */
enum pm_touched_state {
    PM_Y_NOTHING = 0, /* holds no memory, and held none */
    PM_Y_UNTOUCHED,
    PM_Y_TOUCHED,
    PM_Y_CAME, /* Y was not seen; it came by a fault, unless it was moved there (mremap) */
    /* not known: */
    PM_Y_AROUND,   /* young, and came meanwhile: it may have been mapped around another fault */
    PM_Y_HUGE,     /* part of a huge page, which has one Y */
    PM_Y_MADE,     /* young, but the kernel replaced it meanwhile (khugepaged, KSM) */
    PM_Y_UNSEEN,   /* Y was not seen; Referenced bounds these, */
    PM_Y_CLEARED,  /* and these: not young, but something else may have cleared Y */
    PM_Y_STALE,    /* not young, but a TLB may have known it from before */
    PM_Y_GONE,     /* given back meanwhile */
    PM_Y_SWAPPED,  /* swapped out at the end */
    PM_Y_RACED,    /* changed while it was captured */
    PM_Y_LEFT_OUT, /* Y was not cleared: hugetlb, or not of the kind that was asked for */
    PM_Y_N_STATES
};

/* What is known of the time between. */
enum pm_touched_how {
    PM_HOW_STAYS = 1 << 0,     /* nothing else cleared Y */
    PM_HOW_NOTED = 1 << 1,     /* what else cleared Y noted it where Referenced counts it */
    PM_HOW_FLUSHED = 1 << 2,   /* no TLB knew any page from before */
    PM_HOW_SINGLE = 1 << 3, /* a fault brings one anonymous page, or a huge one that stays so */
    PM_HOW_MERGES = 1 << 4, /* KSM is at work */
    PM_HOW_COLLAPSES = 1 << 5, /* huge pages were made of small ones, and huge pages were split */
    PM_HOW_ANON_ONLY = 1 << 6, /* Y was cleared in mappings without a file alone, */
    PM_HOW_FILE_ONLY = 1 << 7 /* or in those with one */
};

typedef struct pm_touched pm_touched;

enum pm_flush {
    PM_FLUSH_NONE = 0,
    PM_FLUSH_OURS, /* TLBs of this process, on x86-64 */
    PM_FLUSH_SOFT_DIRTY /* of any; clears soft-dirty bits too, where the kernel has them */
};

/* `flush` is what pm_touched_clear() will do. */
PM_API int pm_touched_new(int32_t flush, pm_touched **out);
/* Clears Y (and R) through a descriptor of clear_refs: 1 everywhere, 2 in mappings without a file,
 * 3 in those with one; and makes processors look again.  A window begins when it returns. */
PM_API int pm_touched_clear(pm_touched *touched, int32_t fd, int32_t which);
/* Adds one stretch of time: what was captured before Y was cleared, and at the end, with Y where
 * that can be seen.  `how` is of pm_touched_how. */
PM_API int pm_touched_add(pm_touched *touched, const pm_snapshot *begin, const pm_snapshot *end,
                          uint32_t how);
PM_API void pm_touched_free(pm_touched *touched);
PM_API void pm_touched_drop(pm_touched *const *touched);
/* All that was mapped at the end, ascending and apart; states are of pm_touched_state. */
PM_API void pm_touched_regions(const pm_touched *touched, const pm_region **out, size_t *n);
/* Adds the pages of [start, end) by state. */
PM_API void pm_touched_count(const pm_touched *touched, uint64_t start, uint64_t end,
                             uint64_t out[PM_Y_N_STATES]);
/* Anonymous pages that are no longer where they were: so many of PM_Y_CAME may be these. */
PM_API uint64_t pm_touched_moved(const pm_touched *touched);

/* ---- the heap of this process ------------------------------------------- */
/* Allocators that were asked to give the memory back that they hold and nobody uses. */
enum pm_purged {
    PM_PURGED_GLIBC = 1 << 0,
    PM_PURGED_MIMALLOC = 1 << 1,
    PM_PURGED_JEMALLOC = 1 << 2,
    PM_PURGED_TCMALLOC = 1 << 3
};

/* Asks all that are loaded; gives a mask of pm_purged. */
PM_API uint32_t pm_purge(void);
/* Bytes that malloc has handed out and not got back; -ENOTSUP: it does not say (mallinfo2). */
PM_API int pm_heap(uint64_t *bytes);

/* ---- probing ------------------------------------------------------------ */
enum pm_probe_item {
    PM_PROBE_MAPS = 0,
    PM_PROBE_SMAPS,
    PM_PROBE_NUMA_MAPS,
    PM_PROBE_PAGEMAP,
    PM_PROBE_PFN, /* pagemap shows frame numbers */
    PM_PROBE_SCAN,
    PM_PROBE_SCAN_ZERO,
    PM_PROBE_SCAN_GUARD,
    PM_PROBE_SOFTDIRTY,
    PM_PROBE_KPAGEFLAGS,
    PM_PROBE_KPAGECOUNT,
    PM_PROBE_ANON_NAMES,
    PM_PROBE_PTE,
    PM_PROBE_UFFD, /* windows over what we write; without it soft-dirty bits may do */
    PM_N_PROBES
};

/* Why page tables cannot be read, where errno does not say it. */
enum pm_pte_refusal {
    PM_PTE_NO_ARCH = 20001, /* those of this architecture are not known to us */
    PM_PTE_NO_BTF = 20002, /* the kernel does not describe its types, or lacks one we need */
    PM_PTE_NO_HELPER = 20003, /* it refused the program: lockdown, or it is too old */
    PM_PTE_NO_BASE = 20004, /* the place of physical memory was not found */
    PM_PTE_NOT_RIGHT = 20005 /* pages of our own in known states read otherwise */
};

typedef struct pm_host {
    uint64_t page_size;
    /* 0: works; errno: why not; -1: it opens but shows nothing; or an enum pm_pte_refusal */
    int32_t probe[PM_N_PROBES];
} pm_host;

PM_API int pm_probe(pm_host *out);

#ifdef __cplusplus
}
#endif
#endif
