/* SPDX-License-Identifier: MIT
 *
 * The programs that read page tables, on the kernel that is there: what they say of pages in known
 * states, whom they refuse, and what becomes of them when others fork, close and forbid.
 *
 * Needs CAP_BPF and CAP_PERFMON.  Without them it says so, and tests the refusal alone.
 */
#include "check.h"

#include "bpf.h"
#include "uapi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define MADV_GUARD 102 /* MADV_GUARD_INSTALL, Linux 6.13 */

#define PAGE ((size_t)4096)
#define TABLE ((size_t)2 << 20) /* bytes that one page table maps */
#define GIB ((size_t)1 << 30)
#define THREADS 4
#define NOBODY 65534

static int own; /* our pagemap */

static void *map(size_t size, int prot, int flags, int fd)
{
    void *p = mmap(NULL, size, prot, flags, fd, 0);
    CHECK_IN(p != MAP_FAILED, "mmap: %s", strerror(errno));
    return p == MAP_FAILED ? NULL : p;
}

static char *map_anonymous(size_t size)
{
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* Part of a larger region, so that it begins where a table does. */
static char *map_aligned(size_t size)
{
    char *p = map_anonymous(size + TABLE);
    return p + (TABLE - (uintptr_t)p % TABLE) % TABLE;
}

static void look(const char *p)
{
    (void)*(const volatile char *)p;
}

/* ---- what is asked ---------------------------------------------------------------------- */
static uint64_t entry_in(const struct pm__table *t, uint64_t vpn)
{
    CHECK(vpn - t->first < t->pages && (t->n == 1 || t->n == t->pages));
    return t->n == 1 ? t->entry[0] : t->entry[vpn - t->first];
}

static uint64_t told_of(int pagemap, const char *p)
{
    struct pm__table t;
    int rc = pm__walker_read(pagemap, (uintptr_t)p, PM__TABLE_MOST, &t);
    CHECK_IN(rc == 0, "rc %d", rc);
    return rc ? 0 : entry_in(&t, (uintptr_t)p / PAGE);
}

static uint64_t shown_of(int pagemap, const char *p)
{
    uint64_t entry = 0;
    CHECK_EQ(pread(pagemap, &entry, 8, (off_t)((uintptr_t)p / PAGE * 8)), 8);
    return entry;
}

enum { ABSENT, CLEAN, DIRTY };

static bool is_in_state(int pagemap, const char *p, int state)
{
    uint64_t told = told_of(pagemap, p), shown = shown_of(pagemap, p);
    uint64_t frame = shown & PM_PE_PFN_MASK;
    if ((told & PM_PE_PRESENT) != (shown & PM_PE_PRESENT))
        return false;
    if (state == ABSENT || !(told & PM_PE_PRESENT))
        return state == ABSENT && told == 0;
    return (!frame || frame == (told & PM_PE_PFN_MASK)) &&
           !(told & PM__PTE_DIRTY) == (state == CLEAN);
}

/* ---- children ------------------------------------------------------------------------------ */
static void reap(pid_t pid, const char *what)
{
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_IN(status == 0, "%s: status %#x", what, status);
}

static void reopen_pagemap(void)
{
    close(own);
    own = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    CHECK(own >= 0);
}

static void in_child(void (*fn)(void), const char *what)
{
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        reopen_pagemap();
        fn();
        _exit(check_failures != 0);
    }
    reap(pid, what);
}

