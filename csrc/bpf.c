/* SPDX-License-Identifier: MIT
 *
 * bpf.c - bpf(2), as much of it as we need.  Of older systems' headers nothing is asked: the
 * numbers are ABI, include/uapi/linux/bpf.h.
 */
#include "bpf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum command { MAP_CREATE = 0, PROG_LOAD = 5, PROG_TEST_RUN = 10, GET_INFO = 15 };
enum { MAP_TYPE_ARRAY = 2, MAP_MMAPABLE = 1 << 10, PROG_RAW_TRACEPOINT = 17 };

#define MAX_INSNS 512
#define MAX_TRIES 16 /* a signal that is pending ends the verifier's work */
#define LOAD_NUMBER 0x18 /* takes two instructions; the second holds the upper half */
#define OF_MAP 2         /* the source register, where the number is a map's value */

struct insn {
    uint8_t code, registers;
    int16_t offset;
    uint32_t number;
};

union attr {
    struct {
        uint32_t type, key_size, value_size, max_entries, flags;
    } map;
    struct {
        uint32_t type, n;
        uint64_t insns, license;
        uint32_t log_level, log_size;
        uint64_t log;
        uint32_t version, flags;
        char name[16];
    } prog;
    struct {
        uint32_t fd, answer, data_in_size, data_out_size;
        uint64_t data_in, data_out;
        uint32_t repeat, duration, args_size, args_out_size;
        uint64_t args, args_out;
        uint32_t flags, cpu, batch, unused;
    } run;
    struct {
        uint32_t fd, size;
        uint64_t info;
    } get;
    char room[160];
};

static int call(enum command command, union attr *attr)
{
    long rc;
    int tries = MAX_TRIES;
    do
        rc = syscall(SYS_bpf, command, attr, sizeof *attr);
    while (rc < 0 && (errno == EINTR || errno == EAGAIN) && --tries);
    return rc < 0 ? -errno : (int)rc;
}

/* The kernel makes descriptors of both close-on-exec by itself. */
int pm__bpf_map(uint32_t size)
{
    union attr a = {0};
    a.map.type = MAP_TYPE_ARRAY;
    a.map.key_size = sizeof(uint32_t);
    a.map.value_size = size;
    a.map.max_entries = 1;
    a.map.flags = MAP_MMAPABLE;
    return call(MAP_CREATE, &a);
}

static bool is_placeholder(const struct insn *first, const struct insn *second, size_t *which)
{
    uint64_t number = (uint64_t)second->number << 32 | first->number;
    *which = number - PM__PLACEHOLDER;
    return first->code == LOAD_NUMBER && number > PM__PLACEHOLDER && *which < PM__N_CONSTANTS;
}

static void fill_in(struct insn *at, size_t n, const uint64_t constants[])
{
    size_t which;
    for (size_t i = 0; i + 1 < n; i++) {
        if (!is_placeholder(&at[i], &at[i + 1], &which))
            continue;
        bool map = which == PM__REPLY;
        at[i].number = (uint32_t)constants[which];
        at[i + 1].number = map ? 0 : (uint32_t)(constants[which] >> 32);
        if (map)
            at[i].registers |= OF_MAP << 4;
    }
}

int pm__bpf_load(const uint64_t *insns, size_t n, const uint64_t constants[PM__N_CONSTANTS])
{
    static const char license[] = "Dual MIT/GPL";
    struct insn filled[MAX_INSNS];
    union attr a = {0};
    if (n > MAX_INSNS)
        return -E2BIG;
    memcpy(filled, insns, n * sizeof *filled);
    if (constants)
        fill_in(filled, n, constants);
    a.prog.type = PROG_RAW_TRACEPOINT;
    a.prog.n = (uint32_t)n;
    a.prog.insns = (uintptr_t)filled;
    a.prog.license = (uintptr_t)license;
    memcpy(a.prog.name, "pmaps", 6);
    int fd = call(PROG_LOAD, &a);
    explicit_bzero(filled, sizeof filled); /* addresses of the kernel */
    return fd;
}

int pm__bpf_run(int program, const uint64_t *args, size_t n, uint32_t *answer)
{
    union attr a = {0};
    a.run.fd = (uint32_t)program;
    a.run.args = (uintptr_t)args;
    a.run.args_size = (uint32_t)(n * sizeof *args);
    int rc = call(PROG_TEST_RUN, &a);
    *answer = a.run.answer;
    return rc;
}

/* Of a program: its type, its number, and a hash of its instructions. */
int pm__bpf_name(int fd, unsigned char name[PM__BPF_NAME])
{
    union attr a = {0};
    memset(name, 0, PM__BPF_NAME);
    a.get.fd = (uint32_t)fd;
    a.get.size = PM__BPF_NAME;
    a.get.info = (uintptr_t)name;
    return call(GET_INFO, &a);
}

bool pm__bpf_is_program(int fd)
{
    char path[32], target[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof target);
    static const char program[] = "anon_inode:bpf-prog";
    return n == sizeof program - 1 && memcmp(target, program, sizeof program - 1) == 0;
}
