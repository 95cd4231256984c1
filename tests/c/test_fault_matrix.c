/* SPDX-License-Identifier: MIT
 *
 * Every kernel call of a capture, of every kind, fails with every error: what comes of it is
 * the error that it is, or a snapshot in which less is known, and never a false one.
 *
 * test_faults.c lets single calls fail in a small process; here calls are told apart by what
 * they are for, worlds are root's, an ordinary user's, and one so sparse that PAGEMAP_SCAN
 * walks it, and a call may fail for good.
 */
#include "check.h"
#include "fakeproc.h"

enum call { OPEN, PREAD, IOCTL, STAT, CLOSE, TABLE, CALLS };
static const char *const call_names[CALLS] = {"open", "pread", "ioctl", "stat", "close", "table"};

enum who { ROOT, USER, SPARSE, WORLDS };
static const char *const who_names[WORLDS] = {"root", "user", "sparse"};

enum { SMALL = 8, LARGE = 4096 + 8 }; /* pages; a mapping of 16 MiB may be sparse */

static struct fk_page heap[SMALL], text[SMALL], wide[LARGE];
static struct fk_mapping mappings[] = {
    {.start = 0x10000,
     .n = SMALL,
     .pages = text,
     .perms = "r-xp",
     .inode = 77,
     .major = 0xfe,
     .name = "/lib/x.so",
     .vmflags = "rd ex mr mw me"},
    {.start = 0x100000,
     .n = SMALL,
     .pages = heap,
     .perms = "rw-p",
     .name = "[heap]",
     .vmflags = "rd wr mr mw me ac"},
    {.start = 0x10000000, .n = LARGE, .pages = wide, .perms = "rw-p", .vmflags = "rd wr mr mw me"},
};
static const struct fk_world world = {.mappings = mappings, .n = 3};
static const char library[64] = "no ELF";

static void make_world(void)
{
    for (size_t i = 0; i < SMALL; i++) {
        text[i] = (struct fk_page){.what = FK_FILE, .frame = 100 + i, .mapcount = 3};
        heap[i] = (struct fk_page){.what = i % 3 ? FK_ANON : FK_ZERO,
                                   .frame = i % 3 ? 200 + i : 7,
                                   .mapcount = 1,
                                   .pte_dirty = i % 3};
    }
    for (size_t i = 0; i < LARGE; i += 500)
        wide[i] = wide[i + 1] = (struct fk_page){
            .what = FK_ANON, .frame = 1000 + i, .mapcount = 1, .pte_dirty = true, .young = i % 2};
    for (size_t i = 1; i < LARGE; i += 500)
        wide[i].frame++;
}

/* ---- a kernel that fails ------------------------------------------------------------------ */
static struct {
    struct fake fake;
    unsigned n[CALLS]; /* calls made, by kind */
    enum call call;    /* which fails: */
    unsigned at;       /* the so manieth, from 1; 0: none */
    bool for_good;     /* ... and all after it on files of that kind */
    int err;           /* errno; 0: a read is cut to half, -1: it ends the file */
    enum fk_kind of;   /* what it was for */
} k;

static bool strikes(enum call call, int fd, const char *path)
{
    unsigned n = ++k.n[call];
    size_t file;
    if (call != k.call || !k.at || n < k.at)
        return false;
    enum fk_kind kind = path ? fk_kind_of(&k.fake, path, &file) : k.fake.fds[fd - FK_FD0].kind;
    if (n == k.at)
        k.of = kind;
    return n == k.at || (k.for_good && kind == k.of);
}

static int failing_open(void *ctx, int dir, const char *path, int flags)
{
    return strikes(OPEN, 0, path) ? -k.err : fk_open(ctx, dir, path, flags);
}

static ssize_t failing_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    if (!strikes(PREAD, fd, NULL))
        return fk_pread(ctx, fd, buf, n, offset);
    if (k.err > 0)
        return -k.err;
    return k.err < 0 ? 0 : fk_pread(ctx, fd, buf, n > 16 ? n / 16 * 8 : n, offset);
}

static int failing_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
    return strikes(IOCTL, fd, NULL) ? -k.err : fk_ioctl(ctx, fd, request, arg);
}

static int failing_stat(void *ctx, int fd, struct pm__file *out)
{
    return strikes(STAT, fd, NULL) ? -k.err : fk_stat(ctx, fd, out);
}

