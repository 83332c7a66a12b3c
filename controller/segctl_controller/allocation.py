"""How the C library hands out memory, which is most of what an idle connection takes.

gRPC allocates buffers of 8 and 17 kB for each connection and touches a page or two of them. Cut out of the heap, they
lie where others lay before, so all of their pages are in memory; mapped alone, only those that are touched. What the
heap has free is used first all the same.
"""

from __future__ import annotations

import ctypes

# mallopt(3)
M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4
THRESHOLD = 8_000
"""Bytes from which on memory is mapped by itself."""
MOST_MAPS = 30_000
"""Linux allows a process 65,530 maps (vm.max_map_count), and threads need some. What is over it comes from the heap."""


def map_buffers() -> bool:
    """For the whole process; False where the C library has no mallopt, and nothing changed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, THRESHOLD) and mallopt(M_MMAP_MAX, MOST_MAPS))
