/* SPDX-License-Identifier: MIT
 *
 * Every kernel call of a capture fails once, in every way: what comes back is an error or
 * a snapshot, never a wrong one, and nothing is left behind.
 */
#include "check.h"
#include "fakeproc.h"

#include <elf.h>

#define N_MAPPINGS 5
#define N_PAGES 6

struct process {
    struct fk_world world;
    struct fk_mapping mappings[N_MAPPINGS];
    struct fk_page pages[N_MAPPINGS][N_PAGES];
};

static unsigned char library[sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr)];

static void make_library(void)
{
    Elf64_Ehdr h = {.e_phoff = sizeof h, .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2};
    Elf64_Phdr p[] = {
        {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = 0x6000, .p_memsz = 0x6000},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W,
         .p_offset = 0x6000,
         .p_vaddr = 0x6000,
         .p_filesz = 0x6000,
         .p_memsz = 0x6000}};
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
    memcpy(library, &h, sizeof h);
    memcpy(library + sizeof h, p, sizeof p);
}

/* A library's text and data, a heap with a zero page, memory shared, memory locked away. */
static void make_process(struct process *p, uint64_t base, uint64_t frame)
{
    static const enum fk_what what[N_MAPPINGS][N_PAGES] = {
        {FK_FILE, FK_FILE, FK_NONE, FK_FILE, FK_FILE, FK_FILE},
        {FK_ANON, FK_ANON, FK_FILE, FK_NONE, FK_FILE, FK_ANON},
        {FK_ANON, FK_ZERO, FK_ANON, FK_ANON, FK_NONE, FK_ZERO},
        {FK_FILE, FK_FILE, FK_FILE, FK_NONE, FK_NONE, FK_NONE},
        {FK_SWAPPED, FK_GUARD, FK_NONE, FK_ANON, FK_ANON, FK_GUARD}};
    static const struct fk_mapping kinds[N_MAPPINGS] = {
        {.perms = "r-xp",
         .inode = 77,
         .major = 0xfe,
         .name = "/lib/x.so",
         .vmflags = "rd ex mr mw me"},
        {.perms = "rw-p",
         .inode = 77,
         .major = 0xfe,
         .name = "/lib/x.so",
         .vmflags = "rd wr mr mw me ac"},
        {.perms = "rw-p", .name = "[heap]", .vmflags = "rd wr mr mw me ac"},
        {.perms = "rw-s",
         .inode = 9,
         .minor = 1,
         .name = "/memfd:x (deleted)",
         .vmflags = "rd wr sh mr mw me ms"},
        {.perms = "rw-p", .vmflags = "rd wr mr mw me ac lo", .lines = "Unheard: of\n"}};
    for (size_t i = 0; i < N_MAPPINGS; i++) {
        p->mappings[i] = kinds[i];
        p->mappings[i].start = base + i * N_PAGES * FK_PAGE;
        p->mappings[i].offset = i == 1 ? 0x6000 : 0;
        p->mappings[i].n = N_PAGES;
        p->mappings[i].pages = p->pages[i];
        for (size_t k = 0; k < N_PAGES; k++)
            p->pages[i][k] = (struct fk_page){.what = what[i][k],
                                              .frame = frame + i * N_PAGES + k,
                                              .mapcount = i == 0 ? 3 : 1,
                                              .referenced = i == 0,
                                              .pte_dirty = what[i][k] == FK_ANON || i == 3,
                                              .page_dirty = i == 0 && k == 0};
    }
    p->world = (struct fk_world){.mappings = p->mappings, .n = N_MAPPINGS};
}

static struct process before, after_exec;
static struct fake fake;

static void make_fake(bool frames)
{
    fk_init(&fake, &before.world);
    fake.after_exec = &after_exec.world;
    fake.show_frames = frames;
    fake.no_kpage = !frames;
    fake.max_read = 1500; /* so that every file takes several reads */
    fake.scan_regions = 1;
    fake.files[0] = (struct fk_file){
        .path = "/lib/x.so",
        .bytes = library,
        .n = sizeof library,
        .is = {.dev_major = 0xfe, .inode = 77, .mode = S_IFREG | 0755, .fstype = 0xef53}};
    fake.n_files = 1;
}

