/* SPDX-License-Identifier: MIT
 *
 * Files behind mappings: the parts of a library by its program headers, however it was
 * linked; what stands in for a library and is none; damaged headers.
 */
#include "check.h"
#include "rig.h"

#include <elf.h>
#include <errno.h>

#define BASE UINT64_C(0x7f0000000000)
#define INODE 77

struct image {
    unsigned char bytes[1024];
    size_t n;
    bool is32;
    unsigned phnum;
};

static void begin(struct image *img, bool is32)
{
    memset(img, 0, sizeof *img);
    img->is32 = is32;
    memcpy(img->bytes, ELFMAG, SELFMAG);
    img->bytes[EI_CLASS] = is32 ? ELFCLASS32 : ELFCLASS64;
    img->bytes[EI_DATA] = ELFDATA2LSB;
    img->bytes[EI_VERSION] = EV_CURRENT;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    img->bytes[EI_DATA] = ELFDATA2MSB;
#endif
}

static void finish(struct image *img)
{
    size_t head = img->is32 ? sizeof(Elf32_Ehdr) : sizeof(Elf64_Ehdr);
    size_t each = img->is32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);
    if (img->is32) {
        Elf32_Ehdr h;
        memcpy(&h, img->bytes, sizeof h);
        h.e_phoff = (Elf32_Off)head;
        h.e_phentsize = (Elf32_Half)each;
        h.e_phnum = (Elf32_Half)img->phnum;
        memcpy(img->bytes, &h, sizeof h);
    } else {
        Elf64_Ehdr h;
        memcpy(&h, img->bytes, sizeof h);
        h.e_phoff = head;
        h.e_phentsize = (Elf64_Half)each;
        h.e_phnum = (Elf64_Half)img->phnum;
        memcpy(img->bytes, &h, sizeof h);
    }
    img->n = head + each * img->phnum;
}

static void add(struct image *img, uint32_t type, uint32_t flags, uint64_t offset, uint64_t vaddr,
                uint64_t filesz, uint64_t memsz)
{
    unsigned k = img->phnum++;
    if (img->is32) {
        Elf32_Phdr h = {.p_type = type,
                        .p_flags = flags,
                        .p_offset = (Elf32_Off)offset,
                        .p_vaddr = (Elf32_Addr)vaddr,
                        .p_filesz = (Elf32_Word)filesz,
                        .p_memsz = (Elf32_Word)memsz};
        memcpy(img->bytes + sizeof(Elf32_Ehdr) + k * sizeof h, &h, sizeof h);
    } else {
        Elf64_Phdr h = {.p_type = type,
                        .p_flags = flags,
                        .p_offset = offset,
                        .p_vaddr = vaddr,
                        .p_filesz = filesz,
                        .p_memsz = memsz};
        memcpy(img->bytes + sizeof(Elf64_Ehdr) + k * sizeof h, &h, sizeof h);
    }
}

/* ---- layouts ------------------------------------------------------------------------------ */
static const char separate[] = "separate-code";
static const char noseparate[] = "noseparate-code";
static const char norelro[] = "norelro";
static const char oddrelro[] = "RELRO that ends within a page";

