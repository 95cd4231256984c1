/* SPDX-License-Identifier: MIT
 *
 * stop.c - asking a tracer, a process of its own, to hold the target still.
 *
 * The tracer (pmaps-tracer) is at the other end of a stream socket.  One byte asks,
 * one pm__held answers: 's' to stop every thread of the target, 'c' to let it go on.
 * When our end closes, however we end, the tracer lets go; when the tracer ends, the
 * kernel does.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define PATIENCE_MS 10000 /* the tracer itself gives up much earlier, and says why */

static int receive(int fd, void *buf, size_t n)
{
    size_t done = 0;
    while (done < n) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = poll(&p, 1, PATIENCE_MS);
        if (ready == 0)
            return -ETIMEDOUT;
        ssize_t got = ready < 0 ? -1 : recv(fd, (char *)buf + done, n - done, 0);
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 0)
            return -EPIPE;
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int ask(int fd, char what)
{
    struct pm__held held;
    ssize_t sent;
    do
        sent = send(fd, &what, 1, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    int rc = receive(fd, &held, sizeof held);
    if (rc == -ECONNRESET) /* it ended before it had heard us */
        return -EPIPE;
    return rc < 0 ? rc : -held.status;
}

/* Whether the directory that was opened before the stop is a living process's still.  While it
 * is, nobody else has its pid: it is the one that the tracer holds. */
static bool is_alive(struct pm__capture *c)
{
    char stat[1024];
    int fd = c->io->open(c->io->ctx, c->dir, "stat", O_RDONLY);
    if (fd < 0)
        return false;
    ssize_t got = pm__pread_full(c->io, fd, stat, sizeof stat, 0);
    c->io->close(c->io->ctx, fd);
    const char *end = got > 0 ? memrchr(stat, ')', (size_t)got) : NULL;
    return end && end + 2 < stat + got && !strchr("ZXx", end[2]);
}

int pm__stop(struct pm__capture *c)
{
    int fd = c->request->stopper;
    if (fd < 0)
        return 0;
    c->stopped_at = pm__monotonic_ns();
    int rc = ask(fd, 's');
    if (rc == -ESRCH)
        return pm__fail(c, PM_E_GONE, PM_AT_STOP, "");
    if (rc < 0)
        return pm__fail(c, -rc, PM_AT_STOP, rc == -EPIPE ? "the tracer has ended" : "");
    c->stopped = true;
    if (is_alive(c))
        return 0;
    pm__resume(c);
    return pm__fail(c, PM_E_GONE, PM_AT_STOP, "");
}

/* A tracer that does not answer has let go already, nobody knows when. */
void pm__resume(struct pm__capture *c)
{
    if (!c->stopped)
        return;
    c->stopped = false;
    int rc = ask(c->request->stopper, 'c');
    c->header.stopped_ns = rc < 0 ? 0 : c->header.stopped_ns + pm__monotonic_ns() - c->stopped_at;
}
