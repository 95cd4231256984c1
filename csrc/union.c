/* SPDX-License-Identifier: MIT
 *
 * union.c - how many physical pages several processes hold between them, each
 * counted once, however many of them map it and however often.
 *
 * A page is recognised by what it is:
 *
 *   of a file or memory object   the object and the page's index in it
 *   anonymous, mapped once       by nobody else: it is one page
 *   anonymous, mapped by others  its frame, where frames were visible
 *
 * What cannot be recognised is counted as if it were the others' pages (lo) and as
 * if it were not (hi).  The captures are of different moments.  A frame names a page
 * only as long as it stays where it is: of members that ran after they were captured
 * only those frames are used that were still in place when they were looked at again.
 */
#include "engine.h"

#include <errno.h>
#include <string.h>

#define YES(s, bit) ((s).set & (s).known & PM_BIT(bit))
#define NO(s, bit) (~(s).set & (s).known & PM_BIT(bit))

struct state {
    uint32_t set, known;
};

/* Consecutive pages of one object: page indexes of a file, or frames (object 0). */
struct span {
    uint64_t at, count;
    uint32_t object;
    uint32_t sure; /* they count in Rss; 0: they may */
};

/* What tells pages of a mapping from pages of others. */
enum identity {
    NAMELESS,  /* nothing does: a device, a ring buffer, what could not be looked at */
    BY_INODE,  /* device and inode, wherever it is mapped and by what name */
    BY_NAME,   /* ... and name, among processes that live in one place */
};

/* A file or memory object that members map. */
struct file {
    uint64_t dev, inode;
    const char *name;
    uint32_t name_len, place;
    enum identity by;
    bool stacks; /* may be a view of another file, as those of overlayfs are */
    bool devs_differ, has_stack; /* of all that share its base name; kept by the first */
    uint32_t same; /* union-find: a file that may be this one, or itself */
};

/* One member's anonymous pages that others map too. */
struct crowd {
    uint64_t framed, unframed; /* all different from each other */
};

struct work {
    const pm_member *members;
    size_t n;
    struct pm__arena arena;
    bool measuring; /* the first walk only counts how much room is needed */
    struct span *spans, *spare;
    size_t n_spans;
    struct file *files;
    size_t n_files;
    uint32_t *slots; /* hash table: 1 + index of a file */
    size_t n_slots;
    pm_interval plain; /* pages that are one each, whoever else is looked at */
    uint64_t frames; /* pages in spans of object 0, before any is found to be another */
    uint64_t crowd; /* the most that one member alone shares with others */
    uint64_t missed;
};

/* ---- frames ---------------------------------------------------------------------------- */

/* Pages whose frames are known and follow each other. */
struct run {
    uint64_t page, frame, count;
};

static uint64_t frames_end(const pm_snapshot *s, size_t i)
{
    return s->frame_page[i] + s->frame_count[i];
}

/* The first run of a snapshot's frames in pages [page, end); *at is where the last call
 * ended, which was no further.  The one place that knows how frames are kept. */
static bool next_run(const pm_snapshot *s, size_t *at, uint64_t page, uint64_t end, struct run *out)
{
    size_t i = *at, n = s->n_frames;
    for (size_t rest = i < n && frames_end(s, i) <= page ? n - i : 0; rest;) {
        size_t half = rest / 2;
        if (frames_end(s, i + half) <= page) {
            i += half + 1;
            rest -= half + 1;
        } else {
            rest = half;
        }
    }
    *at = i;
    if (i == n || s->frame_page[i] >= end)
        return false;
    uint64_t from = s->frame_page[i] > page ? s->frame_page[i] : page;
    uint64_t to = frames_end(s, i) < end ? frames_end(s, i) : end;
    *out = (struct run){
        .page = from, .frame = s->frame[i] + (from - s->frame_page[i]), .count = to - from};
    *at = to == frames_end(s, i) ? i + 1 : i;
    return true;
}

/* ---- sorting ------------------------------------------------------------------------------ */

static unsigned digit(const struct span *s, int k)
{
    return (uint8_t)(k < 8 ? s->at >> (8 * k) : s->object >> (8 * (k - 8)));
}

