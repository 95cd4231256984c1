/* SPDX-License-Identifier: MIT
 *
 * btf.c - where a member lies in a kernel type, by the kernel's own description of its types
 * (/sys/kernel/btf/vmlinux; Documentation/bpf/btf.rst).
 *
 * Reads bytes, believes none of them: whatever they hold, the answer is an offset that they
 * name, or -ENOENT.
 */
#include "bpf.h"

#include <errno.h>
#include <string.h>

#define MAGIC 0xeb9f
#define MAX_DEPTH 8 /* of unnamed structures in structures */

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

/* The sections of one description. */
struct btf {
    const char *types, *strings;
    size_t types_len, strings_len;
};

static bool open_btf(struct btf *b, const char *data, size_t len)
{
    struct head h;
    if (len < sizeof h)
        return false;
    memcpy(&h, data, sizeof h);
    if (h.magic != MAGIC || h.size < sizeof h || h.size > len)
        return false;
    size_t left = len - h.size;
    if (h.types > left || h.types_len > left - h.types || h.strings > left ||
        h.strings_len > left - h.strings)
        return false;
    *b = (struct btf){data + h.size + h.types, data + h.size + h.strings, h.types_len,
                      h.strings_len};
    return true;
}

static unsigned kind_of(const struct type *t)
{
    return t->info >> 24 & 31;
}

static uint32_t count_of(const struct type *t)
{
    return t->info & 0xffff;
}

/* Bytes behind the head of a type. */
static size_t tail_of(const struct type *t)
{
    size_t n = count_of(t);
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

static bool is_named(const struct btf *b, uint32_t at, const char *name)
{
    size_t n = strlen(name) + 1;
    return at <= b->strings_len && n <= b->strings_len - at &&
           memcmp(b->strings + at, name, n) == 0;
}

/* The type behind `at`, and where the next one begins; false at the end. */
static bool next_type(const struct btf *b, size_t *at, struct type *t)
{
    if (b->types_len - *at < sizeof *t)
        return false;
    memcpy(t, b->types + *at, sizeof *t);
    size_t size = sizeof *t + tail_of(t);
    if (size > b->types_len - *at)
        return false;
    *at += size;
    return true;
}

static bool holds_members(const struct type *t)
{
    return kind_of(t) == STRUCT || kind_of(t) == UNION;
}

/* The members of type number `id`, if it has any. */
static const char *members_of(const struct btf *b, uint32_t id, struct type *t)
{
    size_t at = 0;
    for (uint32_t i = 1; i <= id; i++)
        if (!next_type(b, &at, t))
            return NULL;
    return id && holds_members(t) ? b->types + at - tail_of(t) : NULL;
}

/* Bits from the beginning of the type, or -ENOENT. */
static int64_t find_member(const struct btf *b, const struct type *t, const char *members,
                           const char *name, int depth)
{
    bool has_bitfields = t->info >> 31;
    for (uint32_t i = 0; i < count_of(t); i++) {
        struct member m;
        memcpy(&m, members + i * sizeof m, sizeof m);
        int64_t bits = has_bitfields ? m.offset & 0xffffff : m.offset;
        if (m.name && is_named(b, m.name, name))
            return has_bitfields && m.offset >> 24 ? -ENOENT : bits;
        struct type inner;
        const char *below = m.name || depth == 0 ? NULL : members_of(b, m.type, &inner);
        int64_t more = below ? find_member(b, &inner, below, name, depth - 1) : -ENOENT;
        if (more >= 0)
            return bits + more;
    }
    return -ENOENT;
}

int64_t pm__btf_offset(const void *data, size_t len, const char *type, const char *member)
{
    struct btf b;
    struct type t;
    size_t at = 0;
    if (!open_btf(&b, data, len))
        return -ENOENT;
    while (next_type(&b, &at, &t)) {
        if (kind_of(&t) != STRUCT || !is_named(&b, t.name, type))
            continue;
        int64_t bits = find_member(&b, &t, b.types + at - tail_of(&t), member, MAX_DEPTH);
        if (bits >= 0 && bits % 8 == 0)
            return bits / 8;
    }
    return -ENOENT;
}
