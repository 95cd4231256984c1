/* SPDX-License-Identifier: MIT
 *
 * fakeproc.h - a kernel in memory: a `struct pm__io` over a process whose true
 * state the test has made up.
 *
 * A test fills `fk_world`s (mappings, and of each page what it truly is).  From them
 * smaps, numa_maps, pagemap, kpageflags, kpagecount and PAGEMAP_SCAN are derived as
 * the kernel derives them (fs/proc/task_mmu.c).  Text may be replaced by the test's
 * own.  Faults are injected by the number of the call.
 *
 * One capture reads at several moments; each may show another world.
 */
#ifndef PM_FAKEPROC_H
#define PM_FAKEPROC_H

#include "engine.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FK_PAGE UINT64_C(4096)
#define FK_PID 99999999 /* above any pid_max */
#define FK_FD0 1000000  /* no real descriptor: a stray real system call on it fails */
#define FK_MAX_FDS 64
#define FK_MAX_FILES 8
#define FK_KPF_BUDDY (UINT64_C(1) << 10) /* a free page */

/* ---- the truth ------------------------------------------------------------------- */
enum fk_what {
    FK_NONE,
    FK_FILE, /* page of the file or memory object */
    FK_ANON, /* anonymous page, private copy */
    FK_ZERO,
    FK_SWAPPED,
    FK_GUARD,
    FK_MARKER,         /* userfaultfd write-protection of nothing */
    FK_MIGRATING_ANON, /* on its way to another frame: not mapped for the moment */
    FK_MIGRATING_FILE,
    FK_PFN /* a frame without a struct page */
};

struct fk_page {
    enum fk_what what;
    bool young, folio_young, referenced; /* smaps Referenced counts any of them */
    bool active, unevictable;
    bool pte_dirty, page_dirty, writeback;
    bool freed;     /* MADV_FREE: clean until it is written again */
    bool swapless;  /* ... and the kernel has noticed: no longer PG_swapbacked */
    bool swapcache;
    bool ksm, huge, uffdwp, softdirty;
    bool head, tail; /* of a large folio, on a kernel that does not show a tail its head's flags */
    bool bad_bit56; /* huge pages: bit 56 is not to be trusted */
    uint32_t mapcount;
    uint32_t head_mapcount; /* huge pages: numa_maps looks at the first; 0: no other */
    uint64_t frame;
};

struct fk_mapping {
    uint64_t start;
    size_t n;
    struct fk_page *pages;
    const char *perms; /* "rw-p" */
    uint64_t offset, inode;
    unsigned major, minor;
    const char *name;
    const char *vmflags; /* NULL: no such line */
    const char *lines; /* further smaps lines, each with its newline */
    uint64_t object_swap; /* shmem: smaps Swap counts the object's, in pages */
    int64_t lie[PM_N_COUNTERS]; /* added to what the pages add up to */
    bool no_counters, no_numa;
};

struct fk_world {
    struct fk_mapping *mappings;
    size_t n;
    bool no_unevictable, no_swap; /* meminfo says there is none on this host */
};

/* ---- the kernel ------------------------------------------------------------------- */
enum fk_moment {
    FK_SMAPS1,
    FK_NUMA1,
    FK_PAGEMAP1,
    FK_TABLE,
    FK_KPAGE,
    FK_SCAN,
    FK_PAGEMAP2,
    FK_SMAPS2,
    FK_NUMA2,
    FK_MOMENTS
};

enum fk_fault {
    FK_NO_FAULT,
    FK_ERRNO, /* this call fails with fail_errno */
    FK_SHORT, /* this read is short (or, if it is no read, nothing happens) */
    FK_EOF, /* this read ends the file */
    FK_DIE, /* the process is gone from here on */
    FK_ZOMBIE,
    FK_EXEC /* another program from here on, in the same process */
};

enum fk_kind {
    FK_CLOSED,
    FK_F_DIR,
    FK_F_ROOT,
    FK_F_STAT,
    FK_F_STATUS,
    FK_F_MAPS,
    FK_F_SMAPS,
    FK_F_NUMA,
    FK_F_PAGEMAP,
    FK_F_KFLAGS,
    FK_F_KCOUNT,
    FK_F_MEMINFO,
    FK_F_OBJECT
};

struct fk_file {
    const char *path; /* as the engine asks for it, below the target's root */
    const void *bytes;
    size_t n;
    struct pm__file is;
    struct pm__file mapped; /* what maps says of it, where it differs; inode 0: cannot be mapped */
    int open_errno; /* of the second, real open */
};

struct fk_text {
    char *s;
    size_t n, cap;
};

struct fake {
    struct pm__io io;
    const struct fk_world *at[FK_MOMENTS];
    const struct fk_world *after_exec;
    bool show_frames, no_numa, no_kpage, no_scan;
    bool all_ksm; /* kpageflags call every anonymous page merged, as 6.12 does */
    bool tables; /* page tables can be read */
    unsigned faults; /* page faults of the target, once its pages were read */
    size_t max_read; /* reads give at most this; 0: no limit */
    size_t scan_regions; /* PAGEMAP_SCAN returns at most this many; 0: as asked */
    bool scan_by_pass; /* it shows what pagemap shows, not the moment between */
    bool scan_lies; /* ... and names too low an address as where it stopped */

