/* SPDX-License-Identifier: MIT
 *
 * Files of a capture, and children that are forked meanwhile.
 */
#include "check.h"
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES 8
#define FORKS 300

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* What a forked child says with its exit status. */
static int in_child(int (*say)(void *), void *arg)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(say(arg));
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int count_open(void *arg)
{
    const int *fds = arg;
    int n = 0;
    for (int i = 0; i < FILES; i++)
        n += is_open(fds[i]);
    return n;
}

static void test_child_keeps_none(void)
{
    int fds[FILES];
    for (int i = 0; i < FILES; i++) {
        fds[i] = pm__open(AT_FDCWD, "/proc/self/maps", i % 2 ? O_RDONLY : O_RDONLY | O_NONBLOCK);
        CHECK(fds[i] >= 0 && fcntl(fds[i], F_GETFD) == FD_CLOEXEC);
    }
    CHECK_EQ(in_child(count_open, fds), 0);
    CHECK_EQ(count_open(fds), FILES);
    for (int i = 0; i < FILES; i++)
        CHECK_EQ(pm__close(fds[i]), 0);
    CHECK_EQ(count_open(fds), 0);
}

/* What was closed may be another's by now, and stays the child's. */
static void test_child_keeps_others(void)
{
    int fds[FILES];
    for (int i = 0; i < FILES; i++)
        fds[i] = pm__open(AT_FDCWD, "/dev/null", O_RDONLY);
    for (int i = FILES; i--;)
        pm__close(fds[i]);
    for (int i = 0; i < FILES; i++)
        CHECK_EQ(open("/dev/null", O_RDONLY | O_CLOEXEC), fds[i]);
    CHECK_EQ(in_child(count_open, fds), FILES);
    for (int i = 0; i < FILES; i++)
        close(fds[i]);
}

static void test_errors(void)
{
    CHECK_EQ(pm__open(AT_FDCWD, "/proc/self/nonexistent", O_RDONLY), -ENOENT);
    CHECK_EQ(pm__open(AT_FDCWD, "/proc/self/nonexistent", O_PATH), -ENOENT);
    CHECK_EQ(pm__close(-1), -EBADF);
}

static atomic_bool over;

static void *open_and_close(void *arg)
{
    while (!atomic_load(&over)) {
        int fds[FILES];
        for (int i = 0; i < FILES; i++)
            fds[i] = pm__open(AT_FDCWD, "/proc/self/maps", O_RDONLY);
        for (int i = 0; i < FILES; i++)
            pm__close(fds[i]);
    }
    return arg;
}

static int count_all(void *arg)
{
    int n = 0;
    for (int fd = *(int *)arg; fd < 256; fd++)
        n += is_open(fd);
    return n;
}

static void test_forks_while_files_are_opened(void)
{
    pthread_t threads[3];
    int first = STDERR_FILENO + 1, before = count_all(&first);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, open_and_close, NULL);
    for (int i = 0; i < FORKS; i++)
        CHECK_EQ(in_child(count_all, &first), before);
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    RUN(test_child_keeps_none);
    RUN(test_child_keeps_others);
    RUN(test_errors);
    RUN(test_forks_while_files_are_opened);
    return check_done();
}
