"""Booting other kernels in qemu, to run the live tests there: ``tox run -e kernels``.

``fetch`` gets a kernel from Debian, ``image`` makes the disks, ``boot`` starts a guest and reads
what it says, ``suite`` says what runs inside, ``guest/`` is what runs it there.
"""
