/* What malloc has handed out, and giving back what it holds beyond that. */
#include "check.h"
#include "pmaps.h"

#include <errno.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0 /* the sanitizer's, of which mallinfo2 knows nothing */
#else
#define OWN_MALLOC 1
#endif

static char *volatile kept[100];

static void counts_what_is_handed_out(void)
{
    uint64_t before = 0, during = 0, after = 0;
    int rc = pm_heap(&before);
    if (rc) {
        CHECK_EQ(rc, -ENOTSUP);
        return;
    }
    for (int i = 0; i < 100; i++)
        kept[i] = malloc((size_t)5000 * (i + 1)); /* some with mappings of their own */
    CHECK_EQ(pm_heap(&during), 0);
    for (int i = 0; i < 100; i++)
        free(kept[i]);
    CHECK_EQ(pm_heap(&after), 0);
    if (!OWN_MALLOC)
        return;
    CHECK(during - before >= 5000ULL * 5050);
    CHECK(during - before < 5000ULL * 5050 + 200 * 4096);
    CHECK(after - before < 16384);
}

static void asks_who_is_loaded(void)
{
    uint32_t purged = pm_purge();
    CHECK(!(purged & ~15u));
    CHECK_EQ(pm_purge(), purged);
#ifdef __GLIBC__
    CHECK(purged & PM_PURGED_GLIBC);
#endif
}

int main(void)
{
    RUN(counts_what_is_handed_out);
    RUN(asks_who_is_loaded);
    return check_done();
}