#define RUN_IN_CHILD(test)                                                                         \
    do {                                                                                           \
        check_test = #test;                                                                        \
        in_child(test, #test);                                                                     \
    } while (0)

/* A copy of this process that no handler of forks is told of. */
static pid_t raw_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

/* ---- what it keeps ------------------------------------------------------------------------------ */
/* Descriptors of BPF; the last of them in *fd. */
static unsigned bpf_files(const char *kind, int *fd)
{
    char path[64], target[64];
    unsigned n = 0;
    for (int i = 0; i < 1024; i++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", i);
        ssize_t len = readlink(path, target, sizeof target - 1);
        target[len > 0 ? len : 0] = '\0';
        if (!strstr(target, kind))
            continue;
        n++;
        if (fd)
            *fd = i;
    }
    return n;
}

static int program(void)
{
    int fd = -1;
    CHECK_EQ(bpf_files("bpf-prog", &fd), 1);
    return fd;
}

/* Without allocating: a sanitizer's lock may be held for good in a child. */
static bool maps_bpf(void)
{
    static char text[1 << 20];
    size_t n = 0;
    ssize_t got;
    int fd = open("/proc/self/smaps", O_RDONLY);
    while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    close(fd);
    text[n] = '\0';
    return strstr(text, "bpf-map") != NULL;
}

static void check_works(void)
{
    char *p = map_anonymous(2 * PAGE);
    CHECK(pm__walker_is_ready());
    *p = 1;
    CHECK(is_in_state(own, p, DIRTY) && is_in_state(own, p + PAGE, ABSENT));
    munmap(p, 2 * PAGE);
}

static void it_keeps_one_descriptor(void)
{
    int fd = program();
    CHECK_EQ(bpf_files("bpf-map", NULL), 0);
    CHECK(fd > STDERR_FILENO);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK(pm__bpf_is_program(fd) && !pm__bpf_is_program(own));
    CHECK_EQ(pm__walker_prepare(), 0); /* and not another one each time */
    CHECK_EQ(program(), fd);
    CHECK(maps_bpf());
    check_works();
}

/* What it maps is ours, and not part of a capture. */
static void it_does_not_show(void)
{
    const pm_request r = {.depth = PM_FULL, .counters = 1, .stopper = -1, .young = 1};
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    int rc = pm_capture(&r, &snap, &err);
    CHECK_IN(rc == 0, "%d %s", rc, err.detail);
    if (rc < 0)
        return;
    pm_get_columns(snap, &c);
    for (size_t i = 0; i < c.n_mappings; i++)
        CHECK(!memmem(c.strings + c.mappings[i].name, c.mappings[i].name_len, "bpf-map", 7));
    CHECK(pm_get_header(snap)->sources & 1u << PM_SRC_PTE);
    pm_free(snap);
}

/* ---- pages in known states ------------------------------------------------------------------------- */
static void small_pages(void)
{
    enum { WRITTEN, PROTECTED, HIDDEN, ZERO, FREED, GONE, GUARD, AGAIN, NEVER, N };
    static const int states[N] = {DIRTY, DIRTY, DIRTY, CLEAN, CLEAN, ABSENT, ABSENT, DIRTY, ABSENT};
    char *p = map_anonymous(N * PAGE);
    madvise(p, N * PAGE, MADV_NOHUGEPAGE);
    memset(p, 1, NEVER * PAGE);
    mprotect(p + PROTECTED * PAGE, PAGE, PROT_READ);
    mprotect(p + HIDDEN * PAGE, PAGE, PROT_NONE);
    madvise(p + ZERO * PAGE, PAGE, MADV_DONTNEED);
    look(p + ZERO * PAGE);
    madvise(p + FREED * PAGE, PAGE, MADV_FREE);
    madvise(p + GONE * PAGE, PAGE, MADV_DONTNEED);
    bool guards = madvise(p + GUARD * PAGE, PAGE, MADV_GUARD) == 0;
    madvise(p + AGAIN * PAGE, PAGE, MADV_FREE);
    p[AGAIN * PAGE] = 2;
    for (size_t i = 0; i < N; i++)
        if (guards || i != GUARD)
            CHECK_IN(is_in_state(own, p + i * PAGE, states[i]), "page %zu", i);
    CHECK(told_of(own, p + WRITTEN * PAGE) & PM__PTE_YOUNG);
    CHECK(!(told_of(own, p + FREED * PAGE) & PM__PTE_YOUNG));
    munmap(p, N * PAGE);
}

static int make_file(size_t pages)
{
    static char block[PAGE];
    FILE *f = tmpfile();
    int fd = dup(fileno(f));
    for (size_t i = 0; i < pages; i++)
        CHECK_EQ(pwrite(fd, block, PAGE, (off_t)(i * PAGE)), PAGE);
    fclose(f);
    return fd;
}

/* A file in memory never is. */
static bool is_written_back(int file)
{
    struct statfs fs;
    CHECK_EQ(fstatfs(file, &fs), 0);
    return (uint64_t)fs.f_type != PM_TMPFS_MAGIC && (uint64_t)fs.f_type != PM_RAMFS_MAGIC;
}

static void pages_of_files(void)
{
    int file = make_file(4), shm = memfd_create("pmaps", MFD_CLOEXEC);
    char *mine = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
    char *ours = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    CHECK_EQ(ftruncate(shm, 4 * PAGE), 0);
    char *wrote = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shm);
    char *reads = map(4 * PAGE, PROT_READ, MAP_SHARED, shm);
    CHECK_EQ(fsync(file), 0);
    look(mine);
    mine[PAGE] = 1;
    look(ours);
    ours[PAGE] = ours[2 * PAGE] = 1;
    CHECK_EQ(msync(ours + 2 * PAGE, PAGE, MS_SYNC), 0);
    wrote[0] = 1;
    look(reads);
    CHECK(is_in_state(own, mine, CLEAN) && is_in_state(own, mine + PAGE, DIRTY));
    CHECK(is_in_state(own, ours, CLEAN) && is_in_state(own, ours + PAGE, DIRTY));
    if (is_written_back(file))
        CHECK(is_in_state(own, ours + 2 * PAGE, CLEAN)); /* and not written since */
    CHECK(is_in_state(own, wrote, DIRTY) && is_in_state(own, reads, CLEAN));
    munmap(mine, 4 * PAGE);
    munmap(ours, 4 * PAGE);
    munmap(wrote, 4 * PAGE);
    munmap(reads, 4 * PAGE);
    close(file);
    close(shm);
}

