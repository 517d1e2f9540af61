"""The name of the processor."""

import platform
from pathlib import Path


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name as the operating system gives it; its architecture if it gives none.

    Parameters
    ----------
    info : the file in which Linux describes its processors
    """
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name"]
    return next(filter(None, names), platform.processor() or platform.machine())
