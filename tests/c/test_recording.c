/* SPDX-License-Identifier: MIT
 *
 * A recording replays to the very same snapshot, holds nothing that it may not hold, and does
 * no harm when it is broken.
 */
#include "check.h"
#include "fakeproc.h"
#include "recording.h"

#include <elf.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_MAPPINGS 6
#define N_PAGES 40
#define MUTANTS 12000
#define MANY ((size_t)16 << 20) /* bytes; an arena of 8 MiB may be kept */

/* Frames that no other number in a recording looks like. */
#define FRAME UINT64_C(0x5a3c96e10)

/* ---- a process ------------------------------------------------------------------------ */
static struct fk_page pages[N_MAPPINGS][N_PAGES];
static struct fk_mapping mappings[N_MAPPINGS] = {
    {.perms = "r-xp", .inode = 77, .major = 0xfe, .name = "/lib/x.so", .vmflags = "rd ex mr me"},
    {.perms = "rw-p", .inode = 77, .major = 0xfe, .name = "/lib/x.so", .vmflags = "rd wr mr me"},
    {.perms = "rw-p", .name = "[heap]", .vmflags = "rd wr mr mw me ac"},
    {.perms = "rw-s", .inode = 9, .minor = 1, .name = "/memfd:x (deleted)", .vmflags = "rd wr sh"},
    {.perms = "rw-p", .vmflags = "rd wr mr mw me ac lo", .lines = "Unheard: of\n"},
    {.perms = "r--p", .inode = 78, .major = 0xfe, .name = "/etc/secret", .vmflags = "rd mr mw me"}};
static struct fk_world world = {.mappings = mappings, .n = N_MAPPINGS};
static struct fake fake;

static unsigned char library[4096];
static const char secret[] =
    "hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 hunter2";

static void make_library(void)
{
    Elf64_Ehdr h = {.e_phoff = sizeof h, .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2};
    Elf64_Phdr p[] = {
        {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = 0x28000, .p_memsz = 0x28000},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W,
         .p_offset = 0x28000,
         .p_vaddr = 0x28000,
         .p_filesz = 0x28000,
         .p_memsz = 0x28000}};
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
    memset(library, 0xa5, sizeof library);
    memcpy(library, &h, sizeof h);
    memcpy(library + sizeof h, p, sizeof p);
}

/* Frames in several blocks, neighbours and not, in no order; folios whose tails say nothing. */
static uint64_t frame_of(size_t i, size_t k)
{
    uint64_t block = (i * 7919) % 5 + 3 * (k / 10);
    return FRAME + block * 512 + (i == 1 ? 500 - k : i * 64 + k);
}

static void make_process(void)
{
    static const enum fk_what what[N_MAPPINGS][5] = {
        {FK_FILE, FK_FILE, FK_NONE, FK_FILE, FK_FILE},
        {FK_ANON, FK_ANON, FK_FILE, FK_NONE, FK_FILE},
        {FK_ANON, FK_ZERO, FK_ANON, FK_SWAPPED, FK_NONE},
        {FK_FILE, FK_FILE, FK_FILE, FK_NONE, FK_NONE},
        {FK_SWAPPED, FK_GUARD, FK_NONE, FK_MIGRATING_ANON, FK_ANON},
        {FK_FILE, FK_FILE, FK_FILE, FK_FILE, FK_FILE}};
    for (size_t i = 0; i < N_MAPPINGS; i++) {
        mappings[i].start = 0x10000 + i * N_PAGES * FK_PAGE;
        mappings[i].offset = i == 1 ? 0x28000 : 0;
        mappings[i].n = N_PAGES;
        mappings[i].pages = pages[i];
        for (size_t k = 0; k < N_PAGES; k++)
            pages[i][k] = (struct fk_page){.what = i == 0 && k < 10 ? FK_NONE : what[i][k % 5],
                                           .frame = frame_of(i, k),
                                           .mapcount = i == 0 ? 3 : 1 + k % 2,
                                           .referenced = i == 0,
                                           .active = k % 3 == 0,
                                           .softdirty = k % 7 == 0,
                                           .head = i == 5 && k % 10 == 0,
                                           .tail = i == 5 && k % 10 != 0,
                                           .pte_dirty = what[i][k % 5] == FK_ANON || i == 3,
                                           .page_dirty = i == 0 && k == 0};
    }
}

static void add_file(const char *path, const void *bytes, size_t n, uint64_t inode)
{
    fake.files[fake.n_files++] = (struct fk_file){
        .path = path,
        .bytes = bytes,
        .n = n,
        .is = {.dev_major = 0xfe, .inode = inode, .mode = S_IFREG | 0755, .fstype = 0xef53}};
}

static void make_fake(bool frames)
{
    fk_init(&fake, &world);
    fake.show_frames = frames;
    fake.no_kpage = !frames;
    fake.max_read = 1500; /* so that every file takes several reads */
    fake.scan_regions = 1;
    fake.gone_errno = ESRCH;
    fake.stat = "99999999 (a (comm) b) S 4711 4711 4711 34816 4711 4194304 1 2 3 4 5 6 7 8 20 0 1 "
                "0 308687 1 2 3 94000 95000 140000 0 0 0 1 2 3 0 0 0 17 1 0 0\n";
    fake.status = "Name:\ta (comm) b\nUmask:\t0022\nState:\tS\nTgid:\t99999999\nPPid:\t4711\n"
                  "Uid:\t1234\t1234\t1234\t1234\nGroups:\t5678\nVmSize:\t  4000 kB\nVmHWM:\t  3000 "
                  "kB\nVmRSS:\t   2000 kB\nVmPTE:\t   44 kB\nVmSwap:\t     0 kB\nThreads:\t1\n"
                  "CapEff:\t000001ffffffffff\n";
    add_file("/lib/x.so", library, sizeof library, 77);
    add_file("/etc/secret", secret, sizeof secret, 78);
    fake.files[1].is.dev_major = 0; /* as on overlayfs: maps knows it by another device */
    fake.files[1].is.dev_minor = 33;
    fake.files[1].mapped = (struct pm__file){.dev_major = 0xfe, .inode = 78};
}

/* ---- recordings in memory ----------------------------------------------------------------- */
struct tape {
    unsigned char *data;
    size_t n, cap;
    unsigned calls, fail_at; /* number of the call that fails, from 1 */
    int fail_errno;
};

static int tape_fails(struct tape *t)
{
    return ++t->calls == t->fail_at ? -t->fail_errno : 0;
}

