/* SPDX-License-Identifier: MIT
 *
 * host.c - loads libfoo and does to it what stdin says.
 *
 *   host LIBRARY
 *
 * Commands, one a line, each answered by a line of JSON: read (text, rodata, relro and data),
 * call, write-data, read-bss, write-bss, write-text (through mprotect), quit.  The states told
 * after read-bss hold as long as nothing wrote them before.
 */
#include "libfoo.h"
#include "say.h"

#include <dlfcn.h>
#include <sys/mman.h>

static volatile char sink;
static size_t n_ranges;
static const struct foo_range *ranges;

static const struct foo_range *range(const char *name)
{
    for (size_t i = 0; i < n_ranges; i++)
        if (!strcmp(ranges[i].name, name))
            return &ranges[i];
    abort();
}

static void read_range(const struct foo_range *r)
{
    for (size_t i = 0; i < r->length; i += PS)
        sink = ((const volatile char *)r->start)[i];
}

static void write_range(const struct foo_range *r)
{
    for (size_t i = 0; i < r->length; i += PS)
        ((volatile char *)(uintptr_t)r->start)[i] ^= 1;
}

static void say_ranges(const char *what)
{
    say_begin(what);
    for (size_t i = 0; i < n_ranges; i++)
        say_area(ranges[i].name, ranges[i].start, ranges[i].length / PS, "unknown", 0);
    say_end();
}

static void say_one(const char *what, const struct foo_range *r, const char *state)
{
    say_begin(what);
    say_area(r->name, r->start, r->length / PS, state, 0);
    say_end();
}

int main(int argc, char **argv)
{
    say_start();
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "host: %s\n", argc > 1 ? dlerror() : "usage: host LIBRARY");
        return 2;
    }
    const struct foo_range *(*get)(size_t *);
    int (*text)(void);
    *(void **)&get = dlsym(library, "foo_ranges");
    *(void **)&text = dlsym(library, "foo_text");
    if (!get || !text)
        return 2;
    ranges = get(&n_ranges);
    say_ranges("host");
    char line[64];
    while (next_command(line, sizeof line)) {
        const struct foo_range *r;
        if (!strcmp(line, "read")) {
            read_range(range("text"));
            read_range(range("rodata"));
            read_range(range("relro"));
            read_range(range("data"));
            say_ranges(line);
        } else if (!strcmp(line, "call")) {
            sink = (char)text();
            say_one(line, range("text"), "unknown");
        } else if (!strcmp(line, "write-data")) {
            write_range(r = range("data"));
            say_one(line, r, "copied");
        } else if (!strcmp(line, "read-bss")) {
            read_range(r = range("bss"));
            say_one(line, r, "zero");
        } else if (!strcmp(line, "write-bss")) {
            write_range(r = range("bss"));
            say_one(line, r, "private");
        } else if (!strcmp(line, "write-text")) {
            r = range("text");
            void *start = (void *)(uintptr_t)r->start;
            need(!mprotect(start, r->length, PROT_READ | PROT_WRITE | PROT_EXEC), "mprotect");
            for (size_t i = 0; i < r->length; i += PS) {
                volatile char *p = (volatile char *)start + i;
                *p = *p; /* written, not changed: it stays executable code */
            }
            need(!mprotect(start, r->length, PROT_READ | PROT_EXEC), "mprotect");
            say_one(line, r, "copied");
        } else {
            printf("{\"error\": \"unknown command\"}\n");
            fflush(stdout);
        }
    }
    return 0;
}
