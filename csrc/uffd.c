/* SPDX-License-Identifier: MIT
 *
 * uffd.c - page by page, what this process writes: userfaultfd protects pages so that the kernel
 * itself notes the first write (UFFD_FEATURE_WP_ASYNC, Linux 6.7), PAGEMAP_SCAN protects and reads.
 *
 * It calls userfaultfd directly rather than through the table of io.c: that is for what a capture
 * reads, and a recording writes down.  This changes our own memory's protection; there is nothing
 * in it that could be recorded or answered from a file.
 *
 * Whole mappings are registered, not parts: parts would be mappings of their own, and what was
 * first touched in one of them could not be joined to the others again.  For the same reason the
 * last page of the heap is left out, as long as it is empty: what the heap grows by becomes part
 * of a mapping that nobody watches, and that is joined to the heap when this is let go.
 */
#include "uapi.h"
#include "written.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of Linux 5.11, 6.4 and 6.7; headers of older systems lack them. */
#define USER_MODE_ONLY 1
#define WP_UNPOPULATED (UINT64_C(1) << 13)
#define WP_ASYNC (UINT64_C(1) << 15)
#define WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)

#define WP_MATCHING 1 /* PM_SCAN_WP_MATCHING */

/* To protect what is not there yet costs page tables, 1/512 of it: that much is spent on empty
 * memory, of one mapping and of all.  What is written in the rest counts as new. */
#define EMPTY_EACH (UINT64_C(1) << 30)
#define EMPTY_ALL (UINT64_C(16) << 30)

#define POPULATED (PM_SCAN_PRESENT | PM_SCAN_SWAPPED)

static int fail(pm_error *err, int code, const char *step)
{
    err->code = code;
    err->stage = PM_AT_SCAN;
    strncpy(err->detail, step, sizeof err->detail - 1);
    return -code;
}

static int io(int fd, unsigned long request, void *arg)
{
    return pm__kernel.ioctl(pm__kernel.ctx, fd, request, arg);
}

/* ---- scanning and protecting -------------------------------------------------------- */

static int scan(const struct pm__uffd *u, struct pm_scan_arg *arg)
{
    arg->size = sizeof *arg;
    int n = io(u->pagemap, PM_IOC_SCAN, arg);
    const struct pm_scan_region *got = (void *)(uintptr_t)arg->vec;
    if (n > 0 && got[n - 1].end > arg->walk_end) /* as in scan.c */
        arg->walk_end = got[n - 1].end;
    if (n >= 0 && arg->walk_end <= arg->start)
        return -EIO;
    return n;
}

/* Protects all pages of a range that may be, those that are not there too. */
static int protect(const struct pm__uffd *u, uint64_t start, uint64_t end)
{
    struct pm_scan_arg arg = {
        .flags = WP_MATCHING,
        .start = start,
        .end = end,
        .category_mask = PM_SCAN_WPALLOWED,
    };
    int rc = 0;
    while (rc >= 0 && arg.start < end) {
        rc = scan(u, &arg);
        arg.start = arg.walk_end;
    }
    return rc < 0 ? rc : 0;
}

/* Lists the regions of a range that have all of the categories (0: all that is mapped), and with
 * WP_MATCHING protects in the same moment what was written. */
static int list_regions(const struct pm__uffd *u, uint64_t start, uint64_t end, uint64_t all,
                        uint64_t flags, struct pm__regions *out)
{
    while (start < end) {
        struct pm_scan_arg arg = {
            .flags = flags,
            .start = start,
            .end = end,
            .vec = (uintptr_t)u->vector,
            .vec_len = PM__VECTOR,
            .category_mask = all,
            .return_mask = u->categories,
        };
        int n = scan(u, &arg);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++) {
            const struct pm_scan_region *r = &u->vector[i];
            int rc = pm__regions_add(out, r->start, r->end, (uint32_t)r->categories);
            if (rc < 0)
                return rc;
        }
        start = arg.walk_end;
    }
    return 0;
}

