/* SPDX-License-Identifier: MIT
 *
 * Where members lie, in descriptions of types that the test makes up: well made ones, odd ones,
 * cut and broken ones; and in this kernel's own.
 */
#include "check.h"

#include "bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define MUTANTS 20000

/* ---- making one ------------------------------------------------------------------------ */
enum kind {
    INT = 1,
    PTR,
    ARRAY,
    STRUCT,
    UNION,
    ENUM,
    FWD,
    TYPEDEF,
    VOLATILE,
    CONST,
    RESTRICT,
    FUNC,
    FUNC_PROTO,
    VAR,
    DATASEC,
    FLOAT,
    DECL_TAG,
    TYPE_TAG,
    ENUM64
};

struct bytes {
    unsigned char *p;
    size_t n, cap;
};

struct btf {
    struct bytes types, strings;
    uint32_t n_types;
    bool strings_first;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n);
        b->p = realloc(b->p, b->cap);
    }
    memcpy(b->p + b->n, data, n);
    b->n += n;
}

static void put32(struct bytes *b, uint32_t v)
{
    put(b, &v, sizeof v);
}

static struct btf begin(void)
{
    struct btf b = {.n_types = 0};
    put(&b.strings, "", 1);
    return b;
}

/* As the kernel's: each name once. */
static uint32_t name_of(struct btf *b, const char *s)
{
    for (size_t at = 0; at < b->strings.n; at += strlen((char *)b->strings.p + at) + 1)
        if (strcmp((char *)b->strings.p + at, s) == 0)
            return (uint32_t)at;
    put(&b->strings, s, strlen(s) + 1);
    return (uint32_t)(b->strings.n - strlen(s) - 1);
}

/* Its number. */
static uint32_t type(struct btf *b, enum kind kind, const char *name, uint32_t n, bool bitfields)
{
    put32(&b->types, name_of(b, name));
    put32(&b->types, (bitfields ? 1u << 31 : 0) | (uint32_t)kind << 24 | n);
    put32(&b->types, 8);
    return ++b->n_types;
}

static void member(struct btf *b, const char *name, uint32_t of, uint32_t bits)
{
    put32(&b->types, name_of(b, name));
    put32(&b->types, of);
    put32(&b->types, bits);
}

static void bitfield(struct btf *b, const char *name, uint32_t size, uint32_t bits)
{
    member(b, name, 1, size << 24 | bits);
}

static void fill(struct btf *b, size_t words)
{
    while (words--)
        put32(&b->types, 0x01010101);
}

static void integer(struct btf *b)
{
    type(b, INT, "int", 0, false);
    fill(b, 1);
}

/* One of each kind that is no structure. */
static void all_kinds(struct btf *b)
{
    integer(b);
    type(b, PTR, "", 0, false);
    type(b, ARRAY, "", 0, false);
    fill(b, 3);
    type(b, ENUM, "task_struct", 3, false);
    fill(b, 6);
    type(b, FWD, "task_struct", 0, false);
    type(b, TYPEDEF, "task_struct", 0, false);
    type(b, VOLATILE, "", 0, false);
    type(b, CONST, "", 0, false);
    type(b, RESTRICT, "", 0, false);
    type(b, FUNC, "files", 0, false);
    type(b, FUNC_PROTO, "", 2, false);
    fill(b, 4);
    type(b, VAR, "files", 0, false);
    fill(b, 1);
    type(b, DATASEC, ".data", 4, false);
    fill(b, 12);
    type(b, FLOAT, "double", 0, false);
    type(b, DECL_TAG, "user", 0, false);
    fill(b, 1);
    type(b, TYPE_TAG, "rcu", 0, false);
    type(b, ENUM64, "large", 2, true);
    fill(b, 6);
}

