/* SPDX-License-Identifier: MIT
 *
 * What entries of page tables say, case by case: arch/x86/include/asm/pgtable*.h.
 */
#include "check.h"

#include "bpf.h"
#include "uapi.h"

#define BIT(n) (UINT64_C(1) << (n))
#define PRESENT BIT(0)
#define RW BIT(1)
#define USER BIT(2)
#define ACCESSED BIT(5)
#define DIRTY BIT(6)
#define LEAF BIT(7) /* of a small page: PAT */
#define PROTNONE BIT(8)
#define SPECIAL BIT(9)
#define UFFD_WP BIT(10)
#define SOFT_DIRTY BIT(11)
#define HUGE_PAT BIT(12)
#define SAVED BIT(58)
#define KEY (UINT64_C(15) << 59) /* of protection keys */
#define NX BIT(63)

#define SMALL 12
#define HUGE 21
#define GIB 30

#define MASK (((UINT64_C(1) << 52) - 1) & ~UINT64_C(4095))
#define FRAME UINT64_C(0x12345600000)
#define FRAME_OF_GIB UINT64_C(0x12340000000)

/* As the kernel writes what no processor may read. */
static uint64_t inverted(uint64_t frame, uint64_t mask)
{
    return (~frame & mask) | PROTNONE;
}

static uint64_t mapped(uint64_t frame, uint64_t bits)
{
    return PM_PE_PRESENT | frame >> 12 | bits;
}

struct entry_case {
    const char *name;
    uint64_t entry, told;
    unsigned shift;
};

static void check_cases(const struct pm__format *f, const struct entry_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t told = pm__translate(f, cases[i].entry, cases[i].shift);
        CHECK_IN(told == cases[i].told, "%s: %#llx, not %#llx", cases[i].name,
                 (unsigned long long)told, (unsigned long long)cases[i].told);
    }
}

#define CHECK_CASES(f, cases) check_cases(&(f), cases, sizeof(cases) / sizeof *(cases))

static void what_is_mapped(void)
{
    const uint64_t young = PM__PTE_YOUNG, dirty = PM__PTE_DIRTY;
    const struct entry_case cases[] = {
        {"bare", FRAME | PRESENT, mapped(FRAME, 0), SMALL},
        {"young", FRAME | PRESENT | ACCESSED, mapped(FRAME, young), SMALL},
        {"dirty", FRAME | PRESENT | DIRTY, mapped(FRAME, dirty), SMALL},
        {"both", FRAME | PRESENT | ACCESSED | DIRTY, mapped(FRAME, young | dirty), SMALL},
        {"with all that is neither",
         FRAME | PRESENT | RW | USER | BIT(3) | BIT(4) | LEAF | PROTNONE | UFFD_WP | SOFT_DIRTY |
             KEY | NX,
         mapped(FRAME, 0), SMALL},
        {"special", FRAME | PRESENT | SPECIAL, mapped(FRAME, PM__PTE_SPECIAL), SMALL},
        {"special, of a huge page", FRAME | PRESENT | LEAF | SPECIAL, mapped(FRAME, 0), HUGE},
        {"the last page", MASK | PRESENT, mapped(MASK, 0), SMALL},
        {"frame 0", PRESENT, PM_PE_PRESENT, SMALL},
        {"2 MiB", FRAME | PRESENT | LEAF | DIRTY, mapped(FRAME, dirty), HUGE},
        {"2 MiB, PAT", FRAME | PRESENT | LEAF | HUGE_PAT | ACCESSED, mapped(FRAME, young), HUGE},
        {"2 MiB, reserved bits", FRAME | PRESENT | LEAF | 0x1ff000, mapped(FRAME, 0), HUGE},
        {"1 GiB", FRAME_OF_GIB | PRESENT | LEAF | DIRTY, mapped(FRAME_OF_GIB, dirty), GIB},
        {"1 GiB, PAT", FRAME_OF_GIB | PRESENT | LEAF | HUGE_PAT, mapped(FRAME_OF_GIB, 0), GIB},
        {"a table of small pages", FRAME | PRESENT | RW | USER | ACCESSED | DIRTY, 0, HUGE},
        {"a table of huge pages", FRAME | PRESENT | RW | USER | ACCESSED | DIRTY, 0, GIB},
        {"a table of those", FRAME | PRESENT | ACCESSED, 0, 39},
    };
    for (int saved = 0; saved < 2; saved++) {
        struct pm__format f = pm__x86_64(MASK, saved);
        CHECK_CASES(f, cases);
    }
}

