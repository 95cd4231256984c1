/* SPDX-License-Identifier: MIT
 *
 * record.c - a capture's raw kernel input, written down while it is read: a table of
 * kernel functions around redact.c's, which appends every call and its answer to a file.
 *
 * A capture may take several attempts.  Each begins the recording anew, so that it holds
 * the last one, of which the snapshot was made.
 */
#include "recording.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MAX_FILES 64
#define BUFFER ((size_t)256 * 1024)
#define MIN_RUN 4 /* entries; fewer are not worth two chunk heads */

struct file {
    int fd;
    uint32_t opened; /* number of its PM__R_OPEN */
    enum pm__role role;
};

struct recorder {
    const struct pm__io *io;
    struct pm__io own;
    const struct pm__sink *sink;
    const pm_request *request;
    const char *writer;
    struct file files[MAX_FILES];
    size_t n_files;
    uint32_t opened;
    uint64_t records, written;
    int failed; /* what the sink said; from then on nothing is read either */
    size_t held;
    unsigned char buffer[BUFFER];
};

/* ---- writing --------------------------------------------------------------------- */

static void flush(struct recorder *r)
{
    if (!r->failed && r->held)
        r->failed = r->sink->write(r->sink->ctx, r->buffer, r->held, r->written);
    r->written += r->held;
    r->held = 0;
}

static void put(struct recorder *r, const void *data, size_t n)
{
    const unsigned char *from = data;
    while (n && !r->failed) {
        size_t room = BUFFER - r->held, some = n < room ? n : room;
        memcpy(r->buffer + r->held, from, some);
        r->held += some;
        from += some;
        n -= some;
        if (r->held == BUFFER)
            flush(r);
    }
}

static void put_number(struct recorder *r, uint32_t v)
{
    unsigned char b[4];
    pm__put32(b, v);
    put(r, b, sizeof b);
}

static void put_word(struct recorder *r, uint64_t v)
{
    unsigned char b[8];
    pm__put64(b, v);
    put(r, b, sizeof b);
}

static void begin(struct recorder *r, enum pm__record_type type, size_t size)
{
    put_number(r, type);
    put_number(r, (uint32_t)size);
    r->records++;
}

static void put_file(struct recorder *r, enum pm__record_type type, uint32_t opened, int rc,
                     const struct pm__file *f)
{
    static const struct pm__file none;
    f = rc < 0 ? &none : f;
    begin(r, type, PM__FILE_SIZE);
    put_number(r, opened);
    put_number(r, (uint32_t)rc);
    put_number(r, f->dev_major);
    put_number(r, f->dev_minor);
    put_word(r, f->inode);
    put_number(r, f->mode);
    put_word(r, f->fstype);
}

/* ---- entries --------------------------------------------------------------------- */

bool pm__means_memory(uint64_t word)
{
    return word & (PM_PE_PRESENT | PM_PE_SWAP | PM_PE_GUARD);
}

/* How many of the words from the first on are one run, or are better written out. */
static uint32_t chunk(const uint64_t *w, uint32_t n, bool *run)
{
    uint32_t same = 1, lone;
    while (same < n && w[same] == w[0])
        same++;
    *run = same >= MIN_RUN && !pm__means_memory(w[0]);
    if (*run)
        return same;
    for (lone = same; lone < n; lone += same) {
        for (same = 1; lone + same < n && w[lone + same] == w[lone];)
            same++;
        if (same >= MIN_RUN && !pm__means_memory(w[lone]))
            break;
    }
    return lone;
}

static size_t size_of_chunks(const uint64_t *w, uint32_t n)
{
    size_t size = 0;
    bool run;
    for (uint32_t at = 0, some; at < n; at += some) {
        some = chunk(w + at, n - at, &run);
        size += 4 + (run ? 8 : (size_t)some * 8);
    }
    return size;
}

static void put_chunks(struct recorder *r, const uint64_t *w, uint32_t n)
{
    bool run;
    for (uint32_t at = 0, some; at < n; at += some) {
        some = chunk(w + at, n - at, &run);
        put_number(r, run ? some | PM__RUN : some);
        for (uint32_t k = at; k < (run ? at + 1 : at + some); k++)
            put_word(r, w[k]);
    }
}