/* The whole file, in memory of exactly its size. */
static struct bytes end(struct btf *b)
{
    struct bytes out = {0};
    uint32_t n = (uint32_t)b->types.n, m = (uint32_t)b->strings.n;
    const uint16_t magic = 0xeb9f, version = 1;
    put(&out, &magic, 2);
    put(&out, &version, 2);
    put32(&out, 24);
    put32(&out, b->strings_first ? m : 0);
    put32(&out, n);
    put32(&out, b->strings_first ? 0 : n);
    put32(&out, m);
    put(&out, b->strings_first ? b->strings.p : b->types.p, b->strings_first ? m : n);
    put(&out, b->strings_first ? b->types.p : b->strings.p, b->strings_first ? n : m);
    out.p = realloc(out.p, out.n);
    free(b->types.p);
    free(b->strings.p);
    return out;
}

/* ---- asking it ------------------------------------------------------------------------------ */
static unsigned reads;

static ssize_t read_bytes(void *ctx, void *buf, size_t n, uint64_t offset)
{
    const struct bytes *b = ctx;
    reads++;
    CHECK(n <= PM__BTF_WINDOW);
    if (offset >= b->n)
        return 0;
    n = n < b->n - offset ? n : (size_t)(b->n - offset);
    memcpy(buf, b->p + offset, n);
    return (ssize_t)n;
}

static int ask(struct bytes *b, struct pm__btf_query *queries, size_t n)
{
    struct pm__btf btf = {read_bytes, b, malloc(PM__BTF_WINDOW)};
    int rc = pm__btf_find(&btf, queries, n);
    free(btf.window);
    return rc;
}

/* -1: it does not say. */
static int64_t offset_of(struct bytes *b, const char *type_name, const char *member_name)
{
    struct pm__btf_query q = {type_name, member_name, 77};
    int rc = ask(b, &q, 1);
    CHECK(rc == 0 ? q.offset >= 0 : rc == -ENOENT && q.offset == -ENOENT);
    return rc == 0 ? q.offset : -1;
}

static int64_t only(struct btf *b, const char *type_name, const char *member_name)
{
    struct bytes file = end(b);
    int64_t offset = offset_of(&file, type_name, member_name);
    free(file.p);
    return offset;
}

/* ---- well made ones --------------------------------------------------------------------------- */
static struct bytes ordinary(bool strings_first)
{
    struct btf b = begin();
    b.strings_first = strings_first;
    all_kinds(&b);
    type(&b, STRUCT, "task_struct", 3, false);
    member(&b, "stack", 2, 64);
    member(&b, "files", 2, 128 * 8);
    member(&b, "fs", 2, 136 * 8);
    all_kinds(&b);
    type(&b, UNION, "file", 1, false);
    member(&b, "f_op", 2, 0);
    type(&b, STRUCT, "file", 2, true);
    bitfield(&b, "f_op", 0, 40 * 8);
    bitfield(&b, "private_data", 0, 48 * 8);
    return end(&b);
}

static void what_is_there(void)
{
    for (int order = 0; order < 2; order++) {
        struct bytes b = ordinary(order);
        struct pm__btf_query q[] = {{"task_struct", "files", -1},
                                    {"file", "private_data", -1},
                                    {"file", "f_op", -1},
                                    {"task_struct", "stack", -1},
                                    {"task_struct", "files", -1}};
        CHECK_EQ(ask(&b, q, 5), 0);
        CHECK(q[0].offset == 128 && q[1].offset == 48 && q[2].offset == 40 && q[3].offset == 8 &&
              q[4].offset == 128);
        CHECK_EQ(ask(&b, q, 0), 0);
        free(b.p);
    }
}

static void what_is_not(void)
{
    struct bytes b = ordinary(false);
    struct pm__btf_query q[] = {{"task_struct", "files", -1}, {"file", "files", -1}};
    CHECK_EQ(ask(&b, q, 2), -ENOENT);
    CHECK(q[0].offset == 128 && q[1].offset == -ENOENT);
    CHECK_EQ(offset_of(&b, "task_struct", "nothing"), -1);
    CHECK_EQ(offset_of(&b, "nothing", "files"), -1);
    CHECK_EQ(offset_of(&b, "int", "files"), -1);
    CHECK_EQ(offset_of(&b, "", "files"), -1); /* unnamed ones are not meant */
    CHECK_EQ(offset_of(&b, "task_struct", ""), -1);
    free(b.p);
}