/* ---- held against the truth ------------------------------------------------------------- */
static const struct fk_mapping *true_mapping(const struct fk_world *w, uint64_t start)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->mappings[i].start == start)
            return &w->mappings[i];
    return NULL;
}

static void check_object(const pm_columns *c, const char *note)
{
    for (size_t i = 0; i < c->n_objects; i++) {
        const pm_object *o = &c->objects[i];
        bool failed = o->status == PM_ELF_UNREADABLE || o->status == PM_ELF_REPLACED ||
                      (o->status == PM_ELF_NOT && fake.fault == FK_EOF);
        CHECK_IN(o->inode != 77 || (o->status == PM_ELF_OK && o->n_parts == 2) || failed,
                 "%s: status %d of the library", note, o->status);
    }
}

static void check_pages(const pm_columns *c, size_t i, const struct fk_mapping *m,
                        const pm_header *h, const char *note)
{
    for (size_t k = 0; k < m->n; k++) {
        const struct fk_page *p = &m->pages[k];
        uint64_t vpn = m->start / FK_PAGE + k;
        long r = fk_range(c, i, vpn);
        if (r < 0)
            CHECK_IN(p->what == FK_NONE || c->mappings[i].raced_pages || !h->complete,
                     "%s: mapping %zu page %zu is not listed", note, i, k);
        if (r < 0 || fk_fact(c, i, vpn, PM_RACED) == 1)
            continue;
        for (int bit = 0; bit < PM_N_BITS; bit++) {
            int fact = fk_fact(c, i, vpn, bit);
            CHECK_IN(fact < 0 || fact == fk_truth(m, p, bit), "%s: mapping %zu page %zu: %s is %d",
                     note, i, k, fk_bit_names[bit], fact);
        }
    }
}

/* A range that could have been merged with the one before it. */
static void check_merged(const pm_columns *c, const char *note)
{
    for (size_t i = 0; i < c->n_mappings; i++) {
        const pm_mapping *m = &c->mappings[i];
        for (size_t r = m->first_range + 1; r < (size_t)m->first_range + m->n_ranges; r++)
            CHECK_IN(c->page[r] != c->page[r - 1] + c->count[r - 1] || c->set[r] != c->set[r - 1] ||
                         c->known[r] != c->known[r - 1] ||
                         c->mapcount_lo[r] != c->mapcount_lo[r - 1] ||
                         c->mapcount_hi[r] != c->mapcount_hi[r - 1],
                     "%s: mapping %zu: two equal ranges side by side", note, i);
    }
}

static void check_snapshot(const pm_snapshot *snap, const char *note)
{
    const pm_header *h = pm_get_header(snap);
    pm_columns c;
    size_t met = 0;
    pm_get_columns(snap, &c);
    /* Either program, as long as it is one of them: exec may have come after the last look. */
    bool of_new = c.n_mappings && c.mappings[0].start >= after_exec.mappings[0].start;
    const struct fk_world *w = of_new ? &after_exec.world : &before.world;
    CHECK_IN(!of_new || fake.generation, "%s: the program of later", note);
    for (size_t i = 0; i < c.n_mappings; i++) {
        const struct fk_mapping *m = true_mapping(w, c.mappings[i].start);
        CHECK_IN(m != NULL, "%s: a mapping that never was", note);
        if (!m)
            continue;
        met++;
        check_pages(&c, i, m, h, note);
    }
    CHECK_IN(met == w->n || h->appeared || !h->complete, "%s: %zu of %zu mappings, said complete",
             note, met, w->n);
    CHECK_IN(h->raced_pages == 0, "%s: raced, though nothing moved", note);
    check_object(&c, note);
    check_merged(&c, note);
}

static unsigned snapshots, errors;

static void strike(const char *note)
{
    pm_snapshot *snap = NULL;
    pm_error err;
    memset(&err, 0xee, sizeof err);
    int rc = fk_capture(&fake, &snap, &err);
    CHECK_IN(fk_tidy(&fake), "%s: %u opened, %u closed, %u misused", note, fake.opens, fake.closes,
             fake.misuse);
    for (int i = 0; i < FK_MAX_FDS; i++) /* what a leak left: not of interest twice */
        free(fake.fds[i].text.s);
    CHECK_IN(rc <= 0 && rc != -ENOBUFS, "%s: rc %d", note, rc);
    if (rc < 0) {
        errors++;
        CHECK_IN(err.code == -rc && memchr(err.detail, '\0', sizeof err.detail),
                 "%s: rc %d, code %d", note, rc, err.code);
        CHECK_IN(snap == NULL, "%s: an error and a snapshot", note);
        return;
    }
    snapshots++;
    check_snapshot(snap, note);
    pm_free(snap);
}