static int tape_write(void *ctx, const void *data, size_t n, uint64_t offset)
{
    struct tape *t = ctx;
    int rc = tape_fails(t);
    if (rc < 0)
        return rc;
    CHECK_EQ(offset, t->n);
    if (t->n + n > t->cap) {
        t->cap = 2 * (t->n + n);
        t->data = realloc(t->data, t->cap);
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
    return 0;
}

static int tape_clear(void *ctx)
{
    struct tape *t = ctx;
    t->n = 0;
    return tape_fails(t);
}

static const pm_request whole = {.pid = FK_PID, .depth = PM_FULL, .counters = 1, .stopper = -1};

static int record(struct tape *t, const pm_request *request, pm_snapshot **snap, pm_error *err)
{
    const struct pm__sink sink = {.write = tape_write, .clear = tape_clear, .ctx = t};
    return pm__record_with(&fake.io, request, "test 1.0", &sink, snap, err);
}

static bool has(const struct tape *t, const void *what, size_t n)
{
    return memmem(t->data, t->n, what, n) != NULL;
}

static bool same_column(const void *a, const void *b, size_t n, size_t each)
{
    return n == 0 || memcmp(a, b, n * each) == 0;
}

/* Every byte that a caller can see. */
static bool same(const pm_snapshot *x, const pm_snapshot *y)
{
    pm_columns a, b;
    pm_get_columns(x, &a);
    pm_get_columns(y, &b);
    return memcmp(pm_get_header(x), pm_get_header(y), sizeof(pm_header)) == 0 &&
           a.n_mappings == b.n_mappings && a.n_objects == b.n_objects && a.n_parts == b.n_parts &&
           a.n_strings == b.n_strings && a.n_ranges == b.n_ranges &&
           same_column(a.mappings, b.mappings, a.n_mappings, sizeof(pm_mapping)) &&
           same_column(a.objects, b.objects, a.n_objects, sizeof(pm_object)) &&
           same_column(a.parts, b.parts, a.n_parts, sizeof(pm_part)) &&
           same_column(a.strings, b.strings, a.n_strings, 1) &&
           same_column(a.page, b.page, a.n_ranges, 8) &&
           same_column(a.count, b.count, a.n_ranges, 8) &&
           same_column(a.set, b.set, a.n_ranges, 4) &&
           same_column(a.known, b.known, a.n_ranges, 4) &&
           same_column(a.mapcount_lo, b.mapcount_lo, a.n_ranges, 4) &&
           same_column(a.mapcount_hi, b.mapcount_hi, a.n_ranges, 4);
}

/* Records, replays, and holds one against the other. */
static int round_trip(struct tape *t, const pm_request *request, const char *note)
{
    pm_snapshot *live, *again;
    pm_error err, err_again;
    memset(&err, 0xee, sizeof err);
    t->n = 0;
    int rc = record(t, request, &live, &err);
    CHECK_IN(fk_tidy(&fake), "%s: %u opened, %u closed, %u misused", note, fake.opens, fake.closes,
             fake.misuse);
    for (int i = 0; i < FK_MAX_FDS; i++)
        free(fake.fds[i].text.s);
    unsigned calls = fake.calls;
    int rc_again = pm_replay(t->data, t->n, &again, &err_again);
    CHECK_IN(fake.calls == calls, "%s: the replay asked the kernel", note);
    CHECK_IN(rc == rc_again, "%s: %d, replayed %d: %s", note, rc, rc_again, err_again.detail);
    if (rc == 0 && rc_again == 0)
        CHECK_IN(same(live, again), "%s: another snapshot", note);
    else if (rc < 0 && rc_again < 0)
        CHECK_IN(err.stage == err_again.stage && strcmp(err.detail, err_again.detail) == 0,
                 "%s: %d %s, replayed %d %s", note, err.stage, err.detail, err_again.stage,
                 err_again.detail);
    CHECK_IN((rc < 0) == !live && (rc_again < 0) == !again, "%s: an error and a snapshot", note);
    pm_free(live);
    pm_free(again);
    return rc;
}

/* Lines of our own maps: a block that was not given back adds some. */
static unsigned own_mappings(void)
{
    unsigned n = 0;
    int c;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && (c = getc(f)) != EOF)
        n += c == '\n';
    if (f)
        fclose(f);
    return n;
}

/* ---- the same again ------------------------------------------------------------------------ */
static void with_and_without_frames(void)
{
    struct tape t = {0};
    for (int frames = 0; frames < 2; frames++) {
        make_fake(frames);
        CHECK_EQ(round_trip(&t, &whole, frames ? "frames" : "no frames"), 0);
    }
    free(t.data);
}

static void every_request(void)
{
    static const pm_extent some[] = {{0x12000, 0x20000}, {0x38000, 0x39000}, {0x60000, 0x90000}};
    struct tape t = {0};
    for (int depth = PM_TOTALS; depth <= PM_FULL; depth++) {
        for (int counters = 0; counters < 2; counters++) {
            pm_request q = {.pid = FK_PID, .depth = depth, .counters = counters, .stopper = -1};
            make_fake(true);
            round_trip(&t, &q, "all");
            make_fake(true);
            q.max_pages = 50;
            round_trip(&t, &q, "fifty pages");
            make_fake(true);
            q.extents = some;
            q.n_extents = 3;
            q.max_pages = 0;
            round_trip(&t, &q, "extents");
        }
    }
    free(t.data);
}

/* Under recording the engine sees other frames, and must come to the same. */
static void recording_changes_nothing(void)
{
    struct tape t = {0};
    for (int frames = 0; frames < 2; frames++) {
        pm_snapshot *plain, *recorded;
        pm_error err;
        make_fake(frames);
        CHECK_EQ(fk_capture(&fake, &plain, &err), 0);
        make_fake(frames);
        CHECK_EQ(record(&t, &whole, &recorded, &err), 0);
        recorded->header.captured_ns = plain->header.captured_ns;
        CHECK(same(plain, recorded));
        CHECK_EQ(recorded->n_frames, 0);
        pm_free(plain);
        pm_free(recorded);
    }
    free(t.data);
}

static struct pm__features elsewhere;

static void here_is_elsewhere(void *ctx, struct pm__here *out)
{
    (void)ctx;
    *out =
        (struct pm__here){.pid = 1, .page_size = FK_PAGE, .features = elsewhere, .busy = out->busy};
}

/* What the kernel could say is the recording's to tell, not this host's. */
static void another_kernel(void)
{
    struct tape t = {0};
    for (unsigned bits = 0; bits < 16; bits++) {
        pm_snapshot *live;
        pm_error err;
        elsewhere = (struct pm__features){
            .softdirty = bits & 1, .guard = bits & 2, .scan = bits & 4, .deep = bits & 8};
        make_fake(true);
        fake.io.here = here_is_elsewhere;
        CHECK_EQ(round_trip(&t, &whole, "features"), 0);
        CHECK_EQ(pm_replay(t.data, t.n, &live, &err), 0);
        pm_columns c;
        pm_get_columns(live, &c);
        bool known = c.known[0] & PM_BIT(PM_SOFTDIRTY);
        CHECK_EQ(known, elsewhere.softdirty);
        pm_free(live);
    }
    free(t.data);
}

/* Its page faults are in what is kept of stat: of a busy target no more is concluded. */
static void faults_are_told(void)
{
    struct tape t = {0};
    pm_snapshot *plain, *recorded;
    pm_error err;
    for (int recording = 0; recording < 2; recording++) {
        make_fake(true);
        fake.stat = NULL;
        fake.faults = 7;
        CHECK_EQ(recording ? record(&t, &whole, &recorded, &err) : fk_capture(&fake, &plain, &err),
                 0);
    }
    CHECK_EQ(pm_get_header(recorded)->faults, 7);
    recorded->header.captured_ns = plain->header.captured_ns;
    CHECK(same(plain, recorded));
    pm_free(plain);
    pm_free(recorded);
    make_fake(true);
    fake.stat = NULL;
    fake.faults = 7;
    CHECK_EQ(round_trip(&t, &whole, "faults"), 0);
    free(t.data);
}

static unsigned attempts;

static void calm_down(void *ctx, struct pm__here *out)
{
    fk_here(ctx, out);
    if (++attempts == 3) /* asked once before the first attempt */
        fake.faults = 0;
}

