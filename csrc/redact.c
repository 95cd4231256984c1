/* SPDX-License-Identifier: MIT
 *
 * redact.c - a table of kernel functions that gives no more away than a recording may
 * hold.  It stands between the kernel and the engine, which works with what it lets
 * through, so that what is recorded is what was captured from.
 *
 * Frames are numbered anew, both ways: in pagemap's entries as they come in, and in the
 * offsets at which kpageflags and kpagecount are read.  A block, as many frames as a page
 * table has entries, gets the next number when its first frame is met; the place within
 * the block is kept, and with it what folios need: to be aligned and in one piece.
 *
 * Also taken out: where swapped pages are, all fields of stat and status but a few, and
 * all bytes of mapped files but ELF headers.
 */
#include "recording.h"
#include "uapi.h"

#include <elf.h>
#include <errno.h>

#define MAX_FILES 64
#define MAX_TEXT ((size_t)16384)
#define MAX_PHDRS 64

/* Bytes [start, end) of a file. */
struct stretch {
    uint64_t start, end;
};

struct file {
    int fd;
    enum pm__role role;
    bool looked_at;
    struct stretch shown[2]; /* objects: the headers */
};

/* Blocks of frames by their real number (open addressing), and by ours. */
struct numbers {
    struct {
        uint64_t real; /* + 1; 0: free */
        uint64_t ours;
    } *slots;
    uint64_t *real;
    size_t cap, n; /* a quarter of the slots is used at most; our numbers begin at 1 */
};

struct pm__redactor {
    const struct pm__io *kernel;
    struct pm__io io;
    uint64_t per_block;
    struct numbers blocks;
    struct file files[MAX_FILES];
    size_t n_files;
    int text_fd; /* whose text it is; -1: nobody's */
    size_t text_len;
    char text[MAX_TEXT];
};

/* ---- which file is which -------------------------------------------------------- */

static enum pm__role role_on_host(const char *path)
{
    if (strcmp(path, "/proc/kpageflags") == 0)
        return PM__ROLE_KPAGEFLAGS;
    if (strncmp(path, "/proc/kpage", 11) == 0)
        return PM__ROLE_KPAGE;
    if (strcmp(path, "/proc/meminfo") == 0)
        return PM__ROLE_TEXT;
    if (strcmp(path, "/proc/thread-self/stat") == 0)
        return PM__ROLE_STAT;
    return strncmp(path, "/proc/", 6) == 0 && !strchr(path + 6, '/') ? PM__ROLE_PROCESS
                                                                     : PM__ROLE_OBJECT;
}

/* Known by where it lies, not by its name alone: a target may map a file of that name. */
enum pm__role pm__role_of(const enum pm__role *dir, const char *path)
{
    static const struct {
        const char *name;
        enum pm__role role;
    } known[] = {{"maps", PM__ROLE_TEXT},         {"smaps", PM__ROLE_TEXT},
                 {"smaps_rollup", PM__ROLE_TEXT}, {"numa_maps", PM__ROLE_TEXT},
                 {"stat", PM__ROLE_STAT},         {"status", PM__ROLE_STATUS},
                 {"pagemap", PM__ROLE_PAGEMAP},   {"root", PM__ROLE_ROOT}};
    if (!dir)
        return role_on_host(path);
    for (size_t i = 0; *dir == PM__ROLE_PROCESS && i < sizeof known / sizeof *known; i++)
        if (strcmp(path, known[i].name) == 0)
            return known[i].role;
    return PM__ROLE_OBJECT;
}

static struct file *file_of(struct pm__redactor *r, int fd)
{
    for (size_t i = 0; i < r->n_files; i++)
        if (r->files[i].fd == fd)
            return &r->files[i];
    return NULL;
}

static int redact_open(void *ctx, int dir, const char *path, int flags)
{
    struct pm__redactor *r = ctx;
    const struct file *in = file_of(r, dir);
    if (r->n_files == MAX_FILES)
        return -EMFILE;
    int fd = r->kernel->open(r->kernel->ctx, dir, path, flags);
    if (fd >= 0) {
        enum pm__role role = pm__role_of(in ? &in->role : NULL, path);
        r->files[r->n_files++] = (struct file){.fd = fd, .role = role};
    }
    return fd;
}

