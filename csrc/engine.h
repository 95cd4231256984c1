/* SPDX-License-Identifier: MIT
 *
 * engine.h - what the engine's files share with each other, and nobody else.
 *
 * One capture is one `struct pm__capture` on an arena.  It is filled step by
 * step, in the order in which capture.c tells it, and laid out as a snapshot
 * at the end.
 */
#ifndef PM_ENGINE_H
#define PM_ENGINE_H

#include "pmaps.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* ---- io.c: every kernel read ------------------------------------------- */
/* What fstat and fstatfs say of an open file, as far as we ask. */
struct pm__file {
    uint32_t dev_major, dev_minor;
    uint64_t inode;
    uint32_t mode;   /* st_mode */
    uint64_t fstype; /* f_type */
};

/* What this kernel's pagemap can say; probe.c finds it out. */
struct pm__features {
    bool softdirty; /* pagemap bit 55 means something */
    bool guard;     /* pagemap bit 58 means something */
    bool scan;      /* PAGEMAP_SCAN works */
    bool pte;       /* page tables can be read */
    bool deep;      /* page tables have five levels (x86-64) */
};

/* Where a capture takes place. */
struct pm__here {
    int64_t pid; /* our own */
    uint64_t page_size;
    struct pm__features features;
    uint64_t most_pages; /* that there can be; 0: nobody knows */
    bool busy;           /* in and out: what pm__capture says of it */
};

/* Entries of a page table from an address on, or the one of a higher table that maps all of its
 * pages, or none. */
#define PM__TABLE_MOST ((size_t)512)

struct pm__table {
    uint64_t first, pages; /* virtual page number, and how many pages it covers */
    size_t n;              /* entries: one a page, or one for all */
    uint64_t entry[PM__TABLE_MOST]; /* as pagemap's, with these two bits; 0: maps nothing */
};

#define PM__PTE_YOUNG (UINT64_C(1) << 55)
#define PM__PTE_DIRTY (UINT64_C(1) << 56)
#define PM__PTE_SPECIAL (UINT64_C(1) << 57) /* the zero page, or memory without a struct page */

/* Each returns a value >= 0 or -errno.  Tests replace it to inject faults, a recording to
 * write down what is read, a replay to answer without a kernel. */
struct pm__io {
    int (*open)(void *ctx, int dir, const char *path, int flags);
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t n, uint64_t offset);
    int (*ioctl)(void *ctx, int fd, unsigned long request, void *arg);
    int (*stat)(void *ctx, int fd, struct pm__file *out);
    int (*close)(void *ctx, int fd);
    /* Called once, when an attempt at a capture begins. */
    void (*here)(void *ctx, struct pm__here *out);
    /* The device and inode that maps names for an open file; `buf` is room to work in. */
    int (*mapped)(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out);
    /* pm__is_ours, of the process that captures. */
    bool (*ours)(void *ctx, uint64_t start, uint64_t end, bool inherited);
    /* The page table of an address, in the process of an open pagemap: `most` entries at most,
     * and to the end of the table.  -EAGAIN where it changed while it was read. */
    int (*table)(void *ctx, int pagemap, uint64_t address, size_t most, struct pm__table *out);
    void *ctx;
    uint64_t table_pages; /* that one huge entry maps; 0: page size / 8, as of every machine */
};

extern const struct pm__io pm__kernel;

/* ---- descriptors.c: files that no forked child keeps ----------------------- */
int pm__open(int dir, const char *path, int flags);
int pm__close(int fd);

/* One line without its newline; return < 0 stops the walk with that code. */
typedef int pm__line_fn(void *arg, const char *line, size_t len);

int pm__each_line(const struct pm__io *io, int fd, char *buf, size_t cap, pm__line_fn *fn,
                  void *arg);
ssize_t pm__pread_full(const struct pm__io *io, int fd, void *buf, size_t n, uint64_t offset);

/* ---- arena.c: memory that does not show in a capture of ourselves -------- */
struct pm__arena {
    char *base;
    size_t size, used;
};

int pm__arena_get(struct pm__arena *arena, size_t size);
void pm__arena_put(struct pm__arena *arena);
void *pm__take(struct pm__arena *arena, size_t n, size_t each);
void *pm__take_zeroed(struct pm__arena *arena, size_t n, size_t each);
void *pm__block_new(size_t size);
void pm__block_free(void *block);
bool pm__is_ours(uint64_t start, uint64_t end, bool inherited);
size_t pm__ours(void);
size_t pm__page_round(size_t n);
/* A region that is mapped otherwise, and not inherited by forks. */
void pm__hide(void *base, size_t size);
void pm__unhide(void *base);