static void make(struct image *img, const char *how, bool is32)
{
    begin(img, is32);
    add(img, PT_PHDR, PF_R, 64, 64, 400, 400);
    if (how == separate || how == oddrelro) {
        add(img, PT_LOAD, PF_R, 0, 0, 0xf00, 0xf00);
        add(img, PT_LOAD, PF_R | PF_X, 0x1000, 0x1000, 0x2800, 0x2800);
        add(img, PT_LOAD, PF_R, 0x4000, 0x4000, 0x900, 0x900);
        add(img, PT_LOAD, PF_R | PF_W, 0x4de0, 0x5de0, 0x500, 0x2500);
        uint64_t relro = how == oddrelro ? 0x520 : 0x220; /* to 0x6300, or to 0x6000 */
        add(img, PT_GNU_RELRO, PF_R, 0x4de0, 0x5de0, relro, relro);
    } else if (how == noseparate) {
        add(img, PT_LOAD, PF_R | PF_X, 0, 0, 0x3900, 0x3900);
        add(img, PT_LOAD, PF_R | PF_W, 0x3de0, 0x4de0, 0x300, 0x400);
        add(img, PT_GNU_RELRO, PF_R, 0x3de0, 0x4de0, 0x220, 0x220);
    } else {
        add(img, PT_LOAD, PF_R, 0, 0, 0xf00, 0xf00);
        add(img, PT_LOAD, PF_R | PF_X, 0x1000, 0x1000, 0x800, 0x800);
        add(img, PT_LOAD, PF_R | PF_W, 0x2000, 0x3000, 0x1100, 0x3100);
    }
    add(img, PT_DYNAMIC, PF_R | PF_W, 0x4e00, 0x5e00, 0x100, 0x100);
    finish(img);
}

struct map {
    uint64_t start, end, offset;
    const char *perms;
    bool anonymous;
};

/* As ld.so leaves them, from BASE; `up to a mapping that is empty`. */
static const struct map separate_maps[] = {{0x0000, 0x1000, 0x0000, "r--p", false},
                                           {0x1000, 0x4000, 0x1000, "r-xp", false},
                                           {0x4000, 0x5000, 0x4000, "r--p", false},
                                           {0x5000, 0x6000, 0x4000, "r--p", false},
                                           {0x6000, 0x7000, 0x5000, "rw-p", false},
                                           {0x7000, 0x9000, 0, "rw-p", true},
                                           {0}};
static const struct map noseparate_maps[] = {{0x0000, 0x4000, 0x0000, "r-xp", false},
                                             {0x4000, 0x5000, 0x3000, "r--p", false},
                                             {0x5000, 0x6000, 0x4000, "rw-p", false},
                                             {0}};
static const struct map norelro_maps[] = {{0x0000, 0x1000, 0x0000, "r--p", false},
                                          {0x1000, 0x2000, 0x1000, "r-xp", false},
                                          {0x3000, 0x5000, 0x2000, "rw-p", false},
                                          {0x5000, 0x7000, 0, "rw-p", true},
                                          {0}};
/* Loaders of old reserve the whole image by its first segment and lay the others over it. */
static const struct map gap_maps[] = {
    {0x0000, 0x1000, 0x0000, "r--p", false}, {0x1000, 0x2000, 0x1000, "r-xp", false},
    {0x2000, 0x3000, 0x2000, "---p", false}, {0x3000, 0x5000, 0x2000, "rw-p", false},
    {0x5000, 0x7000, 0, "rw-p", true},       {0}};
/* mprotect has split the text. */
static const struct map split_maps[] = {
    {0x0000, 0x1000, 0x0000, "r--p", false}, {0x1000, 0x2000, 0x1000, "r-xp", false},
    {0x2000, 0x3000, 0x2000, "rwxp", false}, {0x3000, 0x4000, 0x3000, "r-xp", false},
    {0x4000, 0x5000, 0x4000, "r--p", false}, {0x5000, 0x6000, 0x4000, "r--p", false},
    {0x6000, 0x7000, 0x5000, "rw-p", false}, {0}};
static const struct map plain_maps[] = {{0x0000, 0x8000, 0x0000, "r--p", false}, {0}};
static const struct map plain_head_maps[] = {{0x0000, 0x1000, 0x0000, "r--p", false}, {0}};

