/* SPDX-License-Identifier: MIT
 *
 * kpage.c - /proc/kpageflags and /proc/kpagecount: what the kernel keeps of each
 * physical page.  Needs frame numbers, so CAP_SYS_ADMIN when pagemap was opened;
 * that the files open proves nothing.
 *
 * This is where a capture spends its time: each page costs the kernel about 110 ns per
 * file, each call 350 ns.  So pages are sorted by frame, neighbours are read in one
 * window, and what is known already is not read: kpagecount of small pages that pagemap
 * calls exclusive, kpageflags of all pages of a folio but two.
 */
#include "engine.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>

#define WINDOW 2048  /* frames that one read covers at most */
#define MAX_GAP 3    /* frames between windows; reading a longer gap costs more than a call */
#define BLOCK 512    /* a run ends where a new aligned block of frames begins */
#define LEN_BITS 9   /* of a run's length - 1 */
#define DIGIT 12     /* bits of a frame that are sorted by at once: two rounds up to 64 GiB */
#define MAX_REREAD 4096 /* stale pages that are looked up once more */

/* A run of pages whose frames follow each other, in one number that sorts by frame:
 * frame, index of its first page in the chunk that is being sorted, length - 1. */
struct keys {
    uint64_t *at, *other;
    size_t n;
    unsigned index_bits;
    size_t base; /* first page of the chunk */
};

struct run {
    uint64_t frame;
    size_t page, n;
};

struct reader {
    struct pm__capture *c;
    struct keys keys;
    uint64_t flags[WINDOW], counts[WINDOW];
    size_t starts[1 << DIGIT];
    bool wanted[WINDOW];           /* frames of the window whose count must be read */
    bool any_wanted;
    uint64_t last_tail, head_flags; /* the folio whose tails are being met */
    uint64_t usual_flags;           /* a small mapped page's, as the last one's were, */
    uint32_t usual_state;           /* and what they say */
    bool has_flags, has_counts;
};

static uint64_t frame_of(uint64_t entry)
{
    return entry & PM_PE_PRESENT ? entry & PM_PE_PFN_MASK : 0;
}

/* ---- runs, sorted by frame ---------------------------------------------------- */

static struct run run_at(const struct keys *k, size_t i)
{
    uint64_t key = k->at[i];
    uint64_t index = (key >> LEN_BITS) & ((UINT64_C(1) << k->index_bits) - 1);
    return (struct run){
        .frame = key >> (LEN_BITS + k->index_bits),
        .page = k->base + index,
        .n = (key & (BLOCK - 1)) + 1,
    };
}

/* Returns the page behind the last one taken. */
static size_t collect(struct keys *k, const struct pm__pages *p, size_t from)
{
    size_t stop = from + ((size_t)1 << k->index_bits);
    stop = stop < p->n ? stop : p->n;
    uint64_t last = UINT64_MAX - 1; /* no frame's neighbour */
    k->base = from;
    k->n = 0;
    for (size_t i = from; i < stop; i++) {
        uint64_t frame = frame_of(p->entry[i]);
        if (frame && frame == last + 1 && frame % BLOCK)
            k->at[k->n - 1]++;
        else if (frame)
            k->at[k->n++] = frame << (LEN_BITS + k->index_bits) | (uint64_t)(i - from) << LEN_BITS;
        last = frame ? frame : UINT64_MAX - 1;
    }
    return stop;
}

/* Least significant digit first, by the frame alone.  The table is not on the stack, which would
 * grow by it under a capture of ourselves. */
static void sort(struct keys *k, size_t *start)
{
    uint64_t most = 0;
    bool sorted = true;
    for (size_t i = 0; i < k->n; i++) {
        sorted = sorted && (i == 0 || k->at[i - 1] <= k->at[i]);
        most = k->at[i] > most ? k->at[i] : most;
    }
    for (unsigned shift = LEN_BITS + k->index_bits; !sorted && shift < 64 && most >> shift;
         shift += DIGIT) {
        size_t sum = 0;
        const uint64_t mask = (1 << DIGIT) - 1;
        memset(start, 0, sizeof *start << DIGIT);
        for (size_t i = 0; i < k->n; i++)
            start[k->at[i] >> shift & mask]++;
        for (size_t d = 0; d <= mask; d++) {
            size_t n = start[d];
            start[d] = sum;
            sum += n;
        }
        for (size_t i = 0; i < k->n; i++)
            k->other[start[k->at[i] >> shift & mask]++] = k->at[i];
        uint64_t *swap = k->at;
        k->at = k->other;
        k->other = swap;
    }
}

