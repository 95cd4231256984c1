/* SPDX-License-Identifier: MIT
 *
 * program.c - what pmaps-tracer and pmaps-follower share.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_TICKS 4 /* it may be seen stopped; a debugger or strace stops for an instant */

uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

bool slurp(int dir, const char *path, char *buf, size_t cap)
{
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, buf, cap - 1);
    close(fd);
    buf[got > 0 ? got : 0] = '\0';
    return got > 0;
}

const char *behind_comm(const char *stat)
{
    const char *end = strrchr(stat, ')');
    return end && end[1] == ' ' ? end + 2 : "";
}

static void close_others(void)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0)
        return;
#endif
    long most = sysconf(_SC_OPEN_MAX);
    for (int fd = 3; fd < most; fd++)
        close(fd);
}

int turn_away(void)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU};
    sigset_t child;
    for (int n = 1; n < NSIG; n++)
        signal(n, SIG_DFL);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &child, NULL);
    setsid();
    close_others();
    return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

bool find_patron(struct patron *p)
{
    char path[64];
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(SOCKET, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 0)
        return false;
    p->pid = peer.pid;
    snprintf(path, sizeof path, "/proc/%d/stat", p->pid);
    p->stat = open(path, O_RDONLY | O_CLOEXEC);
    return true;
}

static char state_of_patron(const struct patron *p)
{
    char stat[1024];
    ssize_t got = pread(p->stat, stat, sizeof stat - 1, 0);
    stat[got > 0 ? got : 0] = '\0';
    return *behind_comm(stat);
}

bool is_patron_there(struct patron *p, bool holding)
{
    if (getppid() != p->pid)
        return false;
    char state = state_of_patron(p);
    p->ticks = holding && (state == 'T' || state == 't') ? p->ticks + 1 : 0;
    return p->ticks < MAX_TICKS;
}
