/* SPDX-License-Identifier: MIT
 *
 * arena.c - memory that does not show in a capture of ourselves.
 *
 * An arena is what a capture works in.  It is populated before the capture
 * begins, so that capturing adds no page to what is captured; it is not
 * inherited by forks and not dumped.
 *
 * A block holds a finished snapshot.  It is inherited by forks, so that a
 * snapshot stays readable in a child, and left out of captures of the child too.
 */
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define MAX_ARENAS 64
#define KEEP_ARENA ((size_t)16 << 20) /* larger ones go back to the kernel after use */

struct block {
    struct block *next, *prev;
    size_t size;
};

/* Keeps what follows the block's head aligned for any column. */
#define BLOCK_HEAD ((sizeof(struct block) + 63) & ~(size_t)63)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char *base;
    size_t size;
    bool busy;
} arenas[MAX_ARENAS];
static struct block *blocks;
static pid_t owner; /* whose arenas these are */

static struct {
    char *base; /* NULL: a free place */
    size_t size;
} others[4]; /* what a part of the engine has mapped by itself */

#define N_OTHERS (sizeof others / sizeof *others)

/* In a forked child the arenas are unmapped already; forget them. */
static void forget_regions(void)
{
    memset(arenas, 0, sizeof arenas);
    memset(others, 0, sizeof others);
}

static void forget_arenas(void)
{
    forget_regions();
    pthread_mutex_init(&lock, NULL);
}

/* A child that was made without fork(), by clone(), has not run the handler below, and no arenas
 * either. */
static void enter(void)
{
    pthread_mutex_lock(&lock);
    if (owner == getpid())
        return;
    if (owner)
        forget_regions();
    owner = getpid();
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

/* Earlier than who takes memory with a lock of his own held: see descriptors.c. */
__attribute__((constructor(200))) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, forget_arenas);
}

size_t pm__page_round(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) & ~(page - 1);
}

static void *map_populated(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_DONTDUMP);
    if (madvise(p, size, MADV_POPULATE_WRITE) < 0)
        memset(p, 0, size);
    return p;
}

/* A free slot: the smallest kept arena that is large enough, else an empty one. */
static int find_slot(size_t size)
{
    int empty = -1, best = -1;
    for (int i = 0; i < MAX_ARENAS; i++) {
        if (arenas[i].busy)
            continue;
        if (!arenas[i].base)
            empty = empty < 0 ? i : empty;
        else if (arenas[i].size >= size && (best < 0 || arenas[i].size < arenas[best].size))
            best = i;
    }
    return best >= 0 ? best : empty;
}

static void drop_idle(void)
{
    for (int i = 0; i < MAX_ARENAS; i++) {
        if (arenas[i].base && !arenas[i].busy) {
            munmap(arenas[i].base, arenas[i].size);
            arenas[i].base = NULL;
        }
    }
}

