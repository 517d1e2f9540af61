import os
import subprocess
import sys

import pytest

from conditional_detr.device import threads
from conditional_detr.device.cpu_quota import cpu_quota
from conditional_detr.device.threads import prepare_threads, usable_cores

V1 = "3:cpuset:/\n2:cpu,cpuacct:{}\n1:memory:/other\n"


def machine(root, groups: str, files: dict[str, str]):
    """A folder with `proc` and `sys` as a container shows them."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/pod/box\n", {"pod/box/cpu.max": "50000 100000\n", "pod/cpu.max": "200000 100000\n"}, 0.5),
        ("0::/not/visible/here\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (V1.format("/"), {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1.format("/docker/abc"), {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2.0),
        (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1.format("/") + "0::/\n", {"unified/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "what\n"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
    ],
)
def test_the_quota_of_a_container_is_found_in_both_versions_of_control_groups(tmp_path, groups, files, expected):
    assert cpu_quota(machine(tmp_path, groups, files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [("10000", 1), ("100000", 1), ("150000", 2), ("800000", 8), ("9900000", 16)])
def test_a_quota_counts_in_the_usable_cores(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(threads, "_cores_to_run_on", lambda: 16)
    assert usable_cores(machine(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"})) == cores


@pytest.mark.parametrize(
    ("given", "usable", "expected"),
    [
        ({}, 16, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4500"}),
        ({"GOMP_SPINCOUNT": "5"}, 16, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5"}),
        ({}, 2, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4500", "OMP_NUM_THREADS": "2"}),
        ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}, 2, {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}),
    ],
)
def test_openmp_variables_set_by_the_user_are_not_changed(monkeypatch, given, usable, expected):
    monkeypatch.setattr(threads, "_cores_to_run_on", lambda: 16)
    monkeypatch.setattr(threads, "usable_cores", lambda: usable)
    monkeypatch.setattr(os, "environ", dict(given))
    prepare_threads()
    assert os.environ == expected


@pytest.mark.parametrize(
    "start",
    ["import conditional_detr.cli.app as a; a.main(sys.argv[1:])", "runpy.run_module('conditional_detr', run_name='__main__')"],
)
def test_the_command_line_asks_openmp_to_sleep_before_torch_is_loaded(start, tmp_path):
    """An import of torch notes what the environment said at that moment."""
    code = f"""
import os, runpy, sys
class Notes:
    def find_spec(self, name, *_):
        if name == "torch":
            print("torch is loaded with", os.environ.get("OMP_WAIT_POLICY"))
            sys.meta_path.remove(self)
sys.meta_path.insert(0, Notes())
{start}
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    arguments = [sys.executable, "-c", code, "eval", "conditional-detr-tiny", "--data", "nowhere", "--output", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.startswith("torch is loaded with PASSIVE\n"), done.stderr
