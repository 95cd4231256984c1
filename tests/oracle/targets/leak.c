/* Functions that leak, and some that only look like it, for tests of growth. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

/* So that no compiler takes out what nobody looks at. */
static void *volatile seen;

/* One page in ten calls, of malloc ... */
void leak_page(void)
{
    static unsigned calls;
    if (++calls % 10 == 0) {
        char *p = malloc(PAGE);
        if (p)
            memset(p, 1, PAGE);
        seen = p;
    }
}

/* ... and of the kernel. */
void leak_mapping(void)
{
    static unsigned calls;
    if (++calls % 10 == 0) {
        char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p != MAP_FAILED)
            *p = 1;
    }
}

/* Takes and gives back blocks of many sizes. */
void churn(unsigned seed)
{
    void *blocks[64];
    for (int i = 0; i < 64; i++) {
        seed = seed * 1103515245U + 12345U;
        size_t size = 1 + seed % 20000;
        blocks[i] = malloc(size);
        if (blocks[i])
            memset(blocks[i], 1, size);
        seen = blocks[i];
    }
    for (int i = 0; i < 64; i++)
        free(blocks[(i * 37) % 64]);
}

/* Keeps the last n blocks; n at most 4096. */
void keep_last(unsigned n)
{
    static void *kept[4096];
    static unsigned next;
    next = (next + 1) % n;
    free(kept[next]);
    kept[next] = malloc(300);
    if (kept[next])
        memset(kept[next], 1, 300);
}