/* ---- the raw pages of a capture ----------------------------------------- */
/* Facts only the engine needs, above the public bits and never handed out. */
enum {
    PM__SWAPBACKED = 25,
    PM__SWAPCACHE = 26,
    PM__COMPOUND = 27,
    PM__DRIFTED = 28, /* its sharing was changed by others meanwhile */
    PM__STALE = 29,   /* its frame was reused between two reads */
    PM__KFLAGS = 30,  /* kpageflags told of it */
    PM__KCOUNT = 31,  /* mapcount comes from kpagecount, or is as sure */
    PM__FRAMED = 31   /* in `known` of a run: its frames follow each other */
};

/* Bits 56 and 61 of the entry, kept in the state of a page: frames are looked up in an order
 * of their own, in which every other array to look into is a cache miss. */
enum { PM__ENTRY_EXCLUSIVE = PM_EXCLUSIVE, PM__ENTRY_FILE = PM_FILE };

/* Until there are runs: its page table entry agrees with pagemap, and told of P (and Y); and it
 * says that the page is not the zero page. */
enum { PM__TOLD = PM_PORD, PM__PLAIN = PM_NORMAL };

#define PM_BIT(b) (UINT32_C(1) << (b))
#define PM__PUBLIC (PM_BIT(PM_N_BITS) - 1)
#define PM_UNBOUNDED UINT32_MAX

static inline uint32_t pm__entry_state(uint64_t entry)
{
    return (uint32_t)(entry >> 56 & 1) << PM__ENTRY_EXCLUSIVE | (uint32_t)(entry >> 61 & 1)
                                                                    << PM__ENTRY_FILE;
}

/* What was read of each page, in address order. */
struct pm__pages {
    uint64_t *vpn;      /* virtual page number */
    uint64_t *entry;    /* raw pagemap entry, first reading */
    uint32_t *state;    /* the bits above, and those of pm_bit that a file told of */
    uint32_t *mapcount; /* with PM__KCOUNT; 1 before that, as most are */
    size_t n, cap;
};

/* Pages of one mapping that follow each other and of which the same was read: runs.c makes
 * them in the memory of the pages, and from there on nothing works page by page. */
struct pm__runs {
    uint64_t *vpn, *count;
    uint64_t *entry; /* of the first page; of the others only the frame differs */
    uint32_t *set, *known, *lo, *hi;
    size_t n;
};

/* Pages, later runs, of one mapping. */
struct pm__span {
    size_t first, n;
    bool cut;        /* only a piece of the mapping: its counters speak of more */
    bool asked_zero; /* PAGEMAP_SCAN told which of its pages without bit 61 are zero pages, */
    bool asked_huge_zero; /* which of the others are the huge zero page, */
    bool asked_huge; /* and which a huge entry maps */
};

/* One entry of smaps while it is being read. */
struct pm__record {
    pm_mapping m;
    int64_t counters[PM_N_COUNTERS];
    const char *name;
    char vmflags[256]; /* kept apart until all of the entry is read: `extra` is one piece */
    size_t vmflags_len;
    bool open;
};

/* How much room each thing gets; doubled and tried again when it was not enough. */
struct pm__room {
    size_t mappings, pages, strings, objects, parts, ranges;
};

struct pm__capture {
    const struct pm__io *io;
    const pm_request *request;
    pm_error *err;
    struct pm__features features; /* of the kernel behind io, which need not be this host's */
    uint64_t most_pages;          /* by the same kernel; 0: it does not say */
    struct pm__arena arena;
    struct pm__room room;
    pm_header header;
    bool stopped; /* a tracer holds the target still */
    bool busy;    /* it moved while it was captured before: counters will be of little use */
    uint64_t faults; /* of the target, not by us, since it began */
    uint64_t stopped_at;

    int dir, root, maps, smaps, rollup, numa, pagemap, kpageflags, kpagecount;

    pm_mapping *mappings;
    pm_counters *counters; /* of each mapping; NULL where none are read */
    struct pm__span *spans;
    size_t n_mappings;
    char *strings;
    size_t n_strings;
    pm_object *objects;
    size_t n_objects;
    pm_part *parts;
    size_t n_parts;
    struct pm__pages pages;
    void *aside; /* PM__ASIDE bytes a page: to sort in, then the rest of the runs */
    size_t compared; /* so many of them were held against their page table entries */
    struct pm__runs runs;

