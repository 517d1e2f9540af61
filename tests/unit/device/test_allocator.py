import ctypes
import platform
from pathlib import Path

import pytest
import torch

from conditional_detr.device.allocator import freed_memory_kept


def page_faults() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])


def faults_of_large_blocks() -> int:
    """Page faults of five blocks of 64 MB, one after the other."""
    before = page_faults()
    for _ in range(5):
        torch.ones(16_000_000)
    return page_faults() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_blocks_are_used_again_and_returned_at_the_end():
    usual = faults_of_large_blocks()  # each block is new memory
    with freed_memory_kept():
        faults_of_large_blocks()
        assert faults_of_large_blocks() < usual / 10
    assert faults_of_large_blocks() > usual / 10  # most blocks are new again


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("loaded"))
    with freed_memory_kept():
        pass
