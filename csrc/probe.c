/* SPDX-License-Identifier: MIT
 *
 * probe.c - what this host lets us see, found out by trying, never by euid or
 * kernel version.
 */
#include "bpf.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* A page of our own that has just been written, and what pagemap says of it. */
struct trial {
    const struct pm__io *io;
    int pagemap;
    char *page;
    size_t page_size;
    uint64_t entry;
};

static int begin_trial(struct trial *t)
{
    t->io = &pm__kernel;
    t->page_size = (size_t)sysconf(_SC_PAGESIZE);
    t->page = mmap(NULL, t->page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (t->page == MAP_FAILED)
        return -ENOMEM;
    *(volatile char *)t->page = 1;
    t->pagemap = t->io->open(t->io->ctx, AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
    if (t->pagemap < 0)
        return t->pagemap;
    uint64_t at = (uintptr_t)t->page / t->page_size * 8;
    ssize_t got = pm__pread_full(t->io, t->pagemap, &t->entry, 8, at);
    return got == 8 ? 0 : got < 0 ? (int)got : -EIO;
}

static void end_trial(struct trial *t)
{
    if (t->pagemap >= 0)
        t->io->close(t->io->ctx, t->pagemap);
    if (t->page != MAP_FAILED)
        munmap(t->page, t->page_size);
}

static int try_scan(const struct trial *t, uint64_t category)
{
    struct pm_scan_region region;
    struct pm_scan_arg arg = {
        .size = sizeof arg,
        .start = (uintptr_t)t->page,
        .end = (uintptr_t)t->page + t->page_size,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_anyof_mask = category,
        .return_mask = category,
    };
    int rc = t->io->ioctl(t->io->ctx, t->pagemap, PM_IOC_SCAN, &arg);
    return rc < 0 ? -rc : 0;
}

/* Linux from 6.15 on shows guard pages in bit 58; PAGEMAP_SCAN learnt of them in the same
 * breath (6.15) or soon after, so a page of our own is the better witness. */
static bool shows_guard(const struct trial *t)
{
    uint64_t entry = 0;
    if (madvise(t->page, t->page_size, 102 /* MADV_GUARD_INSTALL */) < 0)
        return true; /* this kernel has no guard pages to hide */
    pm__pread_full(t->io, t->pagemap, &entry, 8, (uintptr_t)t->page / t->page_size * 8);
    return entry & PM_PE_GUARD;
}

static struct pm__features features;

static void find_features(void)
{
    struct trial t = {.pagemap = -1, .page = MAP_FAILED};
    if (begin_trial(&t) == 0) {
        features.softdirty = t.entry & PM_PE_SOFTDIRTY;
        features.scan = try_scan(&t, PM_SCAN_PRESENT) == 0;
        features.guard = shows_guard(&t);
    }
    end_trial(&t);
}

const struct pm__features *pm__features(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_features);
    return &features;
}

static int try_open(const char *path)
{
    int fd = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, path, O_RDONLY);
    char byte;
    if (fd < 0)
        return -fd;
    ssize_t got = pm__kernel.pread(pm__kernel.ctx, fd, &byte, 1, 0);
    pm__kernel.close(pm__kernel.ctx, fd);
    return got < 0 ? (int)-got : 0;
}

/* That these files open proves nothing; that a page of ours can be looked up does. */
static int try_kpage(const char *path, uint64_t frame)
{
    int fd = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, path, O_RDONLY);
    uint64_t value = 0;
    if (fd < 0)
        return -fd;
    ssize_t got = pm__pread_full(&pm__kernel, fd, &value, 8, frame * 8);
    pm__kernel.close(pm__kernel.ctx, fd);
    return got < 0 ? (int)-got : frame && value ? 0 : -1;
}

static int try_anon_names(const struct trial *t)
{
    int rc = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, t->page, t->page_size, "pmaps probe");
    return rc < 0 ? errno : 0;
}

/* A window over one page: whether it is by userfaultfd, and if not, why. */
static int try_window(const struct trial *t)
{
    const pm_extent page = {(uintptr_t)t->page, (uintptr_t)t->page + t->page_size};
    pm_error err[2] = {0};
    pm_written *window;
    int rc = pm_written_begin(&page, 1, &window, err), method = 0;
    if (rc == 0) {
        method = pm_written_method(window);
        pm_written_free(window);
    }
    return method == PM_WRITTEN_UFFD ? 0 : err[0].code ? err[0].code : -rc;
}

int pm_probe(pm_host *out)
{
    struct trial t = {.pagemap = -1, .page = MAP_FAILED};
    const struct pm__features *host = pm__features();
    memset(out, 0, sizeof *out);
    int rc = begin_trial(&t);
    uint64_t frame = t.entry & PM_PE_PFN_MASK;
    out->page_size = t.page_size;
    out->probe[PM_PROBE_MAPS] = try_open("/proc/self/maps");
    out->probe[PM_PROBE_SMAPS] = try_open("/proc/self/smaps");
    out->probe[PM_PROBE_NUMA_MAPS] = try_open("/proc/self/numa_maps");
    out->probe[PM_PROBE_PAGEMAP] = rc < 0 ? -rc : 0;
    out->probe[PM_PROBE_PFN] = rc < 0 ? -rc : frame ? 0 : -1;
    out->probe[PM_PROBE_SCAN] = rc < 0 ? -rc : try_scan(&t, PM_SCAN_PRESENT);
    out->probe[PM_PROBE_SCAN_ZERO] = rc < 0 ? -rc : try_scan(&t, PM_SCAN_ZERO);
    out->probe[PM_PROBE_SCAN_GUARD] = rc < 0 ? -rc : try_scan(&t, PM_SCAN_GUARD);
    out->probe[PM_PROBE_SOFTDIRTY] = rc < 0 ? -rc : host->softdirty ? 0 : -1;
    out->probe[PM_PROBE_KPAGEFLAGS] = try_kpage("/proc/kpageflags", frame);
    out->probe[PM_PROBE_KPAGECOUNT] = try_kpage("/proc/kpagecount", frame);
    out->probe[PM_PROBE_ANON_NAMES] = rc < 0 ? -rc : try_anon_names(&t);
    out->probe[PM_PROBE_UFFD] = rc < 0 ? -rc : try_window(&t);
    out->probe[PM_PROBE_PTE] = pm__walker_prepare();
    end_trial(&t);
    return 0;
}