/* Lines of our own maps: a block or an arena that was not given back adds some. */
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

/* ---- the tests ----------------------------------------------------------------------------- */
static unsigned calls_of_a_capture(bool frames)
{
    make_fake(frames);
    strike("no fault");
    CHECK_EQ(snapshots, 1);
    CHECK(fake.calls > 30);
    return fake.calls;
}

static void every_call_fails(void)
{
    static const struct {
        enum fk_fault fault;
        int err;
        const char *name;
    } faults[] = {
        {FK_ERRNO, EIO, "EIO"},       {FK_ERRNO, EACCES, "EACCES"}, {FK_ERRNO, ESRCH, "ESRCH"},
        {FK_ERRNO, ENOMEM, "ENOMEM"}, {FK_ERRNO, ENOENT, "ENOENT"}, {FK_ERRNO, EINVAL, "EINVAL"},
        {FK_SHORT, 0, "short read"},  {FK_EOF, 0, "end of file"},   {FK_DIE, ESRCH, "exit"},
        {FK_DIE, ENOENT, "exit "},    {FK_ZOMBIE, 0, "zombie"},     {FK_EXEC, 0, "exec"},
    };
    for (int frames = 0; frames < 2; frames++) {
        snapshots = errors = 0;
        unsigned calls = calls_of_a_capture(frames), mappings = own_mappings();
        for (size_t k = 0; k < sizeof faults / sizeof *faults; k++)
            for (unsigned i = 1; i <= calls; i++) {
                char note[64];
                snprintf(note, sizeof note, "%s at call %u%s", faults[k].name, i,
                         frames ? ", with frames" : "");
                make_fake(frames);
                fake.fault = faults[k].fault;
                fake.fail_at = i;
                fake.fail_errno = fake.gone_errno = faults[k].err;
                strike(note);
            }
        CHECK(snapshots > calls && errors > calls);
        /* A sanitizer's own memory may come to be in a few more pieces. */
        CHECK_IN(own_mappings() <= mappings + 4, "%u mappings, then %u", mappings, own_mappings());
    }
}

/* The end of the target is told as what it was. */
static void ends_are_named(void)
{
    static const struct {
        enum fk_fault fault;
        int code;
    } cases[] = {{FK_DIE, PM_E_GONE}, {FK_ZOMBIE, 0}};
    for (size_t k = 0; k < 2; k++) {
        make_fake(false);
        pm_snapshot *snap;
        pm_error err;
        int rc = fk_capture(&fake, &snap, &err);
        unsigned calls = fake.calls;
        CHECK_EQ(rc, 0);
        pm_free(snap);
        for (unsigned i = 1; i <= calls; i++) {
            make_fake(false);
            fake.fault = cases[k].fault;
            fake.fail_at = i;
            rc = fk_capture(&fake, &snap, &err);
            if (rc == 0)
                pm_free(snap);
            else
                CHECK_IN(rc == -PM_E_GONE || (cases[k].fault == FK_ZOMBIE && rc == -PM_E_ZOMBIE),
                         "call %u: rc %d stage %d", i, rc, err.stage);
        }
    }
}

/* Exec once: the new program is captured, whole, and nothing of the old one. */
static void exec_captures_the_new_program(void)
{
    unsigned of_new = 0;
    make_fake(false);
    strike("no fault");
    unsigned calls = fake.calls;
    for (unsigned i = 2; i <= calls; i++) {
        pm_snapshot *snap;
        pm_error err;
        make_fake(false);
        fake.fault = FK_EXEC;
        fake.fail_at = i;
        if (fk_capture(&fake, &snap, &err) < 0) {
            CHECK_FAIL("call %u: code %d stage %d", i, err.code, err.stage);
            continue;
        }
        pm_columns c;
        pm_get_columns(snap, &c);
        CHECK_EQ(c.n_mappings, N_MAPPINGS);
        for (size_t k = 0; k < c.n_mappings; k++) /* cut short in the last reading: CHANGED */
            CHECK_IN(!(c.mappings[k].trouble & ~(uint32_t)PM_T_CHANGED), "call %u: trouble %#x", i,
                     c.mappings[k].trouble);
        of_new += c.n_mappings && c.mappings[0].start == after_exec.mappings[0].start;
        pm_free(snap);
    }
    CHECK(of_new > calls / 2);
}

