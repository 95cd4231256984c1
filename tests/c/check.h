/* SPDX-License-Identifier: MIT
 *
 * check.h - what a C test needs: CHECK counts and prints failures and goes on,
 * RUN names the test that is running, `return check_done();` ends main.
 */
#ifndef PM_CHECK_H
#define PM_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CHECK_SHOWN 30 /* failures printed; the rest is only counted */

static int check_failures;
static const char *check_test = "";

/* Counts a failure; true while they are still printed. */
static inline int check_failed(const char *file, int line)
{
    if (check_failures++ >= CHECK_SHOWN)
        return 0;
    fprintf(stderr, "%s:%d: %s: ", file, line, check_test);
    return 1;
}

#define CHECK_FAIL(...)                                                                            \
    do {                                                                                           \
        if (check_failed(__FILE__, __LINE__)) {                                                    \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            CHECK_FAIL("not so: %s", #condition);                                                  \
    } while (0)

/* The same with a printf-style note on which case it was. */
#define CHECK_IN(condition, ...)                                                                   \
    do {                                                                                           \
        if (!(condition) && check_failed(__FILE__, __LINE__)) {                                    \
            fprintf(stderr, "not so: %s: ", #condition);                                           \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(got, want)                                                                        \
    do {                                                                                           \
        long long check_got = (long long)(got), check_want = (long long)(want);                    \
        if (check_got != check_want)                                                               \
            CHECK_FAIL("%s is %lld, not %lld", #got, check_got, check_want);                       \
    } while (0)

#define RUN(test)                                                                                  \
    do {                                                                                           \
        check_test = #test;                                                                        \
        test();                                                                                    \
    } while (0)

static inline int check_done(void)
{
    if (check_failures)
        fprintf(stderr, "%d failed\n", check_failures);
    return check_failures != 0;
}

/* Random numbers that are the same in every run (splitmix64). */
struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 .. n-1 */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)(rng_next(r) % n);
}

/* True once in n. */
static inline int rng_once_in(struct rng *r, uint32_t n)
{
    return rng_below(r, n) == 0;
}

#endif