/* What another attempt had found out before is not in its own input. */
static void busy_before(void)
{
    struct tape t = {0};
    make_fake(false);
    fake.stat = NULL;
    fake.faults = 7;
    fake.io.here = calm_down;
    attempts = 0;
    CHECK_EQ(round_trip(&t, &whole, "busy before"), 0);
    CHECK_EQ(attempts, 3);
    CHECK(pm__get32(t.data + PM__PREFIX + PM__RECORD_HEAD + 24) & PM__H_BUSY);
    free(t.data);
}

/* More than there is room for at first: how it is made is not part of the recording. */
static void many_mappings(void)
{
    enum { N = 3000 };
    static struct fk_page page = {.what = FK_ANON, .frame = FRAME, .mapcount = 1};
    static struct fk_mapping many[N];
    const struct fk_world crowd = {.mappings = many, .n = N};
    struct tape t = {0};
    for (size_t i = 0; i < N; i++)
        many[i] = (struct fk_mapping){.start = (i + 1) * 2 * FK_PAGE,
                                      .n = 1,
                                      .pages = &page,
                                      .perms = "rw-p",
                                      .name = "[anon:a name of some length, for the strings]",
                                      .vmflags = "rd wr mr mw me ac"};
    make_fake(true);
    fake.max_read = 0;
    for (int i = 0; i < FK_MOMENTS; i++)
        fake.at[i] = &crowd;
    CHECK_EQ(round_trip(&t, &whole, "many mappings"), 0);
    free(t.data);
}

/* A tracer is not asked again: it has answered. */
static int fake_tracer(int fd)
{
    static const struct pm__held held[64];
    return send(fd, held, sizeof held, 0) == sizeof held;
}

static void stopped(void)
{
    int ends[2];
    struct tape t = {0};
    pm_request q = whole;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    CHECK(fake_tracer(ends[1]));
    q.stopper = ends[0];
    make_fake(true);
    CHECK_EQ(round_trip(&t, &q, "stopped"), 0);
    close(ends[0]);
    close(ends[1]);
    free(t.data);
}

/* As much is read of a real process that stands still as was recorded. */
static void stopped_for_real(void)
{
    int ends[2], hold[2];
    pm_snapshot *live, *again = NULL;
    pm_error err;
    FILE *f = tmpfile();
    CHECK(pipe(hold) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(hold[1]);
        _exit((int)read(hold[0], &byte, 1));
    }
    CHECK(fake_tracer(ends[1]));
    const pm_request q = {.pid = child, .depth = PM_FULL, .counters = 1, .stopper = ends[0]};
    CHECK_EQ(pm_record(&q, fileno(f), "test 1.0", &live, &err), 0);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    unsigned char *data = malloc(n);
    CHECK_EQ(pread(fileno(f), data, n, 0), n);
    CHECK_EQ(pm_replay(data, n, &again, &err), 0);
    CHECK_IN(live && again && same(live, again), "%s", err.detail);
    CHECK(live && pm_get_header(live)->stopped_ns);
    pm_free(live);
    pm_free(again);
    free(data);
    fclose(f);
    close(hold[0]);
    close(hold[1]);
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

static void every_fault(void)
{
    static const struct {
        enum fk_fault fault;
        int err;
        const char *name;
    } faults[] = {{FK_ERRNO, EIO, "EIO"},      {FK_ERRNO, EACCES, "EACCES"},
                  {FK_ERRNO, ESRCH, "ESRCH"},  {FK_ERRNO, ENOENT, "ENOENT"},
                  {FK_SHORT, 0, "short read"}, {FK_EOF, 0, "end of file"},
                  {FK_DIE, ESRCH, "exit"},     {FK_DIE, ENOENT, "exit, no entry"},
                  {FK_ZOMBIE, 0, "zombie"},    {FK_EXEC, 0, "exec"}};
    struct tape t = {0};
    make_fake(true);
    round_trip(&t, &whole, "no fault");
    unsigned calls = fake.calls, mapped = own_mappings(), good = 0, bad = 0;
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) {
        for (unsigned i = 1; i <= calls; i++) {
            char note[64];
            snprintf(note, sizeof note, "%s at call %u", faults[k].name, i);
            make_fake(true);
            fake.fault = faults[k].fault;
            fake.fail_at = i;
            fake.fail_errno = fake.gone_errno = faults[k].err;
            if (round_trip(&t, &whole, note) < 0)
                bad++;
            else
                good++;
        }
    }
    CHECK(good > calls && bad > calls);
    CHECK_IN(own_mappings() <= mapped + 1, "%u mappings, then %u", mapped, own_mappings());
    free(t.data);
}

/* What moves is told as in the capture itself: the two readings are kept apart. */
static void races(void)
{
    static struct fk_page later_pages[N_PAGES];
    static struct fk_mapping later_mappings[N_MAPPINGS];
    static struct fk_world later = {.mappings = later_mappings, .n = N_MAPPINGS};
    struct tape t = {0};
    pm_snapshot *live;
    pm_error err;
    memcpy(later_mappings, mappings, sizeof mappings);
    memcpy(later_pages, pages[2], sizeof later_pages);
    later_mappings[2].pages = later_pages;
    later_pages[0].frame = FRAME + 99 * 512;
    later_pages[4] = (struct fk_page){.what = FK_ANON, .frame = FRAME + 98 * 512, .mapcount = 1};
    make_fake(true);
    fake.at[FK_PAGEMAP2] = fake.at[FK_SMAPS2] = fake.at[FK_NUMA2] = &later;
    CHECK_EQ(round_trip(&t, &whole, "races"), 0);
    CHECK_EQ(pm_replay(t.data, t.n, &live, &err), 0);
    pm_columns c;
    pm_get_columns(live, &c);
    CHECK_EQ(c.mappings[2].raced_pages, 2);
    pm_free(live);
    free(t.data);
}

/* ---- what is in it --------------------------------------------------------------------------- */
static bool names_frame(const struct tape *t, uint64_t frame)
{
    uint64_t as_offset = frame * 8;
    return has(t, &frame, 5) || has(t, &as_offset, 5);
}

/* Neither a frame of the process, nor where it is in kpageflags, nor the number of its block. */
static void no_frame_is_in_it(void)
{
    struct tape t = {0};
    make_fake(true);
    fake.max_read = 0;
    CHECK_EQ(round_trip(&t, &whole, "hygiene"), 0);
    CHECK(fake.calls > 30);
    for (size_t i = 0; i < N_MAPPINGS; i++)
        for (size_t k = 0; k < N_PAGES; k++)
            CHECK_IN(!names_frame(&t, frame_of(i, k)) && !names_frame(&t, frame_of(i, k) / 512),
                     "the frame of mapping %zu page %zu", i, k);
    for (uint64_t near = FRAME - 1024; near < FRAME + 40 * 512; near++)
        CHECK_IN(!names_frame(&t, near), "frame %#llx", (unsigned long long)near);
    free(t.data);
}

