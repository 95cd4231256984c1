/* SPDX-License-Identifier: MIT
 *
 * walker.c - the life of the program that reads page tables.
 *
 * Set up once per process, at its first capture that wants it: located, loaded and tried.  Given
 * up in a forked child, where somebody closes its descriptor, and where we lose the rights.
 */
#include "bpf.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum state { UNTRIED, READY, REFUSED, LOST };

static struct {
    pthread_mutex_t lock;
    enum state state;
    int refusal;
    struct pm__reader reader;
    unsigned char name[PM__BPF_NAME]; /* of the program: its descriptor may be reused */
    bool watches_forks;
    bool rights; /* when it was tried */
    pid_t owner; /* who tried it */
} walker = {.reader = {.program = -1}};

/* Recursive, for a signal that comes while it is held, and forks. */
__attribute__((constructor)) static void make_lock(void)
{
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&walker.lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

/* No fork while it is set up, or a child would have what is in the middle of it: the map that
 * answers are read from. */
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
    if (walker.reader.program >= 0 && pm__bpf_is_program(walker.reader.program))
        close(walker.reader.program);
    walker.reader.program = -1;
    walker.reader.reply = NULL; /* not inherited */
    walker.state = UNTRIED;
}

static void forget(void)
{
    make_lock();
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
    if (walker.reader.program >= 0)
        close(walker.reader.program);
    walker.reader.program = -1;
    if (walker.reader.reply) {
        pm__unhide(walker.reader.reply);
        munmap(walker.reader.reply, pm__page_round(sizeof *walker.reader.reply));
    }
    walker.reader.reply = NULL;
}

/* ---- setting up ------------------------------------------------------------------------- */

static int map_reply(int map)
{
    size_t size = pm__page_round(sizeof *walker.reader.reply);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
    if (p == MAP_FAILED)
        return errno;
    madvise(p, size, MADV_DONTFORK);
    madvise(p, size, MADV_DONTDUMP);
    memset(p, 0, sizeof *walker.reader.reply); /* all of it is there before anything is captured */
    walker.reader.reply = p;
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
    int fd = pm__load_copy(constants);
    if (fd < 0)
        return -fd;
    walker.reader.program = above_standard(fd);
    return walker.reader.program < 0 ? -walker.reader.program
                                     : -pm__bpf_name(walker.reader.program, walker.name);
}

static int load(int pagemap, int map, uint64_t constants[])
{
    int rc = map_reply(map);
    if (rc || (rc = pm__locate(pagemap, map, walker.reader.reply, constants)) ||
        (rc = load_copy(constants)))
        return rc;
    return pm__trial(&walker.reader, pagemap);
}

static int set_up(void)
{
    uint64_t constants[PM__N_CONSTANTS] = {0};
    if (!pm__address_mask())
        return PM_PTE_NO_ARCH;
    int map = pm__bpf_map(sizeof *walker.reader.reply);
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

/* Whether the descriptor is what we loaded: somebody may have closed all there are. */
static bool has_program(void)
{
    unsigned char name[PM__BPF_NAME];
    return pm__bpf_name(walker.reader.program, name) == 0 &&
           memcmp(name, walker.name, sizeof name) == 0;
}

/* In its place is somebody else's, or nothing.  But where bpf(2) is forbidden by now it cannot be
 * asked, and is ours as far as that shows. */
static void give_up(void)
{
    unsigned char name[PM__BPF_NAME];
    if (pm__bpf_name(walker.reader.program, name) == 0 ||
        !pm__bpf_is_program(walker.reader.program))
        walker.reader.program = -1;
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

int pm__copy(const struct pm__reader *r, int pagemap, uint64_t address, size_t n, uint32_t *answer)
{
    const uint64_t args[] = {(uint64_t)pagemap, address, n};
    return pm__bpf_run(r->program, args, sizeof args / sizeof *args, answer);
}

/* n entries of a table, or the one that stands for all.  Frames are in them, for the comparison
 * with pagemap: they stay nowhere else. */
static int take_answer(uint32_t answer, uint64_t vpn, size_t n, struct pm__table *out)
{
    struct pm__reply *r = walker.reader.reply;
    if (answer == PM__TABLE) {
        out->first = vpn;
        out->pages = out->n = n;
        for (size_t i = 0; i < n; i++)
            out->entry[i] = pm__translate(&walker.reader.format, r->table[i], 12);
        explicit_bzero(r->table, n * sizeof *r->table);
        return 0;
    }
    if (answer == PM__ENTRY) {
        out->pages = UINT64_C(1) << (r->shift - 12);
        out->first = vpn & ~(out->pages - 1);
        out->n = 1;
        out->entry[0] = pm__translate(&walker.reader.format, r->entry, r->shift);
        r->entry = 0;
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
    int rc = walker.state == READY ? pm__copy(&walker.reader, pagemap, address, n, &answer)
                                   : -ENODATA;
    if (rc >= 0)
        rc = take_answer(answer, vpn, n, out);
    else if (walker.state == READY && !pm__bpf_is_program(walker.reader.program))
        walker.state = LOST; /* somebody closed all descriptors */
    pthread_mutex_unlock(&walker.lock);
    return rc;
}