    /* The test's own text instead of what the worlds say; by pass where there are two. */
    const char *smaps[2], *numa[2], *stat, *status, *meminfo;
    size_t smaps_len[2], numa_len[2]; /* 0: up to the NUL */

    struct fk_file files[FK_MAX_FILES];
    size_t n_files;

    enum fk_fault fault;
    unsigned fail_at; /* number of the call, from 1 */
    int fail_errno, gone_errno;
    enum fk_kind fail_kind; /* if not FK_CLOSED: every open of that file fails */

    /* what happened */
    unsigned calls, opens, closes, misuse, pagemap_reads;
    uint64_t pagemap_entries;
    int generation;
    bool dead, zombie;
    int smaps_pass, numa_pass, pagemap_pass;
    uint64_t pagemap_end, scanned;
    int scan_pass;
    struct {
        enum fk_kind kind;
        int generation;
        size_t file;
        struct fk_text text;
    } fds[FK_MAX_FDS];
};

static inline void fk_printf(struct fk_text *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline void fk_printf(struct fk_text *t, const char *format, ...)
{
    va_list args;
    if (t->cap - t->n < 1024) {
        t->cap = t->cap ? t->cap * 2 : 8192;
        t->s = realloc(t->s, t->cap);
    }
    va_start(args, format);
    t->n += (size_t)vsnprintf(t->s + t->n, t->cap - t->n, format, args);
    va_end(args);
}

/* ---- what is true of a page ------------------------------------------------------ */
static inline bool fk_present(const struct fk_page *p)
{
    return p->what == FK_FILE || p->what == FK_ANON || p->what == FK_ZERO || p->what == FK_PFN;
}

static inline bool fk_normal(const struct fk_page *p)
{
    return p->what == FK_FILE || p->what == FK_ANON;
}

static inline bool fk_migrating(const struct fk_page *p)
{
    return p->what == FK_MIGRATING_ANON || p->what == FK_MIGRATING_FILE;
}

static inline bool fk_anonymous(const struct fk_page *p)
{
    return p->what == FK_ANON || p->what == FK_MIGRATING_ANON;
}

static inline bool fk_lazyfree(const struct fk_page *p)
{
    return fk_anonymous(p) && p->freed && !p->pte_dirty && !p->page_dirty;
}

static inline bool fk_shared_map(const struct fk_mapping *m)
{
    return m->perms[3] == 's';
}

/* Dirty in the project's sense: docs/dirty.md. */
static inline bool fk_dirty(const struct fk_mapping *m, const struct fk_page *p)
{
    if (fk_shared_map(m))
        return (p->what == FK_FILE || p->what == FK_MIGRATING_FILE) && p->pte_dirty;
    return p->what == FK_SWAPPED || (fk_anonymous(p) && !fk_lazyfree(p));
}

static inline bool fk_truth(const struct fk_mapping *m, const struct fk_page *p, int bit)
{
    bool normal = fk_normal(p);
    switch (bit) {
    case PM_YOUNG:
        return normal && p->young;
    case PM_REFERENCED:
        return normal && p->referenced;
    case PM_ACTIVE:
        return normal && p->active;
    case PM_UPTODATE:
        return normal;
    case PM_PTEDIRTY:
        return normal && p->pte_dirty;
    case PM_PAGEDIRTY:
        return normal && p->page_dirty;
    case PM_WRITEBACK:
        return normal && p->writeback;
    case PM_PRESENT:
        return fk_present(p);
    case PM_NORMAL:
        return normal;
    case PM_SWAPPED:
        return p->what == FK_SWAPPED;
    case PM_FILE:
        return p->what == FK_FILE || p->what == FK_MIGRATING_FILE;
    case PM_ANON:
        return p->what == FK_ANON;
    case PM_EXCLUSIVE:
        return normal && p->mapcount == 1;
    case PM_SHARED:
        return normal && p->mapcount > 1;
    case PM_HUGE:
        return p->huge;
    case PM_ZERO:
        return p->what == FK_ZERO;
    case PM_SOFTDIRTY:
        return p->softdirty;
    case PM_UFFDWP:
        return p->uffdwp || p->what == FK_MARKER;
    case PM_KSM:
        return normal && p->ksm;
    case PM_GUARD:
        return p->what == FK_GUARD;
    case PM_LAZYFREE:
        return normal && fk_lazyfree(p);
    case PM_DIRTY:
        return fk_dirty(m, p);
    case PM_TOUCHED:
        return normal && (p->young || p->folio_young || p->referenced);
    case PM_PORD:
        return normal && (p->pte_dirty || p->page_dirty);
    default:
        return false;
    }
}

/* ---- kernel files derived from it ------------------------------------------------- */
static inline uint64_t fk_end(const struct fk_mapping *m)
{
    return m->start + m->n * FK_PAGE;
}

/* smaps_account() and its callers, in bytes. */
static inline void fk_counters(const struct fk_mapping *m, int64_t c[PM_N_COUNTERS])
{
    uint64_t pss = 0, pss_dirty = 0;
    const int64_t page = (int64_t)FK_PAGE;
    memset(c, 0, PM_N_COUNTERS * sizeof *c);
    c[PM_C_SIZE] = (int64_t)m->n * page;
    c[PM_C_KERNEL_PAGE_SIZE] = c[PM_C_MMU_PAGE_SIZE] = page;
    c[PM_C_SWAP] = (int64_t)m->object_swap * page;
    for (size_t i = 0; i < m->n; i++) {
        const struct fk_page *p = &m->pages[i];
        c[PM_C_SWAP] += p->what == FK_SWAPPED ? page : 0;
        if (!fk_normal(p) && !fk_migrating(p))
            continue;
        bool dirty = p->pte_dirty || p->page_dirty, shared = p->mapcount > 1;
        uint64_t part = (FK_PAGE << 12) / p->mapcount;
        c[PM_C_RSS] += page;
        c[PM_C_ANONYMOUS] += fk_anonymous(p) ? page : 0;
        c[PM_C_LAZY_FREE] += fk_anonymous(p) && p->swapless && !dirty ? page : 0;
        c[PM_C_KSM] += p->ksm ? page : 0;
        c[PM_C_REFERENCED] += p->young || p->folio_young || p->referenced ? page : 0;
        c[shared ? (dirty ? PM_C_SHARED_DIRTY : PM_C_SHARED_CLEAN)
                 : (dirty ? PM_C_PRIVATE_DIRTY : PM_C_PRIVATE_CLEAN)] += page;
        c[fk_anonymous(p) ? PM_C_ANON_HUGE_PAGES : PM_C_FILE_PMD_MAPPED] += p->huge ? page : 0;
        pss += part;
        pss_dirty += dirty ? part : 0;
    }
    c[PM_C_PSS] = (int64_t)(pss >> 12);
    c[PM_C_PSS_DIRTY] = (int64_t)(pss_dirty >> 12);
    for (int k = 0; k < PM_C_NUMA_PAGES; k++)
        c[k] += m->lie[k];
}

static inline void fk_maps_line(struct fk_text *t, const struct fk_mapping *m)
{
    fk_printf(t, "%08llx-%08llx %s %08llx %02x:%02x %llu %s%s\n", (unsigned long long)m->start,
              (unsigned long long)fk_end(m), m->perms, (unsigned long long)m->offset, m->major,
              m->minor, (unsigned long long)m->inode, m->name ? "                   " : "",
              m->name ? m->name : "");
}

static inline void fk_smaps_mapping(struct fk_text *t, const struct fk_mapping *m)
{
    static const char *const keys[PM_C_NUMA_PAGES] = {
        "Size",          "KernelPageSize", "MMUPageSize",     "Rss",
        "Pss",           "Pss_Dirty",      "Shared_Clean",    "Shared_Dirty",
        "Private_Clean", "Private_Dirty",  "Referenced",      "Anonymous",
        "KSM",           "LazyFree",       "AnonHugePages",   "ShmemPmdMapped",
        "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb", "Swap",
        "SwapPss",       "Locked"};
    int64_t c[PM_N_COUNTERS];
    fk_maps_line(t, m);
    fk_counters(m, c);
    for (int k = 0; k < PM_C_NUMA_PAGES && !m->no_counters; k++)
        fk_printf(t, "%s:%*lld kB\n", keys[k], (int)(23 - strlen(keys[k])), (long long)c[k] / 1024);
    if (m->lines)
        fk_printf(t, "%s", m->lines);
    if (m->vmflags)
        fk_printf(t, "VmFlags: %s \n", m->vmflags);
}

/* gather_stats() and show_numa_map() */
static inline void fk_numa_mapping(struct fk_text *t, const struct fk_mapping *m)
{
    int64_t pages = 0, anon = 0, dirty = 0, mapmax = 0, active = 0, writeback = 0;
    for (size_t i = 0; i < m->n; i++) {
        const struct fk_page *p = &m->pages[i];
        if (!fk_normal(p))
            continue;
        pages++;
        anon += fk_anonymous(p);
        dirty += p->pte_dirty || p->page_dirty;
        active += p->active || p->unevictable;
        writeback += p->writeback;
        uint32_t seen = p->head_mapcount ? p->head_mapcount : p->mapcount;
        mapmax = seen > mapmax ? seen : mapmax;
    }
    pages += m->lie[PM_C_NUMA_PAGES];
    active += m->lie[PM_C_NUMA_ACTIVE];
    fk_printf(t, "%08llx default", (unsigned long long)m->start);
    if (m->inode && m->name)
        fk_printf(t, " file=%s", m->name);
    if (pages) {
        if (anon)
            fk_printf(t, " anon=%lld", (long long)anon);
        if (dirty)
            fk_printf(t, " dirty=%lld", (long long)dirty);
        if (pages != anon && pages != dirty)
            fk_printf(t, " mapped=%lld", (long long)pages);
        if (mapmax > 1)
            fk_printf(t, " mapmax=%lld", (long long)mapmax);
        if (active < pages)
            fk_printf(t, " active=%lld", (long long)active);
        if (writeback)
            fk_printf(t, " writeback=%lld", (long long)writeback);
        fk_printf(t, " N0=%lld kernelpagesize_kB=4", (long long)pages);
    }
    fk_printf(t, "\n");
}

/* pte_to_pagemap_entry() */
static inline uint64_t fk_entry(const struct fake *f, const struct fk_page *p)
{
    uint64_t frame = f->show_frames ? p->frame & PM_PE_PFN_MASK : 0;
    uint64_t e = (p->softdirty && pm__features()->softdirty ? PM_PE_SOFTDIRTY : 0) |
                 (p->uffdwp ? PM_PE_UFFDWP : 0);
    switch (p->what) {
    case FK_NONE:
        return 0;
    case FK_SWAPPED:
        return e | PM_PE_SWAP | frame; /* where in swap it is, but to root alone, too */
    case FK_GUARD:
        return PM_PE_SWAP | (pm__features()->guard ? PM_PE_GUARD : 0);
    case FK_MARKER:
        return PM_PE_SWAP | PM_PE_UFFDWP;
    case FK_MIGRATING_FILE:
        e |= PM_PE_FILE; /* fall through */
    case FK_MIGRATING_ANON:
        return e | PM_PE_SWAP | frame | (p->mapcount == 1 ? PM_PE_EXCLUSIVE : 0);
    case FK_ZERO: /* the huge one has a struct page, which is not anonymous */
        return e | PM_PE_PRESENT | frame | (p->huge ? PM_PE_FILE : 0);
    case FK_PFN:
        return e | PM_PE_PRESENT | frame;
    default:
        break;
    }
    bool once = (p->mapcount == 1) != p->bad_bit56;
    return e | PM_PE_PRESENT | frame | (p->what == FK_FILE ? PM_PE_FILE : 0) |
           (once ? PM_PE_EXCLUSIVE : 0);
}

/* stable_page_flags() */
static inline uint64_t fk_kpageflags(const struct fk_page *p)
{
    uint64_t f = 0;
    if (p->what == FK_ZERO)
        return PM_KPF_ZERO | (p->huge ? PM_KPF_COMPOUND_HEAD : 0);
    if (!fk_normal(p))
        return p->what == FK_PFN ? PM_KPF_NOPAGE : 0;
    f |= PM_KPF_MMAP | PM_KPF_UPTODATE | (p->what == FK_ANON ? PM_KPF_ANON : 0);
    f |= p->referenced ? PM_KPF_REFERENCED : 0;
    f |= p->active ? PM_KPF_ACTIVE : 0;
    f |= p->page_dirty ? PM_KPF_DIRTY : 0;
    f |= p->writeback ? PM_KPF_WRITEBACK : 0;
    f |= p->swapcache ? PM_KPF_SWAPCACHE : 0;
    f |= p->what == FK_ANON && !p->swapless ? PM_KPF_SWAPBACKED : 0;
    f |= p->ksm ? PM_KPF_KSM : 0;
    f |= p->head ? PM_KPF_COMPOUND_HEAD : p->huge || p->tail ? PM_KPF_COMPOUND_TAIL : 0;
    if (p->tail) /* its own flags, as before 6.10 */
        f &= PM_KPF_MMAP | PM_KPF_ANON | PM_KPF_COMPOUND_TAIL;
    return f;
}

static inline uint64_t fk_shown_kpageflags(const struct fake *f, const struct fk_page *p)
{
    uint64_t flags = fk_kpageflags(p);
    return flags | (f->all_ksm && (flags & PM_KPF_ANON) ? PM_KPF_KSM : 0);
}

static inline const struct fk_page *fk_page_of_frame(const struct fk_world *w, uint64_t frame)
{
    for (size_t i = 0; i < w->n; i++)
        for (size_t k = 0; k < w->mappings[i].n; k++)
            if (fk_present(&w->mappings[i].pages[k]) && w->mappings[i].pages[k].frame == frame)
                return &w->mappings[i].pages[k];
    return NULL;
}

/* ---- the table of functions --------------------------------------------------------- */
static inline const struct fk_world *fk_now(const struct fake *f, enum fk_moment moment)
{
    static const struct fk_world empty;
    const struct fk_world *w = f->generation ? f->after_exec : f->at[moment];
    return w ? w : &empty;
}

/* Counts the call; true when it is to fail with *rc. */
static inline bool fk_strikes(struct fake *f, bool reads, long *rc)
{
    if (++f->calls != f->fail_at)
        return false;
    switch (f->fault) {
    case FK_ERRNO:
        *rc = -f->fail_errno;
        return true;
    case FK_EOF:
        *rc = 0;
        return reads;
    case FK_DIE:
        f->dead = true;
        break;
    case FK_ZOMBIE:
        f->dead = f->zombie = true;
        break;
    case FK_EXEC:
        f->generation++;
        break;
    default:
        break;
    }
    return false;
}

static inline void fk_restart(struct fake *f)
{
    f->smaps_pass = f->numa_pass = f->pagemap_pass = -1;
    f->pagemap_end = f->scanned = UINT64_MAX;
    f->scan_pass = -1;
}

static inline enum fk_kind fk_kind_of(struct fake *f, const char *path, size_t *file)
{
    static const struct {
        const char *path;
        enum fk_kind kind;
    } table[] = {{"stat", FK_F_STAT},
                 {"status", FK_F_STATUS},
                 {"maps", FK_F_MAPS},
                 {"smaps", FK_F_SMAPS},
                 {"numa_maps", FK_F_NUMA},
                 {"pagemap", FK_F_PAGEMAP},
                 {"/proc/kpageflags", FK_F_KFLAGS},
                 {"/proc/meminfo", FK_F_MEMINFO},
                 {"/proc/kpagecount", FK_F_KCOUNT},
                 {"root", FK_F_ROOT},
                 {"/proc/self", FK_F_DIR},
                 {"/proc/99999999", FK_F_DIR}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(path, table[i].path) == 0)
            return table[i].kind;
    for (size_t i = 0; i < f->n_files; i++) {
        if (strcmp(path, f->files[i].path + 1) == 0) {
            *file = i;
            return FK_F_OBJECT;
        }
    }
    return FK_CLOSED;
}

static inline bool fk_of_target(enum fk_kind kind)
{
    return kind == FK_F_DIR || kind == FK_F_ROOT || kind == FK_F_STAT || kind == FK_F_STATUS ||
           kind == FK_F_MAPS || kind == FK_F_SMAPS || kind == FK_F_NUMA || kind == FK_F_PAGEMAP ||
           kind == FK_F_OBJECT;
}

static inline int fk_why_not(const struct fake *f, enum fk_kind kind, int flags, size_t file)
{
    bool still_there = f->zombie && (kind == FK_F_STAT || kind == FK_F_STATUS);
    if (kind == FK_CLOSED)
        return ENOENT;
    if (f->dead && fk_of_target(kind) && !still_there)
        return kind == FK_F_DIR ? ENOENT : f->gone_errno ? f->gone_errno : ESRCH;
    if (kind == f->fail_kind)
        return f->fail_errno;
    if (kind == FK_F_OBJECT && !(flags & O_PATH))
        return f->files[file].open_errno;
    if (kind == FK_F_NUMA && f->no_numa)
        return ENOENT;
    return (kind == FK_F_KFLAGS || kind == FK_F_KCOUNT) && f->no_kpage ? EACCES : 0;
}

static inline int fk_open(void *ctx, int dir, const char *path, int flags)
{
    struct fake *f = ctx;
    long rc;
    size_t file = 0;
    (void)dir;
    if (fk_strikes(f, false, &rc))
        return (int)rc;
    enum fk_kind kind = fk_kind_of(f, path, &file);
    int err = fk_why_not(f, kind, flags, file);
    if (err)
        return -err;
    if (kind == FK_F_DIR)
        fk_restart(f);
    for (int i = 0; i < FK_MAX_FDS; i++) {
        if (f->fds[i].kind != FK_CLOSED)
            continue;
        f->fds[i].kind = kind;
        f->fds[i].generation = f->generation;
        f->fds[i].file = file;
        f->opens++;
        return FK_FD0 + i;
    }
    return -EMFILE;
}

static inline bool fk_is_open(struct fake *f, int fd)
{
    bool good = fd >= FK_FD0 && fd < FK_FD0 + FK_MAX_FDS && f->fds[fd - FK_FD0].kind != FK_CLOSED;
    f->misuse += !good;
    return good;
}

static inline int fk_close(void *ctx, int fd)
{
    struct fake *f = ctx;
    if (!fk_is_open(f, fd))
        return -EBADF;
    free(f->fds[fd - FK_FD0].text.s);
    memset(&f->fds[fd - FK_FD0], 0, sizeof f->fds[0]);
    f->closes++;
    return 0;
}

static inline void fk_own_text(struct fk_text *t, const char *s, size_t len)
{
    len = len ? len : strlen(s);
    t->cap = len + 1;
    t->s = realloc(t->s, t->cap);
    memcpy(t->s, s, len);
    t->n = len;
}

/* The kernel renders seq files as they are read; here all at once when reading begins. */
static inline void fk_render(struct fake *f, enum fk_kind kind, struct fk_text *t)
{
    const struct fk_world *w;
    int pass;
    t->n = 0;
    switch (kind) {
    case FK_F_MAPS: /* instead of smaps, where no counters are asked for */
        w = fk_now(f, ++f->smaps_pass > 0 ? FK_SMAPS2 : FK_SMAPS1);
        for (size_t i = 0; i < w->n; i++)
            fk_maps_line(t, &w->mappings[i]);
        break;
    case FK_F_SMAPS:
        pass = ++f->smaps_pass > 0;
        w = fk_now(f, pass ? FK_SMAPS2 : FK_SMAPS1);
        if (f->smaps[pass])
            fk_own_text(t, f->smaps[pass], f->smaps_len[pass]);
        for (size_t i = 0; i < w->n && !f->smaps[pass]; i++)
            fk_smaps_mapping(t, &w->mappings[i]);
        break;
    case FK_F_NUMA:
        pass = ++f->numa_pass > 0;
        w = fk_now(f, pass ? FK_NUMA2 : FK_NUMA1);
        if (f->numa[pass])
            fk_own_text(t, f->numa[pass], f->numa_len[pass]);
        for (size_t i = 0; i < w->n && !f->numa[pass]; i++)
            if (!w->mappings[i].no_numa)
                fk_numa_mapping(t, &w->mappings[i]);
        break;
    case FK_F_STAT:
        if (f->stat)
            fk_own_text(t, f->stat, 0);
        else
            fk_printf(t, "%d (a (comm) b) %c 1 1 1 0 -1 4194304 %u 0 0 0 0 0 0 0 20 0 1 0 %d 31\n",
                      FK_PID, f->zombie ? 'Z' : 'S', 1 + (f->pagemap_pass >= 0 ? f->faults : 0),
                      308687);
        break;
    case FK_F_STATUS:
        if (f->status)
            fk_own_text(t, f->status, 0);
        else
            fk_printf(t, "Name:\ta (comm) b\nState:\tS\n%s",
                      f->zombie ? "Threads:\t1\n"
                                : "VmSize:\t  4000 kB\nVmHWM:\t  3000 kB\nVmRSS:\t   2000 "
                                  "kB\nVmPTE:\t   44 kB\nVmSwap:\t     0 kB\n");
        break;
    case FK_F_MEMINFO:
        if (f->meminfo)
            fk_own_text(t, f->meminfo, 0);
        else
            fk_printf(
                t, "MemTotal: 1000 kB\nSwapCached: 0 kB\nUnevictable:  %d kB\nSwapTotal: %d kB\n",
                fk_now(f, FK_SMAPS1)->no_unevictable ? 0 : 17088,
                fk_now(f, FK_SMAPS1)->no_swap ? 0 : 1 << 20);
        break;
    default:
        break;
    }
}

static inline size_t fk_read_bytes(const void *from, size_t len, void *buf, size_t n, uint64_t at)
{
    if (at >= len)
        return 0;
    n = n < len - at ? n : len - at;
    memcpy(buf, (const char *)from + at, n);
    return n;
}

static inline size_t fk_read_pagemap(struct fake *f, uint64_t *buf, size_t n, uint64_t offset)
{
    if (offset < f->pagemap_end) /* begins again at the lowest address */
        f->pagemap_pass++;
    f->pagemap_end = offset + n;
    f->pagemap_reads++;
    f->pagemap_entries += n / 8;
    const struct fk_world *w = fk_now(f, f->pagemap_pass > 0 ? FK_PAGEMAP2 : FK_PAGEMAP1);
    uint64_t from = offset / 8, to = from + n / 8;
    memset(buf, 0, n);
    for (size_t i = 0; i < w->n; i++) {
        const struct fk_mapping *m = &w->mappings[i];
        uint64_t first = m->start / FK_PAGE;
        for (uint64_t v = first > from ? first : from; v < to && v < first + m->n; v++)
            buf[v - from] = fk_entry(f, &m->pages[v - first]);
    }
    return n;
}

static inline size_t fk_read_kpage(struct fake *f, enum fk_kind kind, uint64_t *buf, size_t n,
                                   uint64_t offset)
{
    for (size_t i = 0; i < n / 8; i++) {
        const struct fk_page *p = fk_page_of_frame(fk_now(f, FK_KPAGE), offset / 8 + i);
        buf[i] = !p                    ? FK_KPF_BUDDY
                 : kind == FK_F_KFLAGS ? fk_shown_kpageflags(f, p)
                 : fk_normal(p)        ? p->mapcount
                                       : 0;
        if (!p && kind == FK_F_KCOUNT)
            buf[i] = 0;
    }
    return n;
}

static inline ssize_t fk_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    struct fake *f = ctx;
    long rc;
    if (!fk_is_open(f, fd))
        return -EBADF;
    bool shortened = f->fault == FK_SHORT && f->calls + 1 == f->fail_at;
    if (fk_strikes(f, true, &rc))
        return rc;
    enum fk_kind kind = f->fds[fd - FK_FD0].kind;
    struct fk_text *t = &f->fds[fd - FK_FD0].text;
    bool words = kind == FK_F_PAGEMAP || kind == FK_F_KFLAGS || kind == FK_F_KCOUNT;
    if (words && (offset % 8 || n % 8))
        return -EINVAL;
    if (f->max_read && n > f->max_read)
        n = f->max_read;
    if (shortened && n > 8)
        n = n / 2;
    if (words)
        n = n < 8 ? n : n & ~(size_t)7;
    if (fk_of_target(kind) && kind != FK_F_OBJECT && kind != FK_F_STAT && kind != FK_F_STATUS &&
        (f->dead || f->fds[fd - FK_FD0].generation != f->generation))
        return 0; /* its memory is gone: a clean end of file */
    if (f->dead && !f->zombie && (kind == FK_F_STAT || kind == FK_F_STATUS))
        return -ESRCH;
    switch (kind) {
    case FK_F_DIR:
        return -EISDIR;
    case FK_F_PAGEMAP:
        return (ssize_t)fk_read_pagemap(f, buf, n, offset);
    case FK_F_KFLAGS:
    case FK_F_KCOUNT:
        return (ssize_t)fk_read_kpage(f, kind, buf, n, offset);
    case FK_F_OBJECT: {
        const struct fk_file *o = &f->files[f->fds[fd - FK_FD0].file];
        return (ssize_t)fk_read_bytes(o->bytes, o->n, buf, n, offset);
    }
    default:
        break;
    }
    if (offset == 0)
        fk_render(f, kind, t);
    return (ssize_t)fk_read_bytes(t->s, t->n, buf, n, offset);
}

