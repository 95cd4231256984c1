/* SPDX-License-Identifier: MIT
 *
 * trial.c - whether what the program says is right: pages of our own in known states are read
 * through it, and through pagemap.
 */
#include "bpf.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define ROUNDS 3 /* the pages may be on their way to other frames */

/* Pages of our own in states that we brought them into. */
enum { WRITTEN, PROTECTED, HIDDEN, ZERO, FREED, ABSENT, N_TRIALS };

static void bring_about(char *pages)
{
    memset(pages, 1, (FREED + 1) << 12);
    madvise(pages + (ZERO << 12), 4096, MADV_DONTNEED);
    (void)*(volatile char *)(pages + (ZERO << 12));
    mprotect(pages + (PROTECTED << 12), 4096, PROT_READ);
    mprotect(pages + (HIDDEN << 12), 4096, PROT_NONE);
    madvise(pages + (FREED << 12), 4096, MADV_FREE);
}

static bool is_as_expected(const uint64_t *said, const uint64_t *shown)
{
    static const uint64_t present[N_TRIALS] = {[WRITTEN] = PM_PE_PRESENT | PM__PTE_DIRTY,
                                               [PROTECTED] = PM_PE_PRESENT | PM__PTE_DIRTY,
                                               [HIDDEN] = PM_PE_PRESENT | PM__PTE_DIRTY,
                                               [ZERO] = PM_PE_PRESENT | PM__PTE_SPECIAL,
                                               [FREED] = PM_PE_PRESENT,
                                               [ABSENT] = 0};
    for (int i = 0; i < N_TRIALS; i++) {
        uint64_t frame = shown[i] & PM_PE_PFN_MASK;
        if ((said[i] & (PM_PE_PRESENT | PM__PTE_DIRTY | PM__PTE_SPECIAL)) != present[i] ||
            (shown[i] & PM_PE_PRESENT) != (present[i] & PM_PE_PRESENT) ||
            (frame && frame != (said[i] & PM_PE_PFN_MASK)))
            return false;
    }
    /* Others may clear this bit at any time, but nothing sets it. */
    return (said[WRITTEN] & PM__PTE_YOUNG) && !(said[FREED] & PM__PTE_YOUNG);
}

static bool passes(struct pm__reader *r, int pagemap, char *pages, bool saved_dirty)
{
    uint64_t said[N_TRIALS], shown[N_TRIALS], first = (uintptr_t)pages >> 12;
    r->format = pm__x86_64(pm__address_mask(), saved_dirty);
    for (uint64_t i = 0; i < N_TRIALS; i++) {
        uint32_t answer = 0;
        if (pm__copy(r, pagemap, (first + i) << 12, 1, &answer) < 0 || answer != PM__TABLE)
            return false;
        said[i] = pm__translate(&r->format, r->reply->table[0], 12);
    }
    ssize_t got = pm__pread_full(&pm__kernel, pagemap, shown, sizeof shown, first * 8);
    return got == sizeof shown && is_as_expected(said, shown);
}

/* Kernels differ in where they keep the dirty bit of a page that is write-protected: the
 * meaning under which all pages read right is the one. */
int pm__trial(struct pm__reader *r, int pagemap)
{
    bool good = false;
    for (int i = 0; !good && i < ROUNDS; i++) {
        char *pages = pm__map_pages(N_TRIALS);
        if (!pages)
            return ENOMEM;
        bring_about(pages);
        good = passes(r, pagemap, pages, false) || passes(r, pagemap, pages, true);
        munmap(pages, N_TRIALS << 12);
    }
    return good ? 0 : PM_PTE_NOT_RIGHT;
}
