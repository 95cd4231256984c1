/* SPDX-License-Identifier: MIT
 *
 * replay.c - a capture from a recording: a table of kernel functions that answers out of
 * what record.c wrote down, and touches nothing of the system it runs on.
 *
 * The engine that replays may be another than the one that recorded, and read in other
 * pieces.  So an answer is looked for by what is asked: the next record of that file that
 * covers it, else the last one before.  Asked alike, it answers alike; asked for the same
 * again, later, it gives what was there later.  What was never read is no answer at all:
 * the replay fails, and says so.
 *
 * A recording comes from anywhere.  It is checked whole before anything is believed, and
 * what it makes us allocate is bounded by its size.
 */
#include "recording.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FILES 64
#define FIRST_FD (1 << 20) /* no real descriptor */
#define NONE UINT32_MAX
#define MAX_STEPS (UINT64_C(1) << 28) /* records looked at: a few seconds */
#define SLACK ((uint64_t)1 << 20)
#define LARGEST_PAGE (UINT64_C(1) << 20)
#define MAX_STOPS 256

struct event {
    const unsigned char *at; /* behind the record's head */
    uint32_t size, next;     /* the next one of the same file, or NONE */
    uint32_t type;
};

struct opened {
    const char *path;
    uint32_t path_len, parent, flags, first, last;
    int32_t result;
};

struct handle {
    bool used;
    uint32_t opened, next; /* the event behind the last one that was used up */
};

struct pm__replay {
    struct pm__io io;
    pm_error *err;
    const unsigned char *end; /* PM__R_END */
    struct pm__here here;
    pm_request request;
    char writer[64];

    struct event *events;
    struct opened *opens;
    pm_extent *extents;
    uint32_t n_events, n_opens, first_ours, last_ours, next_open;
    struct handle files[MAX_FILES];

    uint64_t words, most; /* bytes that were recorded, and that may be asked for in one attempt */
    uint64_t served, steps;
    char missing[sizeof((pm_error *)0)->detail]; /* what the recording does not hold */
};

/* ---- reading the file -------------------------------------------------------------- */

static int refuse(pm_error *err, const char *why)
{
    memset(err, 0, sizeof *err);
    err->code = PM_E_FORMAT;
    err->stage = PM_AT_RECORDING;
    snprintf(err->detail, sizeof err->detail, "%s", why);
    return -PM_E_FORMAT;
}

#define DAMAGED "the recording is cut short or damaged"

struct cursor {
    const unsigned char *at, *end;
};

static bool next_record(struct cursor *c, struct event *e)
{
    if (c->end - c->at < PM__RECORD_HEAD)
        return false;
    *e = (struct event){
        .type = pm__get32(c->at),
        .size = pm__get32(c->at + 4),
        .at = c->at + PM__RECORD_HEAD,
        .next = NONE,
    };
    if ((uint64_t)(c->end - e->at) < e->size)
        return false;
    c->at = e->at + e->size;
    return true;
}

static bool is_errno(int32_t code)
{
    return code > -4096 && code < 0;
}

static bool is_file(const struct event *e)
{
    int32_t rc = (int32_t)pm__get32(e->at + 4);
    return e->size == PM__FILE_SIZE && (rc == 0 || is_errno(rc));
}

static bool is_bytes(const struct event *e)
{
    int32_t end = (int32_t)pm__get32(e->at + 4);
    uint64_t start = pm__get64(e->at + 8), n = e->size - PM__BYTES_SIZE, stop;
    return (n ? end == 0 : end == 1 || is_errno(end)) && !__builtin_add_overflow(start, n, &stop);
}

/* Adds up the chunks, and the entries among them that mean memory. */
static bool are_chunks(const unsigned char *p, const unsigned char *end, uint64_t *n,
                       uint64_t *memory)
{
    *n = 0;
    while (end - p >= 4) {
        uint32_t head = pm__get32(p), some = head & ~PM__RUN;
        uint64_t kept = head & PM__RUN ? 1 : some;
        p += 4;
        if (some == 0 || (uint64_t)(end - p) / 8 < kept)
            return false;
        if ((head & PM__RUN) && pm__means_memory(pm__get64(p)))
            return false;
        *memory += head & PM__RUN ? 0 : some;
        p += kept * 8;
        *n += some;
    }
    return p == end;
}