/* More than there is room for are refused whole. */
static void too_many_questions(void)
{
    struct bytes b = ordinary(false);
    struct pm__btf_query q[PM__BTF_QUERIES + 1];
    for (size_t i = 0; i <= PM__BTF_QUERIES; i++)
        q[i] = (struct pm__btf_query){"task_struct", "files", 77};
    CHECK_EQ(ask(&b, q, PM__BTF_QUERIES + 1), -ENOENT);
    for (size_t i = 0; i <= PM__BTF_QUERIES; i++)
        CHECK_EQ(q[i].offset, -ENOENT);
    CHECK_EQ(ask(&b, q, PM__BTF_QUERIES), 0);
    free(b.p);
}

/* Each level begins 8 bytes into the one around it; types come before those that they are in. */
static int64_t nested(unsigned levels, bool before)
{
    struct btf b = begin();
    uint32_t total = levels + 1;
    integer(&b); /* number 1 */
    for (uint32_t i = 0; i < total; i++) {
        uint32_t level = before ? total - 1 - i : i; /* 0 is task_struct */
        uint32_t below = before ? b.n_types : b.n_types + 2;
        type(&b, level % 2 ? UNION : STRUCT, level ? "" : "task_struct", 2, false);
        member(&b, "other", 1, 0);
        if (level < levels)
            member(&b, "", below, 64);
        else
            member(&b, "files", 1, 32);
    }
    return only(&b, "task_struct", "files");
}

static void in_unnamed_structures(void)
{
    for (unsigned levels = 0; levels <= 4; levels++)
        for (int before = 0; before < 2; before++)
            CHECK_EQ(nested(levels, before), 8 * levels + 4);
    CHECK_EQ(nested(5, true), -1); /* no kernel type is like that */
    CHECK_EQ(nested(5, false), -1);
}

/* Unnamed members of another type, and named ones, are not looked into. */
static void not_in_named_members(void)
{
    struct btf b = begin();
    type(&b, STRUCT, "", 1, false);
    member(&b, "files", 1, 0);
    type(&b, STRUCT, "task_struct", 2, false);
    member(&b, "inner", 1, 0);
    member(&b, "x", 1, 64);
    type(&b, STRUCT, "other", 1, false);
    member(&b, "", 1, 0);
    CHECK_EQ(only(&b, "task_struct", "files"), -1);
}

/* As many as a type can have, each with two of its own: some are not looked into. */
static void very_many_unnamed_ones(void)
{
    struct btf b = begin();
    type(&b, STRUCT, "", 2, false);
    member(&b, "", 1, 0); /* and it is in itself */
    member(&b, "", 1, 0);
    type(&b, STRUCT, "task_struct", 1000, false);
    for (int i = 0; i < 1000; i++)
        member(&b, i == 999 ? "files" : "", 1, (uint32_t)i * 8);
    CHECK_EQ(only(&b, "task_struct", "files"), 999);
}

/* A member without an address of its own is none. */
static void bits(void)
{
    static const struct {
        bool bitfields;
        uint32_t offset;
        int64_t expected;
    } cases[] = {{false, 64, 8},
                 {false, 65, -1},
                 {false, 1u << 31, 1 << 28},
                 {true, 64, 8},
                 {true, 65, -1},
                 {true, 1u << 24 | 64, -1},
                 {true, 32u << 24 | 64, -1},
                 {true, 0xfffff8, 0x1fffff}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct btf b = begin();
        type(&b, STRUCT, "task_struct", 1, cases[i].bitfields);
        member(&b, "files", 1, cases[i].offset);
        CHECK_IN(only(&b, "task_struct", "files") == cases[i].expected, "case %zu", i);
    }
}

