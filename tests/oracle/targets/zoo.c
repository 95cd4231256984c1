/* SPDX-License-Identifier: MIT
 *
 * zoo.c - one process, memory in known page states.
 *
 *   zoo STATE [DIRECTORY]
 *
 * prints what it made (see say.h; states are explained in oracle/targets.py), waits on stdin,
 * and ends at its end.  Some states know commands, one a line.  Every area is a mapping of its
 * own, between two inaccessible pages, so that neighbours never merge with it.
 */
#include "blocks.h"

#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_UNPOPULATED (1ULL << 13)
#define FEATURE_WP_ASYNC (1ULL << 15)

static const char *directory = "/tmp";
static int (*on_command)(const char *line);

/* ---- anonymous memory ---- */

static void zoo_anon(void)
{
    char *p = anonymous(64);
    write_pages(p, 16);
    read_pages(p + 16 * PS, 16);
    read_pages(p + 48 * PS, 16);
    for (int i = 48; i < 64; i += 2)
        write_pages(p + i * PS, 1); /* zero page, then written */
    say_begin("anon");
    say_area("written", p, 16, "private", 1);
    say_area("read", p + 16 * PS, 16, "zero", 0);
    say_area("untouched", p + 32 * PS, 16, "absent", 0);
    for (int i = 48; i < 64; i++) {
        char name[16];
        snprintf(name, sizeof name, "mixed%d", i - 48);
        say_area(name, p + i * PS, 1, i % 2 ? "zero" : "private", i % 2 ? 0 : 1);
    }
    say_end();
}

static char bss_read[GROUP] __attribute__((aligned(GROUP)));
static char bss_written[GROUP] __attribute__((aligned(GROUP)));
static char bss_untouched[GROUP] __attribute__((aligned(GROUP)));
static char data_read[GROUP] __attribute__((aligned(GROUP))) = {1};
static char data_written[GROUP] __attribute__((aligned(GROUP))) = {1};

static void zoo_bss(void)
{
    read_pages(bss_read, 16);
    write_pages(bss_written, 16);
    read_pages(data_read, 16);
    write_pages(data_written, 16);
    say_begin("bss");
    say_area("bss_read", bss_read, 16, "zero", 0);
    say_area("bss_written", bss_written, 16, "private", 1);
    say_area("bss_untouched", bss_untouched, 16, "absent", 0);
    say_area("data_read", data_read, 16, "file", 0);
    say_area("data_written", data_written, 16, "copied", 1);
    say_end();
}

static void zoo_stack(void)
{
    char room[17 * PS];
    char *p = (char *)(((uintptr_t)room + PS - 1) / PS * PS);
    write_pages(p, 16);
    say_begin("stack");
    say_area("written", p, 16, "private", 1);
    say_end();
    sink = p[0];
}

static void zoo_lazyfree(void)
{
    stay_on_one_cpu();
    char *all = anonymous(16), *partly = anonymous(16), *again = anonymous(16);
    char *push = anonymous(64);
    write_pages(all, 16);
    write_pages(partly, 16);
    write_pages(again, 16);
    need(!madvise(all, 16 * PS, MADV_FREE), "MADV_FREE");
    need(!madvise(partly, 8 * PS, MADV_FREE), "MADV_FREE");
    need(!madvise(again, 16 * PS, MADV_FREE), "MADV_FREE");
    write_pages(push, 64);
    madvise(push, 64 * PS, MADV_FREE);
    munmap(push, 64 * PS);
    *(volatile uint64_t *)(again + 3 * PS) = 1;
    say_begin("lazyfree");
    say_area("all", all, 16, "lazyfree", 1);
    say_area("partly_freed", partly, 8, "lazyfree", 1);
    say_area("partly_kept", partly + 8 * PS, 8, "private", 1);
    say_area("before", again, 3, "lazyfree", 1);
    say_area("rewritten", again + 3 * PS, 1, "rewritten", 1);
    say_area("after", again + 4 * PS, 12, "lazyfree", 1);
    say_end();
}

