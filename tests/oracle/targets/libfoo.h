/* SPDX-License-Identifier: MIT */
#ifndef LIBFOO_H
#define LIBFOO_H

#include <stddef.h>

struct foo_range {
    const char *name;
    const void *start;
    size_t length; /* whole pages */
};

/* Where this library keeps a few whole pages of each kind. */
const struct foo_range *foo_ranges(size_t *n);
int foo_text(void);

#endif
