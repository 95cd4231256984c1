/* SPDX-License-Identifier: MIT
 *
 * say.h - how a target talks to its test: a line of JSON, then a reply per line of stdin.
 *
 * Buffers are static, so that talking never grows the heap.
 */
#ifndef SAY_H
#define SAY_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PS = 4096 };

static char say_in[PS] __attribute__((aligned(PS)));
static char say_out[16 * PS] __attribute__((aligned(PS)));
static int say_areas;

/* Call first: gives the streams their static buffers. */
static inline void say_start(void)
{
    setvbuf(stdin, say_in, _IOFBF, sizeof say_in);
    setvbuf(stdout, say_out, _IOFBF, sizeof say_out);
}

/* The host cannot show this state: say so and end. */
static inline _Noreturn void unavailable(const char *what)
{
    printf("{\"unavailable\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(0);
}

static inline void need(int good, const char *what)
{
    if (!good)
        unavailable(what);
}

static inline void say_begin(const char *target)
{
    say_areas = 0;
    printf("{\"target\": \"%s\", \"pid\": %d, \"areas\": [", target, (int)getpid());
}

/* mapcount 0: not known beforehand. */
static inline void say_area(const char *name, const void *start, size_t pages, const char *state,
                            int mapcount)
{
    printf("%s{\"name\": \"%s\", \"start\": %llu, \"length\": %llu, \"state\": \"%s\"",
           say_areas++ ? ", " : "", name, (unsigned long long)(uintptr_t)start,
           (unsigned long long)pages * PS, state);
    if (mapcount)
        printf(", \"mapcount\": %d", mapcount);
    printf("}");
}

static inline void say_end(void)
{
    printf("]}\n");
    fflush(stdout);
}

/* The next line of stdin without its newline; 0 at its end. */
static inline int next_command(char *line, int size)
{
    if (!fgets(line, size, stdin))
        return 0;
    line[strcspn(line, "\n")] = 0;
    return strcmp(line, "quit") != 0;
}

#endif