static bool are_words(const struct event *e, uint64_t *memory)
{
    uint64_t start = pm__get64(e->at + 8), n = pm__get32(e->at + 4), sum, stop;
    return are_chunks(e->at + PM__WORDS_SIZE, e->at + e->size, &sum, memory) && sum == n && n > 0 &&
           n <= PM__MOST_WORDS && start % 8 == 0 && !__builtin_add_overflow(start, n * 8, &stop);
}

/* The pages it covers hold the address, and it has an entry for each, or one for all. */
static bool is_table(const struct event *e, uint64_t page)
{
    int32_t rc = (int32_t)pm__get32(e->at + 4);
    uint64_t vpn = pm__get64(e->at + 8) / page, first = pm__get64(e->at + 16);
    uint64_t pages = pm__get64(e->at + 24), n, memory = 0;
    if (rc < 0)
        return is_errno(rc) && e->size == PM__TABLE_SIZE;
    return rc == 0 && are_chunks(e->at + PM__TABLE_SIZE, e->at + e->size, &n, &memory) &&
           (n == 1 || n == pages) && n <= PM__TABLE_MOST && vpn >= first && vpn - first < pages;
}

/* In the order of PM__R_SCAN. */
enum { FLAGS, START, END, WALK_END, VEC_LEN, MAX_PAGES, INVERTED, MASK, ANYOF, RETURNED };

static uint64_t scan_field(const struct event *e, int field)
{
    return pm__get64(e->at + 8 + 8 * (size_t)field);
}

/* The engine believes the kernel that regions lie within what was asked for, in order. */
static bool is_scan(const struct event *e, uint64_t page)
{
    int32_t n = (int32_t)pm__get32(e->at + 4);
    const unsigned char *p = e->at + PM__SCAN_SIZE;
    uint64_t at = scan_field(e, START), end = scan_field(e, END);
    if (n < 0 ? !is_errno(n) || e->size != PM__SCAN_SIZE
              : (e->size - PM__SCAN_SIZE) / PM__REGION_SIZE != (uint32_t)n ||
                    (e->size - PM__SCAN_SIZE) % PM__REGION_SIZE)
        return false;
    if (n >= 0 && (scan_field(e, WALK_END) > end || (uint64_t)n > scan_field(e, VEC_LEN)))
        return false;
    for (int32_t i = 0; i < n; i++, p += PM__REGION_SIZE) {
        uint64_t from = pm__get64(p), to = pm__get64(p + 8);
        if (from < at || from >= to || to > end || from % page || to % page)
            return false;
        at = to;
    }
    return true;
}

/* Room for the lists, which then are filled. */
static int count(struct pm__replay *r, struct cursor c)
{
    uint64_t opens = 0, events = 0;
    struct event e;
    while (next_record(&c, &e)) {
        events++;
        opens += e.type == PM__R_OPEN;
    }
    if (c.at != c.end || events >= NONE)
        return refuse(r->err, DAMAGED);
    r->events = pm__block_new((size_t)(events + 1) * sizeof *r->events);
    r->opens = pm__block_new((size_t)(opens + 1) * sizeof *r->opens);
    if (r->events && r->opens)
        return 0;
    r->err->code = ENOMEM;
    r->err->stage = PM_AT_RECORDING;
    return -ENOMEM;
}

static void link_event(struct pm__replay *r, uint32_t *first, uint32_t *last)
{
    if (*last == NONE)
        *first = r->n_events;
    else
        r->events[*last].next = r->n_events;
    *last = r->n_events;
}

static bool add_open(struct pm__replay *r, const struct event *e)
{
    struct opened *o = &r->opens[r->n_opens];
    if (e->size < PM__OPEN_SIZE)
        return false;
    *o = (struct opened){
        .parent = pm__get32(e->at),
        .flags = pm__get32(e->at + 4),
        .result = (int32_t)pm__get32(e->at + 8),
        .path = (const char *)e->at + PM__OPEN_SIZE,
        .path_len = e->size - PM__OPEN_SIZE,
        .first = NONE,
        .last = NONE,
    };
    if ((o->parent != PM__NO_PARENT && o->parent >= r->n_opens) ||
        (o->result != 0 && !is_errno(o->result)))
        return false;
    r->n_opens++;
    return true;
}

