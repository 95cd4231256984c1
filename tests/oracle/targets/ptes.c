/* SPDX-License-Identifier: MIT
 *
 * ptes.c - one process, memory whose page table entries are in known states.
 *
 *   ptes STATE [DIRECTORY]
 *
 * as zoo does, but the state of an area is the two letters that its page table entries show:
 * "Y" accessed, "P" dirty, "_" clear, "?" not known beforehand; "--" is no ordinary page at all.
 */
#include "blocks.h"

#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* What libc's headers may be too old for. */
enum { COLD = 20, POPULATE_READ = 22, POPULATE_WRITE = 23, COLLAPSE = 25 };
enum { DONTUNMAP = 4, FIXED_NOREPLACE = 0x100000 };
enum { NR_PKEY_MPROTECT = 329, NR_PKEY_ALLOC = 330, NR_MEMFD_SECRET = 447 };
#define USER_MODE_ONLY 1
#define FEATURE_WP_SHMEM (1ULL << 12)

static const char *directory = "/tmp";
static int (*on_command)(const char *line);

static void say(const char *name, const void *start, size_t pages, const char *letters)
{
    say_area(name, start, pages, letters, 0);
}

static char *private_file(size_t pages)
{
    return map_file(make_file(directory, pages, PS), pages, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static char *shared_file(size_t pages)
{
    int fd = make_file(directory, pages, PS);
    need_disk(fd);
    return map_file(fd, pages, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static char *shared_memory(size_t pages)
{
    return isolate(pages * PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, GROUP);
}

static char *written(size_t pages)
{
    char *p = anonymous(pages);
    write_pages(p, pages);
    return p;
}

static void advise(void *start, size_t pages, int advice, const char *what)
{
    need(!madvise(start, pages * PS, advice), what);
}

static void protect(void *start, size_t pages, int prot)
{
    need(!mprotect(start, pages * PS, prot), "mprotect");
}

/* ---- protection ---- */

static void ptes_protect(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    char *readonly = written(16), *back = written(16), *again = written(16);
    char *none = written(16), *none_back = written(16), *mixed = written(32);
    char *clean = private_file(16), *copied = private_file(16), *hidden = private_file(16);
    char *dirty = shared_file(16), *synced = shared_file(16), *seen = shared_file(16);
    char *shm = shared_memory(16);
    protect(readonly, 16, PROT_READ);
    protect(back, 16, PROT_READ), protect(back, 16, rw);
    protect(again, 16, PROT_READ), protect(again, 16, rw), write_pages(again, 16);
    protect(none, 16, PROT_NONE);
    protect(none_back, 16, PROT_NONE), protect(none_back, 16, rw);
    for (int i = 0; i < 32; i += 2)
        protect(mixed + i * PS, 1, i % 4 ? PROT_READ : PROT_NONE);
    read_pages(clean, 16), protect(clean, 16, PROT_READ);
    write_pages(copied, 16), protect(copied, 16, PROT_READ), protect(copied, 16, rw);
    write_pages(hidden, 8), read_pages(hidden + 8 * PS, 8), protect(hidden, 16, PROT_NONE);
    write_pages(dirty, 16), protect(dirty, 16, PROT_READ);
    write_pages(synced, 16), need(!msync(synced, 16 * PS, MS_SYNC), "msync");
    protect(synced, 16, PROT_READ), protect(synced, 16, rw);
    read_pages(seen, 16), protect(seen, 16, PROT_NONE);
    write_pages(shm, 16), protect(shm, 16, PROT_NONE);
    say_begin("protect");
    say("readonly", readonly, 16, "YP");
    say("back", back, 16, "YP");
    say("again", again, 16, "YP");
    say("none", none, 16, "YP");
    say("none_back", none_back, 16, "YP");
    say("mixed", mixed, 32, "YP");
    say("clean", clean, 16, "Y_");
    say("copied", copied, 16, "YP");
    say("hidden_copies", hidden, 8, "YP");
    say("hidden_clean", hidden + 8 * PS, 8, "Y_");
    say("dirty", dirty, 16, "YP");
    say("synced", synced, 16, "Y_");
    say("seen", seen, 16, "Y_");
    say("shm", shm, 16, "YP");
    say_end();
}

/* ---- moving ---- */

static char *move(char *from, char *to, size_t pages, int flags)
{
    char *p = mremap(from, pages * PS, pages * PS, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to);
    need(p == to, "mremap");
    return p;
}

static void ptes_move(void)
{
    char *copies = private_file(32), *shared = shared_file(32), *shm = shared_memory(16);
    char *left = written(16), *grown = written(16);
    /* A whole page table, moved by its pointer, and a part of one. */
    char *table = isolate(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    char *room = isolate(HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    write_pages(copies, 16), read_pages(copies + 16 * PS, 16);
    write_pages(shared, 16), read_pages(shared + 16 * PS, 16);
    write_pages(shm, 16);
    write_pages(table, 512);
    protect(table, 256, PROT_READ);
    protect(table, 256, PROT_READ | PROT_WRITE); /* saved-dirty, one mapping */
    copies = move(copies, anonymous(32), 32, 0);
    shared = move(shared, anonymous(32), 32, 0);
    shm = move(shm, anonymous(16), 16, 0);
    table = move(table, room, 512, 0);
    char *stays = left;
    left = move(left, anonymous(16), 16, DONTUNMAP);
    grown = mremap(grown, 16 * PS, 48 * PS, MREMAP_MAYMOVE);
    need(grown != MAP_FAILED, "mremap");
    say_begin("move");
    say("copies", copies, 16, "YP");
    say("clean", copies + 16 * PS, 16, "Y_");
    say("shared", shared, 16, "YP");
    say("shared_clean", shared + 16 * PS, 16, "Y_");
    say("shm", shm, 16, "YP");
    say("table", table, 512, "YP");
    say("left", left, 16, "YP");
    say("left_behind", stays, 16, "--");
    say("grown", grown, 16, "YP");
    say("grown_tail", grown + 16 * PS, 32, "--");
    say_end();
}

/* ---- advice ---- */

static void ptes_advice(void)
{
    stay_on_one_cpu(); /* advice passes over pages that another CPU still queues */
    char *freed = written(16), *freed_read = written(16), *freed_written = written(16);
    char *cold = written(16), *cold_clean = private_file(16), *dropped = written(16);
    char *copies = private_file(16);
    advise(freed, 16, MADV_FREE, "MADV_FREE");
    advise(freed_read, 16, MADV_FREE, "MADV_FREE"), read_pages(freed_read, 16);
    advise(freed_written, 16, MADV_FREE, "MADV_FREE"), write_pages(freed_written, 16);
    read_pages(cold_clean, 16);
    write_pages(copies, 16);
    advise(cold, 16, COLD, "MADV_COLD");
    advise(cold_clean, 16, COLD, "MADV_COLD");
    advise(dropped, 16, MADV_DONTNEED, "MADV_DONTNEED");
    advise(copies, 16, MADV_DONTNEED, "MADV_DONTNEED"), read_pages(copies, 16);
    say_begin("advice");
    say("freed", freed, 16, "__");
    say("freed_read", freed_read, 16, "Y_");
    say("freed_written", freed_written, 16, "YP");
    say("cold", cold, 16, "_P");
    say("cold_clean", cold_clean, 16, "__");
    say("dropped", dropped, 16, "--");
    say("copies_dropped", copies, 16, "Y_");
    say_end();
}

static void ptes_populate(void)
{
    const int rw = PROT_READ | PROT_WRITE, populate = MAP_POPULATE;
    int fd = make_file(directory, 16, PS);
    char *own = isolate(16 * PS, rw, MAP_PRIVATE | MAP_ANONYMOUS | populate, -1, GROUP);
    char *shm = isolate(16 * PS, rw, MAP_SHARED | MAP_ANONYMOUS | populate, -1, GROUP);
    char *copies = isolate(16 * PS, rw, MAP_PRIVATE | populate, fd, GROUP);
    char *clean = isolate(16 * PS, PROT_READ, MAP_PRIVATE | populate, fd, GROUP);
    char *by_write = anonymous(16), *shared = shared_file(16), *looked = shared_file(16);
    char *locked = anonymous(16), *on_fault = anonymous(16);
    advise(by_write, 16, POPULATE_WRITE, "MADV_POPULATE_WRITE");
    advise(shared, 16, POPULATE_WRITE, "MADV_POPULATE_WRITE");
    advise(looked, 16, POPULATE_READ, "MADV_POPULATE_READ");
    need(!mlock(locked, 16 * PS), "mlock");
    need(!mlock2(on_fault, 16 * PS, MLOCK_ONFAULT), "mlock2");
    write_pages(on_fault, 8);
    say_begin("populate");
    say("own", own, 16, "YP");
    say("shm", shm, 16, "Y_");
    say("copies", copies, 16, "YP");
    say("clean", clean, 16, "Y_");
    say("by_write", by_write, 16, "YP");
    say("shared", shared, 16, "YP");
    say("looked", looked, 16, "Y_");
    say("locked", locked, 16, "YP");
    say("locked_written", on_fault, 8, "YP");
    say("locked_untouched", on_fault + 8 * PS, 8, "--");
    say_end();
}

/* ---- written by the kernel ---- */

static void ptes_kernel(void)
{
    int fd = make_file(directory, 16, PS), sink_fd = memfd_create("sink", 0);
    char *fresh = anonymous(16), *freed = written(16), *copies = private_file(16);
    char *shared = shared_file(16), *shm = shared_memory(16), *other = anonymous(16);
    char *sent = private_file(16), *random = anonymous(16), *direct = anonymous(16);
    advise(freed, 16, MADV_FREE, "MADV_FREE");
    read_pages(copies, 16);
    char *into[] = {fresh, freed, copies, shared, shm};
    for (size_t i = 0; i < sizeof into / sizeof *into; i++)
        need(pread(fd, into[i], 16 * PS, 0) == 16 * PS, "read");
    struct iovec from = {fresh, 16 * PS}, to = {other, 16 * PS};
    need(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == 16 * PS, "process_vm_writev");
    need(syscall(SYS_getrandom, random, 16 * PS, 1) > 0, "getrandom");
    need(write(sink_fd, sent, 16 * PS) == 16 * PS, "write");
    int raw = open("/proc/self/mem", O_RDWR);
    need(raw >= 0 && pwrite(raw, fresh, 16 * PS, (off_t)(uintptr_t)direct) == 16 * PS,
         "/proc/self/mem");
    say_begin("kernel");
    say("fresh", fresh, 16, "YP");
    say("freed", freed, 16, "YP");
    say("copies", copies, 16, "YP");
    say("shared", shared, 16, "YP");
    say("shm", shm, 16, "YP");
    say("other", other, 16, "YP");
    say("random", random, 16, "YP");
    say("direct", direct, 16, "YP");
    say("sent", sent, 16, "Y_");
    say_end();
}

/* As a debugger writes where the program may not. */
static void ptes_forced(void)
{
    char *code = private_file(16), *fixed = written(16), *fresh = private_file(16);
    char byte = 1;
    read_pages(code, 16);
    protect(code, 16, PROT_READ);
    protect(fixed, 16, PROT_READ);
    protect(fresh, 16, PROT_READ);
    int fd = open("/proc/self/mem", O_RDWR);
    for (int i = 0; i < 16; i += 2) {
        char *at[] = {code + i * PS, fixed + i * PS, fresh + i * PS};
        for (int k = 0; k < 3; k++)
            need(fd >= 0 && pwrite(fd, &byte, 1, (off_t)(uintptr_t)at[k]) == 1, "/proc/self/mem");
    }
    read_pages(fresh, 16);
    say_begin("forced");
    for (int i = 0; i < 16; i++) {
        char name[24];
        snprintf(name, sizeof name, "code%d", i);
        say(name, code + i * PS, 1, i % 2 ? "Y_" : "YP");
        snprintf(name, sizeof name, "fresh%d", i);
        say(name, fresh + i * PS, 1, i % 2 ? "Y_" : "YP");
    }
    say("fixed", fixed, 16, "YP");
    say_end();
}

/* ---- huge pages ---- */

/* No page of zeros in it: the kernel puts the zero page there when it splits the whole. */
static char *huge(void)
{
    char *p = isolate(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    need(!madvise(p, HUGE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
    write_pages(p, 512);
    need(!madvise(p, HUGE, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE"); /* or khugepaged mends it */
    return p;
}

static void ptes_huge(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    char *readonly = huge(), *back = huge(), *none = huge(), *part = huge();
    char *freed = huge(), *freed_part = huge(), *freed_written = huge(), *cold = huge();
    char *moved = huge(), *moved_part = huge();
    stay_on_one_cpu();
    protect(readonly, 512, PROT_READ);
    protect(back, 512, PROT_READ), protect(back, 512, rw);
    protect(none, 512, PROT_NONE);
    protect(part + 100 * PS, 100, PROT_NONE);
    advise(freed, 512, MADV_FREE, "MADV_FREE");
    advise(freed_part, 100, MADV_FREE, "MADV_FREE");
    advise(freed_written, 512, MADV_FREE, "MADV_FREE"), write_pages(freed_written, 1);
    advise(cold, 512, COLD, "MADV_COLD");
    moved = move(moved, isolate(HUGE, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE), 512, 0);
    char *part_to = move(moved_part + PS, anonymous(100), 100, 0);
    say_begin("huge");
    say("readonly", readonly, 512, "YP");
    say("back", back, 512, "YP");
    say("none", none, 512, "YP");
    say("part", part, 512, "YP");
    say("freed", freed, 512, "__");
    say("freed_part", freed_part, 100, "__");
    say("freed_rest", freed_part + 100 * PS, 412, "YP");
    say("freed_written", freed_written, 512, "YP");
    say("cold", cold, 512, "_P");
    say("moved", moved, 512, "YP");
    say("moved_first", moved_part, 1, "YP");
    say("moved_part", part_to, 100, "YP");
    say("moved_rest", moved_part + 101 * PS, 411, "YP");
    say_end();
}

/* Small pages made huge: anonymous ones dirty, those of an object clean in its new entry. */
static void ptes_collapse(void)
{
    int fd = memfd_create("collapse", 0);
    need(fd >= 0 && !ftruncate(fd, 2 * HUGE), "memfd_create");
    char *p = isolate(HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE);
    char *q = isolate(2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HUGE);
    advise(p, 512, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE");
    write_pages(p, 512);
    write_pages(q, 1024);
    advise(p, 512, MADV_HUGEPAGE, "MADV_HUGEPAGE");
    advise(p, 512, COLLAPSE, "MADV_COLLAPSE");
    advise(q, 1024, COLLAPSE, "MADV_COLLAPSE of shared memory");
    write_pages(q + HUGE, 1);
    say_begin("collapse");
    say("anon", p, 512, "YP");
    say("shm", q, 512, "Y_");
    say("shm_written", q + HUGE, 512, "YP");
    say_end();
}

/* ---- families ---- */

static int life[2];
static int in_child;

/* Forks a child that does something, tells that it is done, and lives for as long as we do. */
static pid_t child_that(void (*does)(void))
{
    int ready[2];
    char byte = 0;
    need(!pipe(ready), "pipe");
    fflush(stdout);
    pid_t parent = getpid(), child = fork();
    need(child >= 0, "fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        if (life[1] >= 0)
            close(life[1]);
        life[1] = -1;
        does();
        if (write(ready[1], &byte, 1) != 1)
            _exit(1);
        while (read(life[0], &byte, 1) > 0)
            ;
        _exit(0);
    }
    need(read(ready[0], &byte, 1) == 1, "child");
    return child;
}

static void say_child(const char *who, pid_t child)
{
    printf("%s, \"%s\": {\"pid\": %d, \"areas\": [", in_child ? "]}" : "]", who, (int)child);
    in_child = 1;
    say_areas = 0;
}

static void say_end_of_family(pid_t child)
{
    char line[64];
    printf("]}, \"unused\": [");
    say_end();
    while (next_command(line, sizeof line))
        ;
    close(life[1]);
    waitpid(child, NULL, 0);
    exit(0);
}

static char *fork_own, *fork_file, *fork_clean, *fork_shm, *fork_hidden;
static volatile pid_t *grandchild;

static void nothing(void)
{
}

static void fork_child(void)
{
    read_pages(fork_own, 8);
    write_pages(fork_own + 8 * PS, 8);
    protect(fork_shm + 8 * PS, 8, PROT_READ);
    read_pages(fork_shm, 16);
    *grandchild = child_that(nothing);
}

static void ptes_fork(void)
{
    need(!pipe(life), "pipe");
    fork_own = written(48), fork_hidden = written(16);
    fork_file = private_file(32), fork_clean = private_file(16), fork_shm = shared_memory(32);
    grandchild = (pid_t *)shared_memory(1);
    protect(fork_hidden, 16, PROT_NONE);
    write_pages(fork_file, 16), read_pages(fork_file + 16 * PS, 16);
    read_pages(fork_clean, 16);
    write_pages(fork_shm, 32);
    pid_t child = child_that(fork_child);
    write_pages(fork_own + 16 * PS, 8);
    protect(fork_own + 32 * PS, 16, PROT_READ);
    say_begin("fork");
    say("own", fork_own, 48, "YP");
    say("hidden", fork_hidden, 16, "YP");
    say("copies", fork_file, 16, "YP");
    say("beside", fork_file + 16 * PS, 16, "Y_");
    say("clean", fork_clean, 16, "Y_");
    say("shm", fork_shm, 32, "YP");
    say_child("child", child);
    say("read", fork_own, 8, "YP");
    say("written", fork_own + 8 * PS, 8, "YP");
    say("untouched", fork_own + 16 * PS, 32, "_P");
    say("hidden", fork_hidden, 16, "_P");
    say("copies", fork_file, 16, "_P");
    say("beside", fork_file + 16 * PS, 16, "__");
    say("clean", fork_clean, 16, "--");
    say("shm_read", fork_shm, 8, "Y?"); /* made dirty since 6.16, as the page is */
    say("shm_readonly", fork_shm + 8 * PS, 8, "Y_");
    say("shm_untouched", fork_shm + 16 * PS, 16, "--");
    say_child("grandchild", *grandchild);
    say("own", fork_own, 48, "_P");
    say("hidden", fork_hidden, 16, "_P");
    say("copies", fork_file, 16, "_P");
    say("beside", fork_file + 16 * PS, 16, "__");
    say("shm", fork_shm, 32, "--");
    say_end_of_family(child);
}

static char *fork_huge[3];

static void fork_huge_child(void)
{
    read_pages(fork_huge[1], 1);
    write_pages(fork_huge[2] + 7 * PS, 1);
}

static void ptes_fork_huge(void)
{
    need(!pipe(life), "pipe");
    for (int i = 0; i < 3; i++)
        fork_huge[i] = huge();
    pid_t child = child_that(fork_huge_child);
    say_begin("fork_huge");
    say("untouched", fork_huge[0], 512, "YP");
    say("read", fork_huge[1], 512, "YP");
    say("written", fork_huge[2], 512, "YP");
    say_child("child", child);
    say("untouched", fork_huge[0], 512, "_P");
    say("read", fork_huge[1], 512, "YP");
    say("before", fork_huge[2], 7, "?P");
    say("written", fork_huge[2] + 7 * PS, 1, "YP");
    say("after", fork_huge[2] + 8 * PS, 504, "?P");
    say_end_of_family(child);
}

/* ---- special entries ---- */

/* Write-protected by userfaultfd, and nobody writes. */
static void ptes_wp(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY);
    need(fd >= 0, "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_SHMEM};
    need(!ioctl(fd, UFFDIO_API, &api), "UFFD_FEATURE_WP_HUGETLBFS_SHMEM");
    char *own = written(16), *shm = shared_memory(48), *freed = written(16), *big = huge();
    advise(freed, 16, MADV_FREE, "MADV_FREE");
    write_pages(shm, 16), read_pages(shm + 16 * PS, 16);
    struct {
        char *start;
        size_t pages;
    } all[] = {{own, 16}, {shm, 48}, {freed, 16}, {big, 512}};
    for (int i = 0; i < 4; i++) {
        struct uffdio_range range = {(uintptr_t)all[i].start, all[i].pages * PS};
        struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
        need(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
        struct uffdio_writeprotect wp = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        need(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT");
    }
    say_begin("wp");
    say("own", own, 16, "YP");
    say("freed", freed, 16, "__");
    say("huge", big, 512, "YP");
    say("shm_written", shm, 16, "YP");
    say("shm_read", shm + 16 * PS, 16, "Y_");
    say("shm_markers", shm + 32 * PS, 16, "--");
    say_end();
}

/* Protection keys are bits of the entries too. */
static void ptes_pkeys(void)
{
    long key = syscall(NR_PKEY_ALLOC, 0, 0);
    need(key >= 0, "pkey_alloc");
    char *p = written(16), *q = private_file(16), *none = written(16);
    read_pages(q, 16);
    const long rw = PROT_READ | PROT_WRITE;
    need(!syscall(NR_PKEY_MPROTECT, p, 16L * PS, rw, key), "pkey_mprotect");
    need(!syscall(NR_PKEY_MPROTECT, q, 16L * PS, (long)PROT_READ, key), "pkey_mprotect");
    need(!syscall(NR_PKEY_MPROTECT, none, 16L * PS, (long)PROT_NONE, key), "pkey_mprotect");
    say_begin("pkeys");
    say("written", p, 16, "YP");
    say("clean", q, 16, "Y_");
    say("none", none, 16, "YP");
    say_end();
}

/* Pages that the kernel itself has not mapped: whoever reads them instead of the tables dies. */
static void ptes_secret(void)
{
    int fd = (int)syscall(NR_MEMFD_SECRET, 0);
    need(fd >= 0 && !ftruncate(fd, 32 * PS), "memfd_secret");
    char *p = mmap(NULL, 32 * PS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(p != MAP_FAILED, "memfd_secret");
    write_pages(p, 16);
    read_pages(p + 16 * PS, 8);
    say_begin("secret");
    say("written", p, 16, "YP");
    say("read", p + 16 * PS, 8, "Y_");
    say("untouched", p + 24 * PS, 8, "--");
    say_end();
}

/* ---- all over the page tables ---- */

static int place_count;

static void place(uintptr_t at, size_t pages)
{
    char name[24];
    char *p = mmap((void *)at, pages * PS, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | FIXED_NOREPLACE, -1, 0);
    if (p != (char *)at) { /* taken, too low, too high for this machine: the next one then */
        if (p != MAP_FAILED)
            munmap(p, pages * PS);
        return;
    }
    for (size_t i = 0; i < pages; i += 2)
        write_pages(p + i * PS, 1);
    for (size_t i = 0; i < pages; i++) {
        snprintf(name, sizeof name, "%d", place_count++);
        say(name, p + i * PS, 1, i % 2 ? "--" : "YP");
    }
}

static void ptes_places(void)
{
    const uintptr_t gib = 1ul << 30, top = 1ul << 47;
    say_begin("places");
    place(0x10000, 4);
    place(2 * HUGE - 2 * PS, 4); /* the end of one table, and the start of the next */
    place(gib - 2 * PS, 4);
    place(512 * gib - 2 * PS, 4);
    place(top - HUGE - 2 * PS, 4);
    place(top - 2 * PS, 1); /* the last page of four levels */
    place(top, 4); /* the first of five */
    place(top * 2 - 2 * PS, 4);
    place((1ul << 56) - HUGE, 4);
    for (uintptr_t i = 0; i < 8; i++) {
        place(0x100000000000 + i * HUGE + i * PS, 1);
        place(0x110000000000 + i * gib + (7 - i) * HUGE, 1);
        place(0x120000000000 + i * 512 * gib + i * PS, 1);
    }
    say_end();
}

/* ---- random subsets, touched after clear_refs ---- */

enum { N = 256 };
static char *own, *lazy, *copies, *shared, *shm, *scratch, *huges[4];
static int clear_refs;

static uint32_t below(uint64_t *random, uint32_t n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)((*random >> 16) % n);
}

/* Makes all pages old.  A translation that the processor remembers would hide the next access:
 * changing more than 33 pages at once makes it forget all of them.
 */
static void make_old(void)
{
    write_pages(scratch, 64);
    need(pwrite(clear_refs, "1", 1, 0) == 1, "/proc/self/clear_refs");
    protect(scratch, 64, PROT_READ);
    protect(scratch, 64, PROT_READ | PROT_WRITE);
}

/* Neighbours in one state are one area. */
static void say_runs(const char *what, char *start, const unsigned char *did,
                     const char *const letters[3])
{
    for (int i = 0, from = 0; i < N; i++)
        if (i + 1 == N || did[i + 1] != did[from]) {
            char name[32];
            snprintf(name, sizeof name, "%s%d", what, from);
            say(name, start + from * PS, (size_t)(i + 1 - from), letters[did[from]]);
            from = i + 1;
        }
}

static int touched_command(const char *line)
{
    /* Untouched, read, written. */
    static const char *const was_dirty[] = {"_P", "YP", "YP"};
    static const char *const was_clean[] = {"__", "Y_", "YP"};
    static unsigned char did[5][N];
    char *const areas[] = {own, lazy, copies, shared, shm};
    const char *const names[] = {"own", "lazy", "copies", "shared", "shm"};
    uint64_t random = strtoull(line, NULL, 10) * 2 + 1;
    for (int i = 0; i < 20; i++)
        below(&random, 2);
    write_pages(lazy, N);
    advise(lazy, N, MADV_FREE, "MADV_FREE");
    need(!msync(shared, N * PS, MS_SYNC), "msync");
    advise(copies, N, MADV_DONTNEED, "MADV_DONTNEED"), read_pages(copies, N);
    advise(shared, N, MADV_DONTNEED, "MADV_DONTNEED"), read_pages(shared, N);
    /* Anew: pages that are dirty are mapped so. */
    need(mmap(shm, N * PS, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS, -1, 0) ==
             shm,
         "mmap");
    read_pages(shm, N);
    memset(did, 0, sizeof did);
    make_old();
    for (int i = 0; i < 5 * N / 3; i++) {
        unsigned k = below(&random, 5), page = below(&random, N), write = below(&random, 2);
        if (write)
            write_pages(areas[k] + page * PS, 1);
        else
            read_pages(areas[k] + page * PS, 1);
        if (did[k][page] < 1 + write)
            did[k][page] = (unsigned char)(1 + write);
    }
    say_begin("touched");
    for (int k = 0; k < 5; k++)
        say_runs(names[k], areas[k], did[k], k ? was_clean : was_dirty);
    say_end();
    return 1;
}

static void prepare_touching(void)
{
    clear_refs = open("/proc/self/clear_refs", O_WRONLY);
    need(clear_refs >= 0, "/proc/self/clear_refs");
    scratch = anonymous(64);
}

static void ptes_touched(void)
{
    prepare_touching();
    own = written(N), lazy = written(N), shm = shared_memory(N);
    copies = private_file(N), shared = shared_file(N);
    on_command = touched_command;
    say_begin("touched");
    say_end();
}

static int touched_huge_command(const char *line)
{
    unsigned which = (unsigned)atoi(line) % 16;
    make_old();
    for (unsigned i = 0; i < 4; i++)
        if (which >> i & 1)
            read_pages(huges[i] + 77 * PS, 1);
    say_begin("touched_huge");
    for (unsigned i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "%u", i);
        say(name, huges[i], 512, which >> i & 1 ? "YP" : "_P");
    }
    say_end();
    return 1;
}

static void ptes_touched_huge(void)
{
    prepare_touching();
    for (int i = 0; i < 4; i++)
        huges[i] = huge();
    on_command = touched_huge_command;
    say_begin("touched_huge");
    say_end();
}

/* ---- */

static const struct {
    const char *name;
    void (*make)(void);
    int huge;
} ptes[] = {
    {"protect", ptes_protect, 0}, {"move", ptes_move, 0},
    {"advice", ptes_advice, 0},   {"populate", ptes_populate, 0},
    {"kernel", ptes_kernel, 0},   {"forced", ptes_forced, 0},
    {"huge", ptes_huge, 1},       {"collapse", ptes_collapse, 1},
    {"fork", ptes_fork, 0},       {"fork_huge", ptes_fork_huge, 1},
    {"wp", ptes_wp, 1},           {"pkeys", ptes_pkeys, 0},
    {"secret", ptes_secret, 0},   {"places", ptes_places, 0},
    {"touched", ptes_touched, 0}, {"touched_huge", ptes_touched_huge, 1},
};

int main(int argc, char **argv)
{
    say_start();
    need(sysconf(_SC_PAGESIZE) == PS, "built for pages of 4 KiB");
    const char *wanted = argc > 1 ? argv[1] : "";
    if (argc > 2)
        directory = argv[2];
    size_t found = 0;
    for (size_t i = 0; i < sizeof ptes / sizeof *ptes; i++)
        if (!strcmp(wanted, ptes[i].name)) {
            if (!ptes[i].huge)
                prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* whatever this host's policy is */
            ptes[i].make();
            found = 1;
        }
    if (!found) {
        fprintf(stderr, "ptes: no such state: %s\n", wanted);
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
