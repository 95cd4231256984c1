/* SPDX-License-Identifier: MIT
 *
 * locate.c - loading the programs, and what has to be known for that: who we are, where members
 * of the kernel's types lie, and, by a program that is closed before the other one is loaded,
 * where it maps physical memory.
 */
#include "bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#if defined(__x86_64__)

#include "pte_insns.h"

#include <cpuid.h>

#define LENGTH(insns) (sizeof(insns) / sizeof *(insns))

/* The process that runs it, as the initial pid namespace numbers it; a load that succeeds also
 * shows that we have the rights. */
static int find_owner(uint64_t *owner)
{
    static const uint64_t insns[] = {
        0x0000000e00000085, /* call bpf_get_current_pid_tgid */
        0x0000002000000077, /* r0 >>= 32 */
        0x0000000000000095, /* exit */
    };
    const uint64_t no_args[1] = {0};
    uint32_t answer = 0;
    int fd = pm__bpf_load(insns, LENGTH(insns), NULL);
    if (fd < 0)
        return -fd;
    int rc = pm__bpf_run(fd, no_args, LENGTH(no_args), &answer);
    close(fd);
    *owner = answer;
    return rc < 0 ? PM_PTE_NO_HELPER : 0; /* before 5.10 programs of this kind could not be run */
}

static ssize_t read_btf(void *ctx, void *buf, size_t n, uint64_t offset)
{
    return pm__pread_full(&pm__kernel, *(const int *)ctx, buf, n, offset);
}

static int ask_btf(struct pm__btf_query *queries, size_t n)
{
    const struct pm__io *io = &pm__kernel;
    int fd = io->open(io->ctx, AT_FDCWD, "/sys/kernel/btf/vmlinux", O_RDONLY);
    if (fd < 0)
        return PM_PTE_NO_BTF;
    struct pm__btf btf = {read_btf, &fd, pm__block_new(PM__BTF_WINDOW)};
    int rc = btf.window ? pm__btf_find(&btf, queries, n) : -ENOMEM;
    pm__block_free(btf.window);
    io->close(io->ctx, fd);
    return rc == -ENOENT ? PM_PTE_NO_BTF : -rc;
}

static const enum pm__constant of_members[] = {PM__TASK_FILES, PM__FILES_FDT, PM__FDT_FD,
                                               PM__FDT_MAX,    PM__FILE_OP,   PM__FILE_PRIVATE,
                                               PM__MM_PGD};

/* Of one kernel they are always the same: looked up once, for forked children too. */
static int find_offsets(uint64_t constants[])
{
    static struct pm__btf_query members[LENGTH(of_members)] = {
        {"task_struct", "files", -1}, {"files_struct", "fdt", -1}, {"fdtable", "fd", -1},
        {"fdtable", "max_fds", -1},   {"file", "f_op", -1},        {"file", "private_data", -1},
        {"mm_struct", "pgd", -1}};
    static bool known;
    int rc = known ? 0 : ask_btf(members, LENGTH(members));
    for (size_t i = 0; i < LENGTH(members); i++)
        constants[of_members[i]] = (uint64_t)members[i].offset;
    known = rc == 0;
    return rc;
}

/* Bits of an entry that are the address.  AMD's memory encryption takes one of them. */
uint64_t pm__address_mask(void)
{
    uint64_t mask = ((UINT64_C(1) << 52) - 1) & ~UINT64_C(4095);
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid_count(0x8000001f, 0, &eax, &ebx, &ecx, &edx) && (eax & 3))
        mask &= ~(UINT64_C(1) << (ebx & 63));
    return mask;
}

/* Whoever never met this machine's memory size: more than there is of it. */
#define MAX_GIB 16384
#define ROUNDS 3 /* the page may be on its way to another frame */

char *pm__map_pages(size_t n)
{
    size_t size = n << 12;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_NOHUGEPAGE);
    madvise(p, size, MADV_DONTFORK);
    return p;
}

/* Where the kernel maps physical memory is random, by the GiB.  The top table of a process lies
 * in there; how many GiB from the beginning is tried out. */
static int search(int program, int pagemap, const char *page, struct pm__reply *reply,
                  uint64_t constants[])
{
    for (uint64_t off = 0; off < MAX_GIB; off++) {
        const uint64_t args[] = {(uint64_t)pagemap, (uintptr_t)page, off};
        uint32_t answer = 0;
        int rc = pm__bpf_run(program, args, LENGTH(args), &answer);
        if (rc < 0)
            return -rc;
        if (answer == PM__STRANGER || answer == PM__NO_MEMORY)
            return PM_PTE_NO_BASE; /* the offsets are not what we take them for */
        if (answer != PM__TABLE)
            continue;
        constants[PM__BASE] = reply->entry;
        constants[PM__PAGEMAP] = reply->functions;
        memset(reply, 0, sizeof *reply);
        return 0;
    }
    return PM_PTE_NO_BASE;
}

/* Of these two the kernel means the program: a helper that it has not, or does not give. */
static int why_not_loaded(int err)
{
    return err == EINVAL || err == EACCES ? PM_PTE_NO_HELPER : err;
}

static int find_base(int pagemap, struct pm__reply *reply, uint64_t constants[])
{
    uint64_t secret[2];
    char *page = pm__map_pages(1);
    if (!page)
        return ENOMEM;
    int rc = getrandom(secret, sizeof secret, 0) == sizeof secret ? 0 : EIO;
    memcpy(page, secret, sizeof secret);
    constants[PM__SECRET] = secret[0];
    constants[PM__SECRET_TOO] = secret[1];
    int program = rc ? -1 : pm__bpf_load(pm__find_insns, LENGTH(pm__find_insns), constants);
    if (program >= 0) {
        rc = PM_PTE_NO_BASE;
        for (int i = 0; rc == PM_PTE_NO_BASE && i < ROUNDS; i++)
            rc = search(program, pagemap, page, reply, constants);
        close(program);
    } else if (!rc) {
        rc = why_not_loaded(-program);
    }
    munmap(page, 4096);
    return rc;
}

int pm__locate(int pagemap, int map, struct pm__reply *reply, uint64_t constants[PM__N_CONSTANTS])
{
    int rc = find_owner(&constants[PM__OWNER]);
    if (rc || (rc = find_offsets(constants)))
        return rc;
    constants[PM__REPLY] = (uint64_t)map;
    constants[PM__MASK] = pm__address_mask();
    return find_base(pagemap, reply, constants);
}

int pm__load_copy(const uint64_t constants[PM__N_CONSTANTS])
{
    int fd = pm__bpf_load(pm__copy_insns, LENGTH(pm__copy_insns), constants);
    return fd < 0 ? -why_not_loaded(-fd) : fd;
}

#else

int pm__locate(int pagemap, int map, struct pm__reply *reply, uint64_t constants[PM__N_CONSTANTS])
{
    (void)pagemap, (void)map, (void)reply, (void)constants;
    return PM_PTE_NO_ARCH;
}

int pm__load_copy(const uint64_t constants[PM__N_CONSTANTS])
{
    (void)constants;
    return -PM_PTE_NO_ARCH;
}

uint64_t pm__address_mask(void)
{
    return 0;
}

char *pm__map_pages(size_t n)
{
    (void)n;
    return NULL;
}

#endif
