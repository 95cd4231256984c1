/* SPDX-License-Identifier: MIT
 *
 * io.c - the one place through which the engine reads the kernel.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static int kernel_open(void *ctx, int dir, const char *path, int flags)
{
    (void)ctx;
    int fd;
    do
        fd = openat(dir, path, flags | O_CLOEXEC);
    while (fd < 0 && errno == EINTR); /* of a mapped file, on FUSE or NFS */
    return fd < 0 ? -errno : fd;
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
    return close(fd) < 0 ? -errno : 0;
}

const struct pm__io pm__kernel = {
    .open = kernel_open,
    .pread = kernel_pread,
    .ioctl = kernel_ioctl,
    .stat = kernel_stat,
    .close = kernel_close,
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