/* Fork write-protects: the dirty bit is kept elsewhere then, on both sides. */
static void after_a_fork(void)
{
    int hold[2];
    char path[64], byte;
    char *p = map_anonymous(3 * PAGE);
    p[0] = p[PAGE] = 1;
    CHECK_EQ(pipe2(hold, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(hold[1]);
        _exit((int)read(hold[0], &byte, 1));
    }
    close(hold[0]);
    snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
    int childs = open(path, O_RDONLY | O_CLOEXEC);
    p[PAGE] = 2;
    for (int i = 0; i < 3; i++) {
        CHECK(is_in_state(own, p + i * PAGE, i < 2 ? DIRTY : ABSENT));
        CHECK(is_in_state(childs, p + i * PAGE, i < 2 ? DIRTY : ABSENT));
    }
    CHECK(!(told_of(childs, p) & PM__PTE_YOUNG)); /* it never looked at it */
    close(hold[1]);
    reap(pid, "child");
    /* Its tables are gone, and its pagemap is open still. */
    struct pm__table t;
    int rc = pm__walker_read(childs, (uintptr_t)p, PM__TABLE_MOST, &t);
    CHECK_IN(rc == -ESRCH || (rc == 0 && entry_in(&t, (uintptr_t)p / PAGE) == 0), "rc %d", rc);
    close(childs);
    munmap(p, 3 * PAGE);
}

/* All of a huge page, through its one entry. */
static bool check_leaf(const char *p, size_t size, int state)
{
    struct pm__table t;
    int rc = pm__walker_read(own, (uintptr_t)p + size - PAGE, PM__TABLE_MOST, &t);
    if (rc != 0 || t.n != 1)
        return false;
    CHECK_EQ(t.pages, size / PAGE);
    CHECK_EQ(t.first, (uintptr_t)p / PAGE);
    uint64_t shown = shown_of(own, p), frame = shown & PM_PE_PFN_MASK;
    CHECK((shown & PM_PE_PRESENT) == (t.entry[0] & PM_PE_PRESENT));
    CHECK(!frame || frame == (t.entry[0] & PM_PE_PFN_MASK));
    CHECK_EQ(!(t.entry[0] & PM__PTE_DIRTY), state == CLEAN);
    return true;
}

static void huge_pages(void)
{
    char *p = map_aligned(2 * TABLE);
    madvise(p, 2 * TABLE, MADV_HUGEPAGE);
    memset(p, 1, TABLE);
    madvise(p, TABLE, MADV_COLLAPSE); /* if it is none by then */
    if (!check_leaf(p, TABLE, DIRTY)) {
        fprintf(stderr, "%s: this host gave no transparent huge page\n", check_test);
        munmap(p, 2 * TABLE);
        return;
    }
    mprotect(p, TABLE, PROT_NONE);
    CHECK(check_leaf(p, TABLE, DIRTY));
    mprotect(p, TABLE, PROT_READ);
    CHECK(check_leaf(p, TABLE, DIRTY));
    mprotect(p, TABLE, PROT_READ | PROT_WRITE);
    madvise(p, TABLE, MADV_FREE);
    CHECK(check_leaf(p, TABLE, CLEAN));
    memset(p, 1, PAGE);
    CHECK(check_leaf(p, TABLE, DIRTY));
    look(p + TABLE); /* the huge zero page, or a small one */
    CHECK(told_of(own, p + TABLE) & PM_PE_PRESENT);
    CHECK(!(told_of(own, p + TABLE) & PM__PTE_DIRTY));
    madvise(p + 5 * PAGE, PAGE, MADV_DONTNEED); /* split */
    /* Linux 6.1: a split left D behind in place of P. */
    for (size_t i = 0; i < 16; i++)
        CHECK_IN(i == 5 ? is_in_state(own, p + i * PAGE, ABSENT)
                        : is_in_state(own, p + i * PAGE, DIRTY) ||
                              is_in_state(own, p + i * PAGE, CLEAN),
                 "page %zu", i);
    munmap(p, 2 * TABLE);
}

/* From the page on, and no further than its table. */
static void as_many_as_are_asked_for(void)
{
    static const size_t many[] = {1, 2, 3, 100, 511, 512, 513, 100000, SIZE_MAX};
    static const size_t from[] = {0, 1, 255, 509, 510, 511};
    char *p = map_aligned(2 * TABLE);
    madvise(p, 2 * TABLE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < 1024; i += 3)
        p[i * PAGE] = 1;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++)
        for (size_t k = 0; k < sizeof many / sizeof *many; k++) {
            struct pm__table t;
            size_t n = many[k] < 512 - from[i] ? many[k] : 512 - from[i];
            CHECK_EQ(pm__walker_read(own, (uintptr_t)p + from[i] * PAGE, many[k], &t), 0);
            CHECK(t.first == (uintptr_t)p / PAGE + from[i] && t.n == n && t.pages == n);
            for (size_t j = 0; j < n && j < t.n; j++)
                CHECK_EQ(!(t.entry[j] & PM__PTE_DIRTY), (from[i] + j) % 3 != 0);
        }
    munmap(p, 2 * TABLE);
}