static inline uint64_t fk_categories(const struct fk_page *p)
{
    bool absent = p->what == FK_NONE, present = fk_present(p);
    return (present  ? PM_SCAN_PRESENT
            : absent ? 0
                     : PM_SCAN_SWAPPED) |
           (p->what == FK_ZERO ? PM_SCAN_ZERO : 0) | (p->huge && present ? PM_SCAN_HUGE : 0);
}

struct fk_regions {
    struct pm_scan_arg *arg;
    struct pm_scan_region *out;
    uint64_t room, pages;
    int n;
};

/* Adds a page; false when the vector or max_pages is used up. */
static inline bool fk_add_page(struct fk_regions *r, uint64_t at)
{
    bool joins = r->n && r->out[r->n - 1].end == at;
    if ((r->arg->max_pages && r->pages == r->arg->max_pages) ||
        (!joins && (uint64_t)r->n == r->room)) {
        r->arg->walk_end = at;
        return false;
    }
    r->pages++;
    if (joins)
        r->out[r->n - 1].end += FK_PAGE;
    else
        r->out[r->n++] = (struct pm_scan_region){at, at + FK_PAGE, r->arg->return_mask};
    return true;
}

/* PAGEMAP_SCAN */
static inline int fk_scan(struct fake *f, struct pm_scan_arg *arg)
{
    /* A scan from the lowest address on begins another look at the pages. */
    if (f->scan_by_pass && arg->start <= f->scanned)
        f->scan_pass++;
    f->scanned = arg->start;
    const struct fk_world *w = fk_now(f, !f->scan_by_pass   ? FK_SCAN
                                         : f->scan_pass > 0 ? FK_PAGEMAP2
                                                            : FK_PAGEMAP1);
    struct fk_regions r = {.arg = arg, .out = (struct pm_scan_region *)(uintptr_t)arg->vec};
    r.room = f->scan_regions && f->scan_regions < arg->vec_len ? f->scan_regions : arg->vec_len;
    arg->walk_end = arg->end;
    for (size_t i = 0; i < w->n; i++) {
        const struct fk_mapping *m = &w->mappings[i];
        for (size_t k = 0; k < m->n; k++) {
            uint64_t at = m->start + k * FK_PAGE, is = fk_categories(&m->pages[k]);
            if (at < arg->start || at >= arg->end ||
                (is & arg->category_mask) != arg->category_mask ||
                (arg->category_anyof_mask && !(is & arg->category_anyof_mask)))
                continue;
            if (!fk_add_page(&r, at))
                return r.n;
        }
    }
    if (f->scan_lies && r.n) /* as 6.18 does: where it last filled a buffer, not where it is */
        arg->walk_end = r.out[r.n / 2].start;
    return r.n;
}