/* PROT_NONE, and what NUMA balancing waits for. */
static void what_is_hidden(void)
{
    const uint64_t inv = inverted(FRAME, MASK), gib = inverted(FRAME_OF_GIB, MASK);
    const struct entry_case cases[] = {
        {"bare", inv, mapped(FRAME, 0), SMALL},
        {"both", inv | ACCESSED | DIRTY, mapped(FRAME, PM__PTE_YOUNG | PM__PTE_DIRTY), SMALL},
        {"2 MiB", inv | LEAF | DIRTY, mapped(FRAME, PM__PTE_DIRTY), HUGE},
        {"2 MiB, PAT", (inv | LEAF) & ~HUGE_PAT, mapped(FRAME, 0), HUGE},
        {"1 GiB", gib | LEAF | ACCESSED, mapped(FRAME_OF_GIB, PM__PTE_YOUNG), GIB},
        {"no leaf", inv | DIRTY, 0, HUGE},
        {"the zero frame", inverted(0, MASK), PM_PE_PRESENT, SMALL},
    };
    struct pm__format f = pm__x86_64(MASK, true);
    CHECK_CASES(f, cases);
    /* A present one has bit 8 too, where it is global: then nothing is inverted. */
    CHECK_EQ(pm__translate(&f, FRAME | PRESENT | PROTNONE, SMALL), mapped(FRAME, 0));
}

/* Memory encryption takes a bit of the address, which is no part of the frame. */
static void encrypted(void)
{
    for (unsigned bit = 43; bit < 52; bit++) {
        uint64_t mask = MASK & ~BIT(bit);
        struct pm__format f = pm__x86_64(mask, true);
        for (int set = 0; set < 2; set++) {
            uint64_t c = set ? BIT(bit) : 0;
            CHECK_EQ(pm__translate(&f, FRAME | c | PRESENT | DIRTY, SMALL),
                     mapped(FRAME, PM__PTE_DIRTY));
            CHECK_EQ(pm__translate(&f, FRAME | c | PRESENT | LEAF, HUGE), mapped(FRAME, 0));
            CHECK_EQ(pm__translate(&f, inverted(FRAME, mask) | c, SMALL), mapped(FRAME, 0));
        }
    }
}

/* Where a dirty page's bit goes when it is write-protected; before 6.6 the bit meant a device. */
static void saved_dirty(void)
{
    struct pm__format with = pm__x86_64(MASK, true), without = pm__x86_64(MASK, false);
    static const unsigned shifts[] = {SMALL, HUGE, GIB};
    for (size_t i = 0; i < 3; i++) {
        uint64_t e = FRAME_OF_GIB | PRESENT | LEAF | SAVED;
        CHECK_EQ(pm__translate(&with, e, shifts[i]), mapped(FRAME_OF_GIB, PM__PTE_DIRTY));
        CHECK_EQ(pm__translate(&without, e, shifts[i]), mapped(FRAME_OF_GIB, 0));
        CHECK_EQ(pm__translate(&without, e | DIRTY, shifts[i]),
                 mapped(FRAME_OF_GIB, PM__PTE_DIRTY));
    }
    CHECK_EQ(pm__translate(&with, inverted(FRAME, MASK) | SAVED, SMALL),
             mapped(FRAME, PM__PTE_DIRTY));
}

