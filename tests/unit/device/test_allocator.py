import ctypes
import platform
import subprocess
import sys

import pytest

from conditional_detr.device.allocator import freed_memory_kept

COUNT = """
import torch
from pathlib import Path
from conditional_detr.device.allocator import freed_memory_kept

def faults():
    before = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])
    for _ in range(5):
        torch.ones(16_000_000)  # 64 MB
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7]) - before

usual = faults()
with freed_memory_kept():
    kept = min(faults() for _ in range(8))  # small objects may take a part of a freed block at first
print(usual, kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_blocks_are_used_again_and_returned_at_the_end():
    # In a process of its own: glibc keeps more memory by itself after large blocks have been freed.
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    usual, kept, after = map(int, done.stdout.split())
    assert kept < usual / 10
    assert after > usual / 10


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("loaded"))
    with freed_memory_kept():
        pass