static inline int fk_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    struct fake *f = ctx;
    long rc;
    if (!fk_is_open(f, fd))
        return -EBADF;
    if (fk_strikes(f, false, &rc))
        return (int)rc;
    if (f->dead || f->fds[fd - FK_FD0].generation != f->generation)
        return -ESRCH;
    if (request != PM_IOC_SCAN || f->no_scan)
        return -ENOTTY;
    return fk_scan(f, arg);
}

static inline int fk_stat(void *ctx, int fd, struct pm__file *out)
{
    struct fake *f = ctx;
    long rc;
    if (!fk_is_open(f, fd))
        return -EBADF;
    if (fk_strikes(f, false, &rc))
        return (int)rc;
    *out = f->files[f->fds[fd - FK_FD0].file].is;
    return 0;
}

static inline void fk_here(void *ctx, struct pm__here *out)
{
    const struct fake *f = ctx;
    pm__kernel.here(NULL, out);
    out->features.pte = f->tables;
}

static inline uint64_t fk_table_entry(const struct fk_page *p)
{
    if (!fk_present(p))
        return 0;
    return PM_PE_PRESENT | (p->frame & PM_PE_PFN_MASK) | (p->young ? PM__PTE_YOUNG : 0) |
           (p->pte_dirty ? PM__PTE_DIRTY : 0) |
           (p->what == FK_ZERO || p->what == FK_PFN ? PM__PTE_SPECIAL : 0);
}

