"""An independent, slow and clear reader of process pages, and programs in known page states.

Nothing here knows pytest-pmaps: `reader` is written from the kernel's documentation
(proc(5), Documentation/filesystems/proc.rst, Documentation/admin-guide/mm/pagemap.rst), so that
agreement between the engine and this package means something.
"""