/* ---- beginning ---------------------------------------------------------------------- */

static int tries(const struct pm__uffd *u, uint64_t page, uint64_t size, uint64_t categories)
{
    struct pm_scan_arg arg = {
        .start = page,
        .end = page + size,
        .vec = (uintptr_t)u->vector,
        .vec_len = 1,
        .return_mask = categories,
    };
    int n = scan(u, &arg);
    return n < 0 ? n : n == 1 ? (int)u->vector[0].categories : -EIO;
}

static int registers(const struct pm__uffd *u, uint64_t start, uint64_t end, uint64_t *ioctls)
{
    struct uffdio_register arg = {
        .range = {.start = start, .len = end - start},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    int rc = io(u->fd, UFFDIO_REGISTER, &arg);
    *ioctls = arg.ioctls;
    return rc;
}

static void unregister(const struct pm__uffd *u, uint64_t start, uint64_t end)
{
    struct uffdio_range range = {.start = start, .len = end - start};
    io(u->fd, UFFDIO_UNREGISTER, &range);
}

/* What is claimed later is seen here first, on a page of our own. */
static int self_test(struct pm__uffd *u, volatile char *page, uint64_t size, pm_error *err)
{
    uint64_t at = (uintptr_t)page, ioctls,
             least = PM_SCAN_WPALLOWED | PM_SCAN_WRITTEN | PM_SCAN_FILE | POPULATED | PM_SCAN_ZERO |
                     PM_SCAN_HUGE;
    int rc = registers(u, at, at + size, &ioctls);
    if (rc < 0)
        return fail(err, -rc, "UFFDIO_REGISTER");
    u->categories = least;
    rc = tries(u, at, size, least | PM_SCAN_GUARD);
    if (rc >= 0)
        u->categories |= PM_SCAN_GUARD;
    else if ((rc = tries(u, at, size, least)) < 0)
        return fail(err, -rc, "PAGEMAP_SCAN");
    else
        u->seen.doubt_swap = madvise((void *)(uintptr_t)page, size, 102 /* GUARD_INSTALL */) == 0 &&
                             madvise((void *)(uintptr_t)page, size, 103 /* GUARD_REMOVE */) == 0;
    if ((rc = protect(u, at, at + size)) < 0)
        return fail(err, -rc, "PM_SCAN_WP_MATCHING");
    int before = tries(u, at, size, least);
    *page = 1;
    int after = tries(u, at, size, least);
    unregister(u, at, at + size);
    if (before < 0 || after < 0 || (before & PM_SCAN_WRITTEN) || !(after & PM_SCAN_WRITTEN) ||
        !(before & PM_SCAN_WPALLOWED))
        return fail(err, ENOTSUP, "its self-test");
    return 0;
}

/* Opened for each use: a test may close descriptors that it does not know. */
static int open_pagemap(struct pm__uffd *u)
{
    u->pagemap = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
    return u->pagemap < 0 ? u->pagemap : 0;
}

static void close_pagemap(struct pm__uffd *u)
{
    if (u->pagemap >= 0)
        pm__kernel.close(pm__kernel.ctx, u->pagemap);
    u->pagemap = -1;
}

static int open_both(struct pm__uffd *u, pm_error *err)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = WP_ASYNC | WP_UNPOPULATED | WP_HUGETLBFS_SHMEM};
    int rc = open_pagemap(u);
    if (rc < 0)
        return fail(err, -rc, "/proc/self/pagemap");
    u->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
    if (u->fd < 0)
        return fail(err, errno, "userfaultfd");
    rc = io(u->fd, UFFDIO_API, &api);
    return rc < 0 ? fail(err, -rc, "UFFDIO_API") : 0;
}

