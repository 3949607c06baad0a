import ctypes
import os
import subprocess
import sys

import pytest

MAPPED_AFTER_LARGE_BLOCKS_WERE_FREED = """
import ctypes
from shared.runtime.memory import keep_large_blocks_apart

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

glibc = ctypes.CDLL(None)
glibc.mallinfo2.restype = Info
{call}
for _ in range(3):
    del (block := bytearray(8 << 20))[:]
    del block
before = glibc.mallinfo2().hblkhd
block = bytearray(5 << 20)
print(glibc.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33 or newer")
@pytest.mark.parametrize(("call", "mapped"), [("keep_large_blocks_apart()", True), ("", False)])
def test_a_large_block_has_pages_of_its_own_although_larger_ones_were_freed(call: str, mapped: bool) -> None:
    script = MAPPED_AFTER_LARGE_BLOCKS_WERE_FREED.replace("{call}", call)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert (int(told) >= 5 << 20) == mapped