/* ---- what is said of a page ------------------------------------------------------ */

static uint32_t translate(uint64_t f)
{
    uint32_t s = PM_BIT(PM__KFLAGS);
    s |= f & PM_KPF_REFERENCED ? PM_BIT(PM_REFERENCED) : 0;
    s |= f & PM_KPF_ACTIVE ? PM_BIT(PM_ACTIVE) : 0;
    s |= f & PM_KPF_UPTODATE ? PM_BIT(PM_UPTODATE) : 0;
    s |= f & PM_KPF_DIRTY ? PM_BIT(PM_PAGEDIRTY) : 0;
    s |= f & PM_KPF_WRITEBACK ? PM_BIT(PM_WRITEBACK) : 0;
    s |= f & PM_KPF_KSM ? PM_BIT(PM_KSM) : 0;
    s |= f & PM_KPF_ZERO ? PM_BIT(PM_ZERO) : 0;
    s |= f & PM_KPF_SWAPBACKED ? PM_BIT(PM__SWAPBACKED) : 0;
    s |= f & PM_KPF_SWAPCACHE ? PM_BIT(PM__SWAPCACHE) : 0;
    s |= f & (PM_KPF_COMPOUND_HEAD | PM_KPF_COMPOUND_TAIL) ? PM_BIT(PM__COMPOUND) : 0;
    return s;
}

/* Before Linux 6.10 a tail page shows its own flags, which say nothing of the
 * folio: look for the head in front of it. */
static uint64_t flags_of_head(struct reader *r, uint64_t frame, uint64_t own)
{
    uint64_t before[BLOCK];
    if (r->last_tail && frame == r->last_tail + 1) {
        r->last_tail = frame;
        return r->head_flags;
    }
    uint64_t from = frame > BLOCK ? frame - BLOCK : 0;
    ssize_t got = pm__pread_full(r->c->io, r->c->kpageflags, before, (frame - from) * 8, from * 8);
    for (ssize_t k = got / 8 - 1; k >= 0; k--) {
        if (before[k] & PM_KPF_COMPOUND_HEAD) {
            r->last_tail = frame;
            r->head_flags = before[k] & ~PM_KPF_COMPOUND_HEAD;
            return r->head_flags | PM_KPF_COMPOUND_TAIL;
        }
        if (!(before[k] & PM_KPF_COMPOUND_TAIL))
            break;
    }
    return own;
}

static void note_flags(struct reader *r, size_t i, uint64_t f)
{
    struct pm__pages *p = &r->c->pages;
    if ((f & PM_KPF_COMPOUND_TAIL) && !(f & PM_KPF_UPTODATE))
        f = flags_of_head(r, frame_of(p->entry[i]), f) | PM_KPF_COMPOUND_TAIL;
    bool zero = f & PM_KPF_ZERO;
    if (f & PM_KPF_NOPAGE)
        return; /* device memory: no struct page */
    if (!(p->state[i] & PM_BIT(PM__ENTRY_FILE)) && !zero && !(f & (PM_KPF_MMAP | PM_KPF_ANON)))
        return; /* mapped without being counted, as PFN-mapped kernel pages are */
    if (!zero && !(f & PM_KPF_MMAP)) {
        p->state[i] = PM_BIT(PM__STALE); /* freed since pagemap named it */
        return;
    }
    r->c->ksm_told |= (f & PM_KPF_ANON) && !(f & PM_KPF_KSM);
    p->state[i] |= translate(f);
}

/* The zero page has no count, and of what kpageflags says nothing there is none to look at. */
static bool has_count(const struct pm__pages *p, size_t i)
{
    return (p->state[i] & (PM_BIT(PM__KFLAGS) | PM_BIT(PM_ZERO))) == PM_BIT(PM__KFLAGS);
}

static void set_count(struct pm__pages *p, size_t i, uint64_t count)
{
    if (count == 0) {
        p->state[i] = PM_BIT(PM__STALE);
        return;
    }
    if (count != 1)
        p->mapcount[i] = count < PM_UNBOUNDED ? (uint32_t)count : PM_UNBOUNDED - 1;
    p->state[i] |= PM_BIT(PM__KCOUNT);
}

