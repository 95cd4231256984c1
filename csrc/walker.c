/* SPDX-License-Identifier: MIT
 *
 * walker.c - the life of the programs that read page tables: what has to be known before they
 * are loaded, whether what they say is right, and their end.
 *
 * Set up once per process, at its first capture that wants them.  On the way there the kernel
 * is asked whether it lets us at all, where members of its types lie, and, by a program that is
 * closed before the other one is loaded, where it maps physical memory.  Then pages of our own
 * in known states are read; where one of them reads otherwise, the source is not used.
 */
#include "bpf.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LENGTH(insns) (sizeof(insns) / sizeof *(insns))

enum state { UNTRIED, READY, REFUSED, LOST };

static struct {
    pthread_mutex_t lock;
    enum state state;
    int refusal;
    int program;
    unsigned char name[PM__BPF_NAME]; /* of the program: its descriptor may be reused */
    struct pm__reply *reply;
    struct pm__format format;
    bool watches_forks;
    bool rights; /* when it was tried */
    pid_t owner; /* who tried it */
} walker = {.lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP, .program = -1};

/* No fork while it is set up, or a child would have what is in the middle of it: the map that
 * answers are read from.  (Recursive, for a signal that comes meanwhile and forks.) */
static void before_fork(void)
{
    pthread_mutex_lock(&walker.lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&walker.lock);
}

/* A forked child is another process: it may have no right to what was loaded, and the program
 * would refuse it.  It closes it, and asks for itself when it captures. */
static void forget_ours(void)
{
    if (walker.program >= 0 && pm__bpf_is_program(walker.program))
        close(walker.program);
    walker.program = -1;
    walker.reply = NULL; /* not inherited */
    walker.state = UNTRIED;
}

static void forget(void)
{
    walker.lock = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    forget_ours();
}

/* With the lock held, and after arena.c did: its lock is taken within this one. */
static bool watch_forks(void)
{
    if (!walker.watches_forks)
        walker.watches_forks = pthread_atfork(before_fork, after_fork, forget) == 0;
    return walker.watches_forks;
}

static void undo(void)
{
    if (walker.program >= 0)
        close(walker.program);
    walker.program = -1;
    if (walker.reply) {
        pm__unhide(walker.reply);
        munmap(walker.reply, pm__page_round(sizeof *walker.reply));
    }
    walker.reply = NULL;
}

#if defined(__x86_64__)

#include "pte_insns.h"

#include <cpuid.h>

/* ---- what has to be known ------------------------------------------------------------- */

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
static uint64_t address_mask(void)
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

static char *map_pages(size_t n)
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
static int search(int program, int pagemap, const char *page, uint64_t constants[])
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
        constants[PM__BASE] = walker.reply->entry;
        constants[PM__PAGEMAP] = walker.reply->functions;
        memset(walker.reply, 0, sizeof *walker.reply);
        return 0;
    }
    return PM_PTE_NO_BASE;
}

/* Of these two the kernel means the program: a helper that it has not, or does not give. */
static int why_not_loaded(int err)
{
    return err == EINVAL || err == EACCES ? PM_PTE_NO_HELPER : err;
}

static int find_base(int pagemap, uint64_t constants[])
{
    uint64_t secret[2];
    char *page = map_pages(1);
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
            rc = search(program, pagemap, page, constants);
        close(program);
    } else if (!rc) {
        rc = why_not_loaded(-program);
    }
    munmap(page, 4096);
    return rc;
}

/* ---- whether it is right --------------------------------------------------------------- */

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

