/* SPDX-License-Identifier: MIT
 *
 * descriptors.c - files that are open while a capture runs, and no forked child keeps.
 *
 * A child that another thread forks meanwhile has our descriptors too.  It may give up its rights
 * next; what was opened with them (pagemap with frames, kpageflags) would go on answering.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define MOST_OPEN                                                                                  \
    1024 /* a capture has eight at a time, and no more run at once than arena.c lets */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int held[MOST_OPEN];
static size_t n_held;

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void close_all(void)
{
    while (n_held)
        close(held[--n_held]);
    pthread_mutex_init(&lock, NULL);
}

/* Earlier than who opens files with a lock of his own held: handlers before a fork run in the
 * opposite order. */
__attribute__((constructor(200))) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, close_all);
}

/* Files of mapped code, on FUSE or NFS, may keep us waiting, and nobody's fork is to wait for that.
 * They hold nothing that a child may not see. */
static bool may_block(int flags)
{
    return flags & (O_NONBLOCK | O_PATH);
}

static int hold(int fd)
{
    if (n_held == MOST_OPEN) {
        close(fd);
        return -EMFILE;
    }
    held[n_held++] = fd;
    return fd;
}

static int open_and_hold(int dir, const char *path, int flags)
{
    pthread_mutex_lock(&lock);
    int fd = openat(dir, path, flags | O_CLOEXEC), err = errno;
    int rc = fd < 0 ? -err : hold(fd);
    pthread_mutex_unlock(&lock);
    return rc;
}

static int open_slowly(int dir, const char *path, int flags)
{
    int fd = openat(dir, path, flags | O_CLOEXEC), err = errno;
    if (fd < 0)
        return -err;
    pthread_mutex_lock(&lock);
    int rc = hold(fd);
    pthread_mutex_unlock(&lock);
    return rc;
}

int pm__open(int dir, const char *path, int flags)
{
    return may_block(flags) ? open_slowly(dir, path, flags) : open_and_hold(dir, path, flags);
}

/* The last one opened is mostly the first one closed. */
static void let_go(int fd)
{
    for (size_t i = n_held; i--;) {
        if (held[i] != fd)
            continue;
        held[i] = held[--n_held];
        return;
    }
}

int pm__close(int fd)
{
    pthread_mutex_lock(&lock);
    let_go(fd);
    int rc = close(fd) < 0 ? -errno : 0;
    pthread_mutex_unlock(&lock);
    return rc;
}