/* Something that was asked of an open file. */
static bool add_answer(struct pm__replay *r, const struct event *e)
{
    static const uint32_t least[] = {
        [PM__R_BYTES] = PM__BYTES_SIZE, [PM__R_WORDS] = PM__WORDS_SIZE,
        [PM__R_SCAN] = PM__SCAN_SIZE,   [PM__R_STAT] = PM__FILE_SIZE,
        [PM__R_MAPPED] = PM__FILE_SIZE, [PM__R_TABLE] = PM__TABLE_SIZE};
    if (e->size < least[e->type] || pm__get32(e->at) >= r->n_opens)
        return false;
    struct opened *o = &r->opens[pm__get32(e->at)];
    if (o->result < 0 || (e->type == PM__R_BYTES && !is_bytes(e)) ||
        (e->type == PM__R_WORDS && !are_words(e, &r->here.most_pages)) ||
        (e->type == PM__R_SCAN && !is_scan(e, r->here.page_size)) ||
        (e->type == PM__R_TABLE && !is_table(e, r->here.page_size)) ||
        ((e->type == PM__R_STAT || e->type == PM__R_MAPPED) && !is_file(e)))
        return false;
    r->words += e->type == PM__R_WORDS ? pm__get32(e->at + 4) * (uint64_t)8 : e->size;
    link_event(r, &o->first, &o->last);
    return true;
}

static bool add(struct pm__replay *r, const struct event *e)
{
    bool good;
    switch (e->type) {
    case PM__R_OPEN:
        good = add_open(r, e);
        break;
    case PM__R_BYTES:
    case PM__R_WORDS:
    case PM__R_SCAN:
    case PM__R_STAT:
    case PM__R_MAPPED:
    case PM__R_TABLE:
        good = add_answer(r, e);
        break;
    case PM__R_OURS:
        good = e->size == PM__OURS_SIZE;
        link_event(r, &r->first_ours, &r->last_ours);
        break;
    default:
        good = false;
    }
    if (good)
        r->events[r->n_events++] = *e;
    return good;
}

static bool take_extents(struct pm__replay *r, const unsigned char *p, uint32_t n)
{
    r->extents = pm__block_new((size_t)n * sizeof *r->extents);
    for (uint32_t i = 0; r->extents && i < n; i++)
        r->extents[i] = (pm_extent){pm__get64(p + 16 * (size_t)i),
                                    pm__get64(p + 16 * (size_t)i + 8)};
    r->request.extents = r->extents;
    r->request.n_extents = n;
    return r->extents;
}

static bool take_head(struct pm__replay *r, const struct event *e)
{
    const unsigned char *p = e->at;
    if (e->type != PM__R_HEAD || e->size < PM__HEAD_SIZE)
        return false;
    uint64_t page = pm__get64(p), table = pm__get64(p + 40);
    uint32_t flags = pm__get32(p + 24), n = pm__get32(p + 36);
    int64_t pid = (int64_t)pm__get64(p + 8);
    uint64_t names = PM__HEAD_SIZE + (uint64_t)n * 16;
    if (page < 4096 || page > LARGEST_PAGE || (page & (page - 1)) || table > LARGEST_PAGE ||
        pid <= 0 || names >= e->size || e->at[e->size - 1] != '\0')
        return false;
    r->here = (struct pm__here){
        .pid = flags & PM__H_SELF ? pid : 0,
        .page_size = page,
        .features = {.softdirty = flags & PM__H_SOFTDIRTY,
                     .guard = flags & PM__H_GUARD,
                     .scan = flags & PM__H_SCAN,
                     .pte = flags & PM__H_PTE},
        .busy = flags & PM__H_BUSY,
    };
    r->request = (pm_request){
        .pid = pid,
        .max_pages = pm__get64(p + 16),
        .depth = (int32_t)pm__get32(p + 28),
        .counters = (int32_t)pm__get32(p + 32),
        .stopper = flags & PM__H_STOPPED ? 0 : -1,
        .young = flags & PM__H_YOUNG ? 1 : 0,
    };
    r->io.table_pages = table;
    snprintf(r->writer, sizeof r->writer, "%s", (const char *)p + names);
    return take_extents(r, p + PM__HEAD_SIZE, n);
}

