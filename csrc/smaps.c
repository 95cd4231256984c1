/* SPDX-License-Identifier: MIT
 *
 * smaps.c - /proc/PID/smaps: the mappings and the kernel's counters of each; or
 * /proc/PID/maps, the same without counters.
 *
 * It is read twice, before and after the pages.  The first reading makes the
 * list of mappings, the second is held against it.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

bool pm__hex(const char **p, const char *end, uint64_t *out)
{
    const char *s = *p;
    uint64_t v = 0;
    for (; s < end; s++) {
        unsigned d;
        if (*s >= '0' && *s <= '9')
            d = (unsigned)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            d = (unsigned)(*s - 'a') + 10;
        else
            break;
        if (v >> 60)
            return false;
        v = v << 4 | d;
    }
    if (s == *p)
        return false;
    *p = s;
    *out = v;
    return true;
}

bool pm__dec(const char **p, const char *end, uint64_t *out)
{
    const char *s = *p;
    uint64_t v = 0;
    for (; s < end && *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    if (s == *p)
        return false;
    *p = s;
    *out = v;
    return true;
}

static bool expect(const char **p, const char *end, char ch)
{
    if (*p >= end || **p != ch)
        return false;
    ++*p;
    return true;
}

static bool parse_perms(const char **p, const char *end, uint8_t *perms)
{
    if (end - *p < 4)
        return false;
    const char *s = *p;
    *perms = (uint8_t)((s[0] == 'r' ? PM_READ : 0) | (s[1] == 'w' ? PM_WRITE : 0) |
                       (s[2] == 'x' ? PM_EXEC : 0) | (s[3] == 's' ? PM_SHARED_MAP : 0));
    *p += 4;
    return true;
}

/* start-end perms offset major:minor inode   name */
static bool parse_header(const char *line, size_t len, pm_mapping *m, const char **name)
{
    const char *p = line, *end = line + len;
    uint64_t major, minor;
    bool ok = pm__hex(&p, end, &m->start) && expect(&p, end, '-') && pm__hex(&p, end, &m->end) &&
              expect(&p, end, ' ') && parse_perms(&p, end, &m->perms) && expect(&p, end, ' ') &&
              pm__hex(&p, end, &m->offset) && expect(&p, end, ' ') && pm__hex(&p, end, &major) &&
              expect(&p, end, ':') && pm__hex(&p, end, &minor) && expect(&p, end, ' ') &&
              pm__dec(&p, end, &m->inode);
    if (!ok || m->start >= m->end)
        return false;
    while (p < end && *p == ' ')
        p++;
    m->dev_major = (uint32_t)major;
    m->dev_minor = (uint32_t)minor;
    *name = p;
    m->name_len = (uint32_t)(end - p);
    return true;
}

/* Far beyond any address space, and so small that counters can be added up. */
#define MOST_KB (UINT64_C(1) << 48)

#define KEY(name, counter) {name, sizeof(name) - 1, counter}

static const struct {
    const char *key;
    size_t len;
    enum pm_counter counter;
} keys[] = {
    KEY("Size", PM_C_SIZE),
    KEY("KernelPageSize", PM_C_KERNEL_PAGE_SIZE),
    KEY("MMUPageSize", PM_C_MMU_PAGE_SIZE),
    KEY("Rss", PM_C_RSS),
    KEY("Pss", PM_C_PSS),
    KEY("Pss_Dirty", PM_C_PSS_DIRTY),
    KEY("Shared_Clean", PM_C_SHARED_CLEAN),
    KEY("Shared_Dirty", PM_C_SHARED_DIRTY),
    KEY("Private_Clean", PM_C_PRIVATE_CLEAN),
    KEY("Private_Dirty", PM_C_PRIVATE_DIRTY),
    KEY("Referenced", PM_C_REFERENCED),
    KEY("Anonymous", PM_C_ANONYMOUS),
    KEY("KSM", PM_C_KSM),
    KEY("LazyFree", PM_C_LAZY_FREE),
    KEY("AnonHugePages", PM_C_ANON_HUGE_PAGES),
    KEY("ShmemPmdMapped", PM_C_SHMEM_PMD_MAPPED),
    KEY("FilePmdMapped", PM_C_FILE_PMD_MAPPED),
    KEY("Shared_Hugetlb", PM_C_SHARED_HUGETLB),
    KEY("Private_Hugetlb", PM_C_PRIVATE_HUGETLB),
    KEY("Swap", PM_C_SWAP),
    KEY("SwapPss", PM_C_SWAP_PSS),
    KEY("Locked", PM_C_LOCKED),
};

