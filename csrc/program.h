/* SPDX-License-Identifier: MIT
 *
 * program.h - what pmaps-tracer and pmaps-follower share: programs that trace, with a socket
 * to whoever started them as stdin.
 */
#ifndef PMAPS_PROGRAM_H
#define PMAPS_PROGRAM_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SOCKET 0 /* stdin */

/* Whoever we do this for. */
struct patron {
    pid_t pid;
    int stat;  /* its /proc/PID/stat */
    int ticks; /* for how many looks it has been seen stopped */
};

uint64_t monotonic_ns(void);

/* Opens a small file, reads it with a NUL behind it, and closes it. */
bool slurp(int dir, const char *path, char *buf, size_t cap);
/* The text of a stat file from the state on: comm, before it, may hold anything. */
const char *behind_comm(const char *stat);

/* Nothing of whoever started us gets in the way: its descriptors, its signal handling, its
 * terminal, whose Ctrl-C and Ctrl-Z are for it alone.  Gives a signalfd of SIGCHLD, or -1. */
int turn_away(void);

/* Once turned away, which closes what is open: finds whoever made the socket; it, not whoever inherited it, is the one that we serve. */
bool find_patron(struct patron *p);
/* Whether it is still there to let the target go.  The socket alone does not tell: a process
 * that was forked meanwhile may hold its other end, too.  One that is stopped itself, for
 * longer than a debugger or strace does in passing, could not, as long as we hold something. */
bool is_patron_there(struct patron *p, bool holding);

#endif
