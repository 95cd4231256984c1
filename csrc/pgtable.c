/* SPDX-License-Identifier: MIT
 *
 * pgtable.c - what an entry of a page table says.
 *
 * Pure: entries in, what pagemap would have shown out.  One row a format; what differs between
 * kernels of one architecture is found out by walker.c, on pages in known states.
 */
#include "bpf.h"
#include "uapi.h"

#define PAGE_SHIFT 12

struct pm__format pm__x86_64(uint64_t frame_mask, bool saved_dirty)
{
    const uint64_t present = 1 << 0, accessed = 1 << 5, dirty = 1 << 6, size = 1 << 7;
    const uint64_t protnone = 1 << 8, saved = UINT64_C(1) << 58;
    return (struct pm__format){
        .present = present | protnone, /* PROT_NONE, and what NUMA balancing will be told of */
        .valid = present,
        .frame = frame_mask,
        .young = accessed,
        .dirty = dirty | (saved_dirty ? saved : 0),
        .special = 1 << 9,
        .leaf = size,
    };
}

uint64_t pm__translate(const struct pm__format *f, uint64_t entry, unsigned shift)
{
    uint64_t out = PM_PE_PRESENT;
    if (!(entry & f->present) || (shift > PAGE_SHIFT && !(entry & f->leaf)))
        return 0;
    /* So that no processor guesses from it what it may not read (L1TF). */
    uint64_t address = (entry & f->valid ? entry : ~entry) & f->frame;
    address &= ~((UINT64_C(1) << shift) - 1); /* of huge entries bit 12 is no address */
    out |= address >> PAGE_SHIFT & PM_PE_PFN_MASK;
    out |= entry & f->young ? PM__PTE_YOUNG : 0;
    out |= entry & f->dirty ? PM__PTE_DIRTY : 0;
    out |= shift == PAGE_SHIFT && (entry & f->special) ? PM__PTE_SPECIAL : 0;
    return out;
}