static int failing_table(void *ctx, int fd, uint64_t address, size_t most, struct pm__table *out)
{
    return strikes(TABLE, fd, NULL) ? -k.err : fk_table(ctx, fd, address, most, out);
}

/* The descriptor is gone whatever close() says. */
static int failing_close(void *ctx, int fd)
{
    bool struck = strikes(CLOSE, fd, NULL);
    int rc = fk_close(ctx, fd);
    return struck ? -k.err : rc;
}

static void make_kernel(enum who who)
{
    struct fake *f = &k.fake;
    memset(&k, 0, sizeof k);
    fk_init(f, &world);
    f->show_frames = who == ROOT;
    f->no_kpage = who != ROOT;
    f->max_read = 3000;
    f->scan_regions = 3;
    f->scan_by_pass = true;
    if (who == SPARSE)
        f->status = "Name:\ta\nVmSize:\t 400000 kB\nVmHWM:\t 3000 kB\nVmRSS:\t 2000 kB\n";
    f->files[0] = (struct fk_file){
        .path = "/lib/x.so",
        .bytes = library,
        .n = sizeof library,
        .is = {.dev_major = 0xfe, .inode = 77, .mode = S_IFREG | 0755, .fstype = 0xef53}};
    f->n_files = 1;
    f->io.open = failing_open;
    f->io.pread = failing_pread;
    f->io.ioctl = failing_ioctl;
    f->io.stat = failing_stat;
    f->io.close = failing_close;
    f->io.table = failing_table;
    f->tables = true;
}

/* ---- what comes of it ---------------------------------------------------------------------- */
static unsigned snapshots, errors;
static char note[128];

static void check_truth(const pm_snapshot *snap)
{
    pm_columns c;
    pm_get_columns(snap, &c);
    const pm_header *h = pm_get_header(snap);
    for (size_t i = 0; i < c.n_mappings; i++) {
        size_t m = 0;
        while (m < world.n && mappings[m].start != c.mappings[i].start)
            m++;
        CHECK_IN(m < world.n, "%s: a mapping that never was", note);
        for (size_t p = 0; m < world.n && p < mappings[m].n; p++) {
            uint64_t vpn = mappings[m].start / FK_PAGE + p;
            bool open = c.mappings[i].raced_pages || c.mappings[i].trouble || !h->complete;
            if (fk_range(&c, i, vpn) < 0) {
                CHECK_IN(open || mappings[m].pages[p].what == FK_NONE,
                         "%s: mapping %zu page %zu is not listed", note, m, p);
                continue;
            }
            if (fk_fact(&c, i, vpn, PM_RACED) == 1)
                continue;
            for (int bit = 0; bit < PM_N_BITS; bit++) {
                int fact = fk_fact(&c, i, vpn, bit);
                CHECK_IN(fact < 0 || fact == fk_truth(&mappings[m], &mappings[m].pages[p], bit),
                         "%s: mapping %zu page %zu: %s is %d", note, m, p, fk_bit_names[bit], fact);
            }
        }
    }
    CHECK_IN(c.n_mappings == world.n || h->appeared || !h->complete || h->missed_pages,
             "%s: %zu mappings, said to be all", note, c.n_mappings);
}

static bool is_needed(enum fk_kind kind)
{
    return kind == FK_F_DIR || kind == FK_F_STAT || kind == FK_F_STATUS || kind == FK_F_MAPS ||
           kind == FK_F_SMAPS || kind == FK_F_PAGEMAP;
}

/* No descriptor left is an error wherever another answer would hide it. */
static bool no_room(int err)
{
    return err == EMFILE || err == ENFILE;
}

/* Errors that a fault may become, beside itself. */
static bool may_become(int code)
{
    if (k.err < 0) /* the end of a file: it has exited, executed, or reads as nonsense */
        return code == PM_E_GONE || code == PM_E_EXEC || code == PM_E_FORMAT || code == EIO;
    if (k.err == ESRCH || k.err == ENOENT) /* as if it had exited */
        return code == PM_E_GONE || code == PM_E_EXEC || code == k.err;
    return code == k.err;
}

