/* SPDX-License-Identifier: MIT
 *
 * family.c - a process and its relatives in known states:
 *
 *   family fork CHILDREN PAGES FILE   forked; "write N" on stdin makes each child write N
 *                                     pages of the memory that it inherited
 *   family vm FILE                    a process of its own in the same memory (CLONE_VM)
 *   family vfork FILE                 the same, with its parent waiting for it
 *
 * All map FILE three times at two offsets, and shared memory that is theirs alone.  Each
 * line is answered with one of JSON; the end of stdin ends them all.
 */
#include "say.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 256, SHARED = 40 };

static char *memory;
static size_t pages;
static volatile int sum;

static void touch(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum += p[i * PS];
}

static char *map_file(int fd, size_t n, size_t offset)
{
    char *p = mmap(NULL, n * PS, PROT_READ, MAP_PRIVATE, fd, (off_t)(offset * PS));
    need(p != MAP_FAILED, "mmap of the file");
    touch(p, n);
    return p;
}

static void map_all(const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY);
    need(fd >= 0 && fstat(fd, &s) == 0, "open");
    size_t n = (size_t)s.st_size / PS;
    map_file(fd, n, 0);
    map_file(fd, n, 0);
    map_file(fd, n - 1, 1);
    close(fd);
    fd = memfd_create("family", MFD_CLOEXEC);
    need(fd >= 0 && ftruncate(fd, SHARED * PS) == 0, "memfd_create");
    for (int twice = 0; twice < 2; twice++) {
        char *p = mmap(NULL, SHARED * PS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        need(p != MAP_FAILED, "mmap of the memfd");
        memset(p, 1, SHARED * PS);
    }
    close(fd);
}

static void answer(const pid_t *children, int n)
{
    printf("{\"pid\": %d, \"areas\": [], \"children\": [", getpid());
    for (int i = 0; i < n; i++)
        printf("%s%d", i ? ", " : "", children[i]);
    printf("]}\n");
    fflush(stdout);
}

/* Writes so many more pages for every number that it reads; each child its own places. */
static void be_child(int which, int commands, int done)
{
    int n;
    size_t at = (size_t)which * 7;
    while (read(commands, &n, sizeof n) == (ssize_t)sizeof n) {
        for (int i = 0; i < n; i++, at++)
            memory[at % pages * PS]++;
        if (write(done, &n, 1) != 1)
            break;
    }
    _exit(0);
}

static int be_parent(int children)
{
    pid_t pid[MOST];
    int to[MOST], done[2], n;
    char line[64], byte;
    need(pipe(done) == 0, "pipe");
    for (int i = 0; i < children; i++) {
        int p[2];
        need(pipe(p) == 0, "pipe");
        pid[i] = fork();
        need(pid[i] >= 0, "fork");
        if (pid[i] == 0) {
            for (int k = 0; k < i; k++)
                close(to[k]);
            close(p[1]);
            be_child(i, p[0], done[1]);
        }
        close(p[0]);
        to[i] = p[1];
    }
    answer(pid, children);
    while (fgets(line, sizeof line, stdin)) {
        need(sscanf(line, "write %d", &n) == 1, "no such command");
        for (int i = 0; i < children; i++)
            need(write(to[i], &n, sizeof n) == (ssize_t)sizeof n, "write");
        for (int i = 0; i < children; i++)
            need(read(done[0], &byte, 1) == 1, "read");
        answer(pid, children);
    }
    for (int i = 0; i < children; i++)
        close(to[i]);
    for (int i = 0; i < children; i++)
        waitpid(pid[i], NULL, 0);
    return 0;
}

static int wait_for_end(void *arg)
{
    char byte;
    (void)arg;
    while (read(0, &byte, 1) > 0)
        continue;
    _exit(0);
}

static int be_two(int flags)
{
    static char stack[1 << 16];
    static char text[128];
    char *top = stack + sizeof stack;
    if (flags & CLONE_VFORK) {
        pid_t pid = vfork();
        if (pid == 0) { /* the parent sleeps until this ends */
            int n = snprintf(text, sizeof text, "{\"pid\": %d, \"children\": [%d]}\n", getppid(),
                             getpid());
            if (write(1, text, (size_t)n) == n)
                wait_for_end(NULL);
            _exit(1);
        }
        return 0;
    }
    pid_t pid = clone(wait_for_end, top, flags | SIGCHLD, NULL);
    need(pid > 0, "clone");
    answer(&pid, 1);
    waitpid(pid, NULL, 0);
    return 0;
}

int main(int argc, char **argv)
{
    say_start();
    need(argc >= 3, "arguments");
    map_all(argv[argc - 1]);
    if (strcmp(argv[1], "fork") != 0)
        return be_two(CLONE_VM | (strcmp(argv[1], "vfork") == 0 ? CLONE_VFORK : 0));
    int children = atoi(argv[2]);
    need(argc == 5 && children <= MOST, "arguments");
    pages = strtoul(argv[3], NULL, 10);
    memory = mmap(NULL, pages * PS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(memory != MAP_FAILED, "mmap");
    madvise(memory, pages * PS, MADV_NOHUGEPAGE);
    memset(memory, 1, pages * PS);
    return be_parent(children);
}
