/* SPDX-License-Identifier: MIT
 *
 * written.h - what the files behind pm_written share.
 *
 * Everything here is lists of addresses, ascending and apart, each with a word of state: what
 * was scanned, what is mapped, what is watched, what came of it.  They live in blocks, which
 * neither captures nor windows show.
 */
#ifndef PM_WRITTEN_H
#define PM_WRITTEN_H

#include "engine.h"

/* ---- regions.c: lists, and what they mean; no kernel in it ----------------------- */
struct pm__regions {
    pm_region *at;
    size_t n, cap;
};

/* Of a mapping, beside the bits of pm_perm. */
enum {
    PM__V_OURS = 1 << 8,     /* memory of the engine */
    PM__V_KERNELS = 1 << 9,  /* [vvar]: the kernel's own data, which no process can write */
    PM__V_SEALED = 1 << 10,  /* shared, and the kernel refuses every write through it */
    PM__V_SPECIAL = 1 << 11, /* device memory and the like: not touched by us */
    PM__V_HUGETLB = 1 << 13,  /* hugetlb, where smaps tells */
    PM__V_MARKED = 1 << 12,   /* soft-dirty as a whole: it is new, or grew */
    PM__V_HEAP = 1 << 14      /* [heap], which grows at its end */
};

int pm__regions_push(struct pm__regions *list, uint64_t start, uint64_t end, uint32_t state);
int pm__regions_add(struct pm__regions *list, uint64_t start, uint64_t end, uint32_t state);
void pm__regions_free(struct pm__regions *list);
void pm__regions_count(const struct pm__regions *list, uint64_t start, uint64_t end, uint64_t *out);

/* One list while it is walked along with others. */
struct pm__walk {
    const struct pm__regions *list;
    size_t i;
};

bool pm__walk_to(struct pm__walk *walk, uint64_t at, uint64_t *until, uint32_t *state);

/* What the lists say of every page that is mapped. */
struct pm__seen {
    struct pm__regions mapped;    /* states: pm_perm and PM__V_ */
    struct pm__regions scanned;   /* states: categories of PAGEMAP_SCAN */
    struct pm__regions late;      /* the same of what came while it was scanned */
    struct pm__regions registered; /* what was watched when the window began, */
    struct pm__regions armed;     /* and what was protected of it */
    struct pm__regions unwatched; /* states: pm_written_state, why it could not be */
    bool doubt_swap; /* a guard page cannot be told from a page that was swapped out */
};

int pm__judge(const struct pm__seen *seen, struct pm__regions *out);
int pm__fill(const struct pm__regions *wanted, const struct pm__regions *mapped,
             const struct pm__regions *told, struct pm__regions *out);
int pm__combine(const struct pm__regions *before, const struct pm__regions *now,
                struct pm__regions *out);

/* ---- what both mechanisms read --------------------------------------------------- */
#define PM__LINES ((size_t)64 * 1024)

int pm__read_mapped(const char *path, char *buf, struct pm__regions *out);

/* ---- uffd.c: userfaultfd and PAGEMAP_SCAN ------------------------------------------ */
#define PM__VECTOR 2048

struct pm__uffd {
    int fd, pagemap;
    uint64_t categories; /* that this kernel can tell */
    uint64_t top;        /* mappings end below */
    struct pm__seen seen;
    char *lines;                  /* PM__LINES bytes */
    struct pm_scan_region *vector; /* PM__VECTOR of them */
};

int pm__uffd_open(struct pm__uffd *u, pm_error *err);
int pm__uffd_watch(struct pm__uffd *u, const struct pm__regions *wanted, bool everything);
int pm__uffd_arm(struct pm__uffd *u);
int pm__uffd_read(struct pm__uffd *u, bool again, struct pm__regions *out);
void pm__uffd_close(struct pm__uffd *u);
void pm__uffd_forget(struct pm__uffd *u);

/* ---- softdirty.c: soft-dirty bits --------------------------------------------------- */
int pm__softdirty_clear(pm_error *err);
int pm__softdirty_read(char *lines, struct pm__regions *mapped, struct pm__regions *out);
int pm__softdirty_compare(const struct pm__regions *before, const struct pm__regions *now,
                          struct pm__regions *out);

#endif