static int parse(struct pm__replay *r, const unsigned char *data, size_t len)
{
    struct cursor c = {data + PM__PREFIX, data + len};
    struct event e = {0};
    uint64_t records = 1;
    if (len < PM__PREFIX || memcmp(data, PM__MAGIC, PM__MAGIC_SIZE) != 0)
        return refuse(r->err, "it is no recording of a capture");
    if ((data[PM__PREFIX - 2] | data[PM__PREFIX - 1] << 8) != PM__VERSION)
        return refuse(r->err, "the recording is of a format that this version does not read");
    int rc = count(r, c);
    if (rc < 0)
        return rc;
    bool good = next_record(&c, &e) && take_head(r, &e);
    for (; good && next_record(&c, &e) && e.type != PM__R_END; records++)
        good = add(r, &e);
    if (!good || e.type != PM__R_END || e.size != PM__END_SIZE || c.at != c.end ||
        pm__get64(e.at + 32) != records + 1)
        return refuse(r->err, DAMAGED);
    r->end = e.at;
    r->here.most_pages += r->here.most_pages == 0; /* 0 would mean that nobody knows */
    r->most = 4 * r->words + 8 * SLACK;
    return 0;
}

/* ---- looking for an answer ------------------------------------------------------------ */

/* What is asked of an open file. */
struct question {
    uint32_t type; /* PM__R_BYTES stands for both kinds of reads */
    uint64_t offset;
    const struct pm_scan_arg *scan;
};

static int miss(struct pm__replay *r, const char *what, const char *path, size_t len, uint64_t at)
{
    if (!r->missing[0])
        snprintf(r->missing, sizeof r->missing,
                 "the recording does not hold %s of %.*s at %#llx: it was made by %.24s, which "
                 "read other things",
                 what, (int)(len < 40 ? len : 40), path, (unsigned long long)at, r->writer);
    return -EIO;
}

static struct handle *handle_of(struct pm__replay *r, int fd)
{
    bool good = fd >= FIRST_FD && fd < FIRST_FD + MAX_FILES && r->files[fd - FIRST_FD].used;
    return good ? &r->files[fd - FIRST_FD] : NULL;
}

static bool covers(uint64_t start, uint64_t n, uint64_t offset)
{
    return n ? offset >= start && offset - start < n : offset == start;
}

/* Whether a table, or the failure to read it, tells of a page. */
static bool is_covered(const struct event *e, uint64_t page_size, uint64_t address)
{
    if ((int32_t)pm__get32(e->at + 4) < 0)
        return pm__get64(e->at + 8) == address;
    return covers(pm__get64(e->at + 16), pm__get64(e->at + 24), address / page_size);
}

static bool answers(const struct pm__replay *r, const struct event *e, const struct question *q)
{
    if (q->type == PM__R_BYTES && e->type == PM__R_BYTES)
        return covers(pm__get64(e->at + 8), e->size - PM__BYTES_SIZE, q->offset);
    if (q->type == PM__R_BYTES && e->type == PM__R_WORDS)
        return covers(pm__get64(e->at + 8), pm__get32(e->at + 4) * (uint64_t)8, q->offset);
    if (e->type != q->type)
        return false;
    if (q->type == PM__R_TABLE)
        return is_covered(e, r->here.page_size, q->offset);
    const struct pm_scan_arg *a = q->scan;
    return !a || (scan_field(e, FLAGS) == a->flags && scan_field(e, START) == a->start &&
                  scan_field(e, END) == a->end && scan_field(e, INVERTED) == a->category_inverted &&
                  scan_field(e, MASK) == a->category_mask &&
                  scan_field(e, ANYOF) == a->category_anyof_mask &&
                  scan_field(e, RETURNED) == a->return_mask &&
                  ((int32_t)pm__get32(e->at + 4) < 0 || pm__get32(e->at + 4) <= a->vec_len));
}