/* ---- what cannot be captured ------------------------------------------------------------------ */
static void refusals(void)
{
    static const struct {
        const char *name, *stat, *status;
        int code;
    } cases[] = {
        {"no comm", "1 2 3", NULL, PM_E_FORMAT},
        {"comm only", "1 (a)", NULL, PM_E_FORMAT},
        {"comm the wrong way round", "1 )a( S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", NULL,
         PM_E_FORMAT},
        {"too few fields", "1 (a) S 1 2 3", NULL, PM_E_FORMAT},
        {"a start time that is none", "1 (a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 x", NULL,
         PM_E_FORMAT},
        {"empty stat", "", NULL, PM_E_FORMAT},
        {"a kernel thread", "2 (kthreadd) S 0 0 0 0 -1 2129984 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
         "Name:\tkthreadd\nThreads:\t1\n", PM_E_KTHREAD},
        {"a zombie", "1 (a) Z 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 5 1", "Name:\ta\n", PM_E_ZOMBIE},
        {"dead", "1 (a) X 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 5 1", NULL, PM_E_ZOMBIE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pm_snapshot *snap;
        pm_error err;
        make_fake(false);
        fake.stat = cases[i].stat;
        fake.status = cases[i].status;
        int rc = fk_capture(&fake, &snap, &err), want = cases[i].code;
        if (cases[i].stat && !*cases[i].stat)
            want = PM_E_GONE; /* an empty stat is how a process that has just gone reads */
        CHECK_IN(rc == -want && err.stage == PM_AT_STAT, "%s: %d", cases[i].name, rc);
        CHECK(fk_tidy(&fake));
    }
}

/* Whose files may not be opened is named with the file. */
static void not_allowed(void)
{
    static const struct {
        enum fk_kind kind;
        enum pm_stage stage;
    } cases[] = {{FK_F_SMAPS, PM_AT_SMAPS}, {FK_F_PAGEMAP, PM_AT_PAGEMAP}, {FK_F_STAT, PM_AT_STAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pm_snapshot *snap;
        pm_error err;
        make_fake(false);
        fake.fail_kind = cases[i].kind;
        fake.fail_errno = EACCES;
        CHECK_EQ(fk_capture(&fake, &snap, &err), -EACCES);
        CHECK_EQ(err.stage, cases[i].stage);
    }
}

/* The header says who it was, even where comm holds parentheses and spaces. */
static void header(void)
{
    pm_snapshot *snap;
    pm_error err;
    make_fake(true);
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    const pm_header *h = pm_get_header(snap);
    CHECK_EQ(h->pid, FK_PID);
    CHECK_EQ(h->start_time, 308687);
    CHECK(strcmp(h->comm, "a (comm) b") == 0);
    CHECK_EQ(h->vm_hwm, 3000 << 10);
    CHECK_EQ(h->vm_swap, 0);
    CHECK_EQ(h->complete, 1);
    CHECK_EQ(h->self, 0);
    CHECK_EQ(h->raced_pages, 0);
    uint32_t least = 1u << PM_SRC_MAPS | 1u << PM_SRC_PAGEMAP | 1u << PM_SRC_SMAPS |
                     1u << PM_SRC_NUMA_MAPS | 1u << PM_SRC_KPAGEFLAGS | 1u << PM_SRC_KPAGECOUNT |
                     1u << PM_SRC_FILE;
    CHECK_EQ(h->sources & least, least);
    pm_free(snap);
}

int main(void)
{
    make_library();
    make_process(&before, 0x10000, 1000);
    make_process(&after_exec, 0x500000, 5000);
    RUN(header);
    RUN(refusals);
    RUN(not_allowed);
    RUN(every_call_fails);
    RUN(ends_are_named);
    RUN(exec_captures_the_new_program);
    return check_done();
}