int pm__arena_get(struct pm__arena *arena, size_t size)
{
    int rc = 0;
    size = pm__page_round(size);
    enter();
    int slot = find_slot(size);
    if (slot < 0 || !arenas[slot].base) {
        drop_idle(); /* too small ones: one growing process needs one arena, not a ladder of them */
        slot = find_slot(size);
    }
    if (slot >= 0 && !arenas[slot].base) {
        char *p = map_populated(size);
        if (p) {
            madvise(p, size, MADV_DONTFORK);
            arenas[slot].base = p;
            arenas[slot].size = size;
        } else {
            rc = -ENOMEM;
        }
    } else if (slot < 0) {
        rc = -EAGAIN;
    }
    if (rc == 0) {
        arenas[slot].busy = true;
        *arena = (struct pm__arena){.base = arenas[slot].base, .size = arenas[slot].size};
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

void pm__arena_put(struct pm__arena *arena)
{
    enter();
    for (int i = 0; arena->base && i < MAX_ARENAS; i++) {
        if (arenas[i].base != arena->base)
            continue;
        arenas[i].busy = false;
        if (arenas[i].size <= KEEP_ARENA) {
            explicit_bzero(arena->base, arena->used); /* frames were in it */
        } else {
            munmap(arenas[i].base, arenas[i].size);
            arenas[i].base = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    *arena = (struct pm__arena){0};
}

/* n elements, or NULL when the arena is used up (it is never grown meanwhile). */
void *pm__take(struct pm__arena *arena, size_t n, size_t each)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes) || bytes > SIZE_MAX - 63)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    if (bytes > arena->size - arena->used)
        return NULL;
    void *p = arena->base + arena->used;
    arena->used += bytes;
    return p;
}

void *pm__take_zeroed(struct pm__arena *arena, size_t n, size_t each)
{
    void *p = pm__take(arena, n, each);
    return p ? memset(p, 0, n * each) : NULL;
}

void *pm__block_new(size_t size)
{
    size = pm__page_round(size + BLOCK_HEAD);
    struct block *b = map_populated(size);
    if (!b)
        return NULL;
    b->size = size;
    b->prev = NULL;
    enter();
    b->next = blocks;
    if (blocks)
        blocks->prev = b;
    blocks = b;
    pthread_mutex_unlock(&lock);
    return (char *)b + BLOCK_HEAD;
}

void pm__block_free(void *block)
{
    if (!block)
        return;
    struct block *b = (struct block *)((char *)block - BLOCK_HEAD);
    enter();
    if (b->prev)
        b->prev->next = b->next;
    else
        blocks = b->next;
    if (b->next)
        b->next->prev = b->prev;
    pthread_mutex_unlock(&lock);
    munmap(b, b->size);
}

static uint64_t overlap(uint64_t start, uint64_t end, const void *base, size_t size)
{
    uint64_t lo = (uintptr_t)base, hi = lo + size;
    lo = lo > start ? lo : start;
    hi = hi < end ? hi : end;
    return lo < hi ? hi - lo : 0;
}

/* Whether [start, end) is made of regions of ours alone (the kernel merges neighbours, of which
 * there may be thousands); `inherited`: only of those that a forked child has too. */
bool pm__is_ours(uint64_t start, uint64_t end, bool inherited)
{
    uint64_t covered = 0; /* regions lie apart, so that lengths add up */
    enter();
    for (struct block *b = blocks; b; b = b->next)
        covered += overlap(start, end, b, b->size);
    for (int i = 0; !inherited && i < MAX_ARENAS; i++)
        if (arenas[i].base)
            covered += overlap(start, end, arenas[i].base, arenas[i].size);
    for (size_t i = 0; !inherited && i < N_OTHERS; i++)
        if (others[i].base)
            covered += overlap(start, end, others[i].base, others[i].size);
    pthread_mutex_unlock(&lock);
    return start < end && covered == end - start;
}

/* Bytes of memory of ours that a capture of ourselves leaves out; all of it is resident. */
size_t pm__ours(void)
{
    size_t sum = 0;
    enter();
    for (struct block *b = blocks; b; b = b->next)
        sum += b->size;
    for (int i = 0; i < MAX_ARENAS; i++)
        sum += arenas[i].base ? arenas[i].size : 0;
    for (size_t i = 0; i < N_OTHERS; i++)
        sum += others[i].base ? others[i].size : 0;
    pthread_mutex_unlock(&lock);
    return sum;
}

static void replace_other(const void *was, void *base, size_t size)
{
    enter();
    for (size_t i = 0; i < N_OTHERS; i++) {
        if (others[i].base != was)
            continue;
        others[i].base = base;
        others[i].size = size;
        break;
    }
    pthread_mutex_unlock(&lock);
}

void pm__hide(void *base, size_t size)
{
    replace_other(NULL, base, size);
}

void pm__unhide(void *base)
{
    replace_other(base, NULL, 0);
}