/* The next answer from where the file was read last, else the last one before. */
static uint32_t find(struct pm__replay *r, const struct handle *h, const struct question *q)
{
    uint32_t found = NONE, e;
    for (e = h->next; e != NONE && r->steps < MAX_STEPS; e = r->events[e].next, r->steps++)
        if (answers(r, &r->events[e], q))
            return e;
    for (e = r->opens[h->opened].first; e != h->next && r->steps < MAX_STEPS;
         e = r->events[e].next, r->steps++)
        if (answers(r, &r->events[e], q))
            found = e;
    return r->steps < MAX_STEPS ? found : NONE;
}

static const struct event *answer(struct pm__replay *r, struct handle *h, const struct question *q,
                                  const char *what)
{
    const struct opened *o = &r->opens[h->opened];
    uint32_t e = find(r, h, q);
    if (e == NONE) {
        miss(r, what, o->path, o->path_len, q->offset);
        return NULL;
    }
    h->next = r->events[e].next;
    return &r->events[e];
}

/* ---- the table --------------------------------------------------------------------------- */

static bool same_path(const struct opened *a, const char *path, size_t len)
{
    return a->path_len == len && memcmp(a->path, path, len) == 0;
}

static bool same_parent(const struct pm__replay *r, const struct opened *o,
                        const struct handle *dir)
{
    if (!dir || o->parent == PM__NO_PARENT)
        return !dir && o->parent == PM__NO_PARENT;
    const struct opened *a = &r->opens[o->parent], *b = &r->opens[dir->opened];
    return same_path(a, b->path, b->path_len);
}

static uint32_t find_open(struct pm__replay *r, const struct handle *dir, const char *path,
                          uint32_t flags)
{
    uint32_t found = NONE;
    size_t len = strlen(path);
    for (uint32_t k = 0; k < r->n_opens && r->steps < MAX_STEPS; k++, r->steps++) {
        uint32_t i = r->next_open + k; /* all around, from where we are */
        i -= i >= r->n_opens ? r->n_opens : 0;
        const struct opened *o = &r->opens[i];
        if (i < r->next_open || found == NONE)
            if (o->flags == flags && same_path(o, path, len) && same_parent(r, o, dir))
                found = i;
        if (found != NONE && found >= r->next_open)
            break; /* the next one; behind us, the last one */
    }
    return r->steps < MAX_STEPS ? found : NONE;
}

static int replay_open(void *ctx, int dir, const char *path, int flags)
{
    struct pm__replay *r = ctx;
    const struct handle *parent = handle_of(r, dir);
    uint32_t how = (flags & O_DIRECTORY ? PM__O_DIRECTORY : 0) | (flags & O_PATH ? PM__O_PATH : 0);
    uint32_t i = parent || dir == AT_FDCWD ? find_open(r, parent, path, how) : NONE;
    if (i == NONE)
        return miss(r, "the opening", path, strlen(path), 0);
    r->next_open = i + 1;
    if (r->opens[i].result < 0)
        return r->opens[i].result;
    for (int k = 0; k < MAX_FILES; k++) {
        if (r->files[k].used)
            continue;
        r->files[k] = (struct handle){.used = true, .opened = i, .next = r->opens[i].first};
        return FIRST_FD + k;
    }
    return -EMFILE;
}

static int replay_close(void *ctx, int fd)
{
    struct handle *h = handle_of(ctx, fd);
    if (!h)
        return -EBADF;
    h->used = false;
    return 0;
}

/* Entries [from, from + n) of a row of chunks. */
static void expand(const unsigned char *p, uint64_t from, char *buf, uint64_t n)
{
    for (uint64_t at = 0, some, to = from + n; at < to; at += some) {
        uint32_t head = pm__get32(p);
        bool run = head & PM__RUN;
        some = head & ~PM__RUN;
        p += 4;
        for (uint64_t k = at < from ? from : at; k < to && k < at + some; k++) {
            uint64_t word = pm__get64(run ? p : p + 8 * (k - at));
            memcpy(buf + 8 * (k - from), &word, 8);
        }
        p += run ? 8 : 8 * some;
    }
}