static void nor_what_else_was_blanked(void)
{
    struct tape t = {0};
    make_fake(true);
    fake.max_read = 0;
    CHECK_EQ(round_trip(&t, &whole, "contents"), 0);
    CHECK(!has(&t, "hunter2", 7));
    CHECK(!has(&t, "4711", 4)); /* parent, group, session, terminal */
    CHECK(!has(&t, "1234", 4) && !has(&t, "5678", 4) && !has(&t, "CapEff", 6));
    CHECK(!has(&t, "140000", 6) && !has(&t, "94000", 5)); /* where code and stack begin */
    CHECK(!has(&t, library + 500, 16));
    CHECK(has(&t, library, sizeof(Elf64_Ehdr))); /* its headers, and all that map is of */
    CHECK(has(&t, "/etc/secret", 11) && has(&t, "a (comm) b", 10) && has(&t, "308687", 6));
    free(t.data);
}

/* A file of the target's may be called anything. */
static void files_by_where_they_are(void)
{
    const enum pm__role process = PM__ROLE_PROCESS, root = PM__ROLE_ROOT, text = PM__ROLE_TEXT;
    CHECK_EQ(pm__role_of(NULL, "/proc/self"), PM__ROLE_PROCESS);
    CHECK_EQ(pm__role_of(NULL, "/proc/self/environ"), PM__ROLE_OBJECT);
    CHECK_EQ(pm__role_of(NULL, "/proc/thread-self/stat"), PM__ROLE_STAT);
    CHECK_EQ(pm__role_of(NULL, "/etc/passwd"), PM__ROLE_OBJECT);
    CHECK_EQ(pm__role_of(NULL, "/proc/kpagecgroup"), PM__ROLE_KPAGE);
    CHECK_EQ(pm__role_of(&process, "maps"), PM__ROLE_TEXT);
    CHECK_EQ(pm__role_of(&process, "environ"), PM__ROLE_OBJECT);
    CHECK_EQ(pm__role_of(&process, "root"), PM__ROLE_ROOT);
    CHECK_EQ(pm__role_of(&root, "maps"), PM__ROLE_OBJECT);
    CHECK_EQ(pm__role_of(&root, "root"), PM__ROLE_OBJECT);
    CHECK_EQ(pm__role_of(&text, "stat"), PM__ROLE_OBJECT);
}

/* Whatever the engine asks for, it is given headers alone; and of a lie of a header no more. */
static void no_bytes_of_files(void)
{
    Elf64_Ehdr lie;
    unsigned char bytes[sizeof library], forged[sizeof library];
    memcpy(forged, library, sizeof forged);
    memcpy(&lie, forged, sizeof lie);
    lie.e_phnum = UINT16_MAX;
    memcpy(forged, &lie, sizeof lie);
    make_fake(true);
    add_file("/lib/forged.so", forged, sizeof forged, 79);
    struct pm__redactor *r = pm__redactor_new(&fake.io);
    const struct pm__io *io = pm__redacted(r);
    struct pm__here here;
    io->here(io->ctx, &here);
    static const struct {
        const char *path;
        size_t shown;
    } cases[] = {{"lib/x.so", sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr)},
                 {"lib/forged.so", sizeof(Elf64_Ehdr)},
                 {"etc/secret", 0}};
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY);
    int root = io->open(io->ctx, dir, "root", O_PATH);
    for (size_t i = 0; i < 3; i++) {
        int fd = io->open(io->ctx, root, cases[i].path, O_RDONLY);
        ssize_t got = pm__pread_full(io, fd, bytes, sizeof bytes, 0);
        CHECK(got > 0);
        for (ssize_t k = 0; k < got; k++)
            CHECK_IN(bytes[k] == ((size_t)k < cases[i].shown ? library[k] : 0) ||
                         (i == 1 && (size_t)k < cases[i].shown),
                     "%s: byte %zd is %#x", cases[i].path, k, bytes[k]);
        io->close(io->ctx, fd);
    }
    CHECK_EQ(io->ioctl(io->ctx, 0, 0x1234, NULL), -ENOTTY);
    io->close(io->ctx, root);
    io->close(io->ctx, dir);
    CHECK(fk_tidy(&fake));
    pm__redactor_free(r);
}

/* Of frames that no page was met in it says what the kernel says of a hole. */
static void blocks(void)
{
    uint64_t w[2048], seen = 0;
    make_fake(true);
    fake.max_read = 0;
    struct pm__redactor *r = pm__redactor_new(&fake.io);
    const struct pm__io *io = pm__redacted(r);
    struct pm__here here;
    io->here(io->ctx, &here);
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY);
    int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    int flags = io->open(io->ctx, AT_FDCWD, "/proc/kpageflags", O_RDONLY);
    int counts = io->open(io->ctx, AT_FDCWD, "/proc/kpagecount", O_RDONLY);
    CHECK_EQ(pm__pread_full(io, flags, w, sizeof w, 0), sizeof w);
    for (size_t i = 0; i < 2048; i++)
        CHECK_EQ(w[i], PM_KPF_NOPAGE);
    for (size_t i = 0; i < N_MAPPINGS; i++) {
        uint64_t e[N_PAGES], f, n;
        CHECK_EQ(pm__pread_full(io, map, e, sizeof e, mappings[i].start / FK_PAGE * 8), sizeof e);
        for (size_t k = 0; k < N_PAGES; k++) {
            const struct fk_page *p = &pages[i][k];
            uint64_t frame = e[k] & PM_PE_PFN_MASK;
            if (!fk_present(p)) {
                CHECK_EQ(frame, 0); /* nor where it is in swap */
                continue;
            }
            CHECK_EQ(frame % 512, p->frame % 512);
            CHECK(frame >= 512);
            CHECK_EQ(io->pread(io->ctx, flags, &f, 8, frame * 8), 8);
            CHECK_EQ(f, fk_kpageflags(p));
            CHECK_EQ(io->pread(io->ctx, counts, &n, 8, frame * 8), 8);
            CHECK_EQ(n, fk_normal(p) ? p->mapcount : 0);
            seen = frame / 512 > seen ? frame / 512 : seen;
        }
    }
    CHECK(seen > 3);
    /* One read over all of them, and beyond: block by block. */
    size_t all = (seen + 2) * 512;
    uint64_t *whole_range = malloc(all * 8);
    CHECK_EQ(pm__pread_full(io, flags, whole_range, all * 8, 0), all * 8);
    for (size_t i = 0; i < 512; i++)
        CHECK(whole_range[i] == PM_KPF_NOPAGE &&
              whole_range[(seen + 1) * 512 + i] == PM_KPF_NOPAGE);
    free(whole_range);
    CHECK_EQ(io->pread(io->ctx, flags, w, 12, 0), -EINVAL);
    io->close(io->ctx, map);
    io->close(io->ctx, dir);
    io->close(io->ctx, flags);
    io->close(io->ctx, counts);
    pm__redactor_free(r);
    CHECK(fk_tidy(&fake));
}

/* More blocks than the first table holds. */
static int many_open(void *ctx, int dir, const char *path, int flags)
{
    (void)ctx, (void)dir, (void)flags;
    return strcmp(path, "pagemap") == 0 ? 3 : strcmp(path, "/proc/1") == 0 ? 5 : 4;
}

static ssize_t many_pread(void *ctx, int fd, void *buf, size_t n, uint64_t offset)
{
    uint64_t *w = buf;
    (void)ctx;
    for (size_t i = 0; i < n / 8; i++) /* each page in a block of its own; flags say which frame */
        w[i] = fd == 3 ? PM_PE_PRESENT | ((offset / 8 + i) * 1024 + 7) : offset / 8 + i;
    return (ssize_t)n;
}

static void many_here(void *ctx, struct pm__here *out)
{
    (void)ctx;
    *out = (struct pm__here){.pid = 1, .page_size = 4096};
}