/* By object, then by where it begins; qsort() may take memory from the heap. */
static void sort(struct work *w)
{
    for (int k = 0; k < 12; k++) {
        size_t count[256] = {0}, at = 0;
        for (size_t i = 0; i < w->n_spans; i++)
            count[digit(&w->spans[i], k)]++;
        if (w->n_spans == 0 || count[digit(&w->spans[0], k)] == w->n_spans)
            continue; /* all the same */
        for (int d = 0; d < 256; d++) {
            size_t here = count[d];
            count[d] = at;
            at += here;
        }
        for (size_t i = 0; i < w->n_spans; i++)
            w->spare[count[digit(&w->spans[i], k)]++] = w->spans[i];
        struct span *sorted = w->spare;
        w->spare = w->spans;
        w->spans = sorted;
    }
}

/* ---- files --------------------------------------------------------------------------------- */

static bool starts(const char *name, uint32_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && memcmp(name, with, n) == 0;
}

static const char deleted[] = " (deleted)";

static uint32_t without_note(const char *name, uint32_t len)
{
    uint32_t n = sizeof deleted - 1;
    return len > n && memcmp(name + len - n, deleted, n) == 0 ? len - n : len;
}

/* The kernel has one image for all processes of one word size, and maps it above
 * 4 GiB where that is 64 bits. */
static bool is_vdso(const pm_mapping *m, const char *name)
{
    return m->inode == 0 && m->name_len == 6 && starts(name, 6, "[vdso]") && m->start >> 32;
}

static enum identity identity_of(const pm_mapping *m, const char *name)
{
    bool path = m->name_len && *name == '/';
    /* Numbered by its id, which is another segment's in another ipc namespace, and
     * may be a memfd's inode. */
    if (starts(name, m->name_len, "/SYSV"))
        return BY_NAME;
    if (is_vdso(m, name))
        return BY_INODE;
    if (m->inode == 0)
        return NAMELESS;
    if (m->kind == PM_KIND_SHMEM)
        return BY_INODE;
    /* btrfs and its like give inodes of several subvolumes one number, on devices that
     * maps does not tell apart. */
    if (m->kind == PM_KIND_FILE)
        return m->dev_major ? BY_INODE : BY_NAME;
    /* Deleted from a file system that is in memory alone, or looks so. */
    if (m->kind == PM_KIND_UNKNOWN && path && without_note(name, m->name_len) != m->name_len)
        return BY_NAME;
    return NAMELESS;
}

static struct file file_of(const pm_member *who, const pm_mapping *m, enum identity by)
{
    const char *name = who->snapshot->columns.strings + m->name;
    struct file f = {.dev = (uint64_t)m->dev_major << 32 | m->dev_minor,
                     .inode = m->inode,
                     .name = name,
                     .name_len = m->name_len,
                     .by = by};
    if (is_vdso(m, name)) {
        f.dev = UINT64_MAX; /* no device's */
        f.inode = m->end - m->start;
    }
    if (by == BY_NAME) {
        f.place = who->place;
        f.stacks = m->kind != PM_KIND_SHMEM && !starts(name, m->name_len, "/SYSV");
    }
    return f;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ (hash >> 32);
}

static uint64_t mix_text(uint64_t hash, const char *s, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        hash = mix(hash, (unsigned char)s[i]);
    return hash;
}

typedef bool same_fn(const struct file *a, const struct file *b);

static bool same_number(const struct file *a, const struct file *b)
{
    return a->dev == b->dev && a->inode == b->inode;
}

static bool same_file(const struct file *a, const struct file *b)
{
    return same_number(a, b) && a->by == b->by &&
           (a->by == BY_INODE || (a->place == b->place && a->name_len == b->name_len &&
                                  memcmp(a->name, b->name, a->name_len) == 0));
}

static const char *base_name(const struct file *f, uint32_t *len)
{
    uint32_t end = without_note(f->name, f->name_len), at = end;
    while (at && f->name[at - 1] != '/')
        at--;
    *len = end - at;
    return f->name + at;
}