    uint64_t vm_size; /* VmSize, bytes */
    uint64_t end;     /* capture ends below this address; moves down when it is full */
    uint64_t ticked_ns, done, total; /* progress, in pages */
    char *scratch; /* PM__SCRATCH bytes, free between steps */
    bool unevictable_seen; /* the host has unevictable pages, or does not say */
    bool swap_seen;        /* the host has swap, or does not say */
    bool ksm_told;         /* kpageflags have shown an anonymous page that is not merged */
};

#define PM__SCRATCH ((size_t)512 * 1024)
#define PM__ASIDE ((size_t)16)
#define PM__REGIONS ((size_t)2048) /* that one PAGEMAP_SCAN returns, at the end of scratch */

/* The whole of pm_capture over any table of kernel functions. */
int pm__capture_with(const struct pm__io *io, const pm_request *request, pm_snapshot **out,
                     pm_error *err);
int pm__fail(struct pm__capture *c, int code, enum pm_stage stage, const char *detail);
int pm__tick(struct pm__capture *c, uint64_t pages);
uint64_t pm__monotonic_ns(void);
bool pm__wants_counters(const struct pm__capture *c);
void pm__find_out(const pm_request *request);
bool pm__has_vmflag(const struct pm__capture *c, const pm_mapping *m, const char flag[2]);
int pm__add_string(struct pm__capture *c, const char *s, size_t len, uint32_t *at,
                   uint32_t *at_len);

/* ---- target.c ------------------------------------------------------------ */
int pm__target_find(struct pm__capture *c);
int pm__target_open(struct pm__capture *c);
void pm__target_close(struct pm__capture *c);
int pm__target_verify(struct pm__capture *c);
int pm__target_faults(struct pm__capture *c);

/* ---- stop.c -------------------------------------------------------------- */
/* What a tracer answers: 0 or an errno, and how many threads it holds. */
struct pm__held {
    int32_t status;
    uint32_t threads;
};

int pm__stop(struct pm__capture *c);
void pm__resume(struct pm__capture *c);

/* ---- one kernel interface each -------------------------------------------- */
enum pm__pass { PM__BEFORE, PM__AFTER };

int pm__smaps_read(struct pm__capture *c, enum pm__pass pass);
int pm__rollup_read(struct pm__capture *c);
int pm__numa_read(struct pm__capture *c, enum pm__pass pass);
int pm__pagemap_read(struct pm__capture *c);
int pm__pagemap_verify(struct pm__capture *c);
struct pm_scan_region *pm__regions(const struct pm__capture *c);
int pm__scan(struct pm__capture *c, uint64_t *at, uint64_t end, uint64_t all, uint64_t any);
int pm__ask_scan(struct pm__capture *c);
int pm__kpage_read(struct pm__capture *c);
bool pm__wants_tables(const pm_request *request);
int pm__pte_read(struct pm__capture *c);
int pm__elf_read(struct pm__capture *c);
uint64_t pm__index_of_first(const pm_mapping *m, const char *name, uint64_t page_size, bool deep,
                            uint8_t *trust);

/* ---- runs.c, infer.c, ranges.c ---------------------------------------------------- */
void pm__join_pages(struct pm__capture *c);
void pm__infer(struct pm__capture *c, size_t mapping);
int pm__lay_out(struct pm__capture *c, pm_snapshot **out);

/* ---- parsing numbers out of (buffer, length) ------------------------------- */
bool pm__hex(const char **p, const char *end, uint64_t *out);
bool pm__dec(const char **p, const char *end, uint64_t *out);

/* ---- probe.c: the once-probed host features; a capture asks c->features -------- */
const struct pm__features *pm__features(void);

/* ---- count.c: what union.c counts by too ------------------------------------ */
size_t pm__first_range_at(const pm_columns *c, const pm_mapping *m, uint64_t page);
uint64_t pm__unlisted(const pm_columns *c, const pm_mapping *m);

/* ---- the snapshot block ---------------------------------------------------- */
struct pm_snapshot {
    pm_header header;
    pm_columns columns;
    /* For pm_common: frames of shared anonymous pages, sorted by page: so many from a page
     * on, each one further.  Never handed out. */
    const uint64_t *frame_page, *frame, *frame_count;
    size_t n_frames;
};

struct pm__sizes {
    size_t mappings, counters, objects, parts, strings, ranges, frames;
};

/* A zeroed block with every column in place, its counts set from `sizes`. */
pm_snapshot *pm__snapshot_new(const struct pm__sizes *sizes);

#endif