/* Entries that map nothing: __swp_entry() of pgtable_64.h, and what the kernel keeps in it. */
static uint64_t swap_entry(uint64_t swap_type, uint64_t offset, uint64_t bits)
{
    return (~offset << 14 >> 5) | swap_type << 59 | bits;
}

static void what_maps_nothing(void)
{
    enum { DEVICE = 27, DEVICE_WRITE, POISON, MIGRATION, MIGRATION_WRITE = 31, MARKER = 24 };
    static const uint64_t types[] = {
        0, 1, 5, DEVICE, DEVICE_WRITE, POISON, MIGRATION, MIGRATION_WRITE, MARKER};
    static const uint64_t offsets[] = {0, 1, 2, 4, 7, 0xff, 0x12345, UINT64_C(0x3ffffffffffff)};
    static const uint64_t kept[] = {0, BIT(1), BIT(2), BIT(3), BIT(1) | BIT(2) | BIT(3)};
    static const unsigned shifts[] = {SMALL, HUGE, GIB, 39};
    for (int saved = 0; saved < 2; saved++) {
        struct pm__format f = pm__x86_64(MASK, saved);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++)
            for (size_t o = 0; o < sizeof offsets / sizeof *offsets; o++)
                for (size_t k = 0; k < sizeof kept / sizeof *kept; k++)
                    for (size_t s = 0; s < 4; s++) {
                        uint64_t e = swap_entry(types[t], offsets[o], kept[k]);
                        CHECK((e & (PRESENT | PROTNONE)) == 0); /* or the test is wrong */
                        CHECK_IN(pm__translate(&f, e, shifts[s]) == 0, "%#llx",
                                 (unsigned long long)e);
                    }
        for (size_t s = 0; s < 4; s++) {
            CHECK_EQ(pm__translate(&f, 0, shifts[s]), 0);
            /* A huge page that is being split: pagemap waits for the end of it. */
            CHECK_EQ(pm__translate(&f, FRAME | LEAF | ACCESSED | DIRTY | RW, shifts[s]), 0);
        }
    }
}

static void any_entry(void)
{
    struct rng r = {58};
    static const unsigned shifts[] = {SMALL, HUGE, GIB, 39, 48};
    unsigned present = 0;
    for (int i = 0; i < 200000; i++) {
        bool saved = rng_once_in(&r, 2);
        uint64_t mask = rng_once_in(&r, 2) ? MASK : MASK & ~BIT(47);
        struct pm__format f = pm__x86_64(mask, saved);
        unsigned shift = shifts[rng_below(&r, 5)];
        uint64_t e = rng_next(&r) & rng_next(&r), told = pm__translate(&f, e, shift);
        bool maps = (e & (PRESENT | PROTNONE)) && (shift == SMALL || (e & LEAF));
        uint64_t frame = told & PM_PE_PFN_MASK;
        present += maps;
        CHECK((told != 0) == maps && ((told & PM_PE_PRESENT) != 0) == maps);
        CHECK((told & ~(PM_PE_PRESENT | PM__PTE_YOUNG | PM__PTE_DIRTY | PM__PTE_SPECIAL |
                        PM_PE_PFN_MASK)) == 0);
        if (!maps)
            continue;
        CHECK_EQ((told & PM__PTE_YOUNG) != 0, (e & ACCESSED) != 0);
        CHECK_EQ((told & PM__PTE_DIRTY) != 0, (e & (DIRTY | (saved ? SAVED : 0))) != 0);
        CHECK(frame < BIT(40) && (frame << 12 & ~mask) == 0);
        CHECK_EQ(frame % (BIT(shift) >> 12), 0); /* so that those behind it follow */
    }
    CHECK(present > 10000);
}

int main(void)
{
    RUN(what_is_mapped);
    RUN(what_is_hidden);
    RUN(encrypted);
    RUN(saved_dirty);
    RUN(what_maps_nothing);
    RUN(any_entry);
    return check_done();
}