struct reader {
    struct pm__capture *c;
    enum pm__pass pass;
    struct pm__record rec;
    size_t cursor; /* second pass: next mapping of the first not yet met */
    size_t met;
    size_t next_key; /* smaps prints its lines in one order: where the next one may be */
    size_t strings;  /* end of the string pool when the reading began */
    int64_t rss;     /* of all entries, ours too */
};

static bool is_key(size_t i, const char *s, size_t len)
{
    return keys[i].len == len && memcmp(keys[i].key, s, len) == 0;
}

static size_t find_key(struct reader *r, const char *s, size_t len)
{
    size_t n = sizeof keys / sizeof *keys;
    for (size_t k = 0; k < n; k++) {
        size_t i = (r->next_key + k) % n;
        if (is_key(i, s, len)) {
            r->next_key = i + 1;
            return i;
        }
    }
    return n;
}

/* Key:   123 kB.  Returns false for a line this version does not know. */
static bool parse_counter(struct reader *r, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len), *end = line + len;
    uint64_t v;
    if (!colon)
        return false;
    size_t i = find_key(r, line, (size_t)(colon - line));
    if (i == sizeof keys / sizeof *keys)
        return false;
    const char *p = colon + 1;
    while (p < end && *p == ' ')
        p++;
    if (!pm__dec(&p, end, &v) || end - p != 3 || memcmp(p, " kB", 3) != 0 || v > MOST_KB)
        return false;
    r->rec.counters[keys[i].counter] = (int64_t)(v * 1024);
    return true;
}

static int keep_extra(struct reader *r, const char *line, size_t len)
{
    uint32_t at, n;
    int rc = pm__add_string(r->c, line, len, &at, &n);
    if (rc == 0)
        rc = pm__add_string(r->c, "\n", 1, &(uint32_t){0}, &(uint32_t){0});
    if (rc < 0)
        return rc;
    if (r->rec.m.extra_len == 0)
        r->rec.m.extra = at;
    r->rec.m.extra_len += n + 1;
    return 0;
}

static bool name_is(const struct reader *r, const char *s)
{
    size_t n = strlen(s);
    return r->rec.m.name_len == n && memcmp(r->rec.name, s, n) == 0;
}

static bool name_starts(const struct reader *r, const char *s)
{
    size_t n = strlen(s);
    return r->rec.m.name_len >= n && memcmp(r->rec.name, s, n) == 0;
}

static bool maps_device_memory(const struct pm__capture *c, const pm_mapping *m)
{
    return pm__has_vmflag(c, m, "pf") || pm__has_vmflag(c, m, "io") || pm__has_vmflag(c, m, "mm");
}

/* Without VmFlags nothing tells huge pages or device memory from a file whose file system
 * nothing tells either; what could be them is left alone. */
static bool may_be_odd(const struct reader *r)
{
    const pm_mapping *m = &r->rec.m;
    uint64_t table = r->c->header.page_size * r->c->header.page_size / sizeof(uint64_t);
    if (m->dev_major != 0)
        return false;
    return !name_starts(r, "/") || name_is(r, "/anon_hugepage (deleted)") ||
           (m->start % table == 0 && m->end % table == 0 && m->offset % table == 0);
}

/* What maps alone says; elf.c looks at the file itself and may know better. */
static enum pm_kind first_guess(const struct reader *r)
{
    const pm_mapping *m = &r->rec.m;
    int64_t page = r->rec.counters[PM_C_KERNEL_PAGE_SIZE];
    if (pm__has_vmflag(r->c, m, "ht") || (page > 0 && (uint64_t)page > r->c->header.page_size))
        return PM_KIND_HUGETLB;
    if (maps_device_memory(r->c, m))
        return PM_KIND_SPECIAL;
    if (m->inode == 0)
        return m->name_len == 0 || name_is(r, "[heap]") || name_starts(r, "[stack") ||
                       name_starts(r, "[anon:")
                   ? PM_KIND_ANON
               : name_starts(r, "[anon_shmem:") ? PM_KIND_SHMEM
                                                : PM_KIND_SPECIAL;
    if (name_starts(r, "/memfd:") || name_starts(r, "/SYSV") ||
        (name_is(r, "/dev/zero (deleted)") && (m->perms & PM_SHARED_MAP)) ||
        name_starts(r, "[anon_shmem:"))
        return PM_KIND_SHMEM;
    if (m->vmflags_len == 0 && may_be_odd(r))
        return PM_KIND_SPECIAL;
    /* A real block device below it: regular files (or device nodes, which elf.c weeds out). */
    return m->dev_major != 0 ? PM_KIND_FILE : PM_KIND_UNKNOWN;
}

