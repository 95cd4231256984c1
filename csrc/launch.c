/* SPDX-License-Identifier: MIT
 *
 * launch.c - pmaps-launch, which a process that is to be followed begins as.
 *
 *   pmaps-launch CONTROL OWN TRACER HOW N CANDIDATE... ARGV0 ARG...
 *
 * subprocess has made the process: descriptors, folder, environment, session, user and limits
 * are as the program will have them, and nothing of that is touched here.  It says 'r' on the
 * socket CONTROL, waits for 'g', and executes the first of N candidates that can be; where
 * none can, it says why.  When CONTROL closes without a word it did.
 *
 * OWN is a descriptor of this very program, by which it was executed: its folder may be one
 * that the user of the process cannot reach.  TRACER may trace the process, under Yama too; 0:
 * nobody.  HOW has letters: 'a' for no randomised addresses, 't' for no transparent huge pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIXED 6 /* arguments before the candidates */
#define AS_IT_IS 0xffffffffUL /* asks for the personality, changes nothing */

enum { CANNOT_EXEC = 127 };

/* What is said: the personality that the program starts with, then what may fail. */
struct word {
    char what; /* 'r' ready, 'x' exec failed */
    char fill[3];
    int32_t value; /* 'r': personality, 'x': errno */
};

static int say(int fd, char what, int32_t value)
{
    struct word word = {.what = what, .value = value};
    ssize_t sent;
    do
        sent = send(fd, &word, sizeof word, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof word ? 0 : -1;
}

static int heard_go(int fd)
{
    char what = 0;
    ssize_t got;
    do
        got = recv(fd, &what, 1, 0);
    while (got < 0 && errno == EINTR);
    return got == 1 && what == 'g';
}

static int32_t prepare(pid_t tracer, const char *how)
{
    int now = personality(AS_IT_IS);
    if (tracer > 0)
        prctl(PR_SET_PTRACER, (unsigned long)tracer, 0, 0, 0); /* without Yama: no need */
    if (strchr(how, 't'))
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (now >= 0 && strchr(how, 'a'))
        personality((unsigned long)now | ADDR_NO_RANDOMIZE); /* or not, it is read again */
    return personality(AS_IT_IS);
}

/* The first that can be executed is; else the errno to report, as subprocess chooses it. */
static int execute(char **candidates, int n, char **argv)
{
    int saved = 0;
    for (int i = 0; i < n; i++) {
        execv(candidates[i], argv);
        if (errno != ENOENT && errno != ENOTDIR && !saved)
            saved = errno;
    }
    return saved ? saved : errno;
}

int main(int argc, char **argv)
{
    int n = argc > FIXED ? atoi(argv[FIXED - 1]) : 0;
    if (n < 1 || argc < FIXED + n) {
        fputs("pmaps-launch: pytest-pmaps starts this program\n", stderr);
        return 2;
    }
    int control = atoi(argv[1]), own = atoi(argv[2]);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    close(own);
    int32_t was = prepare((pid_t)atoi(argv[3]), argv[4]);
    if (say(control, 'r', was) < 0 || !heard_go(control))
        return CANNOT_EXEC;
    say(control, 'x', execute(argv + FIXED, n, argv + FIXED + n));
    return CANNOT_EXEC;
}
