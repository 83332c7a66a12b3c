"""Large buffers are mapped by themselves once the controller asked for it: in a process of its own here."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import ctypes
from segctl_controller.allocation import THRESHOLD, map_buffers

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

class Info(ctypes.Structure):  # struct mallinfo2, mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in
        ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc.mallinfo2.restype = Info

def mapped(size):
    before = libc.mallinfo2().hblks
    for _ in range(200):  # the first of them fill what is free
        assert libc.malloc(size)
    return libc.mallinfo2().hblks - before

assert mapped(17_408) == 0
assert map_buffers()
assert mapped(17_408) > 100
assert mapped(THRESHOLD // 2) == 0
"""


def test_a_buffer_is_mapped_and_a_small_piece_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
