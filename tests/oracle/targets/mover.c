/* SPDX-License-Identifier: MIT
 *
 * mover.c - keeps 1,000 written pages moving between two places with 200 mappings in
 * between: whoever reads the address space from bottom to top may miss them, or meet
 * them twice, though they are there all the time.
 */
#include "say.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 1000, BETWEEN = 200 };

static char *map_at(char *at, size_t n, int prot)
{
    char *p = mmap(at, n, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    need(p != MAP_FAILED, "mmap");
    return p;
}

int main(void)
{
    size_t room = (size_t)256 << 20, n = (size_t)PAGES * PS;
    say_start();
    char *base = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(base != MAP_FAILED, "mmap");
    char *places[2] = {base + ((size_t)16 << 20), base + ((size_t)128 << 20)};
    for (size_t i = 0; i < BETWEEN; i++)
        map_at(base + ((size_t)64 << 20) + i * 4 * PS, PS,
               i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
    memset(map_at(places[0], n, PROT_READ | PROT_WRITE), 1, n);
    say_begin("mover");
    say_end();
    for (int at = 0;; at = !at) {
        void *moved = mremap(places[at], n, n, MREMAP_MAYMOVE | MREMAP_FIXED, places[!at]);
        need(moved == places[!at], "mremap");
        usleep(100);
    }
}