/* The program itself believes nobody. */
static void more_than_a_table(void)
{
    static const uint64_t many[] = {513, 4096, UINT32_MAX, UINT64_C(1) << 61, UINT64_MAX};
    char *p = map_aligned(TABLE);
    madvise(p, TABLE, MADV_NOHUGEPAGE);
    p[0] = p[511 * PAGE] = 1;
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        const uint64_t first[] = {(uint64_t)own, (uintptr_t)p, many[i]};
        const uint64_t last[] = {(uint64_t)own, (uintptr_t)p + 511 * PAGE, i ? many[i] : 2};
        uint32_t answer = 0;
        CHECK_EQ(pm__bpf_run(program(), first, 3, &answer), 0);
        CHECK_EQ(answer, PM__OUTSIDE);
        CHECK_EQ(pm__bpf_run(program(), last, 3, &answer), 0);
        CHECK_EQ(answer, PM__OUTSIDE);
    }
    munmap(p, TABLE);
    check_works();
}

/* ---- hugetlb ------------------------------------------------------------------------------ */
static long number_in(const char *path)
{
    long n = -1;
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%ld", &n) != 1)
            n = -1;
        fclose(f);
    }
    return n;
}

static bool put_number(const char *path, long n)
{
    FILE *f = fopen(path, "w");
    bool good = f && fprintf(f, "%ld", n) > 0;
    return f && fclose(f) == 0 && good;
}

/* One page more than the host has, for as long as the test needs it. */
static void hugetlb(const char *path, size_t size, int shift)
{
    long before = number_in(path);
    if (before < 0 || !put_number(path, before + 1) || number_in(path) != before + 1) {
        fprintf(stderr, "%s: this host gave no page of %zu MiB\n", check_test, size >> 20);
        if (before >= 0)
            put_number(path, before);
        return;
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | shift << MAP_HUGE_SHIFT;
    char *p = map(size, PROT_READ | PROT_WRITE, flags, -1);
    if (p) {
        struct pm__table t;
        CHECK_EQ(pm__walker_read(own, (uintptr_t)p, PM__TABLE_MOST, &t), 0);
        CHECK(t.n == 1 && t.entry[0] == 0);
        *p = 1;
        CHECK(check_leaf(p, size, DIRTY));
        munmap(p, size);
    }
    CHECK(put_number(path, before));
    CHECK_EQ(number_in(path), before);
}

static void hugetlb_of_2_mib(void)
{
    hugetlb("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", TABLE, 21);
}

static void hugetlb_of_1_gib(void)
{
    hugetlb("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", GIB, 30);
}

/* ---- what it refuses ----------------------------------------------------------------------------- */
static int ask(int fd, uint64_t address)
{
    struct pm__table t;
    return pm__walker_read(fd, address, PM__TABLE_MOST, &t);
}

static void what_is_no_pagemap(void)
{
    static const char *const paths[] = {
        "/dev/null",       "/dev/zero",        "/proc/self/mem", /* of the same mm */
        "/proc/self/maps", "/proc/self/smaps", "/proc/self/environ",
        "/proc/self",      "/proc/kpageflags", "/sys/kernel/btf/vmlinux"};
    static const int never[] = {-1, INT32_MIN, INT32_MAX, 1 << 20, 100000};
    uint64_t here = (uintptr_t)paths;
    int ends[2];
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        CHECK_IN(ask(fd, here) == -EBADF, "%s", paths[i]);
        close(fd);
        CHECK_IN(ask(fd, here) == -EBADF, "%s, closed", paths[i]);
    }
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        CHECK_IN(ask(never[i], here) == -EBADF, "%d", never[i]);
    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(ask(ends[0], here), -EBADF);
    CHECK_EQ(ask(program(), here), -EBADF);
    close(ends[0]);
    close(ends[1]);
    check_works();
}

