/* SPDX-License-Identifier: MIT
 *
 * elf.c - the files behind mappings: what kind of file each is, and where its
 * parts (text, rodata, relro, data, bss) lie, by its ELF program headers.
 *
 * A path says little: the file may have been replaced since, or never have been
 * this one (another mount namespace).  So every file is held against the device
 * and inode of the mapping before a byte of it is believed.
 */
#include "engine.h"
#include "uapi.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define MAX_PHDRS 64

struct segment {
    uint64_t offset, vaddr, filesz, memsz;
    bool exec, write;
};

struct image {
    struct segment loads[MAX_PHDRS];
    size_t n_loads;
    uint64_t relro_start, relro_end;
};

/* Where a loader put an image: file address + bias = address. */
struct instance {
    uint64_t bias;
    uint64_t text; /* bytes of executable segments met so far */
    bool found;
};

static uint64_t down(uint64_t v, uint64_t page)
{
    return v & ~(page - 1);
}

static uint64_t up(uint64_t v, uint64_t page)
{
    return down(v + page - 1, page);
}

/* ---- the format -------------------------------------------------------------- */

/* The fields of a program header, of either class, that we use. */
struct phdr {
    uint32_t type, flags;
    uint64_t offset, vaddr, filesz, memsz;
};

static struct phdr phdr_at(const unsigned char *p, bool is64)
{
    if (is64) {
        Elf64_Phdr h;
        memcpy(&h, p, sizeof h);
        return (struct phdr){h.p_type, h.p_flags, h.p_offset, h.p_vaddr, h.p_filesz, h.p_memsz};
    }
    Elf32_Phdr h;
    memcpy(&h, p, sizeof h);
    return (struct phdr){h.p_type, h.p_flags, h.p_offset, h.p_vaddr, h.p_filesz, h.p_memsz};
}

static bool native(const unsigned char *ident)
{
    const uint16_t probe = 1;
    bool little = *(const unsigned char *)&probe == 1;
    return memcmp(ident, ELFMAG, SELFMAG) == 0 &&
           ident[EI_DATA] == (little ? ELFDATA2LSB : ELFDATA2MSB) &&
           (ident[EI_CLASS] == ELFCLASS64 || ident[EI_CLASS] == ELFCLASS32);
}

static bool sane(const struct phdr *h)
{
    uint64_t end;
    return !__builtin_add_overflow(h->vaddr, h->memsz, &end) && end < UINT64_MAX / 2 &&
           !__builtin_add_overflow(h->offset, h->filesz, &end) && end < UINT64_MAX / 2 &&
           h->filesz <= h->memsz;
}

static bool take_phdr(struct image *img, const struct phdr *h)
{
    if (h->type == PT_GNU_RELRO && sane(h)) {
        img->relro_start = h->vaddr;
        img->relro_end = h->vaddr + h->memsz;
    }
    if (h->type != PT_LOAD)
        return true;
    if (!sane(h) || img->n_loads == MAX_PHDRS)
        return false;
    img->loads[img->n_loads++] = (struct segment){
        .offset = h->offset,
        .vaddr = h->vaddr,
        .filesz = h->filesz,
        .memsz = h->memsz,
        .exec = h->flags & PF_X,
        .write = h->flags & PF_W,
    };
    return true;
}

/* 1: read; 0: not an ELF file of this machine, or without a loadable segment; or -errno. */
static int read_image(const struct pm__io *io, int fd, struct image *img)
{
    unsigned char head[sizeof(Elf64_Ehdr)], table[MAX_PHDRS * sizeof(Elf64_Phdr)];
    memset(img, 0, sizeof *img);
    ssize_t got = pm__pread_full(io, fd, head, sizeof head, 0);
    if (got < 0)
        return (int)got;
    if (got < (ssize_t)sizeof(Elf32_Ehdr) || !native(head))
        return 0;
    bool is64 = head[EI_CLASS] == ELFCLASS64;
    if (is64 && got < (ssize_t)sizeof(Elf64_Ehdr))
        return 0;
    Elf64_Ehdr e64;
    Elf32_Ehdr e32;
    memcpy(&e64, head, sizeof e64);
    memcpy(&e32, head, sizeof e32);
    uint64_t at = is64 ? e64.e_phoff : e32.e_phoff;
    size_t n = is64 ? e64.e_phnum : e32.e_phnum;
    size_t each = is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if ((is64 ? e64.e_phentsize : e32.e_phentsize) != each || n == 0 || n > MAX_PHDRS)
        return 0;
    got = pm__pread_full(io, fd, table, n * each, at);
    if (got != (ssize_t)(n * each))
        return got < 0 ? (int)got : 0;
    for (size_t i = 0; i < n; i++) {
        struct phdr h = phdr_at(table + i * each, is64);
        if (!take_phdr(img, &h))
            return 0;
    }
    return img->n_loads > 0;
}