/* What our own memory may look like in maps: private and anonymous, or a map of a program. */
static bool may_be_ours(const struct reader *r)
{
    static const char map[] = "anon_inode:bpf-map";
    const pm_mapping *m = &r->rec.m;
    if (m->perms & PM_SHARED_MAP)
        return m->name_len == sizeof map - 1 && memcmp(r->rec.name, map, sizeof map - 1) == 0;
    return m->inode == 0 && !(m->perms & PM_EXEC);
}

/* Our own arenas and blocks are left out: in ourselves, and in children forked from us,
 * where a block is recognised by its place and its being kept out of core dumps. */
static bool is_hidden(const struct reader *r)
{
    const pm_mapping *m = &r->rec.m;
    const struct pm__io *io = r->c->io;
    if (!may_be_ours(r))
        return false;
    if (r->c->header.self)
        return io->ours(io->ctx, m->start, m->end, false);
    return pm__has_vmflag(r->c, m, "dd") && io->ours(io->ctx, m->start, m->end, true);
}

/* The pieces of a mapping that were asked for, by the number of the extent; false when behind
 * the last one.  `piece` is empty where the extent lies elsewhere. */
static bool piece_of(const struct pm__capture *c, const pm_mapping *whole, size_t extent,
                     pm_mapping *piece)
{
    static const pm_extent everything = {0, UINT64_MAX};
    const pm_request *q = c->request;
    if (extent >= (q->n_extents ? q->n_extents : 1))
        return false;
    const pm_extent *e = q->n_extents ? &q->extents[extent] : &everything;
    uint64_t end = e->end < c->end ? e->end : c->end;
    *piece = *whole;
    if (piece->start < e->start)
        piece->start = e->start;
    if (piece->end > end)
        piece->end = end;
    if (piece->start >= piece->end)
        piece->start = piece->end;
    piece->offset += piece->start - whole->start;
    piece->index += (piece->start - whole->start) / c->header.page_size;
    return true;
}

static bool is_cut(const pm_mapping *piece, const pm_mapping *whole)
{
    return piece->start != whole->start || piece->end != whole->end;
}

static int append_piece(struct reader *r, const pm_mapping *piece)
{
    struct pm__capture *c = r->c;
    if (c->n_mappings == c->room.mappings)
        return -ENOBUFS;
    bool cut = is_cut(piece, &r->rec.m);
    c->spans[c->n_mappings].cut = cut;
    if (c->counters) {
        pm_counters *k = &c->counters[c->n_mappings];
        memset(k, 0xff, sizeof *k); /* each is -1 */
        if (!cut)
            memcpy(k->before, r->rec.counters, sizeof k->before);
    }
    c->mappings[c->n_mappings++] = *piece;
    return 0;
}

static int append(struct reader *r)
{
    int rc = 0;
    pm_mapping *m = &r->rec.m, piece;
    m->kind = (uint8_t)first_guess(r);
    m->index = pm__index_of_first(m, r->rec.name, r->c->header.page_size, r->c->features.deep,
                                  &m->index_trust);
    for (size_t i = 0; rc == 0 && piece_of(r->c, m, i, &piece); i++)
        if (piece.start < piece.end)
            rc = append_piece(r, &piece);
    return rc;
}

static bool same_mapping(const pm_mapping *a, const pm_mapping *b)
{
    return a->start == b->start && a->end == b->end && a->perms == b->perms &&
           a->offset == b->offset && a->inode == b->inode && a->dev_major == b->dev_major &&
           a->dev_minor == b->dev_minor;
}

static bool has_moved(const pm_counters *k, enum pm_counter counter)
{
    return k->before[counter] >= 0 && k->after[counter] >= 0 &&
           k->before[counter] != k->after[counter];
}