/* A bit-field in front, and a second of the name behind it. */
static void the_first_that_has_an_address(void)
{
    struct btf b = begin();
    type(&b, STRUCT, "task_struct", 3, true);
    bitfield(&b, "files", 3, 0);
    bitfield(&b, "files", 0, 64);
    bitfield(&b, "files", 0, 128);
    type(&b, STRUCT, "task_struct", 1, false);
    member(&b, "files", 1, 256);
    CHECK_EQ(only(&b, "task_struct", "files"), 8);
}

/* ---- names ------------------------------------------------------------------------------------ */
static void names_that_begin_alike(void)
{
    static const char *const names[] = {"f",      "fi", "file", "file_",  "files",
                                        "files_", "fd", "fdt",  "fdtable"};
    struct btf b = begin();
    uint32_t n = sizeof names / sizeof *names;
    for (uint32_t i = 0; i < n; i++) {
        type(&b, STRUCT, names[i], n, false);
        for (uint32_t k = 0; k < n; k++)
            member(&b, names[k], 1, (100 * i + k) * 8);
    }
    struct bytes file = end(&b);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            CHECK_EQ(offset_of(&file, names[i], names[k]), 100 * i + k);
    free(file.p);
}

/* A name longer than any of ours ends like one of them. */
static void the_end_of_a_name(void)
{
    for (size_t len = 1; len < 200; len++) {
        struct btf b = begin();
        char name[256];
        memset(name, 'x', len);
        strcpy(name + len, "files");
        type(&b, STRUCT, "task_struct", 2, false);
        member(&b, "files", 1, 64);
        member(&b, name, 1, 128);
        CHECK_IN(only(&b, "task_struct", "files") == 8, "behind %zu characters", len);
    }
}

/* Strings are looked at piece by piece: a name may lie anywhere in one, and across two. */
static void names_at_any_place(void)
{
    for (size_t at = PM__BTF_WINDOW - 90; at < PM__BTF_WINDOW + 20; at++) {
        struct btf b = begin();
        b.strings_first = at % 2;
        for (size_t left = at - b.strings.n, n; left; left -= n) {
            char name[48];
            n = left > 80 ? 40 : left > 48 ? left - 47 : left;
            n = n < 2 ? 1 : n; /* "" again and again, if need be */
            memset(name, 'y', n);
            name[n - 1] = '\0';
            put(&b.strings, name, n);
        }
        CHECK_EQ(b.strings.n, at);
        type(&b, STRUCT, "task_struct", 1, false);
        member(&b, "files", 1, 64);
        CHECK_IN(only(&b, "task_struct", "files") == 8, "at %zu", at);
    }
}

/* The last one has no end, or is a byte too short. */
static void the_last_name(void)
{
    for (int less = 0; less < 3; less++) {
        struct btf b = begin();
        type(&b, STRUCT, "task_struct", 1, false);
        member(&b, "files", 1, 64);
        b.strings.n -= (size_t)less;
        CHECK_EQ(only(&b, "task_struct", "files"), less ? -1 : 8);
    }
}

/* ---- windows ------------------------------------------------------------------------------------ */
/* A type and its members at each place around the end of the window. */
static void types_at_any_place(void)
{
    for (size_t words = PM__BTF_WINDOW / 4 - 40; words < PM__BTF_WINDOW / 4 + 4; words++) {
        struct btf b = begin();
        size_t before = words - 6; /* the header */
        while (before >= 40) {
            type(&b, DATASEC, "", 3, false);
            fill(&b, 9);
            before -= 12;
        }
        for (; before % 4; before -= 3) /* 3 and 4 words make any number from 6 on */
            type(&b, PTR, "", 0, false);
        for (; before; before -= 4)
            integer(&b);
        type(&b, STRUCT, "task_struct", 4, false);
        for (uint32_t i = 0; i < 3; i++)
            member(&b, "other", 1, i * 64);
        member(&b, "files", 1, 3 * 64);
        CHECK_EQ(b.types.n / 4, words - 6 + 3 + 12);
        CHECK_IN(only(&b, "task_struct", "files") == 24, "at %zu", 4 * words);
    }
}