static void zoo_guard(void)
{
    char *p = anonymous(16);
    write_pages(p, 8);
    need(!madvise(p + 4 * PS, 8 * PS, MADV_GUARD_INSTALL), "MADV_GUARD_INSTALL");
    say_begin("guard");
    say_area("written", p, 4, "private", 1);
    say_area("over_written", p + 4 * PS, 4, "guard", 0);
    say_area("over_nothing", p + 8 * PS, 4, "guard", 0);
    say_area("untouched", p + 12 * PS, 4, "absent", 0);
    say_end();
}

static void zoo_protnone(void)
{
    char *p = anonymous(16);
    write_pages(p, 8);
    read_pages(p + 8 * PS, 4);
    need(!mprotect(p, 16 * PS, PROT_NONE), "mprotect");
    char *q = anonymous(16);
    write_pages(q, 16);
    need(!mprotect(q, 16 * PS, PROT_READ), "mprotect");
    say_begin("protnone");
    say_area("written", p, 8, "private", 1);
    say_area("read", p + 8 * PS, 4, "zero", 0);
    say_area("untouched", p + 12 * PS, 4, "absent", 0);
    say_area("readonly", q, 16, "private", 1);
    say_end();
}

static char *moved_from;

static void zoo_mremap(void)
{
    char *p = anonymous(16), *room = anonymous(16);
    write_pages(p, 8);
    char *q = mremap(p, 16 * PS, 16 * PS, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    need(q == room, "mremap");
    moved_from = p;
    say_begin("mremap");
    say_area("written", q, 8, "private", 1);
    say_area("untouched", q + 8 * PS, 8, "absent", 0);
    printf("], \"moved_from\": [%llu", (unsigned long long)(uintptr_t)moved_from);
    say_end();
}

static void zoo_many(void)
{
    enum { N = 2000 };
    char *p = anonymous(N);
    write_pages(p, N);
    for (int i = 0; i < N; i += 2)
        need(!mprotect(p + i * PS, PS, PROT_READ), "mprotect");
    say_begin("many");
    say_area("pages", p, N, "private", 1);
    say_end();
}

/* ---- files ---- */

static void zoo_file_private(void)
{
    int fd = make_file(directory, 128, PS);
    char *p = map_file(fd, 96, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    char *r = map_file(fd, 16, PROT_READ, MAP_PRIVATE);
    read_pages(p, 16);
    write_pages(p + 32 * PS, 16); /* never read before */
    read_pages(p + 48 * PS, 16);
    write_pages(p + 48 * PS, 8); /* read before */
    need(!mlock(p + 64 * PS, 16 * PS), "mlock");
    need(!mlock(r, 16 * PS), "mlock");
    say_begin("file_private");
    say_area("read", p, 16, "file", 0);
    say_area("untouched", p + 16 * PS, 16, "absent", 0);
    say_area("written", p + 32 * PS, 16, "copied", 1);
    say_area("read_written", p + 48 * PS, 8, "copied", 1);
    say_area("read_beside", p + 56 * PS, 8, "file", 1);
    say_area("locked", p + 64 * PS, 16, "locked_copy", 1);
    say_area("after", p + 80 * PS, 16, "absent", 0);
    say_area("locked_readonly", r, 16, "file", 0);
    say_end();
}

static char *shared_file;

static int shared_command(const char *line)
{
    if (!strcmp(line, "msync")) {
        need(!msync(shared_file + 48 * PS, 16 * PS, MS_SYNC), "msync");
    } else if (!strcmp(line, "write")) {
        write_pages(shared_file + 48 * PS, 16);
    } else {
        return 0;
    }
    say_begin("file_shared");
    say_area("synced", shared_file + 48 * PS, 16, *line == 'm' ? "shared_clean" : "shared_dirty",
             1);
    say_end();
    return 1;
}

static void zoo_file_shared(void)
{
    int fd = make_file(directory, 64, PS);
    need_disk(fd);
    char *p = shared_file = map_file(fd, 64, PROT_READ | PROT_WRITE, MAP_SHARED);
    write_pages(p, 16);
    read_pages(p + 16 * PS, 16);
    write_pages(p + 48 * PS, 16);
    need(!msync(p + 48 * PS, 16 * PS, MS_SYNC), "msync");
    on_command = shared_command;
    say_begin("file_shared");
    say_area("written", p, 16, "shared_dirty", 1);
    say_area("read", p + 16 * PS, 16, "shared_clean", 1);
    say_area("untouched", p + 32 * PS, 16, "absent", 0);
    say_area("synced", p + 48 * PS, 16, "shared_clean", 1);
    say_end();
}

/* One page written in a file whose page cache may hold large folios. */
static void zoo_file_large(void)
{
    int fd = make_file(directory, 512, HUGE);
    need_disk(fd);
    char *p = isolate(HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HUGE);
    read_pages(p, 512);
    write_pages(p + 100 * PS, 1);
    say_begin("file_large");
    say_area("before", p, 100, "shared_ptclean", 1);
    say_area("written", p + 100 * PS, 1, "shared_dirty", 1);
    say_area("after", p + 101 * PS, 411, "shared_ptclean", 1);
    say_end();
}

static void shmem_areas(const char *target, int fd)
{
    int extra = fd < 0 ? MAP_ANONYMOUS : 0;
    char *p = isolate(48 * PS, PROT_READ | PROT_WRITE, MAP_SHARED | extra, fd, GROUP);
    write_pages(p, 16);
    read_pages(p + 16 * PS, 16);
    char *q = NULL;
    if (fd >= 0) {
        q = map_file(fd, 48, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        write_pages(q + 16 * PS, 16);
    }
    say_begin(target);
    say_area("written", p, 16, "shm_dirty", 1);
    say_area("read", p + 16 * PS, 16, "shm_clean", 1);
    say_area("untouched", p + 32 * PS, 16, "absent", 0);
    if (q) {
        say_area("private_untouched", q, 16, "absent", 0);
        say_area("private_written", q + 16 * PS, 16, "copied", 1);
    }
    say_end();
}

static void zoo_shm(void)
{
    shmem_areas("shm", -1);
}

static void zoo_memfd(void)
{
    int fd = (int)syscall(SYS_memfd_create, "zoo memory", 1u);
    need(fd >= 0 && !ftruncate(fd, 48 * PS), "memfd_create");
    shmem_areas("memfd", fd);
}

static void zoo_tmpfs(void)
{
    int fd = make_file(access("/dev/shm", W_OK) ? directory : "/dev/shm", 48, PS);
    char *p = map_file(fd, 48, PROT_READ | PROT_WRITE, MAP_SHARED);
    write_pages(p, 16);
    read_pages(p + 16 * PS, 16);
    need(!msync(p, 16 * PS, MS_SYNC), "msync");
    char *q = map_file(fd, 48, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    write_pages(q + 32 * PS, 16);
    say_begin("tmpfs");
    say_area("written", p, 16, "shm_dirty", 1);
    say_area("read", p + 16 * PS, 16, "shm_ptclean", 1);
    say_area("untouched", p + 32 * PS, 16, "absent", 0);
    say_area("private_written", q + 32 * PS, 16, "copied", 1);
    say_end();
}

/* zoo named DIRECTORY PATH...: maps existing files, reads their first page */
static void zoo_named(int argc, char **argv)
{
    say_begin("named");
    for (int i = 3; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY);
        char name[16];
        char *p = fd < 0 ? NULL : isolate(PS, PROT_READ, MAP_PRIVATE, fd, PS);
        if (!p)
            continue;
        read_pages(p, 1);
        snprintf(name, sizeof name, "%d", i - 3);
        say_area(name, p, 1, "file", 0);
    }
    say_end();
}

/* ---- huge pages ---- */

static char *huge_area(void)
{
    char *p = isolate(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    need(!madvise(p, HUGE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
    return p;
}

static void zoo_thp(void)
{
    char *whole = huge_area(), *halved = huge_area(), *split = huge_area(), *holed = huge_area();
    char *zero = huge_area(), *one = huge_area();
    write_pages(whole, 512);
    write_pages(halved, 512);
    write_pages(split, 512);
    write_pages(holed, 512);
    write_pages(one, 1);
    read_pages(zero, 512);
    need(!munmap(halved + HUGE / 2, HUGE / 2), "munmap");
    need(!mprotect(split, HUGE / 2, PROT_READ), "mprotect");
    need(!madvise(holed, HUGE, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE"); /* or khugepaged mends it */
    need(!madvise(holed + 7 * PS, PS, MADV_DONTNEED), "MADV_DONTNEED");
    say_begin("thp");
    say_area("whole", whole, 512, "huge", 1);
    say_area("one_byte", one, 512, "huge", 1);
    say_area("halved", halved, 256, "huge_split", 1);
    say_area("split_readonly", split, 256, "huge_split", 1);
    say_area("split_writable", split + HUGE / 2, 256, "huge_split", 1);
    say_area("holed", holed, 7, "huge_split", 1);
    say_area("hole", holed + 7 * PS, 1, "absent", 0);
    say_area("holed_rest", holed + 8 * PS, 504, "huge_split", 1);
    say_area("zero", zero, 512, "huge_zero", 0);
    say_end();
}

static void zoo_hugetlb(void)
{
    char *p = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    need(p != MAP_FAILED, "MAP_HUGETLB");
    char *q = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1,
                   0);
    need(q != MAP_FAILED, "MAP_HUGETLB shared");
    *(volatile char *)p = 1;
    *(volatile char *)q = 1;
    say_begin("hugetlb");
    say_area("written", p, 512, "hugetlb", 1);
    say_area("untouched", p + HUGE, 512, "absent", 0);
    say_area("shared", q, 512, "hugetlb", 1);
    say_end();
}

/* ---- other processes, swap, merging ---- */

static void zoo_fork(void)
{
    char *p = anonymous(32);
    char *s = isolate(16 * PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, GROUP);
    write_pages(p, 32);
    write_pages(s, 16);
    int life[2], ready[2];
    need(!pipe(life) && !pipe(ready), "pipe");
    fflush(stdout);
    pid_t parent = getpid(), child = fork();
    need(child >= 0, "fork");
    char byte = 0;
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        close(life[1]);
        write_pages(p + 8 * PS, 8);
        read_pages(s, 16);
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        while (read(life[0], &byte, 1) > 0)
            ;
        _exit(0);
    }
    close(life[0]);
    need(read(ready[0], &byte, 1) == 1, "child");
    write_pages(p + 16 * PS, 4);
    say_begin("fork");
    say_area("shared", p, 8, "forked", 2);
    say_area("rewritten_by_child", p + 8 * PS, 8, "private", 1);
    say_area("rewritten_by_parent", p + 16 * PS, 4, "private", 1);
    say_area("shared_rest", p + 20 * PS, 12, "forked", 2);
    say_area("shm", s, 16, "shm_dirty", 2);
    printf("], \"child\": {\"pid\": %d, \"areas\": [", (int)child);
    say_areas = 0;
    say_area("shared", p, 8, "forked", 2);
    say_area("rewritten_by_child", p + 8 * PS, 8, "private", 1);
    say_area("rewritten_by_parent", p + 16 * PS, 4, "private", 1);
    say_area("shared_rest", p + 20 * PS, 12, "forked", 2);
    say_area("shm", s, 16, "shm_ptclean", 2);
    printf("]}, \"unused\": [");
    say_end();
    char line[64];
    while (next_command(line, sizeof line))
        ;
    close(life[1]);
    waitpid(child, NULL, 0);
    exit(0);
}

static char *swap_anon, *swap_file;

static int swap_command(const char *line)
{
    if (!strcmp(line, "pageout")) {
        need(!madvise(swap_anon, 64 * PS, MADV_PAGEOUT), "MADV_PAGEOUT");
        need(!madvise(swap_file, 16 * PS, MADV_PAGEOUT), "MADV_PAGEOUT");
        say_begin("swap");
        say_area("anon", swap_anon, 64, "swapped", 0);
        say_area("copies", swap_file, 16, "swapped", 0);
    } else if (!strcmp(line, "read")) {
        read_pages(swap_anon, 16);
        say_begin("swap");
        say_area("anon_read", swap_anon, 16, "swapped_in", 1);
        say_area("anon_out", swap_anon + 16 * PS, 48, "swapped", 0);
    } else {
        return 0;
    }
    say_end();
    return 1;
}

static void zoo_swap(void)
{
    stay_on_one_cpu();
    int fd = make_file(directory, 32, PS);
    swap_anon = anonymous(64);
    swap_file = map_file(fd, 32, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    write_pages(swap_anon, 64);
    write_pages(swap_file, 16);
    on_command = swap_command;
    say_begin("swap");
    say_area("anon", swap_anon, 64, "private", 1);
    say_area("copies", swap_file, 16, "copied", 1);
    say_end();
}

static void zoo_ksm(void)
{
    char *p = anonymous(64), *q = anonymous(16);
    memset(p, 0x5a, 64 * PS);
    write_pages(q, 16);
    need(!madvise(p, 64 * PS, MADV_MERGEABLE), "MADV_MERGEABLE");
    need(!madvise(q, 16 * PS, MADV_MERGEABLE), "MADV_MERGEABLE");
    say_begin("ksm");
    say_area("same", p, 64, "merged", 64);
    say_area("different", q, 16, "private", 1);
    say_end();
}

static void zoo_uffd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    need(fd >= 0, "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API,
                             .features = FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC};
    need(!ioctl(fd, UFFDIO_API, &api), "UFFD_FEATURE_WP_ASYNC");
    char *p = anonymous(32);
    write_pages(p, 16);
    struct uffdio_register reg = {.range = {(uintptr_t)p, 32 * PS},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    need(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
    struct uffdio_writeprotect wp = {.range = {(uintptr_t)p, 32 * PS},
                                     .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    need(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT");
    write_pages(p, 4);
    write_pages(p + 16 * PS, 4);
    say_begin("uffd");
    say_area("rewritten", p, 4, "private", 1);
    say_area("protected", p + 4 * PS, 12, "private_wp", 1);
    say_area("first_written", p + 16 * PS, 4, "private", 1);
    say_area("markers", p + 20 * PS, 12, "wp_marker", 0);
    say_end();
}

/* ---- */

static const struct {
    const char *name;
    void (*make)(void);
} zoo[] = {
    {"anon", zoo_anon},
    {"bss", zoo_bss},
    {"stack", zoo_stack},
    {"lazyfree", zoo_lazyfree},
    {"guard", zoo_guard},
    {"protnone", zoo_protnone},
    {"mremap", zoo_mremap},
    {"many", zoo_many},
    {"file_private", zoo_file_private},
    {"file_shared", zoo_file_shared},
    {"file_large", zoo_file_large},
    {"shm", zoo_shm},
    {"memfd", zoo_memfd},
    {"tmpfs", zoo_tmpfs},
    {"thp", zoo_thp},
    {"hugetlb", zoo_hugetlb},
    {"fork", zoo_fork},
    {"swap", zoo_swap},
    {"ksm", zoo_ksm},
    {"uffd", zoo_uffd},
};

int main(int argc, char **argv)
{
    say_start();
    need(sysconf(_SC_PAGESIZE) == PS, "built for pages of 4 KiB");
    const char *wanted = argc > 1 ? argv[1] : "anon";
    if (argc > 2)
        directory = argv[2];
    if (strcmp(wanted, "thp") != 0)
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* whatever this host's policy is */
    size_t found = 0;
    if (!strcmp(wanted, "named")) {
        zoo_named(argc, argv);
        found = 1;
    }
    for (size_t i = 0; i < sizeof zoo / sizeof *zoo; i++)
        if (!strcmp(wanted, zoo[i].name)) {
            zoo[i].make();
            found = 1;
        }
    if (!found) {
        fprintf(stderr, "zoo: no such state: %s\n", wanted);
        return 2;
    }
    char line[64];
    while (next_command(line, sizeof line)) {
        if (!on_command || !on_command(line)) {
            printf("{\"error\": \"unknown command\"}\n");
            fflush(stdout);
        }
    }
    return 0;
}