/* All tables are of 512 pages, whatever is mapped by huge entries. */
static inline int fk_table(void *ctx, int fd, uint64_t address, size_t most, struct pm__table *out)
{
    struct fake *f = ctx;
    long rc;
    if (!fk_is_open(f, fd))
        return -EBADF;
    if (fk_strikes(f, false, &rc))
        return (int)rc;
    if (f->dead || f->fds[fd - FK_FD0].generation != f->generation)
        return -ESRCH;
    const struct fk_world *w = fk_now(f, FK_TABLE);
    size_t left = PM__TABLE_MOST - address / FK_PAGE % PM__TABLE_MOST;
    memset(out, 0, sizeof *out);
    out->first = address / FK_PAGE;
    out->pages = out->n = most < left ? most : left;
    for (size_t i = 0; i < w->n; i++) {
        const struct fk_mapping *m = &w->mappings[i];
        for (size_t k = 0; k < m->n; k++)
            if (m->start / FK_PAGE + k - out->first < out->n)
                out->entry[m->start / FK_PAGE + k - out->first] = fk_table_entry(&m->pages[k]);
    }
    return 0;
}

static inline int fk_mapped(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out)
{
    struct fake *f = ctx;
    (void)buf, (void)cap;
    if (!fk_is_open(f, fd))
        return -EBADF;
    const struct pm__file *mapped = &f->files[f->fds[fd - FK_FD0].file].mapped;
    *out = *mapped;
    return mapped->inode ? 0 : -ENODEV;
}