/* Of a kernel thread there is a pagemap, and no memory. */
static void who_has_no_memory(void)
{
    int fd = open("/proc/2/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    int rc = ask(fd, 0x1000);
    CHECK_IN(rc == -ESRCH || rc == -EBADF, "rc %d", rc);
    close(fd);
}

static bool is_nothing(uint64_t address)
{
    struct pm__table t;
    int rc = pm__walker_read(own, address, PM__TABLE_MOST, &t);
    return rc == -EBADF || (rc == 0 && entry_in(&t, address / PAGE) == 0);
}

/* Neither the kernel's half nor what is no address; with five levels 2^47 is one. */
static void no_address_of_ours(void)
{
    static const uint64_t refused[] = {UINT64_MAX,
                                       UINT64_C(1) << 63,
                                       UINT64_C(1) << 56,
                                       UINT64_C(0xff11000000000000),
                                       UINT64_C(0xffff800000000000),
                                       UINT64_C(0xffff888000000000),
                                       UINT64_C(0xffffffff81000000),
                                       UINT64_C(0xffffffffff600000) /* [vsyscall] */};
    struct rng rng = {47};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK_IN(ask(own, refused[i]) == -EBADF, "%#llx", (unsigned long long)refused[i]);
    for (int bit = 47; bit < 64; bit++)
        CHECK_IN(is_nothing(UINT64_C(1) << bit), "bit %d", bit);
    for (int i = 0; i < 20000; i++) {
        uint64_t address = rng_next(&rng) | UINT64_C(1) << (47 + rng_below(&rng, 17));
        CHECK_IN(is_nothing(address), "%#llx", (unsigned long long)address);
    }
    CHECK(is_nothing(0));
}

/* ---- children ---------------------------------------------------------------------------------- */
static void a_child(void)
{
    CHECK_EQ(bpf_files("bpf", NULL), 0);
    CHECK(!maps_bpf());
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(ask(own, (uintptr_t)&own), -ENODATA);
    CHECK_EQ(pm__walker_prepare(), 0); /* it has the rights, as we have */
    check_works();
    it_keeps_one_descriptor();
}

static void give_up_rights(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {{0}};
    CHECK_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);
    CHECK_EQ(syscall(SYS_capset, &head, none), 0);
    prctl(PR_SET_DUMPABLE, 1); /* or /proc/self is not ours any more */
}

static void a_child_without_rights(void)
{
    give_up_rights();
    CHECK_EQ(pm__walker_prepare(), EPERM);
    CHECK_EQ(pm__walker_prepare(), EPERM);
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(bpf_files("bpf", NULL), 0);
    CHECK(!maps_bpf());
}

static void a_childs_child(void)
{
    CHECK_EQ(pm__walker_prepare(), 0);
    in_child(a_child, "a child of it");
    in_child(a_child_without_rights, "a child of it, without rights");
    check_works();
}

/* It has the descriptor, whatever it is: the program is not for it. */
static void use_what_was_inherited(int inherited)
{
    uint32_t answer = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const uint64_t args[] = {(uint64_t)pagemap, (uintptr_t)&own, 1};
    const uint64_t parents[] = {(uint64_t)own, (uintptr_t)&own, 1};
    CHECK(pm__bpf_is_program(inherited));
    CHECK_EQ(pm__bpf_run(inherited, args, 3, &answer), 0);
    CHECK_EQ(answer, PM__STRANGER);
    CHECK_EQ(pm__bpf_run(inherited, parents, 3, &answer), 0);
    CHECK_EQ(answer, PM__STRANGER);
    CHECK_EQ(ask(pagemap, (uintptr_t)&own), -EBADF);
    CHECK(!maps_bpf());
    close(pagemap);
}