static void check_outcome(int rc, const pm_error *err, const pm_snapshot *snap)
{
    bool struck = k.at && k.n[k.call] >= k.at;
    bool harmless = !struck || k.call == CLOSE || k.call == STAT || k.err == 0 ||
                    (k.call == TABLE && k.err != ESRCH) ||
                    (k.call == OPEN && !is_needed(k.of) && !no_room(k.err)) ||
                    (k.call == PREAD && !is_needed(k.of));
    CHECK_IN(rc == 0 || err->code == -rc, "%s: rc %d code %d", note, rc, err->code);
    CHECK_IN((rc == 0) == (snap != NULL), "%s: rc %d and a snapshot or not", note, rc);
    CHECK_IN(rc == 0 || !harmless, "%s (of %d): harmless, and rc %d", note, k.of, rc);
    CHECK_IN(rc == 0 || may_become(-rc), "%s (of %d): became %d", note, k.of, rc);
    CHECK_IN(rc == 0 || (err->stage != PM_AT_NOTHING && err->stage <= PM_AT_REQUEST),
             "%s: stage %d", note, err->stage);
    /* What is needed and fails for good is no snapshot. */
    bool fatal = struck && k.for_good && k.err > 0 && is_needed(k.of) &&
                 (k.call == OPEN || k.call == PREAD) && !(k.call == OPEN && k.of == FK_F_STATUS);
    fatal |= struck && k.call == OPEN && no_room(k.err) &&
             (k.of == FK_F_NUMA || k.of == FK_F_KFLAGS || k.of == FK_F_KCOUNT);
    CHECK_IN(rc < 0 || !fatal, "%s (of %d): a snapshot", note, k.of);
}

static void strike(enum who who, enum call call, unsigned at, int err, bool for_good)
{
    pm_snapshot *snap;
    pm_error e;
    make_kernel(who);
    k.call = call;
    k.at = at;
    k.err = err;
    k.for_good = for_good;
    snprintf(note, sizeof note, "%s: %s %u %s with %d", who_names[who], call_names[call], at,
             for_good ? "on" : "once", err);
    int rc = fk_capture(&k.fake, &snap, &e);
    CHECK_IN(fk_tidy(&k.fake), "%s: %u opened, %u closed, %u misused", note, k.fake.opens,
             k.fake.closes, k.fake.misuse);
    check_outcome(rc, &e, snap);
    snapshots += rc == 0;
    errors += rc < 0;
    if (rc < 0)
        return;
    check_truth(snap);
    pm_free(snap);
}

/* ---- the tests ------------------------------------------------------------------------------ */
static void matrix(enum who who)
{
    static const int faults[] = {EINTR,  EIO,    ENOMEM, EACCES, EPERM, ESRCH,
                                 ENOENT, EMFILE, EAGAIN, EBADF,  0,     -1};
    unsigned n[CALLS];
    strike(who, OPEN, 0, 0, false);
    memcpy(n, k.n, sizeof n);
    CHECK(n[OPEN] > 5 && n[PREAD] > 10 && n[CLOSE] > 5 && n[STAT] > 0);
    CHECK_IN(who != SPARSE || n[IOCTL] > 4, "%u ioctls", n[IOCTL]);
    CHECK_IN(n[TABLE] > 8, "%u page tables", n[TABLE]);
    for (int call = 0; call < CALLS; call++)
        for (unsigned at = 1; at <= n[call]; at++)
            for (size_t f = 0; f < sizeof faults / sizeof *faults; f++)
                for (int for_good = 0; for_good < 2; for_good++) {
                    if (faults[f] <= 0 && (call != PREAD || for_good))
                        continue; /* only reads are short or end; a short read ends never */
                    strike(who, (enum call)call, at, faults[f], for_good);
                }
}

static void as_root(void)
{
    matrix(ROOT);
}

static void as_user(void)
{
    matrix(USER);
}

static void sparse(void)
{
    if (!pm__features()->scan)
        return;
    matrix(SPARSE);
}

/* The main thread has ended and others go on: no zombie, and no memory to see. */
static void headless(void)
{
    static const char stat[] = "1 (a) Z 1 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 2 0 308687 31\n";
    pm_snapshot *snap;
    pm_error err;
    make_kernel(USER);
    k.fake.stat = stat;
    k.fake.status = "Name:\ta\n";
    CHECK_EQ(fk_capture(&k.fake, &snap, &err), -PM_E_HEADLESS);
    CHECK_EQ(err.stage, PM_AT_STAT);
    CHECK(fk_tidy(&k.fake));
}

int main(void)
{
    make_world();
    RUN(as_root);
    RUN(as_user);
    RUN(sparse);
    CHECK(snapshots > 500 && errors > 500);
    RUN(headless);
    return check_done();
}