static void many_blocks(void)
{
    enum { N = 50000 };
    static const struct pm__io kernel = {
        .open = many_open, .pread = many_pread, .here = many_here, .close = NULL};
    static uint64_t e[N];
    struct pm__redactor *r = pm__redactor_new(&kernel);
    const struct pm__io *io = pm__redacted(r);
    struct pm__here here;
    unsigned wrong = 0;
    io->here(io->ctx, &here);
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/1", O_RDONLY);
    int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    int flags = io->open(io->ctx, AT_FDCWD, "/proc/kpageflags", O_RDONLY);
    for (int pass = 0; pass < 2; pass++) {
        CHECK_EQ(io->pread(io->ctx, map, e, sizeof e, 8), sizeof e);
        for (uint64_t i = 0; i < N; i++) {
            uint64_t f = 0, frame = e[i] & PM_PE_PFN_MASK;
            io->pread(io->ctx, flags, &f, 8, frame * 8);
            wrong += frame != (i + 1) * 512 + 7 || f != (i + 1) * 1024 + 7;
        }
    }
    CHECK_EQ(wrong, 0);
    pm__redactor_free(r);
}

/* ---- the sink ----------------------------------------------------------------------------- */
static void the_sink_fails(void)
{
    static const int errors[] = {ENOSPC, EIO, ENOMEM};
    struct tape t = {0};
    pm_snapshot *snap;
    pm_error err;
    make_fake(true);
    CHECK_EQ(record(&t, &whole, &snap, &err), 0);
    pm_free(snap);
    unsigned calls = t.calls, mapped = own_mappings();
    CHECK(calls >= 2);
    for (size_t k = 0; k < 3; k++) {
        for (unsigned i = 1; i <= calls; i++) {
            make_fake(true);
            t.calls = 0;
            t.fail_at = i;
            t.fail_errno = errors[k];
            memset(&err, 0xee, sizeof err);
            CHECK_EQ(record(&t, &whole, &snap, &err), -errors[k]);
            CHECK(err.code == errors[k] && err.stage == PM_AT_RECORDING && !snap);
            CHECK(fk_tidy(&fake));
        }
    }
    CHECK_IN(own_mappings() <= mapped + 1, "%u mappings, then %u", mapped, own_mappings());
    free(t.data);
}

/* Into a file that held more, of which nothing stays. */
static void into_a_file(void)
{
    static char junk[1 << 20];
    pm_snapshot *live, *again;
    pm_error err;
    const pm_request ourselves = {.depth = PM_FULL, .counters = 1, .stopper = -1};
    FILE *f = tmpfile();
    fwrite(junk, 1, sizeof junk, f);
    fflush(f);
    CHECK_EQ(pm_record(&ourselves, fileno(f), "test 1.0", &live, &err), 0);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    unsigned char *data = malloc(n);
    CHECK_EQ(pread(fileno(f), data, n, 0), n);
    CHECK_EQ(pm_replay(data, n, &again, &err), 0);
    CHECK(live && again && same(live, again));
    CHECK(live && pm_get_header(live)->self && pm_get_header(live)->hidden_rss);
    if (live) {
        pm_columns c;
        pm_get_columns(live, &c);
        for (size_t i = 0; i < c.n_mappings; i++) /* the recorder's memory is not listed either */
            CHECK(!pm__is_ours(c.mappings[i].start, c.mappings[i].end, false));
    }
    pm_free(live);
    pm_free(again);
    free(data);
    fclose(f);
    int read_only = open("/dev/null", O_RDONLY);
    CHECK(pm_record(&ourselves, read_only, "test 1.0", &live, &err) < 0);
    CHECK_EQ(err.stage, PM_AT_RECORDING);
    close(read_only);
}

/* ---- read by another version ---------------------------------------------------------------- */
/* Any piece of what was read is there, of the reading that it belongs to. */
static void in_other_pieces(void)
{
    struct tape t = {0};
    struct pm__replay *r;
    pm_error err;
    struct rng rng = {1};
    make_fake(true);
    fake.max_read = 0;
    CHECK_EQ(round_trip(&t, &whole, "to be read otherwise"), 0);
    uint64_t first = mappings[0].start / FK_PAGE, n = N_MAPPINGS * N_PAGES;
    uint64_t entries[N_MAPPINGS * N_PAGES];
    for (int round = 0; round < 300; round++) {
        CHECK_EQ(pm__replay_new(t.data, t.n, &r, &err), 0);
        const struct pm__io *io = pm__replayed(r);
        struct pm__here here;
        io->here(io->ctx, &here);
        int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY | O_DIRECTORY);
        int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
        CHECK(dir >= 0 && map >= 0);
        for (uint64_t at = 0, some; at < n; at += some) {
            some = 1 + rng_below(&rng, 60);
            some = some < n - at ? some : n - at;
            CHECK_EQ(pm__pread_full(io, map, entries + at, some * 8, (first + at) * 8), some * 8);
        }
        for (size_t k = 0; k < n; k++) {
            const struct fk_page *p = &pages[k / N_PAGES][k % N_PAGES];
            CHECK_EQ(entries[k] & ~PM_PE_PFN_MASK, fk_entry(&fake, p) & ~PM_PE_PFN_MASK);
        }
        pm__replay_free(r);
    }
    free(t.data);
}

/* A word of pagemap that reads otherwise the second time: the n-th reading gets the n-th. */
static void in_the_same_order(void)
{
    static struct fk_page later_pages[N_PAGES];
    static struct fk_mapping later_mappings[N_MAPPINGS];
    static struct fk_world later = {.mappings = later_mappings, .n = N_MAPPINGS};
    struct tape t = {0};
    struct pm__replay *r;
    pm_error err;
    memcpy(later_mappings, mappings, sizeof mappings);
    memcpy(later_pages, pages[3], sizeof later_pages);
    later_mappings[3].pages = later_pages;
    later_pages[1].what = FK_NONE;
    make_fake(false);
    fake.at[FK_PAGEMAP2] = &later;
    CHECK_EQ(round_trip(&t, &whole, "in order"), 0);
    CHECK_EQ(pm__replay_new(t.data, t.n, &r, &err), 0);
    const struct pm__io *io = pm__replayed(r);
    struct pm__here here;
    uint64_t e[4], at = (mappings[3].start / FK_PAGE + 1) * 8;
    io->here(io->ctx, &here);
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY | O_DIRECTORY);
    int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    for (int i = 0; i < 4; i++) {
        uint64_t end;
        CHECK_EQ(io->pread(io->ctx, map, &e[i], 8, at), 8);
        CHECK_EQ(io->pread(io->ctx, map, &end, 8, (mappings[5].start / FK_PAGE + 39) * 8), 8);
    }
    CHECK(e[0] & PM_PE_PRESENT);
    CHECK(e[1] == 0 && e[2] == 0 && e[3] == 0); /* the last one is repeated */
    /* Page by page, all of the first reading comes before any of the second. */
    io->here(io->ctx, &here);
    dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY | O_DIRECTORY);
    map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t vpn = mappings[0].start / FK_PAGE; vpn < at / 8; vpn++)
            CHECK_EQ(io->pread(io->ctx, map, &e[2], 8, vpn * 8), 8);
        CHECK_EQ(io->pread(io->ctx, map, &e[pass], 8, at), 8);
        for (uint64_t vpn = at / 8 + 1; vpn < mappings[5].start / FK_PAGE + N_PAGES; vpn++)
            CHECK_EQ(io->pread(io->ctx, map, &e[2], 8, vpn * 8), 8);
    }
    CHECK((e[0] & PM_PE_PRESENT) && e[1] == 0);
    pm__replay_free(r);
    free(t.data);
}

