/* SPDX-License-Identifier: Dual MIT/GPL
 *
 * pte.h - what pte.bpf.c and the engine agree on.  Compiled for the kernel too, so that it needs
 * nothing but the compiler.
 */
#ifndef PM_PTE_H
#define PM_PTE_H

/* An instruction that loads PM__PLACEHOLDER | n loads the n-th of these once it is loaded. */
#define PM__PLACEHOLDER 0x504d415050000000

enum pm__constant {
    PM__TASK_FILES = 1, /* offsets, from the kernel's own description of its types */
    PM__FILES_FDT,
    PM__FDT_FD,
    PM__FDT_MAX,
    PM__FILE_OP,
    PM__FILE_PRIVATE,
    PM__MM_PGD,
    PM__OWNER,    /* process that may run it, as the initial pid namespace numbers it */
    PM__MASK,     /* of the physical address in an entry */
    PM__BASE,     /* where the kernel maps physical memory */
    PM__PAGEMAP,  /* address of pagemap's functions, by which it is known from other files */
    PM__SECRET,   /* 16 bytes that are in one page of ours and nowhere else */
    PM__SECRET_TOO,
    PM__REPLY, /* not a number: the map that a program answers in */
    PM__N_CONSTANTS
};

/* What a program returns. */
enum pm__answer {
    PM__TABLE = 1, /* entries of the page table were copied, from the address on */
    PM__ENTRY, /* there is none: an entry of a higher table, of `shift`, maps it or nothing does */
    PM__MOVED, /* the tables changed meanwhile */
    PM__OUTSIDE, /* no address of user space, or more entries than the table has behind it */
    PM__NO_PAGEMAP,
    PM__NO_MEMORY, /* the process has none any more */
    PM__STRANGER /* not the process that loaded it */
};

#define PM__TABLE_ENTRIES 512

struct pm__reply {
    __UINT64_TYPE__ entry; /* the last one that was met */
    __UINT64_TYPE__ functions;
    __UINT32_TYPE__ shift; /* log2 of the bytes that it covers */
    __UINT32_TYPE__ unused;
    __UINT64_TYPE__ table[PM__TABLE_ENTRIES];
};

#endif
