"""Read the CPU quota of a container (Docker's `--cpus`, Kubernetes' limits) from Linux control groups, versions 1 and 2."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNTS = {2: ("", "unified"), 1: ("cpu", "cpu,cpuacct", "cpuacct,cpu")}  # version → folders in /sys/fs/cgroup


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU quota of this process, in cores. None if there is no limit, or on other systems than Linux.

    It is the lowest limit of the control group of the process and the groups above it. In a container, the groups above are
    not visible, and the own group may be mounted as the root.

    Parameters
    ----------
    root : folder that contains `proc` and `sys`
    """
    limits = [limit for folder in _group_folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _group_folders(root: Path) -> Iterator[Path]:
    """Folders of the group of the process and of the groups above it, for both versions. They may not exist."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for mount in MOUNTS[1 if controllers else 2]:
            for above in (group, *group.parents):
                yield root / "sys/fs/cgroup" / mount / above


def _limit(folder: Path) -> float | None:
    """The limit of one group in cores, or None."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no limit ("max"), or no such folder
        return None
    return limit if limit > 0 else None
