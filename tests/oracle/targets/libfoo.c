/* SPDX-License-Identifier: MIT
 *
 * libfoo.c - a shared library with whole pages of text, rodata, relro, data and bss.
 */
#include "libfoo.h"

#include <stddef.h>

enum { PS = 4096, N = 4 * PS };

#define ALIGNED __attribute__((aligned(PS), used))
#define EXPORT __attribute__((visibility("default")))

/* N bytes of no-operations and more */
EXPORT ALIGNED __attribute__((noinline, noclone)) int foo_text(void)
{
    __asm__ volatile(".rept 16384\n\tnop\n\t.endr");
    return 42;
}

ALIGNED static const unsigned char foo_rodata[N] = {1, [N - 1] = 1};
ALIGNED static unsigned char foo_data[N] = {1, [N - 1] = 1};
ALIGNED static unsigned char foo_bss[N];

/* Constants that hold addresses: the loader writes them, then makes them read-only. */
#define EIGHT(x) x, x, x, x, x, x, x, x
#define SIXTYFOUR(x) EIGHT(EIGHT(x))
#define PAGEFUL(x) EIGHT(SIXTYFOUR(x))
ALIGNED static const void *const foo_relro[2 * PS / sizeof(void *)] = {
    PAGEFUL((const void *)foo_data), PAGEFUL((const void *)foo_bss)};

EXPORT const struct foo_range *foo_ranges(size_t *n)
{
    static struct foo_range ranges[5];
    ranges[0] = (struct foo_range){"text", (const void *)(size_t)foo_text, N};
    ranges[1] = (struct foo_range){"rodata", foo_rodata, sizeof foo_rodata};
    ranges[2] = (struct foo_range){"relro", foo_relro, sizeof foo_relro};
    ranges[3] = (struct foo_range){"data", foo_data, sizeof foo_data};
    ranges[4] = (struct foo_range){"bss", foo_bss, sizeof foo_bss};
    *n = sizeof ranges / sizeof *ranges;
    return ranges;
}
