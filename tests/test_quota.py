"""CPUs under the quotas of control groups, of both versions, in folders laid out as Linux does."""

import os

import pytest

from segfast.kernels import checks, quota


def laid_out(folder, own, files):
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return quota.read_quota(folder / "mount", folder / "own")


V2 = "0::/kubepods/pod7/box\n"
V1 = "12:pids:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:cpuset:/docker/ab\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),                   # rounded up
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),                    # at least one
        ("0::/\n", {"cpu.max": "300000\n"}, 3),
        (V2, {"kubepods/pod7/box/cpu.max": "max 100000", "kubepods/pod7/cpu.max": "250000 50000"}, 5),
        (V2, {"kubepods/pod7/box/cpu.max": "400000 100000", "kubepods/cpu.max": "200000 100000"}, 2),
        (V2, {"cpu.max": "200000 100000"}, 2),                          # the host's path, seen from inside
        ("1:cpu:/\n0::/\n", {"unified/cpu.max": "200000 100000"}, 2),
        (V1, {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "50000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
        (V1, {"cpuset/docker/ab/cpu.cfs_quota_us": "100000", "cpuset/docker/ab/cpu.cfs_period_us": "100000"}, None),
        ("no such:lines\n::\n0::/../..\n", {"cpu.max": "few many\n"}, None),
    ],
)  # fmt: skip
def test_the_least_quota_counts(tmp_path, own, files, expected):
    assert laid_out(tmp_path, own, files) == expected


@pytest.mark.parametrize(
    ("controller", "own", "expected"),
    [
        ("cpu", "", ["", "unified", "cpu", "cpu,cpuacct", "cpuacct,cpu"]),
        ("memory", "", ["", "unified", "memory"]),
        ("memory", "0::/a/b\n", ["", "unified", "memory", "a/b", "a", "", "unified/a/b", "unified/a", "unified"]),
        ("memory", "5:memory:/a\n4:cpu:/b\n", ["", "unified", "memory", "memory/a", "memory"]),
    ],
)
def test_groups_of_a_controller(tmp_path, controller, own, expected):
    (tmp_path / "own").write_text(own)
    found = quota.groups(controller, tmp_path / "mount", tmp_path / "own")
    assert [*found] == [tmp_path / "mount" / name for name in expected]


def test_files_that_cannot_be_read_are_no_limit(tmp_path):
    (tmp_path / "cpu.max").mkdir()
    assert quota.read_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_cpus_are_the_least_of_affinity_and_quota(monkeypatch):
    own = len(os.sched_getaffinity(0))
    for limit, expected, cut in (
        (None, own, None),
        (own + 3, own, None),
        (own, own, None),
        (1, 1, 1 if own > 1 else None),
    ):
        monkeypatch.setattr(quota, "quota", lambda limit=limit: limit)
        assert (checks.cpus(), quota.cut()) == (expected, cut)
    assert checks.check_threads(None) == 1
    assert checks.check_threads(3) == 3