/* ---- finding the image in memory ------------------------------------------------ */

/* Code is mapped executable, or writable while it is patched; else it is not this segment. */
static bool fits(const struct segment *s, const pm_mapping *m, uint64_t bias, uint64_t page)
{
    if (s->exec && !(m->perms & (PM_EXEC | PM_WRITE)))
        return false;
    uint64_t start = down(s->vaddr, page), end = up(s->vaddr + s->filesz, page);
    uint64_t at = m->start - bias;
    return m->start >= bias && at >= start && m->end - bias <= end &&
           m->offset == down(s->offset, page) + (at - start);
}

static const struct segment *segment_of(const struct image *img, const pm_mapping *m, uint64_t bias,
                                        uint64_t page)
{
    for (size_t i = 0; i < img->n_loads; i++)
        if (fits(&img->loads[i], m, bias, page))
            return &img->loads[i];
    return NULL;
}

static bool inside(const struct image *img, const struct instance *in, const pm_mapping *m,
                   uint64_t page)
{
    uint64_t end = 0;
    for (size_t i = 0; i < img->n_loads; i++)
        if (img->loads[i].vaddr + img->loads[i].memsz > end)
            end = img->loads[i].vaddr + img->loads[i].memsz;
    return in->found && m->start >= in->bias && m->end - in->bias <= up(end, page);
}

/* A mapping of the file that belongs to no instance yet may begin one. */
static bool begins(const struct image *img, const pm_mapping *m, uint64_t page, struct instance *in)
{
    const struct segment *first = &img->loads[0];
    uint64_t at = down(first->vaddr, page);
    if (m->start < at || !fits(first, m, m->start - at, page) ||
        m->offset != down(first->offset, page))
        return false;
    *in = (struct instance){.bias = m->start - at, .found = true};
    in->text = first->exec ? m->end - m->start : 0;
    return true;
}

static int add_part(struct pm__capture *c, uint32_t object, uint64_t start, uint64_t end,
                    enum pm_part_kind kind)
{
    if (start >= end)
        return 0;
    if (c->n_parts == c->room.parts) {
        c->room.parts *= 2;
        return -ENOBUFS;
    }
    c->parts[c->n_parts++] = (pm_part){.start = start, .end = end, .kind = kind, .object = object};
    c->objects[object].n_parts++;
    return 0;
}