static inline bool fk_ours(void *ctx, uint64_t start, uint64_t end, bool inherited)
{
    (void)ctx;
    return pm__is_ours(start, end, inherited);
}

/* ---- for the tests ------------------------------------------------------------------ */
/* Shows `w` at every moment.  Room for kernel files: `fk_close_all` is not needed, the
 * engine closes what it opens, and `fk_check` says so if it does not. */
static inline void fk_init(struct fake *f, const struct fk_world *w)
{
    memset(f, 0, sizeof *f);
    f->io = (struct pm__io){.open = fk_open,
                            .pread = fk_pread,
                            .ioctl = fk_ioctl,
                            .stat = fk_stat,
                            .close = fk_close,
                            .here = fk_here,
                            .mapped = fk_mapped,
                            .ours = fk_ours,
                            .table = fk_table,
                            .ctx = f,
                            .table_pages = 1}; /* huge pages of any size, in small worlds */
    for (int i = 0; i < FK_MOMENTS; i++)
        f->at[i] = w;
    fk_restart(f);
}

/* Nothing is left open, nothing closed twice or used after it was closed. */
static inline bool fk_tidy(const struct fake *f)
{
    return f->opens == f->closes && f->misuse == 0;
}

static inline int fk_capture(struct fake *f, pm_snapshot **out, pm_error *err)
{
    *out = NULL;
    const pm_request r = {
        .pid = FK_PID, .depth = PM_FULL, .counters = 1, .stopper = -1, .young = f->tables};
    return pm__capture_with(&f->io, &r, out, err);
}

