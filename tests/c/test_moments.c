/* SPDX-License-Identifier: MIT
 *
 * Counters that are the same before and after the pages, while the pages were looked at in
 * another state: what is inferred from them must be true of what was seen, or not be said.
 */
#include "check.h"
#include "fakeproc.h"

enum { PAGES = 4 };

static struct fk_page around[PAGES], between[PAGES];
static struct fk_mapping mappings[2];
static struct fk_world worlds[2];
static struct fake fake;

static void make(const struct fk_mapping *m)
{
    mappings[0] = mappings[1] = *m;
    mappings[0].pages = around;
    mappings[1].pages = between;
    for (int i = 0; i < 2; i++)
        worlds[i] = (struct fk_world){.mappings = &mappings[i], .n = 1};
    fk_init(&fake, &worlds[0]);
    fake.no_kpage = fake.no_scan = true;
    fake.at[FK_PAGEMAP1] = fake.at[FK_PAGEMAP2] = fake.at[FK_SCAN] = &worlds[1];
}

static void check(void)
{
    pm_snapshot *snap;
    pm_error err;
    pm_columns c;
    CHECK_EQ(fk_capture(&fake, &snap, &err), 0);
    pm_get_columns(snap, &c);
    for (size_t i = 0; i < PAGES; i++)
        for (int bit = 0; bit < PM_N_BITS; bit++) {
            int fact = fk_fact(&c, 0, mappings[0].start / FK_PAGE + i, bit);
            CHECK_IN(fact < 0 || fact == fk_truth(&mappings[0], &around[i], bit) ||
                         fact == fk_truth(&mappings[1], &between[i], bit),
                     "page %zu: %s is said to be %d, and never was", i, fk_bit_names[bit], fact);
        }
    pm_free(snap);
}

/* Written pages of a private mapping, which were dropped again: not zero pages, not clean. */
static void copies_that_counters_missed(void)
{
    const struct fk_mapping m = {.start = 0x100000,
                                 .n = PAGES,
                                 .perms = "rw-p",
                                 .inode = 77,
                                 .major = 0xfe,
                                 .name = "/srv/data",
                                 .vmflags = "rd wr mr mw me ac"};
    for (size_t i = 0; i < PAGES; i++) {
        around[i] = (struct fk_page){.what = FK_NONE};
        between[i] = (struct fk_page){.what = FK_ANON, .mapcount = 2, .pte_dirty = true};
    }
    make(&m);
    fake.faults = PAGES; /* they were written meanwhile */
    check();
}

/* Written pages of shared memory, which a child mapped too, and left: dirty all the time. */
static void sharing_that_counters_missed(void)
{
    const struct fk_mapping m = {.start = 0x100000,
                                 .n = PAGES,
                                 .perms = "rw-s",
                                 .inode = 9,
                                 .minor = 1,
                                 .name = "/memfd:x (deleted)",
                                 .vmflags = "rd wr sh mr mw me ms"};
    for (size_t i = 0; i < PAGES; i++) {
        around[i] =
            (struct fk_page){.what = FK_FILE, .mapcount = 1, .pte_dirty = true, .page_dirty = true};
        between[i] = around[i];
        between[i].mapcount = 2;
    }
    make(&m);
    check();
}

int main(void)
{
    RUN(copies_that_counters_missed);
    RUN(sharing_that_counters_missed);
    return check_done();
}
