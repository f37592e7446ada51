"""What a worker keeps of memory between stages."""

import ctypes
import sys

import psutil
import pytest

from mi_utils import schedule


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's malloc_trim"
)
def test_memory_freed_between_what_is_kept_goes_back_to_the_system() -> None:
    blocks = [bytearray(4096) for _ in range(50_000)]
    kept = blocks[::50]  # holes of some 200 KiB between them, which glibc would keep
    del blocks
    before = psutil.Process().memory_info().rss
    schedule._give_back()
    assert before - psutil.Process().memory_info().rss > 100 << 20 and len(kept) == 1000