static void a_child_nobody_was_told_of(void)
{
    int fd = program();
    for (int rights = 0; rights < 2; rights++) {
        pid_t pid = raw_fork();
        if (pid == 0) {
            check_failures = 0;
            if (!rights)
                give_up_rights();
            use_what_was_inherited(fd);
            _exit(check_failures != 0);
        }
        reap(pid, rights ? "with rights" : "without");
    }
    check_works();
}

static void another_program(void)
{
    pid_t pid = raw_fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "! ls -l /proc/self/fd | grep -q bpf", (char *)NULL);
        _exit(127);
    }
    reap(pid, "exec");
}

/* ---- others' hands ---------------------------------------------------------------------------------- */
/* A capture which was not preceded by a look at whether all is there. */
static uint32_t sources_of_capture(void)
{
    const pm_request r = {.depth = PM_FULL, .counters = 1, .stopper = -1};
    pm_snapshot *snap;
    pm_error err;
    int rc = pm__capture_with(&pm__kernel, &r, &snap, &err);
    CHECK_IN(rc == 0, "%d %s", rc, err.detail);
    uint32_t sources = rc ? 0 : pm_get_header(snap)->sources;
    CHECK(rc || pm_get_header(snap)->pte_disagreed == 0 || sources & 1u << PM_SRC_PTE);
    pm_free(snap);
    return sources;
}

static void somebody_closes_it(void)
{
    close(program());
    CHECK(!(sources_of_capture() & 1u << PM_SRC_PTE)); /* it goes on, and knows less */
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(ask(own, (uintptr_t)&own), -ENODATA);
    CHECK_EQ(pm__walker_prepare(), 0);
    CHECK(sources_of_capture() & 1u << PM_SRC_PTE);
    it_keeps_one_descriptor();
    close(program()); /* and before the next, nothing was asked of it */
    CHECK_EQ(pm__walker_prepare(), 0);
    it_keeps_one_descriptor();
}

static void check_is_open(int fd)
{
    CHECK(fcntl(fd, F_GETFD) >= 0);
}

/* Somebody's file is in its place: it is neither used nor closed, here or in a child. */
static void in_its_place(int other)
{
    for (int asked = 0; asked < 2; asked++) {
        int fd = program();
        CHECK_EQ(dup2(other, fd), fd);
        if (asked) {
            CHECK(ask(own, (uintptr_t)&own) < 0);
            CHECK(!pm__walker_is_ready());
        }
        pid_t pid = fork();
        if (pid == 0)
            _exit(fcntl(fd, F_GETFD) < 0);
        reap(pid, "a child");
        CHECK_EQ(pm__walker_prepare(), 0);
        check_works();
        check_is_open(fd);
        close(fd);
        it_keeps_one_descriptor();
    }
}

static void another_file(void)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    in_its_place(null);
    in_its_place(own);
    close(null);
}

/* It would run, and answer anything: here "the table was copied". */
static void another_programs_descriptor(void)
{
    static const uint64_t insns[] = {0x00000001000000b7, 0x0000000000000095}; /* return 1 */
    int fd = program(), other = pm__bpf_load(insns, 2, NULL);
    CHECK(other >= 0);
    CHECK_EQ(dup2(other, fd), fd);
    close(other);
    CHECK_EQ(pm__walker_prepare(), 0);
    check_works();
    check_is_open(fd);
    close(fd);
    it_keeps_one_descriptor();
}

static void no_descriptor_is_free(void)
{
    struct rlimit before, none;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(pm__walker_prepare(), EMFILE);
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    CHECK_EQ(pm__walker_prepare(), 0); /* that was then */
    check_works();
}

/* At each number of them that are left. */
static void few_descriptors_are_free(void)
{
    struct rlimit before, few;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    int next = dup(own);
    close(next);
    for (int left = 0; left < 8 && !pm__walker_is_ready(); left++) {
        few = before;
        few.rlim_cur = (rlim_t)next + (rlim_t)left;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        int rc = pm__walker_prepare();
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
        CHECK_IN(rc == 0 || rc == EMFILE, "%d left: %d", left, rc);
        CHECK_IN(rc == 0 || (!bpf_files("bpf", NULL) && !maps_bpf()), "%d left: kept", left);
    }
    CHECK_EQ(pm__walker_prepare(), 0);
    it_keeps_one_descriptor();
}

static void the_first_three_are_free(void)
{
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    int rc = pm__walker_prepare(), kept = -1;
    unsigned n = bpf_files("bpf-prog", &kept);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            _exit(10 + fd);
    _exit(rc != 0 || n != 1 || kept < 3);
}

