/* SPDX-License-Identifier: MIT
 *
 * The kernel behind the table of functions, where calls are interrupted by signals and reads
 * are short: the system calls are defined here in place of the C library's.
 */
#include "check.h"
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

static int interruptions; /* how often the next calls fail with EINTR */
static int broken;        /* ... and then with this */
static size_t most;       /* bytes that a read gives; 0: all */

static int struck(void)
{
    if (interruptions > 0) {
        interruptions--;
        errno = EINTR;
        return 1;
    }
    errno = broken;
    return broken != 0;
}

int openat(int dir, const char *path, int flags, ...)
{
    return struck() ? -1 : (int)syscall(SYS_openat, dir, path, flags, 0);
}

ssize_t pread(int fd, void *buf, size_t n, off_t offset)
{
    return struck() ? -1 : syscall(SYS_pread64, fd, buf, most && n > most ? most : n, offset);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    return struck() ? -1 : (int)syscall(SYS_ioctl, fd, request, arg);
}

int fstat(int fd, struct stat *out)
{
    return struck() ? -1 : (int)syscall(SYS_fstat, fd, out);
}

int fstatfs(int fd, struct statfs *out)
{
    return struck() ? -1 : (int)syscall(SYS_fstatfs, fd, out);
}

/* What each call gives when it was interrupted n times, and when it fails. */
static void interrupted(void)
{
    const struct pm__io *io = &pm__kernel;
    struct pm__file file;
    char buf[16];
    for (int n = 0; n < 4; n++) {
        int waiting = 0;
        interruptions = n;
        int fd = io->open(io->ctx, AT_FDCWD, "/proc/self/maps", O_RDONLY);
        CHECK_IN(fd >= 0, "open, %d times: %d", n, fd);
        interruptions = n;
        CHECK_IN(io->pread(io->ctx, fd, buf, sizeof buf, 0) == sizeof buf, "%d times", n);
        interruptions = n;
        CHECK_IN(io->stat(io->ctx, fd, &file) == 0, "stat, %d times", n);
        interruptions = n;
        CHECK_IN(io->ioctl(io->ctx, fd, FIONREAD, &waiting) != -EINTR, "ioctl, %d times", n);
        CHECK_EQ(interruptions, 0);
        CHECK_EQ(io->close(io->ctx, fd), 0);
        CHECK_EQ(io->close(io->ctx, fd), -EBADF);
    }
}

static void errors_come_through(void)
{
    static const int errors[] = {EIO, ENOMEM, EACCES, ESRCH, EMFILE, EPERM};
    const struct pm__io *io = &pm__kernel;
    struct pm__file file;
    char buf[16];
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        broken = errors[i];
        CHECK_EQ(io->open(io->ctx, AT_FDCWD, "/proc/self/maps", O_RDONLY), -broken);
        CHECK_EQ(io->pread(io->ctx, 0, buf, sizeof buf, 0), -broken);
        CHECK_EQ(io->ioctl(io->ctx, 0, FIONREAD, buf), -broken);
        CHECK_EQ(io->stat(io->ctx, 0, &file), -broken);
        CHECK_EQ(pm__pread_full(io, 0, buf, sizeof buf, 0), -broken);
    }
    broken = 0;
}

/* Read byte by byte, and interrupted: the same bytes. */
static void short_reads(void)
{
    const struct pm__io *io = &pm__kernel;
    char whole[512], pieces[512];
    int fd = io->open(io->ctx, AT_FDCWD, "/proc/self/maps", O_RDONLY);
    CHECK_EQ(pm__pread_full(io, fd, whole, sizeof whole, 0), sizeof whole);
    most = 7;
    interruptions = 5;
    CHECK_EQ(pm__pread_full(io, fd, pieces, sizeof pieces, 0), sizeof pieces);
    most = 0;
    CHECK(memcmp(whole, pieces, sizeof whole) == 0);
    io->close(io->ctx, fd);
}

int main(void)
{
    RUN(interrupted);
    RUN(errors_come_through);
    RUN(short_reads);
    return check_done();
}