/* Of a small page pagemap's bit 56 says the same as kpagecount; of a huge one it sees the head. */
static void want_count(struct reader *r, size_t i, uint64_t at)
{
    struct pm__pages *p = &r->c->pages;
    if (!has_count(p, i))
        return;
    if ((p->state[i] & (PM_BIT(PM__ENTRY_EXCLUSIVE) | PM_BIT(PM__COMPOUND))) ==
        PM_BIT(PM__ENTRY_EXCLUSIVE)) {
        set_count(p, i, 1);
        return;
    }
    r->wanted[at] = r->any_wanted = true;
}

/* Most pages are small, mapped, and like the one before them. */
static bool is_usual(struct reader *r, uint64_t f)
{
    if (f == r->usual_flags)
        return true;
    if ((f & (PM_KPF_MMAP | PM_KPF_ZERO | PM_KPF_NOPAGE | PM_KPF_COMPOUND_HEAD |
              PM_KPF_COMPOUND_TAIL)) != PM_KPF_MMAP)
        return false;
    r->usual_flags = f;
    r->usual_state = translate(f);
    return true;
}

static void note(struct reader *r, size_t i, uint64_t f, size_t at)
{
    uint32_t *state = &r->c->pages.state[i];
    if (is_usual(r, f) && (*state & PM_BIT(PM__ENTRY_EXCLUSIVE))) {
        *state |= r->usual_state | PM_BIT(PM__KCOUNT); /* and its count is 1 */
        return;
    }
    note_flags(r, i, f);
    want_count(r, i, at);
}

/* ---- a window ---------------------------------------------------------------------- */

static ssize_t read_words(struct reader *r, int fd, uint64_t *to, uint64_t frame, size_t n)
{
    ssize_t got = fd < 0 ? -1 : pm__pread_full(r->c->io, fd, to, n * 8, frame * 8);
    return got < 0 ? 0 : got / 8;
}

/* Counts of the frames that are wanted, and of short gaps between them. */
static void read_counts(struct reader *r, uint64_t frame, size_t n)
{
    for (size_t lo = 0, hi; lo < n; lo = hi) {
        while (lo < n && !r->wanted[lo])
            lo++;
        size_t gap = 0;
        for (hi = lo; hi + gap < n && gap <= MAX_GAP;) {
            if (r->wanted[hi + gap]) {
                hi += gap + 1;
                gap = 0;
            } else {
                gap++;
            }
        }
        if (lo == n)
            return;
        ssize_t got = read_words(r, r->c->kpagecount, r->counts + lo, frame + lo, hi - lo);
        for (size_t k = lo + (size_t)got; k < hi; k++)
            r->wanted[k] = false; /* not ours to read */
        r->has_counts |= got > 0;
    }
}

static void scatter_counts(struct reader *r, size_t first, size_t stop, uint64_t frame)
{
    struct pm__pages *p = &r->c->pages;
    for (size_t k = first; k < stop; k++) {
        struct run run = run_at(&r->keys, k);
        for (size_t j = 0; j < run.n; j++)
            if (r->wanted[run.frame - frame + j] && has_count(p, run.page + j) &&
                !(p->state[run.page + j] & PM_BIT(PM__KCOUNT)))
                set_count(p, run.page + j, r->counts[run.frame - frame + j]);
    }
}

static void count_window(struct reader *r, size_t first, size_t stop, uint64_t frame, size_t n)
{
    if (!r->any_wanted)
        return;
    read_counts(r, frame, n);
    scatter_counts(r, first, stop, frame);
    memset(r->wanted, 0, n * sizeof *r->wanted);
    r->any_wanted = false;
}

/* Runs [first, stop) lie in n frames from `frame` on. */
static void read_window(struct reader *r, size_t first, size_t stop, uint64_t frame, size_t n)
{
    ssize_t got = read_words(r, r->c->kpageflags, r->flags, frame, n);
    if (got <= 0)
        return; /* not ours to read: R A U D W stay unknown */
    r->has_flags = true;
    for (size_t k = first; k < stop; k++) {
        struct run run = run_at(&r->keys, k);
        uint64_t at = run.frame - frame;
        for (size_t j = 0; j < run.n && at + j < (size_t)got; j++)
            note(r, run.page + j, r->flags[at + j], at + j);
    }
    count_window(r, first, stop, frame, n);
}