static void compare_piece(struct reader *r, const pm_mapping *now)
{
    struct pm__capture *c = r->c;
    while (r->cursor < c->n_mappings && c->mappings[r->cursor].start < now->start)
        c->mappings[r->cursor++].trouble |= PM_T_CHANGED;
    if (r->cursor == c->n_mappings || c->mappings[r->cursor].start != now->start) {
        int64_t rss = r->rec.counters[PM_C_RSS];
        c->header.appeared++;
        c->header.missed_pages += rss > 0 ? (uint64_t)rss / c->header.page_size : 0;
        return;
    }
    size_t i = r->cursor++;
    pm_mapping *m = &c->mappings[i];
    if (!same_mapping(m, now) || c->spans[i].cut != is_cut(now, &r->rec.m))
        m->trouble |= PM_T_CHANGED;
    if (!c->counters || c->spans[i].cut)
        return;
    pm_counters *k = &c->counters[i];
    size_t size = (size_t)PM_C_NUMA_PAGES * sizeof *k->after;
    memcpy(k->after, r->rec.counters, size);
    m->counters_moved = memcmp(k->before, k->after, size) != 0;
    if (has_moved(k, PM_C_RSS) || has_moved(k, PM_C_ANONYMOUS))
        m->trouble |= PM_T_RACED; /* its own pages came, went or were copied */
}

static void compare(struct reader *r)
{
    pm_mapping piece;
    for (size_t i = 0; piece_of(r->c, &r->rec.m, i, &piece); i++)
        if (piece.start < piece.end)
            compare_piece(r, &piece);
}

static int finish(struct reader *r)
{
    if (!r->rec.open)
        return 0;
    r->rec.open = false;
    r->met++;
    r->rss += r->rec.counters[PM_C_RSS] > 0 ? r->rec.counters[PM_C_RSS] : 0;
    pm_mapping *m = &r->rec.m;
    int rc = pm__add_string(r->c, r->rec.vmflags, r->rec.vmflags_len, &m->vmflags, &m->vmflags_len);
    if (rc < 0)
        return rc;
    if (r->pass == PM__BEFORE && !is_hidden(r))
        rc = append(r);
    else if (r->pass == PM__AFTER && !is_hidden(r))
        compare(r);
    if (r->pass == PM__AFTER)
        r->c->n_strings = r->strings; /* names and flags of the second reading are not kept */
    return rc < 0 ? rc : pm__tick(r->c, 0);
}

static int begin(struct reader *r, const char *line, size_t len)
{
    pm_mapping *m = &r->rec.m;
    const char *name;
    memset(m, 0, sizeof *m);
    for (int i = 0; i < PM_N_COUNTERS; i++)
        r->rec.counters[i] = -1;
    m->dirty_hi = UINT64_MAX;
    if (!parse_header(line, len, m, &name))
        return pm__fail(r->c, PM_E_FORMAT, PM_AT_SMAPS, "mapping line");
    r->rec.open = true;
    r->rec.vmflags_len = 0;
    r->next_key = 0;
    int rc = pm__add_string(r->c, name, m->name_len, &m->name, &m->name_len);
    r->rec.name = r->c->strings + m->name;
    return rc;
}

static int on_line(void *arg, const char *line, size_t len)
{
    struct reader *r = arg;
    /* Counters begin with a capital, mapping lines with a lower-case hex digit. */
    if (len && (line[0] < 'A' || line[0] > 'Z')) {
        int rc = finish(r);
        return rc < 0 ? rc : begin(r, line, len);
    }
    if (!r->rec.open)
        return pm__fail(r->c, PM_E_FORMAT, PM_AT_SMAPS, "a counter before any mapping");
    if (len > 9 && memcmp(line, "VmFlags: ", 9) == 0 && len - 9 <= sizeof r->rec.vmflags) {
        while (len > 9 && line[len - 1] == ' ')
            len--;
        r->rec.vmflags_len = len - 9;
        memcpy(r->rec.vmflags, line + 9, len - 9);
        return 0;
    }
    if (parse_counter(r, line, len))
        return 0;
    return r->pass == PM__BEFORE ? keep_extra(r, line, len) : 0;
}

static int find_rss(void *arg, const char *line, size_t len)
{
    const char *p = line + 4, *end = line + len;
    uint64_t kb;
    if (len < 5 || memcmp(line, "Rss:", 4) != 0)
        return 0;
    while (p < end && *p == ' ')
        p++;
    if (pm__dec(&p, end, &kb) && kb <= MOST_KB)
        *(int64_t *)arg = (int64_t)(kb * 1024);
    return 0;
}

/* smaps is not one moment: what a process moves from the part that is still to be read
 * to the part that was read already is in neither.  Only the total shows it. */
static void check_total(struct reader *r)
{
    struct pm__capture *c = r->c;
    int64_t total = -1, page = (int64_t)c->header.page_size;
    if (c->rollup < 0 ||
        pm__each_line(c->io, c->rollup, c->scratch, PM__SCRATCH, find_rss, &total) < 0 || total < 0)
        return;
    int64_t apart = total > r->rss ? total - r->rss : r->rss - total;
    c->header.missed_pages += (uint64_t)((apart + page - 1) / page);
}