static ssize_t replay_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    struct pm__replay *r = ctx;
    struct handle *h = handle_of(r, fd);
    const struct question q = {.type = PM__R_BYTES, .offset = offset};
    if (!h || n == 0)
        return h ? 0 : -EBADF;
    const struct event *e = answer(r, h, &q, "what is read");
    if (!e)
        return -EIO;
    bool words = e->type == PM__R_WORDS;
    if (words && (offset % 8 || n < 8))
        return -EINVAL;
    uint64_t from = offset - pm__get64(e->at + 8);
    uint64_t len = words ? pm__get32(e->at + 4) * (uint64_t)8 : e->size - PM__BYTES_SIZE;
    if (len == 0) {
        int32_t end = (int32_t)pm__get32(e->at + 4);
        return end < 0 ? end : 0;
    }
    uint64_t got = n < len - from ? n : len - from;
    got -= words ? got % 8 : 0;
    r->served += got;
    if (r->served > r->most)
        return miss(r, "so much", r->opens[h->opened].path, r->opens[h->opened].path_len, offset);
    if (from + got < len)
        h->next = (uint32_t)(e - r->events); /* there is more of it */
    if (words)
        expand(e->at + PM__WORDS_SIZE, from / 8, buf, got / 8);
    else
        memcpy(buf, e->at + PM__BYTES_SIZE + from, got);
    return (ssize_t)got;
}

static int replay_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    struct pm__replay *r = ctx;
    struct handle *h = handle_of(r, fd);
    struct pm_scan_arg *a = arg;
    if (!h || request != PM_IOC_SCAN)
        return h ? -ENOTTY : -EBADF;
    const struct question q = {.type = PM__R_SCAN, .offset = a->start, .scan = a};
    const struct event *e = answer(r, h, &q, "PAGEMAP_SCAN");
    if (!e)
        return -EIO;
    int32_t n = (int32_t)pm__get32(e->at + 4);
    struct pm_scan_region *to = (void *)(uintptr_t)a->vec;
    for (int32_t i = 0; i < n; i++) {
        const unsigned char *p = e->at + PM__SCAN_SIZE + (size_t)i * PM__REGION_SIZE;
        to[i] = (struct pm_scan_region){pm__get64(p), pm__get64(p + 8), pm__get64(p + 16)};
    }
    a->walk_end = scan_field(e, WALK_END);
    return n;
}

/* A table that was not read before is not known; nothing else depends on it. */
static int replay_table(void *ctx, int pagemap, uint64_t address, size_t most,
                        struct pm__table *out)
{
    struct pm__replay *r = ctx;
    struct handle *h = handle_of(r, pagemap);
    const struct question q = {.type = PM__R_TABLE, .offset = address};
    (void)most; /* what there is, is given */
    uint32_t found = h ? find(r, h, &q) : NONE;
    if (found == NONE)
        return h ? -ENODATA : -EBADF;
    const struct event *e = &r->events[found];
    h->next = e->next;
    int32_t rc = (int32_t)pm__get32(e->at + 4);
    if (rc < 0)
        return rc;
    out->first = pm__get64(e->at + 16);
    out->pages = pm__get64(e->at + 24);
    bool one = (pm__get32(e->at + PM__TABLE_SIZE) & ~PM__RUN) == 1;
    out->n = one && e->size == PM__TABLE_SIZE + 12 ? 1 : (size_t)out->pages;
    expand(e->at + PM__TABLE_SIZE, 0, (char *)out->entry, out->n);
    return 0;
}

static int replay_file(struct pm__replay *r, int fd, uint32_t type, const char *what,
                       struct pm__file *out)
{
    struct handle *h = handle_of(r, fd);
    const struct question q = {.type = type};
    const struct event *e = h ? answer(r, h, &q, what) : NULL;
    if (!e)
        return h ? -EIO : -EBADF;
    *out = (struct pm__file){
        .dev_major = pm__get32(e->at + 8),
        .dev_minor = pm__get32(e->at + 12),
        .inode = pm__get64(e->at + 16),
        .mode = pm__get32(e->at + 24),
        .fstype = pm__get64(e->at + 28),
    };
    return (int32_t)pm__get32(e->at + 4);
}