static void what_was_not_read(void)
{
    struct tape t = {0};
    struct pm__replay *r;
    pm_snapshot *snap;
    pm_error err;
    uint64_t word;
    make_fake(false);
    CHECK_EQ(round_trip(&t, &whole, "not read"), 0);
    CHECK_EQ(pm__replay_new(t.data, t.n, &r, &err), 0);
    const struct pm__io *io = pm__replayed(r);
    struct pm__here here;
    io->here(io->ctx, &here);
    int dir = io->open(io->ctx, AT_FDCWD, "/proc/99999999", O_RDONLY | O_DIRECTORY);
    int map = io->open(io->ctx, dir, "pagemap", O_RDONLY);
    CHECK_EQ(io->pread(io->ctx, map, &word, 8, 0), -EIO);
    CHECK_EQ(io->open(io->ctx, dir, "environ", O_RDONLY), -EIO);
    CHECK_EQ(io->open(io->ctx, AT_FDCWD, "pagemap", O_RDONLY), -EIO);
    CHECK_EQ(io->open(io->ctx, 7, "pagemap", O_RDONLY), -EIO);
    CHECK_EQ(io->pread(io->ctx, 3, &word, 8, 0), -EBADF);
    CHECK_EQ(io->close(io->ctx, 3), -EBADF);
    pm__replay_free(r);
    /* The same recording, of which only the depth is claimed to be another. */
    unsigned char *depth = t.data + PM__PREFIX + PM__RECORD_HEAD + 28;
    CHECK_EQ(*depth, PM_FULL);
    *depth = PM_PAGES;
    CHECK_EQ(pm_replay(t.data, t.n, &snap, &err), -PM_E_FORMAT);
    CHECK_EQ(err.stage, PM_AT_RECORDING);
    CHECK_IN(strstr(err.detail, "does not hold") && strstr(err.detail, "maps") &&
                 strstr(err.detail, "test 1.0"),
             "%s", err.detail);
    free(t.data);
}

/* ---- broken ones ------------------------------------------------------------------------------- */
static unsigned refused, read_well;

static void try_broken(const unsigned char *data, size_t n, const char *note, unsigned round)
{
    pm_snapshot *snap;
    pm_error err;
    unsigned char *exact = malloc(n ? n : 1); /* for AddressSanitizer to see its end */
    memcpy(exact, data, n);
    memset(&err, 0xee, sizeof err);
    int rc = pm_replay(exact, n, &snap, &err);
    CHECK_IN((rc == 0) == (snap != NULL) && (rc == 0 || err.code == -rc) &&
                 memchr(err.detail, '\0', sizeof err.detail),
             "%s %u: %d %d", note, round, rc, err.code);
    refused += rc < 0;
    read_well += rc == 0;
    pm_free(snap);
    free(exact);
}

static void cut_short(void)
{
    struct tape t = {0};
    make_fake(true);
    CHECK_EQ(round_trip(&t, &whole, "cut"), 0);
    refused = 0;
    for (size_t n = 0; n < t.n; n += n < 300 || n + 300 > t.n ? 1 : 7)
        try_broken(t.data, n, "cut", (unsigned)n);
    CHECK_EQ(read_well, 0);
    CHECK(refused > 1000);
    t.data = realloc(t.data, t.n + 1);
    t.data[t.n] = 0;
    try_broken(t.data, t.n + 1, "with one byte more", 0);
    CHECK_EQ(read_well, 0);
    free(t.data);
}

/* Where records begin: most of what can go wrong is in their heads. */
static size_t heads(const struct tape *t, size_t *at, size_t cap)
{
    size_t n = 0;
    for (size_t p = PM__PREFIX; p + PM__RECORD_HEAD <= t->n && n < cap;
         p += PM__RECORD_HEAD + pm__get32(t->data + p + 4))
        at[n++] = p;
    return n;
}

static void put_odd_number(struct rng *rng, unsigned char *p, size_t room)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   0x7fffffff,
                                   0x80000000,
                                   0xffffffff,
                                   0x80010000,
                                   UINT64_C(1) << 63,
                                   UINT64_MAX,
                                   UINT64_MAX - 7,
                                   UINT64_C(1) << 47,
                                   4096};
    uint64_t v = htole64(odd[rng_below(rng, sizeof odd / sizeof *odd)]);
    size_t n = rng_once_in(rng, 2) ? 4 : 8;
    memcpy(p, &v, n < room ? n : room);
}

static void put_odd_text(struct rng *rng, unsigned char *p, size_t room)
{
    static const char *const odd[] = {
        "ffffffffffffffff", "-", "0", "7fffffffffff", "\n",    " ", "99999999999999",
        "VmRSS:",           "(", ")", "kB",           "\\012", "\t"};
    const char *s = odd[rng_below(rng, sizeof odd / sizeof *odd)];
    size_t n = strlen(s);
    memcpy(p, s, n < room ? n : room);
}

/* The first record of a type that `fits` (all, if NULL); its data, behind the head. */
static unsigned char *record_of(struct tape *t, uint32_t type, bool (*fits)(const unsigned char *))
{
    size_t at[8192], n = heads(t, at, 8192);
    for (size_t i = 0; i < n; i++)
        if (pm__get32(t->data + at[i]) == type && (!fits || fits(t->data + at[i] + 8)))
            return t->data + at[i] + PM__RECORD_HEAD;
    CHECK_FAIL("no record of type %u", type);
    return NULL;
}

static bool has_regions(const unsigned char *p)
{
    return (int32_t)pm__get32(p + 4) > 0;
}

static bool has_run(const unsigned char *p)
{
    return pm__get32(p + PM__WORDS_SIZE) & PM__RUN;
}

static bool has_text(const unsigned char *p)
{
    return pm__get32(p + 4) == 0;
}

static bool at_end(const unsigned char *p)
{
    return pm__get32(p + 4) == 1;
}

static bool has_failed(const unsigned char *p)
{
    return (int32_t)pm__get32(p + 8) < 0;
}