static void put_words(struct recorder *r, uint32_t opened, uint64_t offset, const uint64_t *w,
                      uint32_t n)
{
    begin(r, PM__R_WORDS, PM__WORDS_SIZE + size_of_chunks(w, n));
    put_number(r, opened);
    put_number(r, n);
    put_word(r, offset);
    put_chunks(r, w, n);
}

/* ---- the table ------------------------------------------------------------------- */

static const struct file *file_of(const struct recorder *r, int fd)
{
    for (size_t i = 0; i < r->n_files; i++)
        if (r->files[i].fd == fd)
            return &r->files[i];
    return NULL;
}

static bool has_words(const struct file *f)
{
    return f->role == PM__ROLE_PAGEMAP || f->role == PM__ROLE_KPAGEFLAGS ||
           f->role == PM__ROLE_KPAGE;
}

static int record_open(void *ctx, int dir, const char *path, int flags)
{
    struct recorder *r = ctx;
    const struct file *parent = file_of(r, dir);
    if (r->failed || r->n_files == MAX_FILES)
        return r->failed ? r->failed : -EMFILE;
    int fd = r->io->open(r->io->ctx, dir, path, flags);
    begin(r, PM__R_OPEN, PM__OPEN_SIZE + strlen(path));
    put_number(r, parent ? parent->opened : PM__NO_PARENT);
    put_number(r, (flags & O_DIRECTORY ? PM__O_DIRECTORY : 0) | (flags & O_PATH ? PM__O_PATH : 0));
    put_number(r, fd < 0 ? (uint32_t)fd : 0);
    put(r, path, strlen(path));
    if (fd >= 0) {
        enum pm__role role = pm__role_of(parent ? &parent->role : NULL, path);
        r->files[r->n_files++] = (struct file){.fd = fd, .opened = r->opened, .role = role};
    }
    r->opened++;
    return fd;
}

static void record_read(struct recorder *r, const struct file *f, const void *buf, ssize_t got,
                        uint64_t offset)
{
    const char *from = buf;
    while (has_words(f) && got >= 8) {
        uint32_t n = got / 8 < PM__MOST_WORDS ? (uint32_t)(got / 8) : PM__MOST_WORDS;
        put_words(r, f->opened, offset, (const void *)from, n);
        got -= (ssize_t)n * 8;
        offset += (uint64_t)n * 8;
        from += (size_t)n * 8;
        if (got == 0)
            return;
    }
    begin(r, PM__R_BYTES, PM__BYTES_SIZE + (got > 0 ? (size_t)got : 0));
    put_number(r, f->opened);
    put_number(r, got > 0 ? 0 : got == 0 ? 1 : (uint32_t)got);
    put_word(r, offset);
    if (got > 0)
        put(r, from, (size_t)got);
}

static ssize_t record_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    struct recorder *r = ctx;
    const struct file *f = file_of(r, fd);
    if (r->failed || !f)
        return r->failed ? r->failed : -EBADF;
    ssize_t got = r->io->pread(r->io->ctx, fd, buf, n, offset);
    record_read(r, f, buf, got, offset);
    return got;
}

static int record_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    struct recorder *r = ctx;
    const struct file *f = file_of(r, fd);
    if (r->failed || !f || request != PM_IOC_SCAN)
        return r->failed ? r->failed : f ? -ENOTTY : -EBADF;
    struct pm_scan_arg *a = arg;
    int n = r->io->ioctl(r->io->ctx, fd, request, arg);
    const struct pm_scan_region *regions = (const void *)(uintptr_t)a->vec;
    const uint64_t asked[] = {a->flags,
                              a->start,
                              a->end,
                              a->walk_end,
                              a->vec_len,
                              a->max_pages,
                              a->category_inverted,
                              a->category_mask,
                              a->category_anyof_mask,
                              a->return_mask};
    begin(r, PM__R_SCAN, PM__SCAN_SIZE + (n > 0 ? (size_t)n * PM__REGION_SIZE : 0));
    put_number(r, f->opened);
    put_number(r, (uint32_t)n);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        put_word(r, asked[i]);
    for (int i = 0; i < n; i++) {
        put_word(r, regions[i].start);
        put_word(r, regions[i].end);
        put_word(r, regions[i].categories);
    }
    return n;
}