static uint64_t clamp(uint64_t v, uint64_t lo, uint64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* A writable segment: RELRO in front (the loader protects whole pages only), then
 * data to the end of its file pages, then bss. */
static int add_writable(struct pm__capture *c, uint32_t object, const struct image *img,
                        const struct segment *s, uint64_t bias, uint64_t page)
{
    uint64_t start = down(s->vaddr, page), end = up(s->vaddr + s->filesz, page);
    uint64_t relro = start, relro_end = start;
    if (img->relro_end > s->vaddr && img->relro_start < s->vaddr + s->memsz) {
        relro = clamp(down(img->relro_start, page), start, end);
        relro_end = clamp(down(img->relro_end, page), relro, end);
    }
    int rc = add_part(c, object, bias + relro, bias + relro_end, PM_RELRO);
    if (rc == 0)
        rc = add_part(c, object, bias + start, bias + relro, PM_DATA);
    if (rc == 0)
        rc = add_part(c, object, bias + relro_end, bias + end, PM_DATA);
    if (rc == 0)
        rc = add_part(c, object, bias + end, bias + up(s->vaddr + s->memsz, page), PM_BSS);
    return rc;
}

static int add_parts(struct pm__capture *c, uint32_t object, const struct image *img, uint64_t bias)
{
    uint64_t page = c->header.page_size;
    for (size_t i = 0; i < img->n_loads; i++) {
        const struct segment *s = &img->loads[i];
        uint64_t start = bias + down(s->vaddr, page), end = bias + up(s->vaddr + s->filesz, page);
        int rc = s->exec    ? add_part(c, object, start, end, PM_TEXT)
                 : s->write ? add_writable(c, object, img, s, bias, page)
                            : add_part(c, object, start, end, PM_RODATA);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static uint64_t text_size(const struct image *img, uint64_t page)
{
    uint64_t size = 0;
    for (size_t i = 0; i < img->n_loads; i++) {
        const struct segment *s = &img->loads[i];
        size += s->exec ? up(s->vaddr + s->filesz, page) - down(s->vaddr, page) : 0;
    }
    return size;
}

/* An instance counts when all of its text is where it should be; else the file, or a
 * piece of it, was mapped as data. */
static int close_instance(struct pm__capture *c, uint32_t object, const struct image *img,
                          struct instance *in)
{
    uint64_t text = text_size(img, c->header.page_size);
    bool good = in->found && text && in->text == text;
    uint64_t bias = in->bias;
    *in = (struct instance){0};
    return good ? add_parts(c, object, img, bias) : 0;
}

static int locate(struct pm__capture *c, uint32_t object, const struct image *img)
{
    struct instance in = {0};
    uint64_t page = c->header.page_size;
    for (size_t i = 0; i < c->n_mappings; i++) {
        const pm_mapping *m = &c->mappings[i];
        if (m->object != object + 1)
            continue;
        const struct segment *s = in.found ? segment_of(img, m, in.bias, page) : NULL;
        if (s) {
            in.text += s->exec ? m->end - m->start : 0;
            continue;
        }
        if (inside(img, &in, m, page))
            continue; /* the gap between two segments, reserved by the loader */
        int rc = close_instance(c, object, img, &in);
        if (rc < 0)
            return rc;
        begins(img, m, page, &in);
    }
    return close_instance(c, object, img, &in);
}

/* ---- the file --------------------------------------------------------------------- */

/* maps writes a newline in a name as \012 and nothing else; undo it.  A name that
 * holds those four characters itself is found by trying it as it stands first. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (strncmp(s, "\\012", 4) == 0) {
            *to++ = '\n';
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* On overlayfs and btrfs stat and maps name different devices for one file. */
static bool same_when_mapped(struct pm__capture *c, int fd, const pm_mapping *m)
{
    struct pm__file f;
    int rc = c->io->mapped(c->io->ctx, fd, c->scratch, PM__SCRATCH, &f);
    return rc == 0 && f.inode == m->inode && f.dev_major == m->dev_major &&
           f.dev_minor == m->dev_minor;
}

static bool same_file(const struct pm__file *f, const pm_mapping *m)
{
    return f->inode == m->inode && f->dev_major == m->dev_major && f->dev_minor == m->dev_minor;
}

static bool is_kind(const struct pm__file *f, uint32_t type)
{
    return (f->mode & S_IFMT) == type;
}

/* Opens the path in the target's own root.  First without reading (a device must
 * not be woken by a look at it), then, for a regular file, in earnest. */
static int open_mapped(struct pm__capture *c, const pm_mapping *m, struct pm__file *file)
{
    char path[4096];
    if (c->root < 0)
        return c->root;
    if (m->name_len - 1 >= sizeof path)
        return -ENAMETOOLONG;
    memcpy(path, c->strings + m->name + 1, m->name_len - 1); /* without its slash: from the root */
    path[m->name_len - 1] = '\0';
    int fd = c->io->open(c->io->ctx, c->root, path, O_PATH | O_NOFOLLOW);
    if (fd == -ENOENT) {
        unescape(path);
        fd = c->io->open(c->io->ctx, c->root, path, O_PATH | O_NOFOLLOW);
    }
    if (fd < 0)
        return fd;
    int rc = c->io->stat(c->io->ctx, fd, file);
    c->io->close(c->io->ctx, fd);
    if (rc < 0)
        return rc;
    if (!is_kind(file, S_IFREG))
        return same_file(file, m) ? -EMEDIUMTYPE : -ESTALE;
    fd = c->io->open(c->io->ctx, c->root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fd;
    rc = c->io->stat(c->io->ctx, fd, file);
    if (rc == 0 && !same_file(file, m) && !same_when_mapped(c, fd, m))
        rc = -ESTALE;
    if (rc < 0) {
        c->io->close(c->io->ctx, fd);
        return rc;
    }
    return fd;
}

static enum pm_kind kind_of_regular(const struct pm__file *f)
{
    if (f->fstype == PM_TMPFS_MAGIC || f->fstype == PM_RAMFS_MAGIC)
        return PM_KIND_SHMEM;
    return f->fstype == PM_HUGETLBFS_MAGIC ? PM_KIND_HUGETLB : PM_KIND_FILE;
}

static bool is_dev_zero(const struct pm__capture *c, const pm_mapping *m)
{
    return m->name_len == 9 && memcmp(c->strings + m->name, "/dev/zero", 9) == 0;
}

/* Only what maps left open, or took for an ordinary file, is corrected. */
static void set_kind(struct pm__capture *c, uint32_t object, enum pm_kind kind)
{
    for (size_t i = 0; i < c->n_mappings; i++) {
        pm_mapping *m = &c->mappings[i];
        if (m->object == object + 1 && (m->kind == PM_KIND_UNKNOWN || m->kind == PM_KIND_FILE))
            m->kind = (uint8_t)kind;
    }
}

/* Overwritten in place, a file keeps its inode, but its headers do not fit what is mapped. */
static bool maps_code(const struct pm__capture *c, uint32_t object)
{
    for (size_t i = 0; i < c->n_mappings; i++)
        if (c->mappings[i].object == object + 1 && (c->mappings[i].perms & PM_EXEC))
            return true;
    return false;
}

static int examine(struct pm__capture *c, uint32_t object, const pm_mapping *m)
{
    pm_object *o = &c->objects[object];
    struct pm__file file = {0};
    struct image *img = (void *)c->scratch;
    o->first_part = (uint32_t)c->n_parts;
    int fd = open_mapped(c, m, &file);
    if (fd == -EMEDIUMTYPE) {
        o->status = PM_ELF_NOT;
        set_kind(c, object,
                 is_dev_zero(c, m) && !(m->perms & PM_SHARED_MAP) ? PM_KIND_ANON : PM_KIND_SPECIAL);
        return 0;
    }
    if (fd < 0) {
        o->status = fd == -ESTALE ? PM_ELF_REPLACED : PM_ELF_UNREADABLE;
        o->err = -fd;
        return 0;
    }
    set_kind(c, object, kind_of_regular(&file));
    int elf = read_image(c->io, fd, img);
    c->io->close(c->io->ctx, fd);
    if (elf < 0) {
        o->status = PM_ELF_UNREADABLE;
        o->err = -elf;
        return 0;
    }
    o->status = elf ? PM_ELF_OK : PM_ELF_NOT;
    int rc = elf ? locate(c, object, img) : 0;
    if (elf && o->n_parts == 0)
        o->status = maps_code(c, object) ? PM_ELF_REPLACED : PM_ELF_PLAIN;
    c->header.sources |= 1u << PM_SRC_FILE;
    return rc;
}

static bool wants_object(const struct pm__capture *c, const pm_mapping *m)
{
    return m->inode != 0 && m->name_len && c->strings[m->name] == '/' &&
           m->kind != PM_KIND_HUGETLB && m->kind != PM_KIND_SPECIAL;
}

static bool same_object(const struct pm__capture *c, const pm_object *o, const pm_mapping *m)
{
    return o->inode == m->inode && o->dev_major == m->dev_major && o->dev_minor == m->dev_minor &&
           o->name_len == m->name_len &&
           memcmp(c->strings + o->name, c->strings + m->name, m->name_len) == 0;
}

static int find_or_add(struct pm__capture *c, const pm_mapping *m, uint32_t *object)
{
    for (size_t i = c->n_objects; i-- > 0;) {
        if (same_object(c, &c->objects[i], m)) {
            *object = (uint32_t)i;
            return 0;
        }
    }
    if (c->n_objects == c->room.objects) {
        c->room.objects *= 2;
        return -ENOBUFS;
    }
    *object = (uint32_t)c->n_objects;
    c->objects[c->n_objects++] = (pm_object){
        .name = m->name,
        .name_len = m->name_len,
        .dev_major = m->dev_major,
        .dev_minor = m->dev_minor,
        .inode = m->inode,
    };
    return 0;
}

/* Whether nameless memory follows one of its mappings: it may be its bss. */
static bool may_have_bss(const struct pm__capture *c, uint32_t object)
{
    for (size_t i = 0; i + 1 < c->n_mappings; i++) {
        const pm_mapping *next = &c->mappings[i + 1];
        if (c->mappings[i].object == object + 1 && next->start == c->mappings[i].end &&
            next->inode == 0 && next->name_len == 0)
            return true;
    }
    return false;
}

/* Where not everything was asked for, headers are not worth their time; but what kind of file it
 * is has to be known, and what belongs to it. */
static bool wants_headers(const struct pm__capture *c, const pm_mapping *m, uint32_t object)
{
    int depth = c->request->depth;
    return depth == PM_FULL || (depth == PM_PAGES && c->request->n_extents) ||
           (depth == PM_PAGES && m->kind == PM_KIND_UNKNOWN) || may_have_bss(c, object);
}

static int name_objects(struct pm__capture *c)
{
    for (size_t i = 0; i < c->n_mappings; i++) {
        uint32_t object;
        if (!wants_object(c, &c->mappings[i]))
            continue;
        int rc = find_or_add(c, &c->mappings[i], &object);
        if (rc < 0)
            return rc;
        c->mappings[i].object = object + 1;
    }
    return 0;
}

static int examine_all(struct pm__capture *c)
{
    for (uint32_t o = 0; o < c->n_objects; o++) {
        size_t i = 0;
        while (c->mappings[i].object != o + 1)
            i++;
        c->objects[o].status = PM_ELF_UNASKED;
        int rc = wants_headers(c, &c->mappings[i], o) ? examine(c, o, &c->mappings[i]) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

int pm__elf_read(struct pm__capture *c)
{
    int rc = name_objects(c);
    if (rc < 0)
        return rc;
    c->root = c->io->open(c->io->ctx, c->dir, "root", O_PATH | O_DIRECTORY);
    rc = examine_all(c);
    if (c->root >= 0)
        c->io->close(c->io->ctx, c->root);
    return rc;
}