static int redact_close(void *ctx, int fd)
{
    struct pm__redactor *r = ctx;
    struct file *f = file_of(r, fd);
    if (f)
        *f = r->files[--r->n_files];
    if (r->text_fd == fd)
        r->text_fd = -1;
    return r->kernel->close(r->kernel->ctx, fd);
}

/* ---- frames --------------------------------------------------------------------- */

static size_t slot_of(const struct numbers *b, uint64_t real)
{
    size_t i = (size_t)((real * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (b->cap - 1);
    while (b->slots[i].real && b->slots[i].real != real + 1)
        i = (i + 1) & (b->cap - 1);
    return i;
}

static int make_room(struct numbers *b)
{
    struct numbers more = {.cap = b->cap ? 2 * b->cap : 4096, .n = b->n};
    if (b->n < b->cap / 4)
        return 0;
    more.slots = pm__block_new(more.cap * sizeof *more.slots);
    more.real = pm__block_new((more.cap / 4 + 1) * sizeof *more.real);
    if (!more.slots || !more.real) {
        pm__block_free(more.slots);
        pm__block_free(more.real);
        return -ENOMEM;
    }
    for (size_t ours = 1; ours <= b->n; ours++) {
        size_t i = slot_of(&more, b->real[ours]);
        more.slots[i].real = b->real[ours] + 1;
        more.slots[i].ours = ours;
        more.real[ours] = b->real[ours];
    }
    pm__block_free(b->slots);
    pm__block_free(b->real);
    *b = more;
    return 0;
}

static int number(struct numbers *b, uint64_t real, uint64_t *ours)
{
    int rc = make_room(b);
    if (rc < 0)
        return rc;
    size_t i = slot_of(b, real);
    if (!b->slots[i].real) {
        b->slots[i].real = real + 1;
        b->slots[i].ours = ++b->n;
        b->real[b->n] = real;
    }
    *ours = b->slots[i].ours;
    return 0;
}

/* Where an entry maps nothing the same bits hold a place in swap, or a frame on its way. */
static int redact_entry(struct pm__redactor *r, uint64_t *entry)
{
    uint64_t frame = *entry & PM_PE_PFN_MASK, ours = 0;
    uint64_t rest = *entry & ~PM_PE_PFN_MASK;
    if (!(*entry & PM_PE_PRESENT) || frame == 0) {
        *entry = rest;
        return 0;
    }
    int rc = number(&r->blocks, frame / r->per_block, &ours);
    *entry = rest | (ours * r->per_block + frame % r->per_block);
    return rc;
}

static ssize_t read_pagemap(struct pm__redactor *r, int fd, char *buf, size_t n, uint64_t offset)
{
    ssize_t got = r->kernel->pread(r->kernel->ctx, fd, buf, n & ~(size_t)7, offset);
    for (ssize_t at = 0; at + 8 <= got; at += 8) {
        uint64_t entry;
        memcpy(&entry, buf + at, 8);
        int rc = redact_entry(r, &entry);
        if (rc < 0)
            return rc;
        memcpy(buf + at, &entry, 8);
    }
    return got < 0 ? got : got & ~(ssize_t)7;
}

/* Within one block.  Of blocks never met, and behind the end of memory, it says what the
 * kernel says of a hole. */
static ssize_t read_block(struct pm__redactor *r, const struct file *f, char *buf, size_t words,
                          uint64_t frame)
{
    uint64_t block = frame / r->per_block, hole = 0;
    ssize_t got = 0;
    if (block >= 1 && block <= r->blocks.n) {
        uint64_t real = r->blocks.real[block] * r->per_block + frame % r->per_block;
        got = pm__pread_full(r->kernel, f->fd, buf, words * 8, real * 8);
        if (got < 0)
            return got;
    }
    if (f->role == PM__ROLE_KPAGEFLAGS)
        hole = PM_KPF_NOPAGE;
    for (size_t k = (size_t)got / 8; k < words; k++)
        memcpy(buf + k * 8, &hole, 8);
    return (ssize_t)(words * 8);
}

static ssize_t read_frames(struct pm__redactor *r, const struct file *f, char *buf, size_t n,
                           uint64_t offset)
{
    if (offset % 8 || n % 8)
        return -EINVAL;
    for (size_t done = 0; done < n;) {
        uint64_t frame = (offset + done) / 8;
        size_t left = (n - done) / 8, words = (size_t)(r->per_block - frame % r->per_block);
        ssize_t got = read_block(r, f, buf + done, words < left ? words : left, frame);
        if (got < 0)
            return done ? (ssize_t)done : got;
        done += (size_t)got;
    }
    return (ssize_t)n;
}

/* ---- stat and status ------------------------------------------------------------- */

/* Fields of stat, from 3 on, that are kept; the others become 0. */
static bool keeps_field(int field)
{
    switch (field) {
    case 3:  /* state */
    case 9:  /* flags */
    case 10: /* minor and ... */
    case 12: /* ... major faults */
    case 20: /* threads */
    case 22: /* start time */
        return true;
    default:
        return false;
    }
}

static size_t blank_stat(char *s, size_t n)
{
    char *end = s + n, *close = memrchr(s, ')', n);
    if (!close || end - close < 2)
        return n;
    char *to = close + 2;
    const char *from = to;
    for (int field = 3; from < end; field++) {
        const char *stop = from;
        while (stop < end && *stop != ' ' && *stop != '\n')
            stop++;
        size_t len = (size_t)(stop - from);
        if (keeps_field(field)) {
            memmove(to, from, len);
            to += len;
        } else if (len) {
            *to++ = '0';
        }
        if (stop < end)
            *to++ = *stop++;
        from = stop;
    }
    return (size_t)(to - s);
}

static bool keeps_line(const char *line, size_t len)
{
    static const char *const kept[] = {"Name:", "State:", "Kthread:", "Vm",
                                       "Rss",   "Huge",   "Threads:", "CoreDumping:"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (len >= strlen(kept[i]) && memcmp(line, kept[i], strlen(kept[i])) == 0)
            return true;
    return false;
}

static size_t blank_status(char *s, size_t n)
{
    char *to = s;
    for (const char *line = s, *end = s + n; line < end;) {
        const char *nl = memchr(line, '\n', (size_t)(end - line));
        size_t len = nl ? (size_t)(nl - line) + 1 : (size_t)(end - line);
        if (keeps_line(line, len)) {
            memmove(to, line, len);
            to += len;
        }
        line += len;
    }
    return (size_t)(to - s);
}

/* Read whole when it is read from its beginning, then handed out. */
static ssize_t read_small(struct pm__redactor *r, const struct file *f, char *buf, size_t n,
                          uint64_t offset)
{
    if (offset == 0 || r->text_fd != f->fd) {
        ssize_t got = pm__pread_full(r->kernel, f->fd, r->text, MAX_TEXT, 0);
        if (got < 0)
            return got;
        r->text_fd = f->fd;
        r->text_len = f->role == PM__ROLE_STAT ? blank_stat(r->text, (size_t)got)
                                               : blank_status(r->text, (size_t)got);
    }
    if (offset >= r->text_len)
        return 0;
    n = n < r->text_len - offset ? n : (size_t)(r->text_len - offset);
    memcpy(buf, r->text + offset, n);
    return (ssize_t)n;
}

/* ---- files that the target maps ---------------------------------------------------- */

static struct stretch table_of(uint64_t at, uint64_t n, uint64_t each)
{
    if (n > MAX_PHDRS || at > UINT64_MAX / 2)
        n = at = 0;
    return (struct stretch){at, at + n * each};
}

/* Of an ELF file its header and its program headers; of another file nothing. */
static int look_at(struct pm__redactor *r, struct file *f)
{
    union {
        unsigned char ident[EI_NIDENT];
        Elf64_Ehdr e64;
        Elf32_Ehdr e32;
    } head = {0};
    ssize_t got = pm__pread_full(r->kernel, f->fd, &head, sizeof head, 0);
    if (got < 0)
        return (int)got;
    f->looked_at = true;
    if ((size_t)got < sizeof head.e32 || memcmp(head.ident, ELFMAG, SELFMAG) != 0)
        return 0;
    if (head.ident[EI_CLASS] == ELFCLASS64 && (size_t)got >= sizeof head.e64) {
        f->shown[0] = (struct stretch){0, sizeof head.e64};
        f->shown[1] = table_of(head.e64.e_phoff, head.e64.e_phnum, sizeof(Elf64_Phdr));
    } else if (head.ident[EI_CLASS] == ELFCLASS32) {
        f->shown[0] = (struct stretch){0, sizeof head.e32};
        f->shown[1] = table_of(head.e32.e_phoff, head.e32.e_phnum, sizeof(Elf32_Phdr));
    }
    return 0;
}

static bool is_shown(const struct file *f, uint64_t at)
{
    return (at >= f->shown[0].start && at < f->shown[0].end) ||
           (at >= f->shown[1].start && at < f->shown[1].end);
}

static ssize_t read_object(struct pm__redactor *r, struct file *f, char *buf, size_t n,
                           uint64_t offset)
{
    int rc = f->looked_at ? 0 : look_at(r, f);
    if (rc < 0)
        return rc;
    ssize_t got = r->kernel->pread(r->kernel->ctx, f->fd, buf, n, offset);
    for (ssize_t k = 0; k < got; k++)
        if (!is_shown(f, offset + (uint64_t)k))
            buf[k] = 0;
    return got;
}

/* ---- the table ------------------------------------------------------------------- */

static ssize_t redact_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    struct pm__redactor *r = ctx;
    struct file *f = file_of(r, fd);
    if (!f)
        return -EBADF;
    switch (f->role) {
    case PM__ROLE_PAGEMAP:
        return read_pagemap(r, fd, buf, n, offset);
    case PM__ROLE_KPAGEFLAGS:
    case PM__ROLE_KPAGE:
        return read_frames(r, f, buf, n, offset);
    case PM__ROLE_STAT:
    case PM__ROLE_STATUS:
        return read_small(r, f, buf, n, offset);
    case PM__ROLE_OBJECT:
        return read_object(r, f, buf, n, offset);
    default:
        return r->kernel->pread(r->kernel->ctx, fd, buf, n, offset);
    }
}

/* Of another call nobody here knows what it would give away. */
static int redact_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    struct pm__redactor *r = ctx;
    return request == PM_IOC_SCAN ? r->kernel->ioctl(r->kernel->ctx, fd, request, arg) : -ENOTTY;
}

static int redact_stat(void *ctx, int fd, struct pm__file *out)
{
    struct pm__redactor *r = ctx;
    return r->kernel->stat(r->kernel->ctx, fd, out);
}

static void redact_here(void *ctx, struct pm__here *out)
{
    struct pm__redactor *r = ctx;
    r->kernel->here(r->kernel->ctx, out);
    r->per_block = out->page_size / 8; /* entries of a page table */
}

static int redact_mapped(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out)
{
    struct pm__redactor *r = ctx;
    return r->kernel->mapped(r->kernel->ctx, fd, buf, cap, out);
}

static bool redact_ours(void *ctx, uint64_t start, uint64_t end, bool inherited)
{
    struct pm__redactor *r = ctx;
    return r->kernel->ours(r->kernel->ctx, start, end, inherited);
}

/* Of what a larger entry maps as much as has frames in one piece. */
static void narrow(struct pm__table *t, uint64_t vpn, uint64_t pages)
{
    uint64_t first = vpn - vpn % pages;
    if (t->n != 1 || t->pages <= pages)
        return;
    if (t->entry[0] & PM_PE_PRESENT)
        t->entry[0] += first - t->first;
    t->first = first;
    t->pages = pages;
}

static int redact_table(void *ctx, int pagemap, uint64_t address, size_t most,
                        struct pm__table *out)
{
    struct pm__redactor *r = ctx;
    int rc = r->kernel->table(r->kernel->ctx, pagemap, address, most, out);
    if (rc < 0)
        return rc;
    narrow(out, address / (r->per_block * 8), r->per_block);
    for (size_t i = 0; i < out->n && rc >= 0; i++)
        rc = redact_entry(r, &out->entry[i]);
    return rc;
}

struct pm__redactor *pm__redactor_new(const struct pm__io *kernel)
{
    struct pm__redactor *r = pm__block_new(sizeof *r);
    if (!r)
        return NULL;
    r->kernel = kernel;
    r->text_fd = -1;
    r->io = (struct pm__io){
        .open = redact_open,
        .pread = redact_pread,
        .ioctl = redact_ioctl,
        .stat = redact_stat,
        .close = redact_close,
        .here = redact_here,
        .mapped = redact_mapped,
        .ours = redact_ours,
        .table = redact_table,
        .ctx = r,
        .table_pages = kernel->table_pages,
    };
    if (make_room(&r->blocks) < 0) {
        pm__redactor_free(r);
        return NULL;
    }
    return r;
}

const struct pm__io *pm__redacted(struct pm__redactor *r)
{
    return &r->io;
}

void pm__redactor_free(struct pm__redactor *r)
{
    pm__block_free(r->blocks.slots);
    pm__block_free(r->blocks.real);
    pm__block_free(r);
}