/* Where page k of mapping i is in the columns; -1 when it is in no range. */
static inline long fk_range(const pm_columns *c, size_t i, uint64_t vpn)
{
    const pm_mapping *m = &c->mappings[i];
    for (uint32_t r = m->first_range; r < m->first_range + m->n_ranges; r++)
        if (c->page[r] <= vpn && vpn < c->page[r] + c->count[r])
            return (long)r;
    return -1;
}

/* 1 set, 0 clear, -1 unknown; a page in no range is not present: everything is clear. */
static inline int fk_fact(const pm_columns *c, size_t i, uint64_t vpn, int bit)
{
    long r = fk_range(c, i, vpn);
    if (r < 0)
        return 0;
    return c->known[r] & PM_BIT(bit) ? (c->set[r] & PM_BIT(bit)) != 0 : -1;
}

static const char *const fk_bit_names[PM_N_BITS] = {
    "YOUNG",   "REFERENCED", "ACTIVE",  "UPTODATE", "PTEDIRTY", "PAGEDIRTY", "WRITEBACK",
    "PRESENT", "NORMAL",     "SWAPPED", "FILE",     "ANON",     "EXCLUSIVE", "HUGE",
    "ZERO",    "SOFTDIRTY",  "UFFDWP",  "KSM",      "GUARD",    "LAZYFREE",  "DIRTY",
    "TOUCHED", "PORD",       "RACED",   "SHARED"};

#endif
