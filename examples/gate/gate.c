/* What a library does to memory, and what it does when somebody made a mistake. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
#define TEXT_PAGES 32

/* Code that fills some pages of its own. */
__attribute__((aligned(PAGE), used)) static void gate_code(void)
{
    __asm__ volatile(".fill %c0, 1, 0x90" : : "i"(TEXT_PAGES * PAGE));
}

/* Where the compiler cannot see that nobody reads it. */
void *gate_last;

static void *fill(size_t size)
{
    gate_last = malloc(size);
    return gate_last ? memset(gate_last, 1, size) : NULL;
}

/* A request: it takes memory and gives it back, all but so many pages. */
void gate_serve(int leaked)
{
    for (int i = 0; i < 64; i++)
        free(fill(2 * PAGE));
    if (leaked)
        fill((size_t)leaked * PAGE);
}

/* Patches its own code, as a careless hook would. */
int gate_patch(int pages)
{
    char *code = (char *)gate_code;
    if (!pages)
        return 0;
    if (mprotect(code, (size_t)pages * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC))
        return -1;
    for (int i = 0; i < pages; i++)
        *(volatile char *)(code + i * PAGE) += 0;
    return mprotect(code, (size_t)pages * PAGE, PROT_READ | PROT_EXEC);
}

/* Maps pages one by one, each apart from the last, and keeps them. */
int gate_map(int pages)
{
    for (int i = 0; i < pages; i++) {
        int prot = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;
        if (mmap(NULL, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
            return -1;
    }
    return 0;
}

/* Needs so much for a moment. */
int gate_spike(int mib)
{
    size_t size = (size_t)mib << 20;
    char *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return -1;
    memset(buffer, 1, size);
    return munmap(buffer, size);
}
