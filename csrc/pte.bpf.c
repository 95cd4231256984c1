/* SPDX-License-Identifier: Dual MIT/GPL
 *
 * pte.bpf.c - the two programs by which the engine sees page tables.  Their instructions are
 * committed in pte_insns.h: `python make_insns.py` makes that file from this one, and
 * `--check` says whether they agree.  docs/security.md says what is asked of the kernel, and
 * why.
 *
 *   copy  entries of the page table of one address, in the process of which a pagemap is open.  It runs
 *         for as long as the engine captures.
 *   find  where the kernel maps physical memory, by looking for a secret of ours.  It runs
 *         once, and is closed before the other is loaded.
 *
 * Neither reads memory by an address that it is given: they begin at a descriptor of
 * /proc/PID/pagemap, which the kernel opened after its ptrace access check, and follow the page
 * tables of that process, for addresses of user space.  What copy gives away are entries of
 * page tables; what find gives away is how far off the secret was, and which functions a pagemap
 * has.  Both refuse every process but the one that loaded them.
 *
 * What differs between kernels is put in when the programs are loaded, in place of the numbers
 * that CONSTANT() leaves: see pte.h for them.  Their licence is given then too.
 */
#include "pte.h"

typedef __UINT64_TYPE__ u64;
typedef __UINT32_TYPE__ u32;

#define INLINE static inline __attribute__((always_inline))
#define SEC(name) __attribute__((section(name), used))