static void map_at(struct rig *g, uint64_t base, const struct map *maps)
{
    for (; maps->end; maps++) {
        pm_mapping *m = &g->c.mappings[g->c.n_mappings++];
        *m = (pm_mapping){.start = base + maps->start,
                          .end = base + maps->end,
                          .offset = maps->offset,
                          .kind = PM_KIND_ANON};
        m->perms = (uint8_t)((maps->perms[0] == 'r' ? PM_READ : 0) |
                             (maps->perms[1] == 'w' ? PM_WRITE : 0) |
                             (maps->perms[2] == 'x' ? PM_EXEC : 0) |
                             (maps->perms[3] == 's' ? PM_SHARED_MAP : 0));
        if (maps->anonymous)
            continue;
        m->inode = INODE;
        m->dev_major = 0xfe;
        m->name_len = 9; /* "/lib/x.so", put there by rig_elf */
        m->kind = PM_KIND_FILE;
    }
}

static void rig_elf(struct rig *g, const void *bytes, size_t n)
{
    rig_make(g, 16, 1, 256);
    memcpy(g->c.strings, "/lib/x.so", 10);
    g->c.n_strings = 9;
    g->fake.files[0] = (struct fk_file){
        .path = "/lib/x.so",
        .bytes = bytes,
        .n = n,
        .is = {.dev_major = 0xfe, .inode = INODE, .mode = S_IFREG | 0755, .fstype = 0xef53}};
    g->fake.n_files = 1;
}

/* "rodata 0-1, text 1-4" in pages from BASE, in order of address. */
static void describe(const struct rig *g, char *out, size_t cap)
{
    static const char *const names[] = {"text", "rodata", "relro", "data", "bss"};
    size_t n = 0;
    uint64_t last = 0;
    *out = '\0';
    for (size_t k = 0; k < g->c.n_parts; k++) {
        const pm_part *next = NULL;
        for (size_t i = 0; i < g->c.n_parts; i++)
            if (g->c.parts[i].start >= last && (!next || g->c.parts[i].start < next->start))
                next = &g->c.parts[i];
        if (!next)
            break;
        n += (size_t)snprintf(out + n, cap - n, "%s%s %llx-%llx", k ? ", " : "", names[next->kind],
                              (unsigned long long)(next->start - BASE) >> 12,
                              (unsigned long long)(next->end - BASE) >> 12);
        last = next->end;
    }
}