static void forbid_bpf(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the call's number */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog all = {.len = 4, .filter = filter};
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all, 0, 0), 0);
}

static void bpf_is_forbidden(void)
{
    pm_host host;
    forbid_bpf();
    CHECK_EQ(pm__walker_prepare(), EPERM);
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(pm_probe(&host), 0);
    CHECK_EQ(host.probe[PM_PROBE_PTE], EPERM);
    CHECK(!(sources_of_capture() & 1u << PM_SRC_PTE));
}

static void bpf_is_forbidden_later(void)
{
    CHECK_EQ(pm__walker_prepare(), 0);
    forbid_bpf();
    CHECK(!(sources_of_capture() & 1u << PM_SRC_PTE));
    CHECK_EQ(pm__walker_prepare(), EPERM);
    CHECK(!pm__walker_is_ready() && !maps_bpf());
    CHECK(!(sources_of_capture() & 1u << PM_SRC_PTE));
    in_child(a_child_without_rights, "a child");
}

/* It keeps what it has, as it keeps every other descriptor: docs/security.md says so. */
static void rights_are_given_up(void)
{
    CHECK_EQ(pm__walker_prepare(), 0);
    give_up_rights();
    check_works();
    in_child(a_child_without_rights, "a child");
    int init = open("/proc/1/pagemap", O_RDONLY | O_CLOEXEC);
    CHECK(init < 0 && errno == EACCES); /* and what it may not open it cannot name */
}

/* ---- many at once ----------------------------------------------------------------------------------- */
static atomic_bool done;
static atomic_uint wrong;
static char *known; /* one page of a state of ours, and one that is not there, over and over */

enum { KNOWN = 600 };

static void *read_known(void *unused)
{
    (void)unused;
    for (size_t i = 0; !atomic_load(&done); i = (i + 2) % KNOWN) {
        struct pm__table t;
        uint64_t vpn = (uintptr_t)known / PAGE + i;
        if (pm__walker_read(own, vpn * PAGE, PM__TABLE_MOST, &t) != 0 || vpn - t.first >= t.pages ||
            t.n != t.pages)
            wrong++;
        else if (!(t.entry[vpn - t.first] & PM__PTE_DIRTY))
            wrong++;
        else if (vpn + 1 - t.first < t.pages && t.entry[vpn + 1 - t.first])
            wrong++;
    }
    return NULL;
}

static void start(pthread_t *threads, size_t n, void *(*fn)(void *))
{
    atomic_store(&done, false);
    wrong = 0;
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, fn, NULL), 0);
}

static void finish(const pthread_t *threads, size_t n)
{
    atomic_store(&done, true);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(wrong, 0);
}

static void make_known(void)
{
    known = map_anonymous(KNOWN * PAGE);
    madvise(known, KNOWN * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < KNOWN; i += 2)
        known[i * PAGE] = 1;
}