static int copy_table(int pagemap, uint64_t address, size_t n, uint32_t *answer)
{
    const uint64_t args[] = {(uint64_t)pagemap, address, n};
    return pm__bpf_run(walker.program, args, LENGTH(args), answer);
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

static bool passes(int pagemap, char *pages, bool saved_dirty)
{
    uint64_t said[N_TRIALS], shown[N_TRIALS], first = (uintptr_t)pages >> 12;
    walker.format = pm__x86_64(address_mask(), saved_dirty);
    for (uint64_t i = 0; i < N_TRIALS; i++) {
        uint32_t answer = 0;
        if (copy_table(pagemap, (first + i) << 12, 1, &answer) < 0 || answer != PM__TABLE)
            return false;
        said[i] = pm__translate(&walker.format, walker.reply->table[0], 12);
    }
    ssize_t got = pm__pread_full(&pm__kernel, pagemap, shown, sizeof shown, first * 8);
    return got == sizeof shown && is_as_expected(said, shown);
}

/* Kernels differ in where they keep the dirty bit of a page that is write-protected: the
 * meaning under which all pages read right is the one. */
static int test_ourselves(int pagemap)
{
    bool good = false;
    for (int i = 0; !good && i < ROUNDS; i++) {
        char *pages = map_pages(N_TRIALS);
        if (!pages)
            return ENOMEM;
        bring_about(pages);
        good = passes(pagemap, pages, false) || passes(pagemap, pages, true);
        munmap(pages, N_TRIALS << 12);
    }
    return good ? 0 : PM_PTE_NOT_RIGHT;
}

/* ---- setting up ------------------------------------------------------------------------- */

static int map_reply(int map)
{
    size_t size = pm__page_round(sizeof *walker.reply);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
    if (p == MAP_FAILED)
        return errno;
    madvise(p, size, MADV_DONTFORK);
    madvise(p, size, MADV_DONTDUMP);
    memset(p, 0, sizeof *walker.reply); /* all of it is there before anything is captured */
    walker.reply = p;
    pm__hide(p, size);
    return 0;
}

/* Whoever closed one of the first three means what he opens next to be in its place. */
static int above_standard(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), err = errno;
    close(fd);
    return above < 0 ? -err : above;
}

static int load_copy(const uint64_t constants[])
{
    int fd = pm__bpf_load(pm__copy_insns, LENGTH(pm__copy_insns), constants);
    if (fd < 0)
        return why_not_loaded(-fd);
    walker.program = above_standard(fd);
    return walker.program < 0 ? -walker.program : -pm__bpf_name(walker.program, walker.name);
}

static int load(int pagemap, int map, uint64_t constants[])
{
    int rc = find_owner(&constants[PM__OWNER]);
    if (rc || (rc = find_offsets(constants)) || (rc = map_reply(map)))
        return rc;
    constants[PM__REPLY] = (uint64_t)map;
    constants[PM__MASK] = address_mask();
    if ((rc = find_base(pagemap, constants)))
        return rc;
    rc = load_copy(constants);
    return rc ? rc : test_ourselves(pagemap);
}

static int set_up(void)
{
    uint64_t constants[PM__N_CONSTANTS] = {0};
    int map = pm__bpf_map(sizeof *walker.reply);
    if (map < 0)
        return map == -EINVAL ? PM_PTE_NO_HELPER : -map; /* before 5.5 it could not be mapped */
    int pagemap = pm__kernel.open(pm__kernel.ctx, AT_FDCWD, "/proc/self/pagemap", O_RDONLY);
    int rc = pagemap < 0 ? -pagemap : load(pagemap, map, constants);
    explicit_bzero(constants, sizeof constants);
    if (pagemap >= 0)
        pm__kernel.close(pm__kernel.ctx, pagemap);
    close(map); /* the program and the mapping hold it */
    if (rc)
        undo();
    return rc;
}

#else

static int copy_table(int pagemap, uint64_t address, size_t n, uint32_t *answer)
{
    (void)pagemap;
    (void)address;
    (void)n;
    (void)answer;
    return -ENOSYS;
}

static int set_up(void)
{
    return PM_PTE_NO_ARCH;
}

#endif

/* Whether the descriptor is what we loaded: somebody may have closed all there are. */
static bool has_program(void)
{
    unsigned char name[PM__BPF_NAME];
    return pm__bpf_name(walker.program, name) == 0 && memcmp(name, walker.name, sizeof name) == 0;
}

