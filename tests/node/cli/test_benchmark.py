import json

import pytest

from core import native
from node.cli import benchmark
from tests.support.program import Machine, messages


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for name in ("_STEP_S", "_DISK_S"):  # one turn of each
        monkeypatch.setattr(benchmark, name, 0)
    monkeypatch.setattr(benchmark, "_DISK_PACKS_MAX", 2)
    monkeypatch.setattr(benchmark, "_STREAM_BYTES", 16 << 20)
    return Machine(tmp_path, monkeypatch)


def names(report):
    return [row["name"] for row in report["rows"]]


@pytest.mark.slow
def test_everything_is_measured_and_nothing_stays(machine, monkeypatch):
    machine.here("init")
    monkeypatch.setattr(benchmark, "_DISK_S", 60)
    before = {path: path.stat().st_mtime_ns for path in machine.home.rglob("*") if path.is_file()}
    (report,) = messages(machine.here("benchmark", "--json").stdout)
    assert names(report) == [
        *("chunking", "hashing", "compression", "sealing", "erasure", "all of it", "disk"),
    ]
    assert all(row["bytes_per_second"] > 0 for row in report["rows"])
    assert report["kernel"] == native.kernel().name
    packs = machine.home / "vault" / "packs"
    assert report["place"] == str(packs)
    assert report["rows"][-1]["what"].startswith("2 durable packs of 16.0 MiB in ")
    after = {path: path.stat().st_mtime_ns for path in machine.home.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_without_a_vault_the_disk_it_would_lie_on(machine, tmp_path):
    lines = machine.here("benchmark", "--no-disk").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines][-1] == "all of it"
    report = json.loads(machine.here("benchmark", "--json", "-r", tmp_path / "no" / "v").stdout)
    assert report["place"] == str(tmp_path)
    assert not machine.home.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_goes_when_the_disk_fails(machine, tmp_path, monkeypatch):
    from portal.disk import Disk

    def full(_self, _fd, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(benchmark, "_DISK_S", 60)
    monkeypatch.setattr(benchmark, "_processor_rows", list)
    monkeypatch.setattr(Disk, "write", full)
    done = machine.here("benchmark", "-r", tmp_path / "v", code=14)
    assert done.stderr == f"portal: {tmp_path}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