/* More members than a window holds; its types are read in few pieces for all that. */
static void many_members(void)
{
    enum { N = 60000 };
    struct btf b = begin();
    char name[32];
    type(&b, STRUCT, "task_struct", N, false);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "member%u", i);
        put32(&b.types, (uint32_t)b.strings.n);
        put32(&b.types, 1);
        put32(&b.types, i * 64);
        put(&b.strings, name, strlen(name) + 1);
    }
    type(&b, STRUCT, "file", 1, false);
    member(&b, "f_op", 1, 64);
    struct bytes file = end(&b);
    static const uint32_t some[] = {0, 1, 5460, 5461, 5462, 30000, N - 1};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        snprintf(name, sizeof name, "member%u", some[i]);
        reads = 0;
        CHECK_EQ(offset_of(&file, "task_struct", name), some[i] * 8);
        CHECK_IN(reads < 3 * file.n / PM__BTF_WINDOW, "%u reads", reads);
    }
    CHECK_EQ(offset_of(&file, "file", "f_op"), 8);
    free(file.p);
}

/* ---- broken ones ----------------------------------------------------------------------------------- */
static struct bytes copy_of(const struct bytes *b, size_t n)
{
    struct bytes out = {.p = malloc(n ? n : 1), .n = n};
    memcpy(out.p, b->p, n);
    return out;
}

/* What it says by then may be wrong, but it is an offset or nothing. */
static bool try_broken(struct bytes *b)
{
    struct pm__btf_query q[] = {
        {"task_struct", "files", 77}, {"file", "private_data", 77}, {"file", "f_op", 77}};
    int rc = ask(b, q, 3);
    bool all = true;
    for (size_t i = 0; i < 3; i++) {
        CHECK(q[i].offset == -ENOENT || (q[i].offset >= 0 && q[i].offset < INT64_C(1) << 32));
        all &= q[i].offset >= 0;
    }
    CHECK_EQ(rc, all ? 0 : -ENOENT);
    return rc == 0;
}

static void cut_short(void)
{
    for (int order = 0; order < 2; order++) {
        struct bytes b = ordinary(order);
        for (size_t n = 0; n <= b.n; n++) {
            struct bytes cut = copy_of(&b, n);
            bool good = try_broken(&cut);
            CHECK_IN(good || n < b.n, "whole");
            CHECK_IN(!good || n + 4 > b.n || order == 0, "%zu of %zu", n, b.n);
            free(cut.p);
        }
        free(b.p);
    }
}

static void mutants(void)
{
    static const uint32_t odd[] = {0,          1,          24,         0xff,       0xffff,
                                   0x7fffffff, 0x80000000, 0xffffffff, 0x0400ffff, 0x8500ffff};
    struct rng r = {2024};
    unsigned good = 0;
    for (unsigned i = 0; i < MUTANTS; i++) {
        struct bytes whole = ordinary(i % 2), b = copy_of(&whole, whole.n);
        for (uint32_t k = 1 + rng_below(&r, 4); k; k--) {
            size_t at = rng_below(&r, (uint32_t)b.n);
            uint32_t v = odd[rng_below(&r, sizeof odd / sizeof *odd)];
            if (rng_once_in(&r, 3))
                at = rng_below(&r, 24);
            if (rng_once_in(&r, 2))
                b.p[at] ^= (unsigned char)(1u << rng_below(&r, 8));
            else
                memcpy(b.p + at, &v, b.n - at < 4 ? b.n - at : 4);
        }
        if (rng_once_in(&r, 5))
            b.n = rng_below(&r, (uint32_t)b.n);
        good += try_broken(&b);
        free(b.p);
        free(whole.p);
    }
    CHECK_IN(good > MUTANTS / 20 && good < MUTANTS * 3 / 4, "%u of %u were good", good, MUTANTS);
}