static void parts_of_a_library(void)
{
    static const struct {
        const char *name, *how;
        const struct map *maps;
        enum pm_elf_status status;
        const char *parts;
    } cases[] = {
        {"as linked today", separate, separate_maps, PM_ELF_OK,
         "rodata 0-1, text 1-4, rodata 4-5, relro 5-6, data 6-7, bss 7-9"},
        {"the loader protects whole pages only", oddrelro, separate_maps, PM_ELF_OK,
         "rodata 0-1, text 1-4, rodata 4-5, relro 5-6, data 6-7, bss 7-9"},
        {"rodata within the text", noseparate, noseparate_maps, PM_ELF_OK,
         "text 0-4, relro 4-5, data 5-6"},
        {"without RELRO", norelro, norelro_maps, PM_ELF_OK,
         "rodata 0-1, text 1-2, data 3-5, bss 5-7"},
        {"a reserved gap", norelro, gap_maps, PM_ELF_OK, "rodata 0-1, text 1-2, data 3-5, bss 5-7"},
        {"text that mprotect split", separate, split_maps, PM_ELF_OK,
         "rodata 0-1, text 1-4, rodata 4-5, relro 5-6, data 6-7, bss 7-9"},
        {"read as a file", separate, plain_maps, PM_ELF_PLAIN, ""},
        {"read as a file, its head only", separate, plain_head_maps, PM_ELF_PLAIN, ""},
        {"read as a file, rodata within the text", noseparate, plain_maps, PM_ELF_PLAIN, ""},
        {"its head only, rodata within the text", noseparate, plain_head_maps, PM_ELF_PLAIN, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int is32 = 0; is32 < 2; is32++) {
            struct image img;
            struct rig g;
            char got[256];
            make(&img, cases[i].how, is32);
            rig_elf(&g, img.bytes, img.n);
            map_at(&g, BASE, cases[i].maps);
            CHECK_EQ(pm__elf_read(&g.c), 0);
            describe(&g, got, sizeof got);
            CHECK_IN(g.c.n_objects == 1 && g.c.objects[0].status == (int)cases[i].status,
                     "%s: status %d", cases[i].name, g.c.objects[0].status);
            CHECK_IN(strcmp(got, cases[i].parts) == 0, "%s: %s, not %s", cases[i].name, got,
                     cases[i].parts);
            CHECK(fk_tidy(&g.fake));
            rig_drop(&g);
        }
}

/* Loaded twice (dlmopen), and read as a file in between: each instance has its parts. */
static void two_instances(void)
{
    struct image img;
    struct rig g;
    char got[512];
    make(&img, noseparate, false);
    rig_elf(&g, img.bytes, img.n);
    map_at(&g, BASE, noseparate_maps);
    map_at(&g, BASE + 0x10000, plain_maps);
    map_at(&g, BASE + 0x20000, noseparate_maps);
    CHECK_EQ(pm__elf_read(&g.c), 0);
    describe(&g, got, sizeof got);
    CHECK_IN(strcmp(got, "text 0-4, relro 4-5, data 5-6, text 20-24, relro 24-25, data 25-26") == 0,
             "%s", got);
    rig_drop(&g);
}

/* What the file is decides what kind of memory its mappings are. */
static void what_the_file_is(void)
{
    static const struct {
        const char *name;
        struct pm__file is;
        int open_errno;
        const char *perms;
        int status, err;
        enum pm_kind kind;
    } cases[] = {
        {"regular", {0xfe, 0, INODE, S_IFREG, 0xef53}, 0, "r--p", PM_ELF_NOT, 0, PM_KIND_FILE},
        {"on tmpfs",
         {0xfe, 0, INODE, S_IFREG, PM_TMPFS_MAGIC},
         0,
         "r--p",
         PM_ELF_NOT,
         0,
         PM_KIND_SHMEM},
        {"on ramfs",
         {0xfe, 0, INODE, S_IFREG, PM_RAMFS_MAGIC},
         0,
         "r--p",
         PM_ELF_NOT,
         0,
         PM_KIND_SHMEM},
        {"on hugetlbfs",
         {0xfe, 0, INODE, S_IFREG, PM_HUGETLBFS_MAGIC},
         0,
         "r--p",
         PM_ELF_NOT,
         0,
         PM_KIND_HUGETLB},
        {"another file by now",
         {0xfe, 0, INODE + 1, S_IFREG, 0xef53},
         0,
         "r--p",
         PM_ELF_REPLACED,
         ESTALE,
         PM_KIND_FILE},
        {"on another device",
         {0xfe, 1, INODE, S_IFREG, 0xef53},
         0,
         "r--p",
         PM_ELF_REPLACED,
         ESTALE,
         PM_KIND_FILE},
        {"not for us",
         {0xfe, 0, INODE, S_IFREG, 0xef53},
         EACCES,
         "r--p",
         PM_ELF_UNREADABLE,
         EACCES,
         PM_KIND_FILE},
        {"a device", {0xfe, 0, INODE, S_IFCHR, 0xef53}, 0, "rw-s", PM_ELF_NOT, 0, PM_KIND_SPECIAL},
        {"a symlink now",
         {0xfe, 0, INODE + 1, S_IFLNK, 0xef53},
         0,
         "r--p",
         PM_ELF_REPLACED,
         ESTALE,
         PM_KIND_FILE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct map maps[] = {{0, 0x1000, 0, cases[i].perms, false}, {0}};
        struct rig g;
        rig_elf(&g, "no ELF", 6);
        g.fake.files[0].is = cases[i].is;
        g.fake.files[0].open_errno = cases[i].open_errno;
        map_at(&g, BASE, maps);
        CHECK_EQ(pm__elf_read(&g.c), 0);
        CHECK_IN(g.c.objects[0].status == cases[i].status && g.c.objects[0].err == cases[i].err,
                 "%s: status %d, errno %d", cases[i].name, g.c.objects[0].status,
                 g.c.objects[0].err);
        CHECK_IN(g.c.mappings[0].kind == cases[i].kind, "%s: kind %d", cases[i].name,
                 g.c.mappings[0].kind);
        CHECK(fk_tidy(&g.fake));
        rig_drop(&g);
    }
}

/* Private /dev/zero is anonymous memory; other devices are special. */
static void dev_zero(void)
{
    static const struct map maps[] = {{0, 0x1000, 0, "rw-p", false}, {0}};
    struct rig g;
    rig_elf(&g, "", 0);
    memcpy(g.c.strings, "/dev/zero", 9);
    g.fake.files[0].path = "/dev/zero";
    g.fake.files[0].is.mode = S_IFCHR;
    map_at(&g, BASE, maps);
    g.c.mappings[0].kind = PM_KIND_UNKNOWN;
    CHECK_EQ(pm__elf_read(&g.c), 0);
    CHECK_EQ(g.c.mappings[0].kind, PM_KIND_ANON);
    rig_drop(&g);
}

/* maps escapes a newline; a name that holds the escape itself is tried first as it stands. */
static void escaped_names(void)
{
    static const char *const paths[] = {"/a\nb.so", "/a\\012b.so"};
    for (size_t i = 0; i < 2; i++) {
        struct rig g;
        static const struct map maps[] = {{0, 0x1000, 0, "r--p", false}, {0}};
        rig_elf(&g, "no ELF", 6);
        memcpy(g.c.strings, "/a\\012b.so", 10);
        g.c.n_strings = 10;
        g.fake.files[0].path = paths[i];
        map_at(&g, BASE, maps);
        g.c.mappings[0].name_len = 10;
        CHECK_EQ(pm__elf_read(&g.c), 0);
        CHECK_EQ(g.c.objects[0].status, PM_ELF_NOT);
        rig_drop(&g);
    }
}

/* Gone, or with a name longer than any path: unreadable, and why. */
static void not_found(void)
{
    struct rig g;
    static const struct map maps[] = {{0, 0x1000, 0, "r--p", false}, {0}};
    rig_elf(&g, "", 0);
    g.fake.n_files = 0;
    map_at(&g, BASE, maps);
    CHECK_EQ(pm__elf_read(&g.c), 0);
    CHECK_EQ(g.c.objects[0].status, PM_ELF_UNREADABLE);
    CHECK_EQ(g.c.objects[0].err, ENOENT);
    rig_drop(&g);
    rig_make(&g, 4, 1, 8192);
    memset(g.c.strings, '/', 8192);
    map_at(&g, BASE, maps);
    g.c.mappings[0].name_len = 8000;
    CHECK_EQ(pm__elf_read(&g.c), 0);
    CHECK_EQ(g.c.objects[0].err, ENAMETOOLONG);
    rig_drop(&g);
}

/* That reading failed does not make it a file that is no ELF. */
static void failed_reads(void)
{
    for (unsigned call = 1; call < 12; call++) {
        struct image img;
        struct rig g;
        make(&img, separate, false);
        rig_elf(&g, img.bytes, img.n);
        map_at(&g, BASE, separate_maps);
        g.fake.fault = FK_ERRNO;
        g.fake.fail_at = call;
        g.fake.fail_errno = EIO;
        CHECK_EQ(pm__elf_read(&g.c), 0);
        CHECK_IN(g.c.objects[0].status != PM_ELF_NOT && g.c.objects[0].status != PM_ELF_PLAIN,
                 "call %u of %u: status %d", call, g.fake.calls, g.c.objects[0].status);
        CHECK(fk_tidy(&g.fake));
        rig_drop(&g);
    }
}

/* ---- damage ----------------------------------------------------------------------------------- */
static void check_sane(const struct rig *g, const char *what, size_t at)
{
    const pm_object *o = &g->c.objects[0];
    CHECK_IN(o->status >= PM_ELF_OK && o->status <= PM_ELF_PLAIN, "%s %zu: status %d", what, at,
             o->status);
    CHECK(o->first_part + o->n_parts <= g->c.n_parts && g->c.n_parts <= g->room.parts);
    for (size_t i = 0; i < g->c.n_parts; i++) {
        const pm_part *p = &g->c.parts[i];
        CHECK_IN(p->start < p->end && p->start % FK_PAGE == 0 && p->end % FK_PAGE == 0 &&
                     p->kind < PM_N_PARTS,
                 "%s %zu: part %#llx-%#llx", what, at, (unsigned long long)p->start,
                 (unsigned long long)p->end);
    }
}

static int read_damaged(const unsigned char *bytes, size_t n, const struct map *maps,
                        const char *what, size_t at)
{
    struct rig g;
    unsigned char *copy = malloc(n + !n);
    memcpy(copy, bytes, n);
    rig_elf(&g, copy, n);
    map_at(&g, BASE, maps);
    int rc = pm__elf_read(&g.c);
    CHECK_IN(rc == 0 || rc == -ENOBUFS, "%s %zu: %d", what, at, rc);
    if (rc == 0)
        check_sane(&g, what, at);
    int status = g.c.objects[0].status;
    rig_drop(&g);
    free(copy);
    return status;
}

static const struct {
    const char *how;
    const struct map *maps;
} layouts[] = {{separate, separate_maps}, {noseparate, noseparate_maps}, {norelro, gap_maps}};

/* Cut off anywhere, it is no ELF file. */
static void truncated_anywhere(void)
{
    for (int is32 = 0; is32 < 2; is32++)
        for (size_t k = 0; k < 3; k++) {
            struct image img;
            make(&img, layouts[k].how, is32);
            for (size_t n = 0; n < img.n; n++)
                CHECK_EQ(read_damaged(img.bytes, n, layouts[k].maps, "length", n), PM_ELF_NOT);
        }
}

/* Any byte of the headers being any of a few values. */
static void damaged_anywhere(void)
{
    static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
    for (int is32 = 0; is32 < 2; is32++)
        for (size_t k = 0; k < 3; k++) {
            struct image img;
            make(&img, layouts[k].how, is32);
            for (size_t at = 0; at < img.n; at++)
                for (size_t v = 0; v < sizeof values; v++) {
                    unsigned char old = img.bytes[at];
                    img.bytes[at] = values[v];
                    read_damaged(img.bytes, img.n, layouts[k].maps, "byte", at);
                    img.bytes[at] = old;
                }
        }
}

/* Program headers that no linker makes. */
static void absurd_headers(void)
{
    static const uint64_t odd[] = {
        0,         1, 0xfff, 0x1000, 0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffff000,
        UINT64_MAX};
    struct rng r = {13};
    for (unsigned round = 0; round < 2000; round++) {
        struct image img;
        begin(&img, rng_once_in(&r, 2));
        for (uint32_t k = 1 + rng_below(&r, 8); k > 0; k--)
            add(&img, rng_once_in(&r, 4) ? PT_GNU_RELRO : PT_LOAD, rng_below(&r, 8),
                odd[rng_below(&r, 8)], odd[rng_below(&r, 8)], odd[rng_below(&r, 8)],
                odd[rng_below(&r, 8)]);
        finish(&img);
        read_damaged(img.bytes, img.n, layouts[round % 3].maps, "round", round);
    }
}

int main(void)
{
    RUN(parts_of_a_library);
    RUN(two_instances);
    RUN(what_the_file_is);
    RUN(dev_zero);
    RUN(escaped_names);
    RUN(not_found);
    RUN(failed_reads);
    RUN(truncated_anywhere);
    RUN(damaged_anywhere);
    RUN(absurd_headers);
    return check_done();
}