/* In its place is somebody else's, or nothing.  But where bpf(2) is forbidden by now it cannot be
 * asked, and is ours as far as that shows. */
static void give_up(void)
{
    unsigned char name[PM__BPF_NAME];
    if (pm__bpf_name(walker.program, name) == 0 || !pm__bpf_is_program(walker.program))
        walker.program = -1;
    undo();
}

/* What another time may not stand in the way. */
static bool is_passing(int refusal)
{
    return refusal == EMFILE || refusal == ENFILE || refusal == ENOMEM || refusal == EAGAIN ||
           refusal == EINTR;
}

/* CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which stands for both. */
static bool has_rights(void)
{
    struct {
        uint32_t version;
        int32_t pid;
    } who = {.version = 0x20080522};
    struct {
        uint32_t effective, permitted, inheritable;
    } caps[2] = {{0}};
    const uint32_t both = 1u << (39 - 32) | 1u << (38 - 32);
    syscall(SYS_capget, &who, caps);
    return caps[0].effective & 1u << 21 || (caps[1].effective & both) == both;
}

/* Who gave up the rights since, or was cloned by who has them, does not keep what they gave. */
static void notice_change(void)
{
    bool rights = has_rights();
    if (walker.owner && walker.owner != getpid()) {
        forget_ours();
    } else if (walker.rights != rights) {
        if (has_program())
            undo();
        else
            give_up();
        walker.state = UNTRIED;
    }
    walker.rights = rights;
    walker.owner = getpid();
}

int pm__walker_prepare(void)
{
    pthread_mutex_lock(&walker.lock);
    notice_change();
    if (walker.state == READY && !has_program())
        walker.state = LOST;
    if (walker.state == LOST)
        give_up();
    if (walker.state == UNTRIED || walker.state == LOST) {
        walker.refusal = watch_forks() ? set_up() : ENOMEM;
        walker.state = !walker.refusal ? READY : is_passing(walker.refusal) ? UNTRIED : REFUSED;
    }
    int rc = walker.refusal;
    pthread_mutex_unlock(&walker.lock);
    return rc;
}

bool pm__walker_is_ready(void)
{
    pthread_mutex_lock(&walker.lock);
    bool ready = walker.state == READY;
    pthread_mutex_unlock(&walker.lock);
    return ready;
}

/* ---- using it ------------------------------------------------------------------------------ */

/* n entries of a table, or the one that stands for all. */
static int take_answer(uint32_t answer, uint64_t vpn, size_t n, struct pm__table *out)
{
    const struct pm__reply *r = walker.reply;
    if (answer == PM__TABLE) {
        out->first = vpn;
        out->pages = out->n = n;
        for (size_t i = 0; i < n; i++)
            out->entry[i] = pm__translate(&walker.format, r->table[i], 12);
        return 0;
    }
    if (answer == PM__ENTRY) {
        out->pages = UINT64_C(1) << (r->shift - 12);
        out->first = vpn & ~(out->pages - 1);
        out->n = 1;
        out->entry[0] = pm__translate(&walker.format, r->entry, r->shift);
        return 0;
    }
    return answer == PM__MOVED ? -EAGAIN : answer == PM__NO_MEMORY ? -ESRCH : -EBADF;
}

int pm__walker_read(int pagemap, uint64_t address, size_t most, struct pm__table *out)
{
    uint32_t answer = 0;
    uint64_t vpn = address >> 12;
    size_t left = PM__TABLE_ENTRIES - vpn % PM__TABLE_ENTRIES, n = most < left ? most : left;
    pthread_mutex_lock(&walker.lock);
    int rc = walker.state == READY ? copy_table(pagemap, address, n, &answer) : -ENODATA;
    if (rc >= 0)
        rc = take_answer(answer, vpn, n, out);
    else if (walker.state == READY && !pm__bpf_is_program(walker.program))
        walker.state = LOST; /* somebody closed all descriptors */
    pthread_mutex_unlock(&walker.lock);
    return rc;
}