/* Opens it and makes sure that it works.  On failure nothing is left open. */
int pm__uffd_open(struct pm__uffd *u, pm_error *err)
{
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    u->fd = u->pagemap = -1;
    int rc = open_both(u, err);
    void *page = MAP_FAILED;
    if (rc == 0) {
        page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        rc = page == MAP_FAILED ? fail(err, ENOMEM, "mmap") : self_test(u, page, size, err);
    }
    if (page != MAP_FAILED)
        munmap(page, size);
    if (rc < 0)
        pm__uffd_close(u);
    return rc;
}

/* Why a mapping cannot be watched, by what registering it said. */
static uint32_t why(int code)
{
    return code == -EBUSY ? PM_W_BUSY : PM_W_REFUSED;
}

/* Up to where to register mapping `i`: the heap without its last page, if that holds nothing and
 * nobody asked for it.  If it is written, it is new. */
static uint64_t end_of_watch(const struct pm__uffd *u, size_t i, const struct pm__regions *wanted)
{
    const struct pm__regions *mapped = &u->seen.mapped;
    const pm_region *m = &mapped->at[i];
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE), last = m->end - size, until = m->end;
    struct pm__walk walk = {.list = wanted};
    uint32_t ignored;
    bool grows = m->state & PM__V_HEAP && (i + 1 == mapped->n || mapped->at[i + 1].start != m->end);
    if (!grows || pm__walk_to(&walk, last, &until, &ignored))
        return m->end;
    return tries(u, last, size, POPULATED) == 0 ? last : m->end;
}

/* Registers mapping `i`; notes what cannot be. */
static int watch_one(struct pm__uffd *u, size_t i, const struct pm__regions *wanted)
{
    const pm_region *m = &u->seen.mapped.at[i];
    uint64_t ioctls = 0, end = end_of_watch(u, i, wanted);
    if (m->state & PM__V_SPECIAL)
        return pm__regions_add(&u->seen.unwatched, m->start, m->end, PM_W_SPECIAL);
    if ((m->state & (PM__V_OURS | PM__V_KERNELS)) || m->start == end)
        return 0;
    int rc = registers(u, m->start, end, &ioctls);
    if (rc < 0)
        return pm__regions_add(&u->seen.unwatched, m->start, m->end, why(rc));
    if (!(ioctls >> _UFFDIO_ZEROPAGE & 1)) { /* of all memory only hugetlb has none */
        unregister(u, m->start, end);
        return pm__regions_add(&u->seen.unwatched, m->start, m->end, PM_W_HUGETLB);
    }
    return pm__regions_push(&u->seen.registered, m->start, end, 0);
}

/* What of [start, end) is populated, in whole page tables. */
static int populated_parts(struct pm__uffd *u, uint64_t start, uint64_t end,
                           struct pm__regions *out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), table = page * (page / 8);
    struct pm__regions found = {0};
    int rc = list_regions(u, start, end, 0, 0, &found);
    for (size_t i = 0; i < found.n && rc == 0; i++) {
        if (!(found.at[i].state & POPULATED))
            continue;
        uint64_t lo = found.at[i].start & ~(table - 1),
                 hi = (found.at[i].end + table - 1) & ~(table - 1);
        lo = lo < start ? start : lo;
        hi = hi > end ? end : hi;
        if (out->n && out->at[out->n - 1].end > lo)
            lo = out->at[out->n - 1].end;
        rc = pm__regions_add(out, lo, hi, 0);
    }
    pm__regions_free(&found);
    return rc;
}

