/* SPDX-License-Identifier: MIT
 *
 * pmaps_checkpoint.h - be captured now, by the test that runs this program.
 *
 *     #include "pmaps_checkpoint.h"
 *     pmaps_checkpoint("loaded");
 *
 * Waits until pytest_pmaps.run(), which started the program, has captured it, and gives 1.  In
 * a program that nothing of the kind has started it does nothing and gives 0: it looks at one
 * environment variable.  C89 and C++, Linux, nothing to link with; errno is left alone.
 */
#ifndef PMAPS_CHECKPOINT_H
#define PMAPS_CHECKPOINT_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PMAPS_CHECKPOINT_PATIENCE 60 /* seconds for it; then the program goes on */

static int pmaps_checkpoint_ask_(const char *path, const char *name)
{
    struct sockaddr_un to;
    struct timeval patience;
    char answer = 0;
    int fd, ok;
    if (strlen(path) >= sizeof to.sun_path)
        return 0;
    /* 02000000: SOCK_CLOEXEC, which strict C89 hides */
    fd = socket(AF_UNIX, SOCK_SEQPACKET | 02000000, 0);
    if (fd < 0)
        return 0;
    memset(&to, 0, sizeof to);
    memset(&patience, 0, sizeof patience);
    to.sun_family = AF_UNIX;
    strcpy(to.sun_path, path);
    patience.tv_sec = PMAPS_CHECKPOINT_PATIENCE;
    ok = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
         setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
         connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
         send(fd, name, strlen(name), MSG_NOSIGNAL) == (ssize_t)strlen(name);
    while (ok && recv(fd, &answer, 1, 0) < 0 && errno == EINTR)
        continue;
    close(fd);
    return ok && answer == 'y';
}

static int pmaps_checkpoint(const char *name)
{
    const char *path = getenv("PMAPS_CHECKPOINT");
    int kept = errno, done;
    if (!path || !*path)
        return 0;
    done = pmaps_checkpoint_ask_(path, name);
    errno = kept;
    return done;
}

#endif