/* Nothing but the engine in the children: a sanitizer's lock may be held for good in one. */
static bool child_is_bare(void)
{
    pid_t pid = fork();
    int status = -1;
    if (pid == 0)
        _exit(bpf_files("bpf", NULL) != 0 || maps_bpf() || pm__walker_is_ready() ? 1 : 0);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void threads_read_and_fork(void)
{
    pthread_t threads[THREADS];
    make_known();
    start(threads, THREADS, read_known);
    for (int i = 0; i < 20; i++)
        CHECK_IN(child_is_bare(), "child %d", i);
    finish(threads, THREADS);
    munmap(known, KNOWN * PAGE);
    check_works();
}

static void *prepare(void *unused)
{
    (void)unused;
    while (!atomic_load(&done))
        wrong += pm__walker_prepare() != 0;
    return NULL;
}

/* Whatever is open in the middle of it, no child has any of it. */
static void threads_set_up_and_fork(void)
{
    pthread_t threads[THREADS];
    start(threads, THREADS, prepare);
    for (int i = 0; i < 20; i++)
        CHECK_IN(child_is_bare(), "child %d", i);
    finish(threads, THREADS);
    it_keeps_one_descriptor();
}

static int swapped;

static void *read_swapped(void *unused)
{
    (void)unused;
    while (!atomic_load(&done)) {
        struct pm__table t;
        uint64_t vpn = (uintptr_t)known / PAGE;
        int rc = pm__walker_read(swapped, vpn * PAGE, PM__TABLE_MOST, &t);
        if (rc == 0 ? !(t.entry[vpn - t.first] & PM__PTE_DIRTY) : rc != -EBADF)
            wrong++;
    }
    return NULL;
}

/* While it is read the descriptor becomes another file's, and ours again. */
static void the_pagemap_is_closed_meanwhile(void)
{
    pthread_t threads[THREADS];
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    make_known();
    swapped = dup(own);
    start(threads, THREADS, read_swapped);
    for (int i = 0; i < 2000; i++) {
        int again = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        dup2(null, swapped);
        dup2(again, swapped);
        close(again);
    }
    finish(threads, THREADS);
    close(swapped);
    close(null);
    munmap(known, KNOWN * PAGE);
    check_works();
}

static void *read_moving(void *unused)
{
    (void)unused;
    while (!atomic_load(&done)) {
        struct pm__table t;
        int rc = pm__walker_read(own, (uintptr_t)known + 7 * PAGE, PM__TABLE_MOST, &t);
        if (rc != 0 && rc != -EAGAIN)
            wrong++;
    }
    return NULL;
}

/* Tables come and go while they are read. */
static void the_tables_move_meanwhile(void)
{
    pthread_t threads[THREADS];
    known = map_aligned(TABLE);
    start(threads, THREADS, read_moving);
    for (int i = 0; i < 1000; i++) {
        known[7 * PAGE] = 1;
        CHECK(mmap(known, TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                   -1, 0) == known);
        if (i % 8 == 0)
            madvise(known, TABLE, i % 16 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    finish(threads, THREADS);
    munmap(known, TABLE);
    check_works();
}

/* ---- all of it --------------------------------------------------------------------------------------- */
static bool has_rights(void)
{
    const uint64_t both = UINT64_C(1) << 38 | UINT64_C(1) << 39; /* CAP_PERFMON, CAP_BPF */
    uint64_t effective = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "CapEff:", 7) == 0)
            effective = strtoull(line + 7, NULL, 16);
    if (f)
        fclose(f);
    return (effective & both) == both || effective & UINT64_C(1) << 21; /* CAP_SYS_ADMIN */
}

static void refusal(void)
{
    int rc = pm__walker_prepare();
#if defined(__x86_64__)
    CHECK_IN(rc > 0, "prepare says %d", rc);
    CHECK_IN(has_rights() || rc == EPERM, "without rights it says %d, not EPERM", rc);
#else
    CHECK_EQ(rc, PM_PTE_NO_ARCH);
#endif
    CHECK_EQ(pm__walker_prepare(), rc);
    CHECK(!pm__walker_is_ready());
    CHECK_EQ(ask(own, (uintptr_t)&own), -ENODATA);
    CHECK_EQ(bpf_files("bpf", NULL), 0);
    CHECK(!(sources_of_capture() & 1u << PM_SRC_PTE));
}

int main(void)
{
    own = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(ask(own, (uintptr_t)&own), -ENODATA); /* not before it was asked for */
    if (has_rights())
        RUN(threads_set_up_and_fork);
    int rc = pm__walker_prepare();
    if (rc != 0) {
        fprintf(stderr, "page tables cannot be read here (%d): %s\n", rc,
                has_rights() ? "see pmaps doctor" : "it needs CAP_BPF and CAP_PERFMON");
        RUN(refusal);
        return check_done();
    }
    RUN(it_keeps_one_descriptor);
    RUN(it_does_not_show);
    RUN(small_pages);
    RUN(pages_of_files);
    RUN(after_a_fork);
    RUN(huge_pages);
    RUN(as_many_as_are_asked_for);
    RUN(more_than_a_table);
    RUN(hugetlb_of_2_mib);
    RUN(hugetlb_of_1_gib);
    RUN(what_is_no_pagemap);
    RUN(who_has_no_memory);
    RUN(no_address_of_ours);
    RUN_IN_CHILD(a_child);
    RUN_IN_CHILD(a_child_without_rights);
    RUN_IN_CHILD(a_childs_child);
    RUN(a_child_nobody_was_told_of);
    RUN(another_program);
    RUN(somebody_closes_it);
    RUN(another_file);
    RUN(another_programs_descriptor);
    RUN_IN_CHILD(no_descriptor_is_free);
    RUN_IN_CHILD(few_descriptors_are_free);
    RUN_IN_CHILD(the_first_three_are_free);
    RUN_IN_CHILD(bpf_is_forbidden);
    RUN_IN_CHILD(bpf_is_forbidden_later);
    RUN_IN_CHILD(rights_are_given_up);
    RUN(threads_read_and_fork);
    RUN(the_pagemap_is_closed_meanwhile);
    RUN(the_tables_move_meanwhile);
    return check_done();
}