struct tally {
    size_t lines, bytes;
};

static int count_line(void *arg, const char *line, size_t len)
{
    struct tally *t = arg;
    (void)line;
    t->lines++;
    t->bytes += len;
    return 0;
}

#define VMFLAGS 64 /* bytes of a mapping's VmFlags, most of the time */

/* There was too little room: maps, which costs a fifth of smaps, tells how much there has to be,
 * and an eighth more, for it may be growing. */
static int make_room(struct pm__capture *c)
{
    struct pm__room *room = &c->room;
    struct tally t = {0};
    int maps = c->io->open(c->io->ctx, c->dir, "maps", O_RDONLY);
    if (maps >= 0) {
        pm__each_line(c->io, maps, c->scratch, PM__SCRATCH, count_line, &t);
        c->io->close(c->io->ctx, maps);
    }
    size_t mappings = t.lines + t.lines / 8 + c->request->n_extents;
    size_t strings = t.bytes + t.bytes / 8 + mappings * VMFLAGS;
    bool grows = mappings > room->mappings || strings > room->strings;
    room->mappings = grows && mappings > room->mappings ? mappings : room->mappings;
    room->strings = grows && strings > room->strings ? strings : room->strings;
    if (!grows) { /* maps cannot be read, or it is something else that takes the room */
        room->mappings *= 2;
        room->strings *= 2;
    }
    return -ENOBUFS;
}

static int read_entries(struct reader *r, int fd, const char *name)
{
    struct pm__capture *c = r->c;
    int rc = pm__each_line(c->io, fd, c->scratch, PM__SCRATCH, on_line, r);
    if (rc == 0)
        rc = finish(r);
    if (rc == -ESRCH || (rc == 0 && r->met == 0))
        return pm__target_verify(c);
    if (rc == -ENOBUFS)
        return make_room(c);
    return rc == 0 || rc == -ECANCELED || c->err->code ? rc : pm__fail(c, -rc, PM_AT_SMAPS, name);
}

int pm__smaps_read(struct pm__capture *c, enum pm__pass pass)
{
    struct reader r = {.c = c, .pass = pass, .strings = c->n_strings};
    bool counters = pm__wants_counters(c);
    int rc = read_entries(&r, counters ? c->smaps : c->maps, counters ? "smaps" : "maps");
    if (rc < 0)
        return rc;
    while (pass == PM__AFTER && r.cursor < c->n_mappings)
        c->mappings[r.cursor++].trouble |= PM_T_CHANGED;
    if (pass == PM__AFTER && counters)
        check_total(&r);
    c->header.sources |= 1u << PM_SRC_MAPS | (counters ? 1u << PM_SRC_SMAPS : 0);
    return 0;
}

/* The counters of all mappings together: smaps_rollup is smaps with one entry, [rollup]. */
int pm__rollup_read(struct pm__capture *c)
{
    struct reader r = {.c = c, .pass = PM__BEFORE};
    int rc = read_entries(&r, c->rollup, "smaps_rollup");
    if (rc == 0)
        c->header.sources |= 1u << PM_SRC_SMAPS;
    return rc;
}

/* Page index of a mapping's first page, as the RFC defines it (vm_pgoff).  maps
 * prints 0 for anonymous memory, whose vm_pgoff is start / page size unless it
 * was moved: mremap, which cannot be seen, and the stack, which exec builds just
 * below STACK_TOP_MAX (0x7ffffffff000; 0xfffffffffff000
 * with five levels of page tables) and then moves. */
uint64_t pm__index_of_first(const pm_mapping *m, const char *name, uint64_t page_size, bool deep,
                            uint8_t *trust)
{
    *trust = PM_INDEX_EXACT;
    if (m->inode != 0)
        return m->offset / page_size;
    if (m->name_len >= 3 && memcmp(name, "[v", 2) == 0) /* [vdso], [vvar], [vsyscall], ... */
        return 0;
    *trust = PM_INDEX_GUESS;
    (void)deep; /* on other machines than this one */
#if defined(__x86_64__)
    if (m->name_len == 7 && memcmp(name, "[stack]", 7) == 0)
        return (deep ? UINT64_C(0xfffffffffff) : 0x7ffffffff) - (m->end - m->start) / page_size;
#endif
    return m->start / page_size;
}
