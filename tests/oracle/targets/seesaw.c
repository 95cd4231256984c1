/* SPDX-License-Identifier: MIT
 *
 * seesaw.c - eight pages that are resident in one of two places, never in both, with many
 * mappings in between: "resident here" and "resident there" are both true at times, and
 * never together.
 *
 *   seesaw PAUSE BETWEEN   microseconds; mappings
 */
#include "say.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 8 };

#define LOW UINT64_C(0x200000000)
#define HIGH UINT64_C(0x280000000)

static char *map_at(uint64_t at, size_t pages)
{
    char *p = mmap((void *)(uintptr_t)at, pages * PS, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    need(p != MAP_FAILED, "mmap");
    return p;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    unsigned pause = (unsigned)atoi(argv[1]);
    size_t between = (size_t)atoi(argv[2]);
    say_start();
    char *places[] = {map_at(LOW, PAGES), map_at(HIGH, PAGES)};
    for (size_t i = 0; i < between; i++)
        *map_at(LOW + ((uint64_t)1 << 24) + i * 2 * PS, 1) = 1;
    say_begin("seesaw");
    say_area("low", places[0], PAGES, "seesaw", 0);
    say_area("high", places[1], PAGES, "seesaw", 0);
    say_end();
    for (int at = 0;; at = !at) {
        madvise(places[!at], (size_t)PAGES * PS, MADV_DONTNEED);
        memset(places[at], 1, (size_t)PAGES * PS);
        usleep((unsigned)rand() % (2 * pause));
    }
}