/* Each by itself is refused, before anything of it is believed. */
static void each_lie(void)
{
    static const struct {
        const char *name;
        uint32_t type;
        bool (*fits)(const unsigned char *);
        int at, size; /* behind the record's head; before it where negative */
        uint64_t value;
    } lies[] = {
        {"no page size", PM__R_HEAD, NULL, 0, 8, 0},
        {"an odd page size", PM__R_HEAD, NULL, 0, 8, 4097},
        {"a vast page size", PM__R_HEAD, NULL, 0, 8, UINT64_C(1) << 40},
        {"no pid", PM__R_HEAD, NULL, 8, 8, 0},
        {"a negative pid", PM__R_HEAD, NULL, 8, 8, UINT64_MAX},
        {"extents beyond the record", PM__R_HEAD, NULL, 36, 4, 1000},
        {"extents beyond all bounds", PM__R_HEAD, NULL, 36, 4, UINT32_MAX},
        {"a vast huge page", PM__R_HEAD, NULL, 40, 8, UINT64_MAX},
        {"a second head", PM__R_STAT, NULL, -8, 4, PM__R_HEAD},
        {"a type of its own", PM__R_STAT, NULL, -8, 4, 77},
        {"a directory of later", PM__R_OPEN, NULL, 0, 4, 1000},
        {"a result that is a success", PM__R_OPEN, NULL, 8, 4, 1},
        {"a result that is no error", PM__R_OPEN, NULL, 8, 4, 0x80000000},
        {"an answer of no file", PM__R_BYTES, NULL, 0, 4, 1000},
        {"text of the failure", PM__R_BYTES, has_text, 4, 4, 0xffffffff},
        {"text of the end", PM__R_BYTES, has_text, 4, 4, 1},
        {"text that wraps around", PM__R_BYTES, has_text, 8, 8, UINT64_MAX},
        {"no text, and no end", PM__R_BYTES, at_end, 4, 4, 0},
        {"no text, and no error", PM__R_BYTES, at_end, 4, 4, 7},
        {"no entries", PM__R_WORDS, NULL, 4, 4, 0},
        {"other entries", PM__R_WORDS, NULL, 4, 4, 5},
        {"entries at an odd place", PM__R_WORDS, NULL, 8, 8, 4},
        {"entries that wrap around", PM__R_WORDS, NULL, 8, 8, UINT64_MAX - 7},
        {"an empty chunk", PM__R_WORDS, NULL, PM__WORDS_SIZE, 4, 0},
        {"a chunk beyond the record", PM__R_WORDS, has_run, PM__WORDS_SIZE, 4, 0x7fffffff},
        {"a run of too many", PM__R_WORDS, has_run, PM__WORDS_SIZE, 4, UINT32_MAX},
        {"a run of pages", PM__R_WORDS, has_run, PM__WORDS_SIZE + 4, 8, PM_PE_PRESENT},
        {"more regions than there are", PM__R_SCAN, has_regions, 4, 4, 1000},
        {"a scan that is no error", PM__R_SCAN, has_regions, 4, 4, 0x80000000},
        {"regions of a failure", PM__R_SCAN, has_regions, 4, 4, 0xffffffff},
        {"a scan beyond its end", PM__R_SCAN, has_regions, 8 + 8 * 3, 8, UINT64_MAX},
        {"no room for regions", PM__R_SCAN, has_regions, 8 + 8 * 4, 8, 0},
        {"a region below the start", PM__R_SCAN, has_regions, PM__SCAN_SIZE, 8, 0},
        {"a region without pages", PM__R_SCAN, has_regions, PM__SCAN_SIZE + 8, 8, 0},
        {"a region beyond the end", PM__R_SCAN, has_regions, PM__SCAN_SIZE + 8, 8, ~4095ull},
        {"a region of half a page", PM__R_SCAN, has_regions, PM__SCAN_SIZE + 8, 2, 0x801},
        {"a state that is a success", PM__R_STAT, NULL, 4, 4, 1},
        {"a record that is too short", PM__R_STAT, NULL, -4, 4, 4},
        {"a record beyond the end", PM__R_STAT, NULL, -4, 4, UINT32_MAX},
        {"another number of records", PM__R_END, NULL, 32, 8, 3},
    };
    struct tape t = {0};
    make_fake(true);
    fake.max_read = 0;
    /* Something to be asked of PAGEMAP_SCAN, and something that fails. */
    fake.no_kpage = true;
    fake.show_frames = false;
    CHECK_EQ(round_trip(&t, &whole, "lies"), 0);
    read_well = 0;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct tape broken = t;
        broken.data = malloc(t.n);
        memcpy(broken.data, t.data, t.n);
        unsigned char *p = record_of(&broken, lies[i].type, lies[i].fits);
        uint64_t v = htole64(lies[i].value);
        if (p)
            memcpy(p + lies[i].at, &v, (size_t)lies[i].size);
        try_broken(broken.data, broken.n, lies[i].name, 0);
        CHECK_IN(read_well == 0, "%s was believed", lies[i].name);
        read_well = 0;
        free(broken.data);
    }
    free(t.data);
}

/* Answers where there is no room for one, or of a file that could not be opened. */
static void no_answers(void)
{
    struct tape t = {0};
    make_fake(true);
    CHECK_EQ(round_trip(&t, &whole, "answers"), 0);
    size_t at[8192], n = heads(&t, at, 8192), end = at[n - 1], length = t.n;
    uint32_t failed = 0;
    for (size_t i = 0; i < n; i++) {
        if (pm__get32(t.data + at[i]) != PM__R_OPEN)
            continue;
        if (has_failed(t.data + at[i] + PM__RECORD_HEAD))
            break;
        failed++;
    }
    read_well = 0;
    for (uint32_t type = PM__R_BYTES; type <= PM__R_OURS; type++) {
        for (uint32_t size = 0; size < 100; size++) {
            static unsigned char more[PM__RECORD_HEAD + 100];
            unsigned char *data = malloc(length + sizeof more);
            memset(more, 0, sizeof more);
            pm__put32(more, type);
            pm__put32(more + 4, size);
            pm__put32(more + 8, failed);
            size_t extra = PM__RECORD_HEAD + size;
            memcpy(data, t.data, end);
            memcpy(data + end, more, extra);
            memcpy(data + end + extra, t.data + end, length - end);
            pm__put64(data + length + extra - 8, n + 1);
            try_broken(data, length + extra, "no answer", type * 100 + size);
            CHECK_IN(read_well == (type == PM__R_OURS && size == PM__OURS_SIZE), "type %u size %u",
                     type, size);
            read_well = 0;
            free(data);
        }
    }
    free(t.data);
}

static void append(struct tape *t, const void *data, size_t n)
{
    tape_write(t, data, n, t->n);
}

/* The same recording with another text in place of smaps. */
static void retell(const struct tape *from, struct tape *to, const char *smaps, size_t len)
{
    size_t at[8192], n = heads(from, at, 8192);
    uint32_t opens = 0, told = UINT32_MAX;
    uint64_t records = 0;
    to->n = 0;
    append(to, from->data, PM__PREFIX);
    for (size_t i = 0; i < n; i++) {
        const unsigned char *p = from->data + at[i];
        uint32_t type = pm__get32(p), size = pm__get32(p + 4);
        if (type == PM__R_OPEN && size == PM__OPEN_SIZE + 5 && memcmp(p + 20, "smaps", 5) == 0)
            told = opens;
        opens += type == PM__R_OPEN;
        if (type == PM__R_BYTES && pm__get32(p + 8) == told)
            continue;
        append(to, p, PM__RECORD_HEAD + size);
        records++;
        if (type != PM__R_OPEN || told != opens - 1)
            continue;
        unsigned char head[PM__RECORD_HEAD + PM__BYTES_SIZE] = {PM__R_BYTES};
        for (int part = 0; part < 2; part++) {
            pm__put32(head + 4, (uint32_t)(PM__BYTES_SIZE + (part ? 0 : len)));
            pm__put32(head + 8, told);
            pm__put32(head + 12, (uint32_t)part);
            pm__put64(head + 16, part ? len : 0);
            append(to, head, sizeof head);
            append(to, smaps, part ? 0 : len);
            records++;
        }
    }
    pm__put64(to->data + to->n - 8, records);
}

