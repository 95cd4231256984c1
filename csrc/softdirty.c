/* SPDX-License-Identifier: MIT
 *
 * softdirty.c - what was written since, where only soft-dirty bits tell (CONFIG_MEM_SOFT_DIRTY,
 * before Linux 6.7 or where userfaultfd is forbidden).  There is one such bit per page for
 * everybody, a mapping that is new or grew is soft-dirty as a whole, and a page that was given
 * back and read anew is not: less is certain than with userfaultfd.
 */
#include "uapi.h"
#include "written.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int fail(pm_error *err, int code, const char *step)
{
    err->code = code;
    err->stage = PM_AT_PAGEMAP;
    strncpy(err->detail, step, sizeof err->detail - 1);
    return -code;
}

/* Clears the soft-dirty bits of this process; -ENOTSUP where the kernel has none. */
int pm__softdirty_clear(pm_error *err)
{
    if (!pm__features()->softdirty)
        return fail(err, ENOTSUP, "soft-dirty bits");
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, errno, "/proc/self/clear_refs");
    ssize_t n = write(fd, "4", 1);
    int code = n < 0 ? errno : 0;
    close(fd);
    return n == 1 ? 0 : fail(err, code ? code : EIO, "/proc/self/clear_refs");
}

/* By the entry of a page, and the mapping that it is in. */
static uint32_t judge(uint32_t mapping, uint64_t entry)
{
    bool populated = (entry & (PM_PE_PRESENT | PM_PE_SWAP)) && !(entry & PM_PE_GUARD);
    bool files = !(mapping & PM_SHARED_MAP) && (entry & PM_PE_FILE);
    if (mapping & PM__V_KERNELS)
        return PM_W_CLEAN;
    if (mapping & PM__V_SPECIAL)
        return PM_W_SPECIAL;
    if (mapping & PM__V_HUGETLB)
        return PM_W_HUGETLB; /* pagemap shows no such bit of it */
    if (!populated)
        return PM_W_EMPTY;
    if (!(entry & PM_PE_SOFTDIRTY))
        return files ? PM_W_EMPTY : PM_W_CLEAN;
    if (mapping & PM__V_MARKED)
        return files ? PM_W_EMPTY : PM_W_NEW;
    return files ? PM_W_LOST : PM_W_WRITTEN;
}

static int read_one(int fd, uint64_t *entries, size_t cap, const pm_region *m,
                    struct pm__regions *out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = m->start; at < m->end;) {
        uint64_t pages = (m->end - at) / page, n = pages < cap ? pages : cap;
        ssize_t got = pm__pread_full(&pm__kernel, fd, entries, n * 8, at / page * 8);
        if (got != (ssize_t)(n * 8))
            return got < 0 ? (int)got : -EIO;
        for (uint64_t i = 0; i < n; i++, at += page) {
            int rc = pm__regions_add(out, at, at + page, judge(m->state, entries[i]));
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

/* Reads them, `lines` being room to work in, and gives what they say of every page. */
int pm__softdirty_read(char *lines, struct pm__regions *mapped, struct pm__regions *out)
{
    mapped->n = 0;
    int rc = pm__read_mapped("/proc/self/smaps", lines, mapped);
    if (rc < 0)
        return rc;
    int fd = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
    if (fd < 0)
        return fd;
    for (size_t i = 0; i < mapped->n && rc == 0; i++)
        if (!(mapped->at[i].state & PM__V_OURS))
            rc = read_one(fd, (uint64_t *)(void *)lines, PM__LINES / 8, &mapped->at[i], out);
    pm__kernel.close(pm__kernel.ctx, fd);
    return rc;
}

/* What held something when the window began, and holds nothing now, was given back.  What was
 * given back and then read does not differ from what was only read. */
int pm__softdirty_compare(const struct pm__regions *before, const struct pm__regions *now,
                          struct pm__regions *out)
{
    struct pm__walk walk = {.list = before};
    for (size_t i = 0; i < now->n; i++) {
        const pm_region *r = &now->at[i];
        for (uint64_t at = r->start, until; at < r->end; at = until) {
            uint32_t was;
            until = r->end;
            bool held = pm__walk_to(&walk, at, &until, &was) && was == PM_W_CLEAN;
            bool gone = held && r->state == PM_W_EMPTY;
            int rc = pm__regions_add(out, at, until, gone ? PM_W_LOST : r->state);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}
