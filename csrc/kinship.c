/* SPDX-License-Identifier: MIT
 *
 * kinship.c - whether two processes are one memory, and whether any moved while
 * several were captured one after another.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int pm_same_mm(int64_t a, int64_t b)
{
    long order = syscall(SYS_kcmp, (pid_t)a, (pid_t)b, KCMP_VM, 0UL, 0UL);
    return order < 0 ? -errno : order == 0;
}

int pm_cpu_time(int64_t pid, uint64_t *ns)
{
    struct timespec t;
    clockid_t clock;
    int rc = clock_getcpuclockid((pid_t)pid, &clock);
    if (rc)
        return -rc;
    if (clock_gettime(clock, &t) < 0)
        return -errno;
    *ns = (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
    return 0;
}

/* Looks for two lines of /proc/vmstat: one that says that events are counted at all. */
struct events {
    uint64_t migrated;
    bool counted;
};

static int read_event(void *arg, const char *line, size_t len)
{
    static const char faults[] = "pgfault ", migrated[] = "pgmigrate_success ";
    struct events *e = arg;
    const char *p = line + sizeof migrated - 1;
    if (len >= sizeof faults - 1 && memcmp(line, faults, sizeof faults - 1) == 0)
        e->counted = true;
    if (len >= sizeof migrated && memcmp(line, migrated, sizeof migrated - 1) == 0)
        return pm__dec(&p, line + len, &e->migrated) ? 0 : -EIO;
    return 0;
}

int pm_migrated(uint64_t *pages)
{
    struct pm__arena arena;
    struct events e = {0};
    int rc = pm__arena_get(&arena, PM__SCRATCH);
    if (rc < 0)
        return rc;
    int fd = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, "/proc/vmstat", O_RDONLY);
    rc = fd < 0 ? fd : 0;
    if (fd >= 0) {
        rc = pm__each_line(&pm__kernel, fd, pm__take(&arena, PM__SCRATCH, 1), PM__SCRATCH,
                           read_event, &e);
        pm__kernel.close(pm__kernel.ctx, fd);
    }
    pm__arena_put(&arena);
    *pages = e.migrated;
    return rc < 0 ? rc : e.counted ? 0 : -ENODATA;
}
