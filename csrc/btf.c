/* SPDX-License-Identifier: MIT
 *
 * btf.c - where members lie in kernel types, by the kernel's own description of its types
 * (/sys/kernel/btf/vmlinux; Documentation/bpf/btf.rst).
 *
 * It is megabytes long, and read through a small window: reading all of it would show in the
 * peak of the process under test.  First the strings, for where the names that are asked for
 * lie; then the types, once, and once more for each level of unnamed structures.
 *
 * It believes none of the bytes: whatever they hold, an answer is an offset that they name, or
 * -ENOENT.
 */
#include "bpf.h"

#include <errno.h>
#include <string.h>

#define MAGIC 0xeb9f
#define MAX_LEVELS 4   /* of unnamed structures in structures */
#define MAX_UNNAMED 64 /* of them, in the types that are asked for */

enum kind { INT = 1, ARRAY = 3, STRUCT = 4, UNION = 5, ENUM = 6, FUNC_PROTO = 13, VAR = 14 };
enum { DATASEC = 15, DECL_TAG = 17, ENUM64 = 19 };

struct head {
    uint16_t magic;
    uint8_t version, flags;
    uint32_t size, types, types_len, strings, strings_len;
};

struct type {
    uint32_t name, info, size;
};

struct member {
    uint32_t name, type, offset;
};

/* An unnamed structure in a type that is asked for. */
struct unnamed {
    uint32_t id;
    size_t query;
    int64_t bits; /* from the beginning of that type */
};

struct walk {
    const struct pm__btf *btf;
    uint64_t types, types_end, strings, strings_end;
    uint64_t held, held_end; /* what of it the window holds */
    struct pm__btf_query *queries;
    size_t n;
    uint32_t type_name[PM__BTF_QUERIES], member_name[PM__BTF_QUERIES]; /* 0: not there */
    struct unnamed unnamed[MAX_UNNAMED];
    size_t n_unnamed;
    bool initial[256]; /* characters that names begin with: of most strings no more is looked at */
};

/* n bytes from `at` on, n at most half a window; NULL: it ends before. */
static const char *look(struct walk *w, uint64_t at, size_t n)
{
    const struct pm__btf *b = w->btf;
    if (at < w->held || at + n > w->held_end) {
        ssize_t got = b->read(b->ctx, b->window, PM__BTF_WINDOW, at);
        w->held = at;
        w->held_end = at + (got > 0 ? (uint64_t)got : 0);
    }
    return at + n <= w->held_end ? b->window + (at - w->held) : NULL;
}

static bool open_btf(struct walk *w)
{
    struct head h;
    const char *p = look(w, 0, sizeof h);
    if (!p)
        return false;
    memcpy(&h, p, sizeof h);
    w->types = (uint64_t)h.size + h.types;
    w->types_end = w->types + h.types_len;
    w->strings = (uint64_t)h.size + h.strings;
    w->strings_end = w->strings + h.strings_len;
    return h.magic == MAGIC && h.size >= sizeof h;
}

/* ---- strings --------------------------------------------------------------------------- */

static void note_string(struct walk *w, const char *s, uint32_t at)
{
    for (size_t i = 0; i < w->n; i++) {
        if (strcmp(s, w->queries[i].type) == 0)
            w->type_name[i] = at;
        if (strcmp(s, w->queries[i].member) == 0)
            w->member_name[i] = at;
    }
}

static void find_names(struct walk *w)
{
    bool begins = true; /* a string does, at `at` */
    for (uint64_t at = w->strings; at < w->strings_end;) {
        uint64_t left = w->strings_end - at;
        size_t n = left < PM__BTF_NAME ? (size_t)left : PM__BTF_NAME;
        const char *s = look(w, at, n), *end = s ? memchr(s, '\0', n) : NULL;
        if (!s)
            return;
        if (end && begins && w->initial[(unsigned char)*s])
            note_string(w, s, (uint32_t)(at - w->strings));
        at += end ? (uint64_t)(end - s) + 1 : n; /* a longer name is none of ours, nor its end */
        begins = end;
    }
}

