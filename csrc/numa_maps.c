/* SPDX-License-Identifier: MIT
 *
 * numa_maps.c - /proc/PID/numa_maps: pages active, dirty, in writeback, and the
 * largest mapcount, per mapping.  The kernel leaves out what is 0, `active`
 * where all pages are, and `mapmax` where it is 1.
 */
#include "engine.h"

#include <errno.h>
#include <string.h>

struct reader {
    struct pm__capture *c;
    enum pm__pass pass;
    size_t cursor;
};

struct line {
    uint64_t start, pages, dirty, mapmax, active, writeback;
    bool has_active;
};

static bool value_of(const char *token, size_t len, const char *key, uint64_t *out)
{
    size_t n = strlen(key);
    const char *p = token + n;
    return len > n && memcmp(token, key, n) == 0 && pm__dec(&p, token + len, out);
}

/* N0=12: pages on node 0 */
static bool node_pages(const char *token, size_t len, uint64_t *out)
{
    const char *eq = memchr(token, '=', len), *p = eq ? eq + 1 : token;
    return len > 3 && token[0] == 'N' && token[1] >= '0' && token[1] <= '9' && eq &&
           pm__dec(&p, token + len, out);
}

static void take_token(struct line *l, const char *token, size_t len)
{
    uint64_t v;
    if (node_pages(token, len, &v))
        l->pages += v;
    else if (value_of(token, len, "dirty=", &v))
        l->dirty = v;
    else if (value_of(token, len, "mapmax=", &v))
        l->mapmax = v;
    else if (value_of(token, len, "writeback=", &v))
        l->writeback = v;
    else if (value_of(token, len, "active=", &v)) {
        l->active = v;
        l->has_active = true;
    }
}

static bool parse(const char *p, size_t len, struct line *l)
{
    const char *end = p + len;
    *l = (struct line){.mapmax = 1};
    if (!pm__hex(&p, end, &l->start))
        return false;
    while (p < end) {
        p++; /* the space behind the last token */
        const char *space = memchr(p, ' ', (size_t)(end - p));
        const char *stop = space ? space : end;
        take_token(l, p, (size_t)(stop - p));
        p = stop;
    }
    if (!l->has_active)
        l->active = l->pages;
    return true;
}

static int on_line(void *arg, const char *text, size_t len)
{
    struct reader *r = arg;
    struct line l;
    if (!parse(text, len, &l))
        return pm__fail(r->c, PM_E_FORMAT, PM_AT_NUMA_MAPS, "mapping line");
    while (r->cursor < r->c->n_mappings && r->c->mappings[r->cursor].start < l.start)
        r->cursor++;
    if (r->cursor == r->c->n_mappings || r->c->mappings[r->cursor].start != l.start)
        return 0; /* appeared since, or our own arena */
    size_t i = r->cursor++;
    if (r->c->spans[i].cut)
        return 0;
    int64_t *counters = r->pass == PM__BEFORE ? r->c->counters[i].before : r->c->counters[i].after;
    counters[PM_C_NUMA_PAGES] = (int64_t)l.pages;
    counters[PM_C_NUMA_DIRTY] = (int64_t)l.dirty;
    counters[PM_C_NUMA_MAPMAX] = (int64_t)l.mapmax;
    counters[PM_C_NUMA_ACTIVE] = (int64_t)l.active;
    counters[PM_C_NUMA_WRITEBACK] = (int64_t)l.writeback;
    return 0;
}

/* numa_maps is optional (CONFIG_NUMA): where it cannot be read its facts stay unknown. */
int pm__numa_read(struct pm__capture *c, enum pm__pass pass)
{
    struct reader r = {.c = c, .pass = pass};
    if (c->numa < 0 || !c->counters)
        return 0;
    int rc = pm__each_line(c->io, c->numa, c->scratch, PM__SCRATCH, on_line, &r);
    if (rc == -PM_E_FORMAT)
        return rc;
    if (rc == 0)
        c->header.sources |= 1u << PM_SRC_NUMA_MAPS;
    return 0;
}