static int record_stat(void *ctx, int fd, struct pm__file *out)
{
    struct recorder *r = ctx;
    const struct file *f = file_of(r, fd);
    if (r->failed || !f)
        return r->failed ? r->failed : -EBADF;
    int rc = r->io->stat(r->io->ctx, fd, out);
    put_file(r, PM__R_STAT, f->opened, rc, out);
    return rc;
}

static int record_mapped(void *ctx, int fd, char *buf, size_t cap, struct pm__file *out)
{
    struct recorder *r = ctx;
    const struct file *f = file_of(r, fd);
    if (r->failed || !f)
        return r->failed ? r->failed : -EBADF;
    int rc = r->io->mapped(r->io->ctx, fd, buf, cap, out);
    put_file(r, PM__R_MAPPED, f->opened, rc, out);
    return rc;
}

/* Only what is ours is written down; of the rest a replay says that it is not. */
static bool record_ours(void *ctx, uint64_t start, uint64_t end, bool inherited)
{
    struct recorder *r = ctx;
    if (!r->io->ours(r->io->ctx, start, end, inherited))
        return false;
    begin(r, PM__R_OURS, PM__OURS_SIZE);
    put_word(r, start);
    put_word(r, end);
    put_number(r, inherited);
    return true;
}

static int record_table(void *ctx, int pagemap, uint64_t address, size_t most,
                        struct pm__table *out)
{
    struct recorder *r = ctx;
    const struct file *f = file_of(r, pagemap);
    if (r->failed || !f)
        return r->failed ? r->failed : -EBADF;
    int rc = r->io->table(r->io->ctx, pagemap, address, most, out);
    uint32_t n = rc < 0 ? 0 : (uint32_t)out->n;
    begin(r, PM__R_TABLE, PM__TABLE_SIZE + size_of_chunks(out->entry, n));
    put_number(r, f->opened);
    put_number(r, (uint32_t)rc);
    put_word(r, address);
    put_word(r, rc < 0 ? 0 : out->first);
    put_word(r, rc < 0 ? 0 : out->pages);
    put_chunks(r, out->entry, n);
    return rc;
}

static int record_close(void *ctx, int fd)
{
    struct recorder *r = ctx;
    for (size_t i = 0; i < r->n_files; i++) {
        if (r->files[i].fd == fd) {
            r->files[i] = r->files[--r->n_files];
            break;
        }
    }
    return r->io->close(r->io->ctx, fd);
}

/* Names end with a NUL each: the program that wrote it, the kernel's release, the machine. */
static void put_head(struct recorder *r, const struct pm__here *here)
{
    const pm_request *q = r->request;
    bool self = q->pid == 0 || q->pid == here->pid;
    struct utsname host = {.release = "", .machine = ""};
    uname(&host);
    const char *names[] = {r->writer, host.release, host.machine};
    size_t size = PM__HEAD_SIZE + q->n_extents * 16;
    for (size_t i = 0; i < 3; i++)
        size += strlen(names[i]) + 1;
    begin(r, PM__R_HEAD, size);
    put_word(r, here->page_size);
    put_word(r, (uint64_t)(self ? here->pid : q->pid));
    put_word(r, q->max_pages);
    put_number(r, (self ? PM__H_SELF : 0) | (q->stopper >= 0 ? PM__H_STOPPED : 0) |
                      (here->features.softdirty ? PM__H_SOFTDIRTY : 0) |
                      (here->features.guard ? PM__H_GUARD : 0) |
                      (here->features.scan ? PM__H_SCAN : 0) | (here->busy ? PM__H_BUSY : 0) |
                      (here->features.pte ? PM__H_PTE : 0) | (q->young ? PM__H_YOUNG : 0));
    put_number(r, (uint32_t)q->depth);
    put_number(r, (uint32_t)q->counters);
    put_number(r, (uint32_t)q->n_extents);
    put_word(r, r->io->table_pages);
    for (size_t i = 0; i < q->n_extents; i++) {
        put_word(r, q->extents[i].start);
        put_word(r, q->extents[i].end);
    }
    for (size_t i = 0; i < 3; i++)
        put(r, names[i], strlen(names[i]) + 1);
}

