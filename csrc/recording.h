/* SPDX-License-Identifier: MIT
 *
 * recording.h - what a recording is made of, for the three that deal in it:
 *
 *   redact.c  stands before the kernel and takes out what must not be kept
 *   record.c  writes down every call and its answer
 *   replay.c  answers out of what was written down
 *
 * The format is described in docs/recordings.md.  All numbers are little-endian.
 */
#ifndef PM_RECORDING_H
#define PM_RECORDING_H

#include "engine.h"

#include <endian.h>
#include <string.h>

/* Like PNG's: no text begins so, and what copies it as text breaks it at once. */
#define PM__MAGIC "\x89PMAPS-REC\r\n\x1a\n"
#define PM__MAGIC_SIZE 14
#define PM__VERSION 1 /* behind the magic, 16 bits */
#define PM__PREFIX (PM__MAGIC_SIZE + 2)

/* Each record: its type and the size of what follows, 32 bits both. */
enum pm__record_type {
    PM__R_HEAD = 1, /* the host and the request; comes first */
    PM__R_OPEN,     /* a file opened, or why not; numbered from 0 in this order */
    PM__R_BYTES,    /* one read of text, or its failure, or the end of the file */
    PM__R_WORDS,    /* one read of 64-bit entries */
    PM__R_SCAN,     /* one PAGEMAP_SCAN */
    PM__R_STAT,     /* what fstat says of an open file */
    PM__R_MAPPED,   /* what maps says of it */
    PM__R_OURS,     /* a region that belongs to the engine itself */
    PM__R_END,      /* how it ended; comes last */
    PM__R_TABLE     /* one page table */
};

#define PM__RECORD_HEAD 8
#define PM__HEAD_SIZE 48 /* without extents and names */
#define PM__OPEN_SIZE 12 /* without the path */
#define PM__BYTES_SIZE 16
#define PM__WORDS_SIZE 16
#define PM__SCAN_SIZE 88
#define PM__REGION_SIZE 24
#define PM__FILE_SIZE 36
#define PM__OURS_SIZE 20
#define PM__END_SIZE 40
#define PM__TABLE_SIZE 32 /* without the entries */

/* PM__R_HEAD's bits */
enum {
    PM__H_SELF = 1 << 0,
    PM__H_STOPPED = 1 << 1,
    PM__H_SOFTDIRTY = 1 << 2,
    PM__H_GUARD = 1 << 3,
    PM__H_SCAN = 1 << 4,
    PM__H_BUSY = 1 << 5,
    PM__H_PTE = 1 << 6,
    PM__H_YOUNG = 1 << 7,
    PM__H_DEEP = 1 << 8
};

/* How a file was opened, as far as it matters to what comes of it. */
enum { PM__O_DIRECTORY = 1 << 0, PM__O_PATH = 1 << 1 };
#define PM__NO_PARENT UINT32_MAX

/* A read of entries, or a page table, is a row of chunks: the number of entries with PM__RUN and one
 * entry for all of them, or without it and each.  Entries that mean memory are always
 * written out, so that what a recording makes us allocate is bounded by its size. */
#define PM__RUN (UINT32_C(1) << 31)
#define PM__MOST_WORDS ((uint32_t)1 << 16) /* in one record; longer reads are split */

bool pm__means_memory(uint64_t word);

/* ---- numbers ------------------------------------------------------------------- */
static inline uint32_t pm__get32(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint64_t pm__get64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static inline unsigned char *pm__put32(unsigned char *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
    return p + sizeof v;
}

static inline unsigned char *pm__put64(unsigned char *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
    return p + sizeof v;
}

/* ---- redact.c ------------------------------------------------------------------ */
enum pm__role {
    PM__ROLE_PROCESS, /* the directory of the target */
    PM__ROLE_ROOT,    /* the target's root directory */
    PM__ROLE_TEXT,
    PM__ROLE_STAT,
    PM__ROLE_STATUS,
    PM__ROLE_PAGEMAP,
    PM__ROLE_KPAGEFLAGS,
    PM__ROLE_KPAGE, /* kpagecount, and all others that are indexed by frame */
    PM__ROLE_OBJECT /* anything else: a file that the target maps, of which little is shown */
};

/* `dir` is the role of the directory it is opened in; NULL: of none. */
enum pm__role pm__role_of(const enum pm__role *dir, const char *path);

struct pm__redactor;
/* NULL: no memory. */
struct pm__redactor *pm__redactor_new(const struct pm__io *kernel);
const struct pm__io *pm__redacted(struct pm__redactor *r);
void pm__redactor_free(struct pm__redactor *r);

/* ---- record.c ------------------------------------------------------------------ */
/* Where a recording goes; each returns 0 or -errno. */
struct pm__sink {
    int (*write)(void *ctx, const void *data, size_t n, uint64_t offset);
    int (*clear)(void *ctx); /* an attempt failed: it begins again at offset 0 */
    void *ctx;
};

int pm__record_with(const struct pm__io *io, const pm_request *request, const char *writer,
                    const struct pm__sink *sink, pm_snapshot **out, pm_error *err);

/* ---- replay.c ------------------------------------------------------------------ */
struct pm__replay;
/* Checks all of it; `data` must stay.  To be freed in any case. */
int pm__replay_new(const void *data, size_t len, struct pm__replay **out, pm_error *err);
const struct pm__io *pm__replayed(struct pm__replay *r);
void pm__replay_free(struct pm__replay *r);

#endif