/* Chooses what to protect: `wanted` of what is registered, all of it that is not too empty. */
static int choose(struct pm__uffd *u, const struct pm__regions *wanted, bool everything)
{
    struct pm__walk walk = {.list = wanted};
    uint64_t spent = 0;
    for (size_t i = 0; i < u->seen.registered.n; i++) {
        const pm_region *r = &u->seen.registered.at[i];
        for (uint64_t at = r->start, until; at < r->end; at = until) {
            uint32_t ignored;
            until = r->end;
            if (!pm__walk_to(&walk, at, &until, &ignored) && !everything)
                continue;
            bool whole = until - at <= EMPTY_EACH && spent + (until - at) <= EMPTY_ALL;
            spent += whole ? until - at : 0;
            int rc = whole ? pm__regions_add(&u->seen.armed, at, until, 0)
                           : populated_parts(u, at, until, &u->seen.armed);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* Registers what is mapped and wanted, and chooses what to protect.  The lists are made anew. */
int pm__uffd_watch(struct pm__uffd *u, const struct pm__regions *wanted, bool everything)
{
    struct pm__walk walk = {.list = wanted};
    int rc = u->pagemap < 0 ? open_pagemap(u) : 0;
    if (rc < 0)
        return rc;
    u->seen.mapped.n = 0;
    u->seen.unwatched.n = 0;
    u->seen.registered.n = 0;
    rc = pm__read_mapped("/proc/self/maps", u->lines, &u->seen.mapped);
    for (size_t i = 0; i < u->seen.mapped.n && rc == 0; i++) {
        const pm_region *m = &u->seen.mapped.at[i];
        uint64_t until = m->end;
        uint32_t ignored;
        bool some = pm__walk_to(&walk, m->start, &until, &ignored) || until < m->end;
        if (some || everything)
            rc = watch_one(u, i, wanted);
        u->top = m->end > u->top && m->end < UINT64_C(1) << 63 ? m->end : u->top;
    }
    if (rc < 0)
        return rc;
    struct pm__regions before = u->seen.armed;
    u->seen.armed = u->seen.late;
    u->seen.armed.n = 0;
    u->seen.late = before; /* what was protected before: pm__uffd_arm leaves it alone */
    return choose(u, wanted, everything);
}

/* Huge entries of files lose the note as a whole with the first write: they are broken up, by
 * protecting a part of each, so that it is kept page by page.  Anonymous ones need not be. */
static int break_up(struct pm__uffd *u, uint64_t start, uint64_t end)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), table = page * (page / 8);
    struct pm__regions huge = {0};
    int rc = list_regions(u, start, end, PM_SCAN_HUGE, 0, &huge);
    for (size_t i = 0; i < huge.n && rc == 0; i++) {
        const pm_region *r = &huge.at[i];
        for (uint64_t at = r->start; at < r->end && (r->state & PM_SCAN_FILE) && rc == 0;
             at += table)
            rc = protect(u, at, at + page);
    }
    pm__regions_free(&huge);
    return rc;
}

/* Protects what was chosen, the last thing before a window is open.  What windows that are open
 * already watch was protected again in the moment in which it was read: to do it once more would
 * lose what other threads wrote since. */
int pm__uffd_arm(struct pm__uffd *u)
{
    struct pm__walk before = {.list = &u->seen.late}, scanned = {.list = &u->seen.scanned};
    int rc = 0;
    for (size_t i = 0; i < u->seen.armed.n && rc == 0; i++)
        rc = break_up(u, u->seen.armed.at[i].start, u->seen.armed.at[i].end);
    for (size_t i = 0; i < u->seen.armed.n && rc == 0; i++) {
        const pm_region *r = &u->seen.armed.at[i];
        for (uint64_t at = r->start, until; at < r->end && rc == 0; at = until) {
            uint32_t ignored, is;
            until = r->end;
            bool told = pm__walk_to(&scanned, at, &until, &is);
            bool was_armed = pm__walk_to(&before, at, &until, &ignored);
            if (!told || !was_armed || !(is & PM_SCAN_WPALLOWED))
                rc = protect(u, at, until);
        }
    }
    close_pagemap(u);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------ */

/* Mappings that came while it was scanned, or that a scan does not show. */
static int scan_gaps(struct pm__uffd *u)
{
    struct pm__walk walk = {.list = &u->seen.scanned};
    u->seen.late.n = 0;
    for (size_t i = 0; i < u->seen.mapped.n; i++) {
        const pm_region *m = &u->seen.mapped.at[i];
        for (uint64_t at = m->start, until; at < m->end; at = until) {
            uint32_t ignored;
            until = m->end;
            if (pm__walk_to(&walk, at, &until, &ignored) || at >= UINT64_C(1) << 63)
                continue;
            int rc = list_regions(u, at, until, 0, 0, &u->seen.late);
            if (rc == -ENOMEM)
                return rc;
        }
    }
    return 0;
}

/* A shared mapping of what may only be read: registering asks whether it could ever be written. */
static void find_sealed(struct pm__uffd *u)
{
    struct pm__walk walk = {.list = &u->seen.registered};
    for (size_t i = 0; i < u->seen.mapped.n; i++) {
        pm_region *m = &u->seen.mapped.at[i];
        uint64_t until = m->end, ioctls;
        uint32_t ignored;
        if (!(m->state & PM_SHARED_MAP) || (m->state & (PM_WRITE | PM__V_SPECIAL | PM__V_OURS)) ||
            pm__walk_to(&walk, m->start, &until, &ignored))
            continue;
        int rc = registers(u, m->start, m->end, &ioctls);
        if (rc == -EPERM)
            m->state |= PM__V_SEALED;
        else if (rc == 0)
            unregister(u, m->start, m->end);
    }
}

/* Reads and protects again what was protected.  Where nothing is, older kernels see no write,
 * and so protect nothing. */
static int read_again(struct pm__uffd *u)
{
    uint64_t at = 0;
    int rc = 0;
    for (size_t i = 0; i < u->seen.armed.n && rc == 0; i++) {
        const pm_region *r = &u->seen.armed.at[i];
        rc = list_regions(u, at, r->start, 0, 0, &u->seen.scanned);
        size_t first = u->seen.scanned.n;
        if (rc == 0)
            rc = list_regions(u, r->start, r->end, PM_SCAN_WPALLOWED, WP_MATCHING,
                              &u->seen.scanned);
        for (size_t k = first; k < u->seen.scanned.n && rc == 0; k++)
            if (!(u->seen.scanned.at[k].state & POPULATED))
                rc = protect(u, u->seen.scanned.at[k].start, u->seen.scanned.at[k].end);
        at = r->end;
    }
    return rc < 0 ? rc : list_regions(u, at, u->top, 0, 0, &u->seen.scanned);
}

/* Reads what was written, first of all, and then what it means; `again`: protects in the same
 * moment what was protected. */
int pm__uffd_read(struct pm__uffd *u, bool again, struct pm__regions *out)
{
    int rc = open_pagemap(u);
    u->seen.scanned.n = 0;
    u->seen.mapped.n = 0;
    if (rc == 0)
        rc = again ? read_again(u) : list_regions(u, 0, u->top, 0, 0, &u->seen.scanned);
    if (rc == 0)
        rc = pm__read_mapped("/proc/self/maps", u->lines, &u->seen.mapped);
    if (rc == 0)
        rc = scan_gaps(u);
    if (rc == 0) {
        find_sealed(u);
        rc = pm__judge(&u->seen, out);
    }
    close_pagemap(u);
    return rc;
}

/* ---- ending ------------------------------------------------------------------------- */

/* Whether the descriptor is still the one we opened: a test may have closed it, and its number
 * may be another file's by now. */
static bool is_ours(int fd)
{
    struct uffdio_range nothing = {0};
    return fd >= 0 && io(fd, UFFDIO_UNREGISTER, &nothing) == -EINVAL;
}

/* Lets go of all memory, so that its mappings are joined again, and closes what is open. */
void pm__uffd_close(struct pm__uffd *u)
{
    bool open = is_ours(u->fd);
    for (size_t i = 0; open && i < u->seen.registered.n; i++)
        unregister(u, u->seen.registered.at[i].start, u->seen.registered.at[i].end);
    if (open)
        close(u->fd);
    u->fd = -1;
    close_pagemap(u);
}

/* In a forked child: the descriptors are of the parent's memory. */
void pm__uffd_forget(struct pm__uffd *u)
{
    if (is_ours(u->fd))
        close(u->fd);
    u->fd = -1;
    close_pagemap(u);
}