static bool same_base_name(const struct file *a, const struct file *b)
{
    uint32_t na, nb;
    const char *sa = base_name(a, &na), *sb = base_name(b, &nb);
    return na == nb && memcmp(sa, sb, na) == 0;
}

static uint64_t hash_number(const struct file *f)
{
    return mix(mix(1, f->dev), f->inode);
}

static uint64_t hash_base_name(const struct file *f)
{
    uint32_t n;
    const char *s = base_name(f, &n);
    return mix_text(2, s, n);
}

/* The first file in the table that is the same as files[i]; itself where none is. */
static uint32_t seat(struct work *w, uint64_t hash, uint32_t i, same_fn *same)
{
    size_t mask = w->n_slots - 1, at = hash & mask;
    while (w->slots[at] && !same(&w->files[w->slots[at] - 1], &w->files[i]))
        at = (at + 1) & mask;
    if (!w->slots[at])
        w->slots[at] = i + 1;
    return w->slots[at] - 1;
}

/* The object of a file-like mapping, above 0. */
static uint32_t object_of(struct work *w, const pm_member *who, const pm_mapping *m,
                          enum identity by)
{
    if (w->measuring) {
        w->n_files++;
        return 1;
    }
    uint32_t i = (uint32_t)w->n_files;
    w->files[i] = file_of(who, m, by);
    w->files[i].same = i;
    uint32_t found = seat(w, hash_number(&w->files[i]), i, same_file);
    w->n_files += found == i;
    return found + 1;
}

static uint32_t find(struct file *files, uint32_t i)
{
    while (files[i].same != i) {
        files[i].same = files[files[i].same].same;
        i = files[i].same;
    }
    return i;
}

static bool unite(struct file *files, uint32_t a, uint32_t b)
{
    a = find(files, a);
    b = find(files, b);
    files[a > b ? a : b].same = a < b ? a : b;
    return a != b;
}

/* Files of one number that were not found to be one. */
static bool unite_by_number(struct work *w)
{
    bool any = false;
    memset(w->slots, 0, w->n_slots * sizeof *w->slots);
    for (uint32_t i = 0; i < w->n_files; i++)
        any |= unite(w->files, i, seat(w, hash_number(&w->files[i]), i, same_number));
    return any;
}

/* overlayfs shows numbers of its own: a file of it may be another mount's file, or one
 * of the file system below.  It keeps the last part of the name. */
static bool unite_stacked(struct work *w)
{
    bool any = false;
    memset(w->slots, 0, w->n_slots * sizeof *w->slots);
    for (uint32_t i = 0; i < w->n_files; i++) {
        struct file *f = &w->files[i];
        struct file *first = &w->files[seat(w, hash_base_name(f), i, same_base_name)];
        first->devs_differ |= f->dev != first->dev;
        first->has_stack |= f->stacks;
    }
    for (uint32_t i = 0; i < w->n_files; i++) {
        uint32_t first = seat(w, hash_base_name(&w->files[i]), i, same_base_name);
        if (w->files[first].devs_differ && w->files[first].has_stack)
            any |= unite(w->files, i, first);
    }
    return any;
}

/* ---- walking the members ---------------------------------------------------------------------- */

static void push(struct work *w, uint32_t object, uint64_t at, uint64_t count, bool sure)
{
    if (!w->measuring)
        w->spans[w->n_spans] = (struct span){at, count, object, sure};
    w->n_spans++;
}

struct walk {
    struct work *w;
    const pm_member *who;
    const pm_mapping *m;
    uint32_t object; /* 0: its pages are of no file, or of none that can be recognised */
    size_t frame_at, again_at;
    struct crowd crowd;
};

static void push_frames(struct walk *k, struct run run, struct state s)
{
    push(k->w, 0, run.frame, run.count, YES(s, PM_NORMAL));
    k->w->frames += run.count;
    if (NO(s, PM_KSM) && YES(s, PM_NORMAL))
        k->crowd.framed += run.count;
}

