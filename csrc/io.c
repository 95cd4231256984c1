/* SPDX-License-Identifier: MIT
 *
 * io.c - the one place through which the engine reads the kernel.
 */
#include "bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static int kernel_open(void *ctx, int dir, const char *path, int flags)
{
    (void)ctx;
    int fd;
    do
        fd = pm__open(dir, path, flags);
    while (fd == -EINTR); /* of a mapped file, on FUSE or NFS */
    return fd;
}

static ssize_t kernel_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    (void)ctx;
    ssize_t got;
    do
        got = pread(fd, buf, n, (off_t)offset);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static int kernel_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    (void)ctx;
    int rc;
    do
        rc = ioctl(fd, request, arg);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

static int kernel_stat(void *ctx, int fd, struct pm__file *out)
{
    (void)ctx;
    struct stat st;
    struct statfs fs;
    int rc;
    do
        rc = fstat(fd, &st) < 0 ? -1 : fstatfs(fd, &fs);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return -errno;
    *out = (struct pm__file){
        .dev_major = major(st.st_dev),
        .dev_minor = minor(st.st_dev),
        .inode = st.st_ino,
        .mode = st.st_mode,
        .fstype = (uint64_t)fs.f_type,
    };
    return 0;
}

static int kernel_close(void *ctx, int fd)
{
    (void)ctx;
    return pm__close(fd);
}

static void kernel_here(void *ctx, struct pm__here *out)
{
    (void)ctx;
    out->pid = getpid();
    out->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    out->features = *pm__features();
    out->features.pte = pm__walker_is_ready();
    out->most_pages = 0;
}

struct search {
    uint64_t address;
    struct pm__file *file;
    bool found;
};

static int match_address(void *arg, const char *line, size_t len)
{
    struct search *s = arg;
    const char *p = line, *end = line + len;
    uint64_t start, skip, major, minor;
    if (!pm__hex(&p, end, &start) || start != s->address)
        return 0;
    /* start-end perms offset major:minor inode */
    p++;
    if (!pm__hex(&p, end, &skip) || end - p < 6)
        return 0;
    p += 6;
    if (!pm__hex(&p, end, &skip) || p++ >= end || !pm__hex(&p, end, &major) || p++ >= end ||
        !pm__hex(&p, end, &minor) || p++ >= end || !pm__dec(&p, end, &s->file->inode))
        return 0;
    s->file->dev_major = (uint32_t)major;
    s->file->dev_minor = (uint32_t)minor;
    s->found = true;
    return 0;
}

/* What maps says of a file is seen by mapping it ourselves. */
static int kernel_mapped(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *out = (struct pm__file){0};
    void *p = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    struct search s = {.address = (uintptr_t)p, .file = out};
    int maps = kernel_open(ctx, AT_FDCWD, "/proc/self/maps", O_RDONLY);
    if (maps >= 0) {
        pm__each_line(&pm__kernel, maps, buf, cap, match_address, &s);
        kernel_close(ctx, maps);
    }
    munmap(p, page);
    return s.found ? 0 : -ENOENT;
}

static bool kernel_ours(void *ctx, uint64_t start, uint64_t end, bool inherited)
{
    (void)ctx;
    return pm__is_ours(start, end, inherited);
}

static int kernel_table(void *ctx, int pagemap, uint64_t address, size_t most,
                        struct pm__table *out)
{
    (void)ctx;
    return pm__walker_read(pagemap, address, most, out);
}

const struct pm__io pm__kernel = {
    .open = kernel_open,
    .pread = kernel_pread,
    .ioctl = kernel_ioctl,
    .stat = kernel_stat,
    .close = kernel_close,
    .here = kernel_here,
    .mapped = kernel_mapped,
    .ours = kernel_ours,
    .table = kernel_table,
};

/* Reads until n bytes, end of file, or an error; short reads are continued. */
ssize_t pm__pread_full(const struct pm__io *io, int fd, void *buf, size_t n, uint64_t offset)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = io->pread(io->ctx, fd, (char *)buf + done, n - done, offset + done);
        if (got < 0)
            return got;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* Feeds a text file line by line.  A last line without newline counts. */
int pm__each_line(const struct pm__io *io, int fd, char *buf, size_t cap, pm__line_fn *fn,
                  void *arg)
{
    size_t held = 0;
    uint64_t offset = 0;
    for (;;) {
        if (held == cap)
            return -PM_E_FORMAT; /* a line longer than the buffer: no kernel file has one */
        ssize_t got = io->pread(io->ctx, fd, buf + held, cap - held, offset);
        if (got < 0)
            return (int)got;
        offset += (uint64_t)got;
        held += (size_t)got;
        char *line = buf;
        for (char *nl; (nl = memchr(line, '\n', held - (size_t)(line - buf))); line = nl + 1) {
            int rc = fn(arg, line, (size_t)(nl - line));
            if (rc < 0)
                return rc;
        }
        held -= (size_t)(line - buf);
        memmove(buf, line, held);
        if (got == 0)
            return held ? fn(arg, buf, held) : 0;
    }
}
