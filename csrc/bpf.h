/* SPDX-License-Identifier: MIT
 *
 * bpf.h - what the rooms of the pte source share: a description of types, the system call, the
 * format of page tables, and the programs' life.
 */
#ifndef PM_BPF_H
#define PM_BPF_H

#include "engine.h"
#include "pte.h"

/* ---- btf.c ------------------------------------------------------------------------------ */
/* Where the description is read: n bytes at an offset, fewer at its end. */
#define PM__BTF_WINDOW ((size_t)64 * 1024)

struct pm__btf {
    ssize_t (*read)(void *ctx, void *buf, size_t n, uint64_t offset);
    void *ctx;
    char *window; /* PM__BTF_WINDOW bytes */
};

#define PM__BTF_QUERIES 16
#define PM__BTF_NAME 64 /* bytes of a name that is asked for, its end among them */

struct pm__btf_query {
    const char *type, *member;
    int64_t offset; /* out: bytes from the beginning of `struct type`; -ENOENT: it does not say */
};

/* 0, or -ENOENT where one of them is not there. */
int pm__btf_find(const struct pm__btf *btf, struct pm__btf_query *queries, size_t n);

/* ---- bpf.c: each returns a value >= 0 or -errno -------------------------------------------- */
/* An array of one value that can be mapped. */
int pm__bpf_map(uint32_t size);
/* `constants` takes the place of the placeholders; PM__REPLY's is the map's descriptor. */
int pm__bpf_load(const uint64_t *insns, size_t n, const uint64_t constants[PM__N_CONSTANTS]);
int pm__bpf_run(int program, const uint64_t *args, size_t n, uint32_t *answer);
/* By what programs and maps are told apart, from now on. */
#define PM__BPF_NAME 16
int pm__bpf_name(int fd, unsigned char name[PM__BPF_NAME]);
/* Whether a descriptor still is a program, as far as that shows without bpf(2). */
bool pm__bpf_is_program(int fd);

/* ---- pgtable.c --------------------------------------------------------------------------- */
/* What the bits of an entry mean, by architecture and by what this kernel uses. */
struct pm__format {
    uint64_t present;  /* any of these: a page is mapped, */
    uint64_t valid;    /* and without this one the frame is inverted */
    uint64_t frame;    /* mask of the physical address */
    uint64_t young;
    uint64_t dirty;    /* any of these */
    uint64_t special;  /* in the lowest table */
    uint64_t leaf;     /* above the lowest table: the entry maps memory itself */
};

/* `saved_dirty`: bit 58 is where a dirty page's bit is kept while it is write-protected. */
struct pm__format pm__x86_64(uint64_t frame_mask, bool saved_dirty);

/* An entry as pagemap would show it, if it showed these two bits; 0 where no page is mapped. */
uint64_t pm__translate(const struct pm__format *f, uint64_t entry, unsigned shift);

/* ---- locate.c: 0, an errno, or one of enum pm_pte_refusal ------------------------------------- */
/* Fills in what the program has to know but PM__SECRET; `map` is what `reply` is mapped from. */
int pm__locate(int pagemap, int map, struct pm__reply *reply, uint64_t constants[PM__N_CONSTANTS]);
/* The program, or the negative of that. */
int pm__load_copy(const uint64_t constants[PM__N_CONSTANTS]);
/* Bits of an entry that are the address; 0: this architecture's entries are not known to us. */
uint64_t pm__address_mask(void);
/* Small pages that no fork inherits; NULL: no memory. */
char *pm__map_pages(size_t n);

/* ---- the program that copies, where it answers, and what that means --------------------------- */
struct pm__reader {
    int program;
    struct pm__reply *reply;
    struct pm__format format;
};

/* walker.c; one at a time. */
int pm__copy(const struct pm__reader *r, int pagemap, uint64_t address, size_t n, uint32_t *answer);
/* trial.c: finds out the format, on pages in known states; 0, or PM_PTE_NOT_RIGHT. */
int pm__trial(struct pm__reader *r, int pagemap);

/* ---- walker.c ------------------------------------------------------------------------------ */
/* Loads the programs, unless that was tried before; 0, an errno, or one of enum pm_pte_refusal.
 * Never to be called within a capture: it maps memory and opens files. */
int pm__walker_prepare(void);
bool pm__walker_is_ready(void);
int pm__walker_read(int pagemap, uint64_t address, size_t most, struct pm__table *out);

#endif