/* Of a run those frames that were still in place later; gives how many were not. */
static uint64_t push_kept(struct walk *k, struct run run, struct state s)
{
    uint64_t end = run.page + run.count, kept = 0;
    struct run later;
    for (uint64_t at = run.page; at < end; at = later.page + later.count) {
        if (!next_run(k->who->again, &k->again_at, at, end, &later))
            break;
        if (later.frame - run.frame != later.page - run.page)
            continue;
        push_frames(k, later, s);
        kept += later.count;
    }
    return run.count - kept;
}

/* Anonymous pages that others may map too. */
static void count_crowd(struct walk *k, struct state s, uint64_t page, uint64_t count)
{
    uint64_t end = page + count, framed = 0, open = 0;
    struct run run;
    for (uint64_t at = page; at < end; at = run.page + run.count) {
        if (!next_run(k->who->snapshot, &k->frame_at, at, end, &run))
            break;
        framed += run.count;
        if (!k->who->ran)
            push_frames(k, run, s);
        else
            open += k->who->again ? push_kept(k, run, s) : run.count;
    }
    open += count - framed;
    k->w->plain.hi += open;
    /* One process maps an anonymous page once, unless it is merged with others. */
    if (!k->who->ran && NO(s, PM_KSM) && YES(s, PM_NORMAL))
        k->crowd.unframed += open;
}

static void count_run(struct walk *k, struct state s, uint64_t page, uint64_t count)
{
    uint64_t ps = k->who->snapshot->header.page_size;
    if (NO(s, PM_NORMAL))
        return;
    if (YES(s, PM_FILE) && k->object) {
        push(k->w, k->object, k->m->offset / ps + (page - k->m->start / ps), count,
             YES(s, PM_NORMAL));
    } else if (YES(s, PM_EXCLUSIVE)) {
        /* Nobody can come to map an anonymous page later but a child that is not born yet. */
        k->w->plain.hi += count;
        if (YES(s, PM_NORMAL) && (YES(s, PM_ANON) || !k->object))
            k->w->plain.lo += count;
    } else if (YES(s, PM_ANON)) {
        count_crowd(k, s, page, count);
    } else {
        k->w->plain.hi += count;
    }
}

static void count_window(struct walk *k, pm_window window)
{
    const pm_columns *c = &k->who->snapshot->columns;
    uint64_t ps = k->who->snapshot->header.page_size;
    uint64_t from = window.start / ps, to = window.end / ps;
    k->m = &c->mappings[window.mapping];
    enum identity by = identity_of(k->m, c->strings + k->m->name);
    k->object = by == NAMELESS ? 0 : object_of(k->w, k->who, k->m, by);
    size_t stop = (size_t)k->m->first_range + k->m->n_ranges;
    for (size_t r = pm__first_range_at(c, k->m, from); r < stop && c->page[r] < to; r++) {
        uint64_t lo = c->page[r] > from ? c->page[r] : from;
        uint64_t end = c->page[r] + c->count[r], hi = end < to ? end : to;
        count_run(k, (struct state){c->set[r], c->known[r]}, lo, hi - lo);
    }
    bool looked = k->who->snapshot->header.depth >= PM_PAGES;
    uint64_t missed = looked ? pm__unlisted(c, k->m) : to - from;
    k->w->plain.hi += missed < to - from ? missed : to - from;
}

static void count_member(struct work *w, const pm_member *who)
{
    struct walk k = {.w = w, .who = who};
    const pm_columns *c = &who->snapshot->columns;
    size_t n = who->windows ? who->n_windows : c->n_mappings;
    for (uint32_t i = 0; i < n; i++)
        count_window(&k, who->windows ? who->windows[i]
                                      : (pm_window){c->mappings[i].start, c->mappings[i].end, i});
    uint64_t alone = k.crowd.framed + k.crowd.unframed;
    if (k.crowd.unframed && alone > w->crowd)
        w->crowd = alone;
    w->missed += n ? who->snapshot->header.missed_pages : 0;
}

static void count_members(struct work *w)
{
    w->n_spans = w->n_files = 0;
    w->plain = (pm_interval){0, 0};
    w->frames = w->crowd = w->missed = 0;
    for (size_t i = 0; i < w->n; i++)
        count_member(w, &w->members[i]);
}

/* ---- adding up ------------------------------------------------------------------------------------ */