static void noise(void)
{
    struct rng r = {7};
    for (unsigned i = 0; i < 300; i++) {
        struct bytes b = ordinary(false);
        struct bytes n = {.p = malloc(100000), .n = 24 + rng_below(&r, 99000)};
        for (size_t k = 0; k < n.n; k++)
            n.p[k] = rng_once_in(&r, 3) ? 0 : (unsigned char)rng_next(&r);
        memcpy(n.p, b.p, 24);
        for (size_t k = 8; k < 24; k += 4) { /* sections somewhere in it */
            uint32_t v = rng_below(&r, (uint32_t)n.n);
            memcpy(n.p + k, &v, 4);
        }
        try_broken(&n);
        free(b.p);
        free(n.p);
    }
}

static ssize_t read_fails(void *ctx, void *buf, size_t n, uint64_t offset)
{
    static unsigned call;
    (void)buf, (void)n, (void)offset;
    return ++call % 3 == 0 ? read_bytes(ctx, buf, n, offset) : -EIO;
}

static void unreadable(void)
{
    struct bytes b = ordinary(false);
    for (int i = 0; i < 6; i++) {
        struct pm__btf btf = {read_fails, &b, malloc(PM__BTF_WINDOW)};
        struct pm__btf_query q = {"task_struct", "files", 77};
        int rc = pm__btf_find(&btf, &q, 1);
        CHECK(rc == 0 ? q.offset == 128 : rc == -ENOENT && q.offset == -ENOENT);
        free(btf.window);
    }
    free(b.p);
}

/* ---- this kernel's own ------------------------------------------------------------------------------ */
static ssize_t read_file(void *ctx, void *buf, size_t n, uint64_t offset)
{
    return pread(*(int *)ctx, buf, n, (off_t)offset);
}

static void of_this_kernel(void)
{
    struct pm__btf_query q[] = {{"task_struct", "files", -1}, {"files_struct", "fdt", -1},
                                {"fdtable", "fd", -1},        {"file", "f_op", -1},
                                {"file", "private_data", -1}, {"mm_struct", "pgd", -1}};
    struct pm__btf_query none = {"task_struct", "no_such_member_is_there", -1};
    int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "%s: this kernel does not describe its types\n", check_test);
        return;
    }
    struct pm__btf btf = {read_file, &fd, malloc(PM__BTF_WINDOW)};
    size_t n = sizeof q / sizeof *q;
    CHECK_EQ(pm__btf_find(&btf, q, n), 0);
    for (size_t i = 0; i < n; i++)
        CHECK_IN(q[i].offset >= 0 && q[i].offset % 8 == 0 && q[i].offset < 16384, "%s.%s: %lld",
                 q[i].type, q[i].member, (long long)q[i].offset);
    CHECK(q[3].offset != q[4].offset);
    CHECK_EQ(pm__btf_find(&btf, &none, 1), -ENOENT);
    free(btf.window);
    close(fd);
}

int main(void)
{
    RUN(what_is_there);
    RUN(what_is_not);
    RUN(too_many_questions);
    RUN(in_unnamed_structures);
    RUN(not_in_named_members);
    RUN(very_many_unnamed_ones);
    RUN(bits);
    RUN(the_first_that_has_an_address);
    RUN(names_that_begin_alike);
    RUN(the_end_of_a_name);
    RUN(names_at_any_place);
    RUN(the_last_name);
    RUN(types_at_any_place);
    RUN(many_members);
    RUN(cut_short);
    RUN(mutants);
    RUN(noise);
    RUN(unreadable);
    RUN(of_this_kernel);
    return check_done();
}