/* ---- a folio of 512 pages ------------------------------------------------------------ */

static bool may_be_folio(const struct reader *r, const struct run *run)
{
    return run->n == BLOCK && run->frame % BLOCK == 0 && r->c->pages.vpn[run->page] % BLOCK == 0;
}

/* Folios are aligned to their size.  So where one begins at an aligned frame p, and p + 256
 * is the tail of one, that one is longer than 256 pages and is the one that begins at p:
 * two flags tell all 512. */
static bool read_folio(struct reader *r, size_t k)
{
    struct run run = run_at(&r->keys, k);
    uint64_t head, tail;
    if (read_words(r, r->c->kpageflags, &head, run.frame, 1) != 1 ||
        !(head & PM_KPF_COMPOUND_HEAD) || !(head & PM_KPF_MMAP) ||
        read_words(r, r->c->kpageflags, &tail, run.frame + BLOCK / 2, 1) != 1 ||
        !(tail & PM_KPF_COMPOUND_TAIL))
        return false;
    r->has_flags = true;
    for (size_t j = 0; j < BLOCK; j++) {
        r->c->pages.state[run.page + j] |= translate(head);
        want_count(r, run.page + j, j);
    }
    count_window(r, k, k + 1, run.frame, BLOCK);
    return true;
}

static int read_chunk(struct reader *r)
{
    const struct keys *keys = &r->keys;
    for (size_t k = 0, stop; k < keys->n; k = stop) {
        struct run run = run_at(keys, k);
        uint64_t end = run.frame + run.n;
        stop = k + 1;
        if (!may_be_folio(r, &run) || !read_folio(r, k)) {
            for (; stop < keys->n; stop++) {
                struct run next = run_at(keys, stop);
                uint64_t reach = next.frame + next.n > end ? next.frame + next.n : end;
                if (next.frame > end + MAX_GAP || reach - run.frame > WINDOW ||
                    may_be_folio(r, &next))
                    break;
                end = reach;
            }
            read_window(r, k, stop, run.frame, end - run.frame);
        }
        int rc = pm__tick(r->c, end - run.frame);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- stale pages ------------------------------------------------------------------------ */

/* Their frames were freed between two reads: ask pagemap where the page is now, and look there. */
static void read_again(struct reader *r)
{
    struct pm__pages *p = &r->c->pages;
    size_t left = MAX_REREAD;
    for (size_t i = 0; i < p->n && left; i++) {
        uint64_t entry, word;
        if (!(p->state[i] & PM_BIT(PM__STALE)))
            continue;
        left--;
        if (pm__pread_full(r->c->io, r->c->pagemap, &entry, 8, p->vpn[i] * 8) != 8 ||
            !frame_of(entry) || read_words(r, r->c->kpageflags, &word, frame_of(entry), 1) != 1)
            continue;
        p->entry[i] = entry;
        p->state[i] = pm__entry_state(entry);
        p->mapcount[i] = 1;
        note_flags(r, i, word);
        want_count(r, i, 0);
        if (r->any_wanted && read_words(r, r->c->kpagecount, &word, frame_of(entry), 1) == 1)
            set_count(p, i, word);
        r->wanted[0] = r->any_wanted = false;
    }
}

static unsigned index_bits(const struct pm__pages *p)
{
    uint64_t all = 0;
    for (size_t i = 0; i < p->n; i++)
        all |= frame_of(p->entry[i]);
    return all >> (64 - 20 - LEN_BITS) ? 15 : 20;
}

int pm__kpage_read(struct pm__capture *c)
{
    if (c->kpageflags < 0)
        return 0;
    struct reader *r = pm__take_zeroed(&c->arena, 1, sizeof *r);
    if (!r)
        return -ENOBUFS;
    r->c = c;
    r->keys.index_bits = index_bits(&c->pages);
    for (size_t i = 0; i < c->pages.n;) {
        r->keys.at = c->aside;
        r->keys.other = r->keys.at + c->pages.cap;
        i = collect(&r->keys, &c->pages, i);
        sort(&r->keys, r->starts);
        int rc = read_chunk(r);
        if (rc < 0)
            return rc;
    }
    read_again(r);
    if (r->has_flags)
        c->header.sources |= 1u << PM_SRC_KPAGEFLAGS;
    if (r->has_counts)
        c->header.sources |= 1u << PM_SRC_KPAGECOUNT;
    return 0;
}