/* How many of [at, end) lie behind all that came before it. */
static uint64_t cover(uint64_t *covered, uint64_t at, uint64_t end)
{
    uint64_t from = at > *covered ? at : *covered;
    if (end <= from)
        return 0;
    *covered = end;
    return end - from;
}

struct sums {
    pm_interval frames, files;
};

static struct sums add_up(const struct work *w)
{
    struct sums sums = {0};
    uint64_t sure = 0, all = 0;
    for (size_t i = 0; i < w->n_spans; i++) {
        const struct span *s = &w->spans[i];
        if (i && s->object != w->spans[i - 1].object)
            sure = all = 0;
        pm_interval *to = s->object ? &sums.files : &sums.frames;
        to->hi += cover(&all, s->at, s->at + s->count);
        to->lo += s->sure ? cover(&sure, s->at, s->at + s->count) : 0;
    }
    return sums;
}

/* Files that may be one are taken for one where the least is asked for. */
static uint64_t least_of_files(struct work *w, uint64_t apart)
{
    bool any = unite_by_number(w);
    any |= unite_stacked(w);
    if (!any)
        return apart;
    for (size_t i = 0; i < w->n_spans; i++)
        if (w->spans[i].object)
            w->spans[i].object = find(w->files, w->spans[i].object - 1) + 1;
    sort(w);
    return add_up(w).files.lo;
}

static pm_interval total(struct work *w, uint64_t migrated)
{
    sort(w);
    struct sums sums = add_up(w);
    pm_interval out = w->plain, frames = sums.frames;
    /* A page that moved to another frame was met as two, or met in another's frame. */
    frames.lo -= frames.lo < migrated ? frames.lo : migrated;
    frames.hi = w->frames - frames.hi < migrated ? w->frames : frames.hi + migrated;
    out.lo += least_of_files(w, sums.files.lo);
    out.lo += frames.lo > w->crowd ? frames.lo : w->crowd;
    out.hi += sums.files.hi + frames.hi;
    out.lo -= out.lo < w->missed ? out.lo : w->missed;
    out.hi += w->missed;
    return out;
}

static int furnish(struct work *w)
{
    size_t spans = w->n_spans, files = w->n_files + 1;
    for (w->n_slots = 16; w->n_slots < 2 * files;)
        w->n_slots *= 2;
    int rc = pm__arena_get(&w->arena, 2 * spans * sizeof *w->spans + files * sizeof *w->files +
                                          w->n_slots * sizeof *w->slots + 4096);
    if (rc < 0)
        return rc;
    w->spans = pm__take_zeroed(&w->arena, spans, sizeof *w->spans);
    w->spare = pm__take_zeroed(&w->arena, spans, sizeof *w->spare);
    w->files = pm__take_zeroed(&w->arena, files, sizeof *w->files);
    w->slots = pm__take_zeroed(&w->arena, w->n_slots, sizeof *w->slots);
    return 0;
}

/* Windows that overlap would count a page twice that is told from others by nothing. */
static bool good_windows(const pm_member *who)
{
    const pm_columns *c = &who->snapshot->columns;
    uint64_t end = 0;
    for (size_t i = 0; who->windows && i < who->n_windows; i++) {
        const pm_window *w = &who->windows[i];
        if (w->mapping >= c->n_mappings || w->start > w->end || w->start < end ||
            w->start < c->mappings[w->mapping].start || w->end > c->mappings[w->mapping].end)
            return false;
        end = w->end;
    }
    return true;
}

static int check(const pm_member *members, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (members[i].snapshot->header.page_size != members[0].snapshot->header.page_size)
            return -PM_E_FOREIGN;
        if (!good_windows(&members[i]))
            return -EINVAL;
    }
    return 0;
}

int pm_union(const pm_member *members, size_t n, uint64_t migrated, pm_interval *out)
{
    struct work w = {.members = members, .n = n, .measuring = true};
    int rc = check(members, n);
    if (rc < 0)
        return rc;
    count_members(&w);
    if ((rc = furnish(&w)) < 0)
        return rc;
    w.measuring = false;
    count_members(&w);
    *out = total(&w, migrated);
    pm__arena_put(&w.arena);
    return 0;
}
