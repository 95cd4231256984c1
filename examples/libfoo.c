/* A small library with something in each of its parts. */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

const int foo_table[4096] = {1, 2, 3}; /* rodata */
int foo_settings[2048] = {1};          /* data */
int foo_scratch[8192];                 /* bss */

/* Reads: leaves every page as it was. */
int foo_work(void)
{
    int sum = 0;
    for (int i = 0; i < 4096; i++)
        sum += foo_table[i] + foo_settings[i % 2048];
    return sum;
}

/* Writes one int of .data: copies one page. */
void foo_configure(int value)
{
    foo_settings[1024] = value;
}

/* Writes its own code, as hot patchers do: copies one page of text. */
int foo_patch(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *start = (void *)((uintptr_t)foo_work & ~(page - 1));
    if (mprotect(start, page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return -1;
    volatile unsigned char *code = (volatile unsigned char *)(uintptr_t)foo_work;
    *code = *code; /* the same byte, and yet a private copy from now on */
    return mprotect(start, page, PROT_READ | PROT_EXEC);
}