static int replay_stat(void *ctx, int fd, struct pm__file *out)
{
    return replay_file(ctx, fd, PM__R_STAT, "the state", out);
}

static int replay_mapped(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out)
{
    (void)buf, (void)cap;
    return replay_file(ctx, fd, PM__R_MAPPED, "the device", out);
}

static bool replay_ours(void *ctx, uint64_t start, uint64_t end, bool inherited)
{
    struct pm__replay *r = ctx;
    for (uint32_t e = r->first_ours; e != NONE && r->steps < MAX_STEPS;
         e = r->events[e].next, r->steps++) {
        const unsigned char *p = r->events[e].at;
        if (pm__get64(p) == start && pm__get64(p + 8) == end && pm__get32(p + 16) == inherited)
            return true;
    }
    return false;
}

/* Each attempt is given the one that was recorded. */
static void replay_here(void *ctx, struct pm__here *out)
{
    struct pm__replay *r = ctx;
    r->next_open = 0;
    r->served = 0;
    r->missing[0] = '\0'; /* one that finds too little room reads maps, too, to see how much */
    memset(r->files, 0, sizeof r->files);
    *out = r->here;
}

/* ---- the whole of it ----------------------------------------------------------------------- */

/* The other end of a stopper: a tracer that has said already that all is well, as often as
 * anyone may ask. */
static int play_tracer(int ends[2])
{
    static const struct pm__held held[MAX_STOPS];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    ssize_t sent = send(ends[1], held, sizeof held, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent == sizeof held ? 0 : -EIO;
}

/* What only the clock and the arena of the recording process knew; then checked, as what
 * comes from a file is. */
static int finish(struct pm__replay *r, pm_snapshot **out)
{
    pm_snapshot *snap = *out;
    snap->header.captured_ns = pm__get64(r->end + 8);
    snap->header.stopped_ns = pm__get64(r->end + 16);
    snap->header.hidden_rss = pm__get64(r->end + 24);
    int rc = pm_build(&snap->header, &snap->columns, out, r->err);
    pm_free(snap);
    return rc;
}

static int capture(struct pm__replay *r, pm_snapshot **out)
{
    int ends[2] = {-1, -1}, rc = 0;
    if (r->request.stopper >= 0) {
        rc = play_tracer(ends);
        r->request.stopper = ends[0];
    }
    if (rc == 0)
        rc = pm__capture_with(&r->io, &r->request, out, r->err);
    else
        r->err->code = -rc;
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    if (r->steps >= MAX_STEPS)
        snprintf(r->missing, sizeof r->missing, "%s", "the recording is in no order");
    if (r->missing[0]) {
        pm_free(*out);
        *out = NULL;
        return refuse(r->err, r->missing);
    }
    return rc < 0 ? rc : finish(r, out);
}

int pm__replay_new(const void *data, size_t len, struct pm__replay **out, pm_error *err)
{
    struct pm__replay *r = pm__block_new(sizeof *r);
    memset(err, 0, sizeof *err);
    *out = r;
    if (!r) {
        err->code = ENOMEM;
        err->stage = PM_AT_RECORDING;
        return -ENOMEM;
    }
    r->err = err;
    r->first_ours = r->last_ours = NONE;
    r->io = (struct pm__io){
        .open = replay_open,
        .pread = replay_pread,
        .ioctl = replay_ioctl,
        .stat = replay_stat,
        .close = replay_close,
        .here = replay_here,
        .mapped = replay_mapped,
        .ours = replay_ours,
        .table = replay_table,
        .ctx = r,
    };
    return parse(r, data, len);
}

void pm__replay_free(struct pm__replay *r)
{
    pm__block_free(r ? r->events : NULL);
    pm__block_free(r ? r->opens : NULL);
    pm__block_free(r ? r->extents : NULL);
    pm__block_free(r);
}

const struct pm__io *pm__replayed(struct pm__replay *r)
{
    return &r->io;
}

int pm_replay(const void *data, size_t len, pm_snapshot **out, pm_error *err)
{
    struct pm__replay *r;
    *out = NULL;
    int rc = pm__replay_new(data, len, &r, err);
    if (rc == 0)
        rc = capture(r, out);
    pm__replay_free(r);
    return rc;
}