static u64 (*const current_pid_tgid)(void) = (void *)14;
static u64 (*const current_task)(void) = (void *)35;
static long (*const probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

/* A number that the loader puts in; opaque to the compiler. */
#define CONSTANT(which)                                                                            \
    ({                                                                                             \
        u64 value_;                                                                                \
        asm volatile("%0 = %1 ll" : "=r"(value_) : "i"(PM__PLACEHOLDER | (which)));                \
        value_;                                                                                    \
    })

#define PRESENT 1
#define LEAF 0x80
#define TABLE_BITS 9
#define FOUR_LEVELS 0xffff800000000000 /* with five the kernel's half begins lower */

INLINE long get(u64 *to, u64 from)
{
    return probe_read_kernel(to, sizeof *to, (const void *)from);
}

/* current->files->fdt->fd[fd] */
INLINE u64 file_of(u64 fd)
{
    u64 files = 0, fdt = 0, max = 0, table = 0, file = 0;
    if (get(&files, current_task() + CONSTANT(PM__TASK_FILES)) ||
        get(&fdt, files + CONSTANT(PM__FILES_FDT)) ||
        probe_read_kernel(&max, 4, (const void *)(fdt + CONSTANT(PM__FDT_MAX))) || fd >= max ||
        get(&table, fdt + CONSTANT(PM__FDT_FD)) || get(&file, table + fd * 8))
        return 0;
    return file;
}

/* The top table of the mm that a pagemap is of. */
INLINE u64 top_of(u64 file)
{
    u64 mm = 0, pgd = 0;
    if (get(&mm, file + CONSTANT(PM__FILE_PRIVATE)) || !mm || get(&pgd, mm + CONSTANT(PM__MM_PGD)))
        return 0;
    return pgd;
}

struct step {
    u64 base, mask; /* of physical memory, and of an entry's address */
    u64 at;         /* where the entry is */
    u64 entry;
    u32 shift;
};

/* One level down.  True: there is a table below. */
INLINE int descend(struct step *s, u64 table, u64 address, u32 shift)
{
    s->shift = shift;
    s->at = table + ((address >> shift & ((1 << TABLE_BITS) - 1)) << 3);
    if (get(&s->entry, s->at))
        return 0;
    return (s->entry & (PRESENT | LEAF)) == PRESENT;
}

INLINE u64 below(const struct step *s)
{
    return s->base + (s->entry & s->mask);
}

/* Down to the entry that maps a page table, or to where there is none. */
INLINE int walk(struct step *s, u64 pgd, u64 address)
{
    u64 table = pgd;
    if (pgd < FOUR_LEVELS) {
        if (address >> 56 || !descend(s, table, address, 48))
            return 0;
        table = below(s);
    } else if (address >> 47) {
        return 0;
    }
    if (!descend(s, table, address, 39) || !descend(s, below(s), address, 30))
        return 0;
    return descend(s, below(s), address, 21);
}

INLINE int is_stranger(void)
{
    return current_pid_tgid() >> 32 != CONSTANT(PM__OWNER);
}

/* What cannot be read reads as zeros. */
INLINE void forget(struct pm__reply *reply)
{
    probe_read_kernel(reply->table, sizeof reply->table, (const void *)0);
}

SEC("prog/copy") long copy(u64 *ctx)
{
    u64 fd = ctx[0], address = ctx[1], n = ctx[2], functions = 0, again = 0;
    struct pm__reply *reply = (void *)CONSTANT(PM__REPLY);
    struct step s = {.base = CONSTANT(PM__BASE), .mask = CONSTANT(PM__MASK)};
    if (is_stranger())
        return PM__STRANGER;
    u64 file = file_of(fd);
    if (!file || get(&functions, file + CONSTANT(PM__FILE_OP)) ||
        functions != CONSTANT(PM__PAGEMAP))
        return PM__NO_PAGEMAP;
    u64 pgd = top_of(file);
    if (!pgd)
        return PM__NO_MEMORY;
    long answer = walk(&s, pgd, address) ? PM__TABLE : s.shift ? PM__ENTRY : PM__OUTSIDE;
    if (answer == PM__TABLE) {
        u64 first = address >> 12 & (PM__TABLE_ENTRIES - 1);
        u64 more = n - 1, from = below(&s) + first * 8;
        if (more > PM__TABLE_ENTRIES - 1 - first)
            return PM__OUTSIDE;
        /* Changes nothing: the verifier of 6.1 forgets the line above where n is on the stack. */
        asm volatile("%0 &= %1" : "+r"(more) : "i"(PM__TABLE_ENTRIES - 1));
        if (probe_read_kernel(reply->table, (more + 1) * 8, (const void *)from) ||
            get(&again, s.at) || ((again ^ s.entry) & (s.mask | PRESENT | LEAF)))
            answer = PM__MOVED;
    }
    /* Only an open file keeps the mm, and is no other file meanwhile: a thread may close it. */
    if (file_of(fd) != file)
        answer = PM__NO_PAGEMAP;
    if (answer == PM__MOVED || answer == PM__NO_PAGEMAP) {
        forget(reply); /* it may have been no page table any more */
        return answer;
    }
    reply->entry = s.entry;
    reply->shift = s.shift;
    return answer;
}

SEC("prog/find") long find(u64 *ctx)
{
    u64 fd = ctx[0], address = ctx[1], off = ctx[2], first = 0, second = 0;
    struct pm__reply *reply = (void *)CONSTANT(PM__REPLY);
    struct step s = {.mask = CONSTANT(PM__MASK)};
    if (is_stranger())
        return PM__STRANGER;
    u64 file = file_of(fd), pgd = file ? top_of(file) : 0;
    if (!pgd)
        return PM__NO_MEMORY;
    s.base = (pgd & ~((1ull << 30) - 1)) - (off << 30);
    if (!walk(&s, pgd, address) || !descend(&s, below(&s), address, 12))
        return PM__ENTRY;
    u64 page = below(&s) + (address & 4095);
    if (get(&first, page) || get(&second, page + 8) || first != CONSTANT(PM__SECRET) ||
        second != CONSTANT(PM__SECRET_TOO))
        return PM__MOVED;
    reply->entry = s.base;
    if (get(&reply->functions, file + CONSTANT(PM__FILE_OP)))
        return PM__NO_PAGEMAP;
    return PM__TABLE;
}