/* One page table, told of as a thousand's. */
static void the_same_pages_over_and_over(void)
{
    enum { N = 2000 };
    static struct fk_page none[N];
    static const char *const lines[] = {"00100000-008d0000 rw-p 00000000 00:00 0\n",
                                        "10000000-107d0000 rw-p 00000000 00:00 0\n"};
    struct fk_mapping two[] = {{.start = 0x100000, .n = N, .pages = none, .perms = "rw-p"},
                               {.start = 0x10000000, .n = N, .pages = none, .perms = "rw-p"}};
    const struct fk_world empty = {.mappings = two, .n = 2};
    struct tape t = {0}, told = {0};
    struct fk_text text = {0};
    pm_snapshot *snap;
    pm_error err;
    make_fake(true);
    fake.max_read = 0;
    for (int i = 0; i < FK_MOMENTS; i++)
        fake.at[i] = &empty;
    CHECK_EQ(round_trip(&t, &whole, "over"), 0);
    CHECK(t.n < 10000); /* 4000 entries, alike */
    for (int i = 0; i < 1000; i++)
        fk_printf(&text, "%s", lines[i % 2]);
    size_t each = text.n / 1000;
    retell(&t, &told, text.s, 2 * each);
    CHECK_EQ(pm_replay(told.data, told.n, &snap, &err), 0);
    pm_free(snap);
    /* Again is not too much, but no process is like that. */
    retell(&t, &told, text.s, 3 * each);
    CHECK_EQ(pm_replay(told.data, told.n, &snap, &err), -PM_E_FORMAT);
    CHECK_IN(strstr(err.detail, "overlap"), "%s", err.detail);
    retell(&t, &told, text.s, 1000 * each);
    CHECK_EQ(pm_replay(told.data, told.n, &snap, &err), -PM_E_FORMAT);
    CHECK_IN(strstr(err.detail, "does not hold so much"), "%s", err.detail);
    free(text.s);
    free(t.data);
    free(told.data);
}

/* Records gone, doubled, or changed places; the count at the end is put right. */
static void move_records(struct rng *rng, struct tape *t)
{
    size_t at[4096], n = heads(t, at, 4096);
    if (n < 4)
        return; /* broken before */
    size_t i = 1 + rng_below(rng, (uint32_t)n - 2);
    size_t size = PM__RECORD_HEAD + pm__get32(t->data + at[i] + 4);
    uint64_t records = n - 1;
    if (rng_once_in(rng, 2)) { /* twice */
        if (t->n + size > t->cap)
            return;
        memmove(t->data + at[i] + size, t->data + at[i], t->n - at[i]);
        t->n += size;
        records = n + 1;
    } else {
        memmove(t->data + at[i], t->data + at[i] + size, t->n - at[i] - size);
        t->n -= size;
    }
    pm__put64(t->data + t->n - 8, records);
}

static void mutate(struct rng *rng, struct tape *t)
{
    size_t at[4096], n = heads(t, at, 4096), where = rng_below(rng, (uint32_t)t->n);
    if (rng_once_in(rng, 2))
        where = at[rng_below(rng, (uint32_t)n)] + rng_below(rng, 40);
    where = where < t->n ? where : t->n - 1;
    switch (rng_below(rng, 5)) {
    case 0:
        t->data[where] ^= (unsigned char)(1u << rng_below(rng, 8));
        break;
    case 1:
        put_odd_number(rng, t->data + where, t->n - where);
        break;
    case 2:
        put_odd_text(rng, t->data + where, t->n - where);
        break;
    case 3:
        t->data[where] = (unsigned char)('0' + rng_below(rng, 10));
        break;
    default:
        move_records(rng, t);
    }
}

/* Refused, or read as something: never more memory than there is reason for, never a hang. */
static void mutants(void)
{
    struct rng rng = {2007};
    size_t ours = pm__ours();
    refused = read_well = 0;
    for (unsigned round = 0; round < MUTANTS; round++) {
        static struct tape t;
        struct tape broken;
        if (round % 3000 == 0) {
            t.n = 0;
            make_fake(round / 3000 != 1);
            fake.max_read = round / 3000 == 2 ? 0 : 1500;
            CHECK_EQ(round_trip(&t, &whole, "to be broken"), 0);
        }
        broken = t;
        broken.cap = t.n + 65536;
        broken.data = malloc(broken.cap);
        memcpy(broken.data, t.data, t.n);
        for (uint32_t k = 1 + rng_below(&rng, 3); k; k--)
            mutate(&rng, &broken);
        try_broken(broken.data, broken.n, "mutant", round);
        free(broken.data);
        if (round == MUTANTS - 1)
            free(t.data);
    }
    CHECK_IN(refused > MUTANTS / 10 && read_well > MUTANTS / 10, "%u refused, %u read", refused,
             read_well);
    CHECK_IN(pm__ours() < ours + MANY, "%zu bytes, then %zu", ours, pm__ours());
}

/* What it takes is bounded by what is in the file, not by what the file says. */
static void tall_tales(void)
{
    struct tape t = {0};
    pm_snapshot *snap;
    pm_error err;
    make_fake(true);
    fake.max_read = 0;
    CHECK_EQ(round_trip(&t, &whole, "tall"), 0);
    unsigned char *rss = memmem(t.data, t.n, "VmRSS:\t   2000", 14);
    CHECK(rss != NULL);
    if (rss)
        memcpy(rss, "VmRSS:99999999", 14); /* 95 GiB, for which there would be an arena of 1 GiB */
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    CHECK_EQ(pm_replay(t.data, t.n, &snap, &err), 0);
    getrusage(RUSAGE_SELF, &after);
    CHECK_IN(after.ru_maxrss - before.ru_maxrss < 100 << 10, "%ld KiB",
             after.ru_maxrss - before.ru_maxrss);
    pm_free(snap);
    free(t.data);
}

static void foreign(void)
{
    static const char *const texts[] = {"", "{}", "\x89PNG\r\n\x1a\n", "\x89PMAPS-REC", PM__MAGIC};
    pm_snapshot *snap;
    pm_error err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK_EQ(pm_replay(texts[i], strlen(texts[i]), &snap, &err), -PM_E_FORMAT);
        CHECK_EQ(err.stage, PM_AT_RECORDING);
        CHECK(err.detail[0]);
    }
    unsigned char later[PM__PREFIX + 1] = PM__MAGIC;
    later[PM__MAGIC_SIZE] = PM__VERSION + 1;
    CHECK_EQ(pm_replay(later, sizeof later, &snap, &err), -PM_E_FORMAT);
    CHECK(strstr(err.detail, "format") != NULL);
}

int main(void)
{
    make_library();
    make_process();
    RUN(with_and_without_frames);
    RUN(every_request);
    RUN(recording_changes_nothing);
    RUN(another_kernel);
    RUN(faults_are_told);
    RUN(busy_before);
    RUN(many_mappings);
    RUN(stopped);
    RUN(stopped_for_real);
    RUN(every_fault);
    RUN(races);
    RUN(no_frame_is_in_it);
    RUN(nor_what_else_was_blanked);
    RUN(files_by_where_they_are);
    RUN(no_bytes_of_files);
    RUN(blocks);
    RUN(many_blocks);
    RUN(the_sink_fails);
    RUN(into_a_file);
    RUN(in_other_pieces);
    RUN(in_the_same_order);
    RUN(what_was_not_read);
    RUN(cut_short);
    RUN(each_lie);
    RUN(no_answers);
    RUN(the_same_pages_over_and_over);
    RUN(mutants);
    RUN(tall_tales);
    RUN(foreign);
    return check_done();
}
