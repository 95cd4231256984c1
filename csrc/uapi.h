/* SPDX-License-Identifier: MIT
 *
 * uapi.h - constants of the kernel's interfaces that headers of older systems
 * lack.  Values are ABI: Documentation/admin-guide/mm/pagemap.rst.
 */
#ifndef PM_UAPI_H
#define PM_UAPI_H

#include <stdint.h>
#include <sys/ioctl.h>

/* /proc/PID/pagemap */
#define PM_PE_PFN_MASK ((UINT64_C(1) << 55) - 1)
#define PM_PE_SOFTDIRTY (UINT64_C(1) << 55)
#define PM_PE_EXCLUSIVE (UINT64_C(1) << 56)
#define PM_PE_UFFDWP (UINT64_C(1) << 57)
#define PM_PE_GUARD (UINT64_C(1) << 58)
#define PM_PE_FILE (UINT64_C(1) << 61)
#define PM_PE_SWAP (UINT64_C(1) << 62)
#define PM_PE_PRESENT (UINT64_C(1) << 63)

/* /proc/kpageflags; bits from 32 on are no ABI and not used */
#define PM_KPF_REFERENCED (UINT64_C(1) << 2)
#define PM_KPF_UPTODATE (UINT64_C(1) << 3)
#define PM_KPF_DIRTY (UINT64_C(1) << 4)
#define PM_KPF_ACTIVE (UINT64_C(1) << 6)
#define PM_KPF_WRITEBACK (UINT64_C(1) << 8)
#define PM_KPF_MMAP (UINT64_C(1) << 11)
#define PM_KPF_ANON (UINT64_C(1) << 12)
#define PM_KPF_SWAPCACHE (UINT64_C(1) << 13)
#define PM_KPF_SWAPBACKED (UINT64_C(1) << 14)
#define PM_KPF_COMPOUND_HEAD (UINT64_C(1) << 15)
#define PM_KPF_COMPOUND_TAIL (UINT64_C(1) << 16)
#define PM_KPF_NOPAGE (UINT64_C(1) << 20)
#define PM_KPF_KSM (UINT64_C(1) << 21)
#define PM_KPF_ZERO (UINT64_C(1) << 24)

/* PAGEMAP_SCAN, Linux 6.7 */
#define PM_SCAN_WPALLOWED (UINT64_C(1) << 0)
#define PM_SCAN_WRITTEN (UINT64_C(1) << 1)
#define PM_SCAN_FILE (UINT64_C(1) << 2)
#define PM_SCAN_PRESENT (UINT64_C(1) << 3)
#define PM_SCAN_SWAPPED (UINT64_C(1) << 4)
#define PM_SCAN_ZERO (UINT64_C(1) << 5)
#define PM_SCAN_HUGE (UINT64_C(1) << 6)
#define PM_SCAN_SOFTDIRTY (UINT64_C(1) << 7)
#define PM_SCAN_GUARD (UINT64_C(1) << 8)

struct pm_scan_region {
    uint64_t start, end, categories;
};

struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PM_IOC_SCAN _IOWR('f', 16, struct pm_scan_arg)

#define PM_RAMFS_MAGIC 0x858458f6u
#define PM_TMPFS_MAGIC 0x01021994u
#define PM_HUGETLBFS_MAGIC 0x958458f6u

#endif