static void record_here(void *ctx, struct pm__here *out)
{
    struct recorder *r = ctx;
    unsigned char prefix[PM__PREFIX] = PM__MAGIC;
    const uint16_t version = htole16(PM__VERSION);
    r->io->here(r->io->ctx, out);
    if (!r->failed)
        r->failed = r->sink->clear(r->sink->ctx);
    r->held = 0;
    r->written = r->records = 0;
    r->opened = 0;
    memcpy(prefix + PM__MAGIC_SIZE, &version, sizeof version);
    put(r, prefix, sizeof prefix);
    put_head(r, out);
}

static void put_end(struct recorder *r, int rc, const pm_snapshot *snap)
{
    begin(r, PM__R_END, PM__END_SIZE);
    put_word(r, (uint64_t)-rc);
    put_word(r, snap ? snap->header.captured_ns : 0);
    put_word(r, snap ? snap->header.stopped_ns : 0);
    put_word(r, snap ? snap->header.hidden_rss : 0);
    put_word(r, r->records); /* itself among them: where it is cut short it shows */
    flush(r);
}

/* ---- the whole of it --------------------------------------------------------------- */

static int fail(pm_error *err, int code, const char *detail)
{
    memset(err, 0, sizeof *err);
    err->code = code;
    err->stage = PM_AT_RECORDING;
    strncpy(err->detail, detail, sizeof err->detail - 1);
    return -code;
}

static int capture(struct recorder *r, pm_snapshot **out, pm_error *err)
{
    int rc = pm__capture_with(&r->own, r->request, out, err);
    put_end(r, rc, rc < 0 ? NULL : *out);
    if (r->failed) {
        pm_free(*out);
        *out = NULL;
        return fail(err, -r->failed, "the recording could not be written");
    }
    if (rc == 0) /* not the kernel's numbers: no other snapshot's frames are to be held to them */
        (*out)->n_frames = 0;
    return rc;
}

int pm__record_with(const struct pm__io *io, const pm_request *request, const char *writer,
                    const struct pm__sink *sink, pm_snapshot **out, pm_error *err)
{
    *out = NULL;
    if (request->n_extents > UINT32_MAX / 32 || strlen(writer) > 256)
        return fail(err, EINVAL, "more than a recording has room for");
    struct pm__redactor *redactor = pm__redactor_new(io);
    struct recorder *r = redactor ? pm__block_new(sizeof *r) : NULL;
    int rc = r ? 0 : fail(err, ENOMEM, "");
    if (r) {
        r->io = pm__redacted(redactor);
        r->sink = sink;
        r->request = request;
        r->writer = writer;
        r->own = (struct pm__io){
            .open = record_open,
            .pread = record_pread,
            .ioctl = record_ioctl,
            .stat = record_stat,
            .close = record_close,
            .here = record_here,
            .mapped = record_mapped,
            .ours = record_ours,
            .table = record_table,
            .ctx = r,
            .table_pages = io->table_pages,
        };
        rc = capture(r, out, err);
    }
    pm__block_free(r);
    if (redactor)
        pm__redactor_free(redactor);
    return rc;
}

static int write_fd(void *ctx, const void *data, size_t n, uint64_t offset)
{
    const char *from = data;
    while (n) {
        ssize_t some = pwrite(*(const int *)ctx, from, n, (off_t)offset);
        if (some < 0 && errno != EINTR)
            return -errno;
        if (some == 0)
            return -EIO;
        if (some > 0) {
            from += some;
            offset += (uint64_t)some;
            n -= (size_t)some;
        }
    }
    return 0;
}

static int clear_fd(void *ctx)
{
    return ftruncate(*(const int *)ctx, 0) < 0 ? -errno : 0;
}

int pm_record(const pm_request *request, int32_t fd, const char *writer, pm_snapshot **out,
              pm_error *err)
{
    int file = fd;
    const struct pm__sink sink = {.write = write_fd, .clear = clear_fd, .ctx = &file};
    pm__find_out(request);
    return pm__record_with(&pm__kernel, request, writer, &sink, out, err);
}