/* ---- types ----------------------------------------------------------------------------- */

static unsigned kind_of(const struct type *t)
{
    return t->info >> 24 & 31;
}

static uint32_t count_of(const struct type *t)
{
    return t->info & 0xffff;
}

/* Bytes behind the head of a type. */
static uint64_t tail_of(const struct type *t)
{
    uint64_t n = count_of(t);
    switch (kind_of(t)) {
    case INT:
    case VAR:
    case DECL_TAG:
        return 4;
    case ARRAY:
        return 12;
    case ENUM:
    case FUNC_PROTO:
        return n * 8;
    case STRUCT:
    case UNION:
    case DATASEC:
    case ENUM64:
        return n * 12;
    default:
        return 0;
    }
}

static void answer(struct pm__btf_query *q, int64_t bits)
{
    if (q->offset < 0 && bits % 8 == 0)
        q->offset = bits / 8;
}

/* The members of the type at `at`, for one query that begins `bits` before. */
static void look_through(struct walk *w, uint64_t at, const struct type *t, size_t query,
                         int64_t bits)
{
    bool has_bitfields = t->info >> 31;
    for (uint32_t i = 0; i < count_of(t); i++) {
        struct member m;
        const char *p = look(w, at + sizeof *t + i * sizeof m, sizeof m);
        if (!p)
            return;
        memcpy(&m, p, sizeof m);
        int64_t here = bits + (has_bitfields ? m.offset & 0xffffff : m.offset);
        bool bitfield = has_bitfields && m.offset >> 24;
        if (m.name && m.name == w->member_name[query] && !bitfield)
            answer(&w->queries[query], here);
        else if (!m.name && w->n_unnamed < MAX_UNNAMED)
            w->unnamed[w->n_unnamed++] = (struct unnamed){m.type, query, here};
    }
}

static void look_at_type(struct walk *w, uint64_t at, const struct type *t, uint32_t id,
                         size_t from, size_t to)
{
    if (kind_of(t) != STRUCT && kind_of(t) != UNION)
        return;
    for (size_t i = from; i < to; i++)
        if (w->unnamed[i].id == id)
            look_through(w, at, t, w->unnamed[i].query, w->unnamed[i].bits);
    for (size_t i = 0; to == 0 && i < w->n; i++)
        if (t->name && t->name == w->type_name[i] && kind_of(t) == STRUCT)
            look_through(w, at, t, i, 0);
}

/* All types, for those that are asked for, or for the unnamed ones [from, to). */
static void walk_types(struct walk *w, size_t from, size_t to)
{
    struct type t;
    uint32_t id = 1;
    for (uint64_t at = w->types; at + sizeof t <= w->types_end; at += sizeof t + tail_of(&t)) {
        const char *p = look(w, at, sizeof t);
        if (!p)
            return;
        memcpy(&t, p, sizeof t);
        look_at_type(w, at, &t, id++, from, to);
    }
}

int pm__btf_find(const struct pm__btf *btf, struct pm__btf_query *queries, size_t n)
{
    struct walk w = {.btf = btf, .queries = queries, .n = n};
    for (size_t i = 0; i < n; i++) {
        queries[i].offset = -ENOENT;
        w.initial[(unsigned char)*queries[i].type] = true;
        w.initial[(unsigned char)*queries[i].member] = true;
    }
    if (n > PM__BTF_QUERIES || !open_btf(&w))
        return -ENOENT;
    find_names(&w);
    walk_types(&w, 0, 0);
    for (size_t from = 0, level = 0; from < w.n_unnamed && level < MAX_LEVELS; level++) {
        size_t to = w.n_unnamed;
        walk_types(&w, from, to);
        from = to;
    }
    for (size_t i = 0; i < n; i++)
        if (queries[i].offset < 0)
            return -ENOENT;
    return 0;
}
