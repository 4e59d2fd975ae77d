"""A batch on a Dask cluster: a real scheduler and real workers as processes of this computer, some of them killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.conftest import untrained_card
from core.phantom import grid, phantom

from medconv import cli, process_tree, report, runtimes, volume_io
from medconv.batch import dask_case, dask_cluster, dask_workers, rehearsal, table
from medconv.batch.dask_workers import DaskCrew
from medconv.batch.jobs import BatchJob, Crashed, Done, Started, Status
from medconv.batch.ledger import Ledger
from medconv.batch.one_case import Tools, run_job
from medconv.batch.settings import BatchSettings, read_settings
from medconv.types import MissingRequirement, UsageError
from medconv.weights import read_manifest

COARSE = grid((3, 3, 3))


class Cluster:
    """A scheduler and its workers on 127.0.0.1, without dashboards; `faults` is what their cases do on purpose."""

    def __init__(self, folder: Path, workers: int, weights: Path) -> None:
        self.folder, self.faults_file = folder, folder / "faults.json"
        self.faults({})
        self.environment = os.environ | {
            "MEDCONV_WEIGHTS_DIR": str(weights),
            "MEDCONV_DATA": str(folder / "user"),
            rehearsal.VARIABLE: str(self.faults_file),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        told = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(told))
        for number in range(workers):
            options = ("--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder / f"worker{number}"))
            self._start("worker", "--scheduler-file", str(told), *options)
        self.address = eventually(lambda: json.loads(told.read_text())["address"])
        eventually(lambda: len(self.log("scheduler").split("Register worker")) > workers)

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", "--no-dashboard", *options]
        with (self.folder / f"{kind}{len(self._processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._processes.append(process)
        return process

    def faults(self, faults: dict[str, str]) -> None:
        self.faults_file.write_text(json.dumps(faults))

    def log(self, kind: str) -> str:
        return "".join(file.read_text("utf-8", "replace") for file in sorted(self.folder.glob(f"{kind}*.log")))

    def end(self) -> None:
        for process in self._processes:
            process_tree.kill(process.pid, None, 5)
            process.wait(10)


def eventually(ask: Callable[[], Any], within_s: float = 60) -> Any:
    """The first answer that is true; fails after a while."""
    until, last = time.monotonic() + within_s, None
    while time.monotonic() < until:
        try:
            if answer := ask():
                return answer
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"never came true ({last})")


@pytest.fixture(scope="module")
def start(untrained_weights: Path, tmp_path_factory) -> Iterator[Callable[[int], Cluster]]:
    """`start(workers)` is a new cluster; all end with the module."""
    clusters: list[Cluster] = []

    def make(workers: int) -> Cluster:
        clusters.append(Cluster(tmp_path_factory.mktemp("cluster"), workers, untrained_weights))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.end()


@pytest.fixture(scope="module")
def cluster(start) -> Cluster:
    """Two workers, for tests that leave them as they were."""
    return start(2)


@pytest.fixture(scope="module")
def cts(tmp_path_factory) -> Path:
    """Six CTs with masks; one touches the border, the last is the second again."""
    folder = tmp_path_factory.mktemp("cts")
    for number in range(5):
        case = phantom(COARSE, trabecular_hu=60 + 40 * number)
        labels = (case.labels_zyx > 0).astype("uint8")
        if number == 3:
            labels[0, 20, 20] = 1
        volume_io.write_image(folder / f"case{number}.nii.gz", case.ct.array_zyx, case.ct.geometry)
        volume_io.write_image(folder / f"case{number}_mask.nii.gz", labels, case.ct.geometry)
    for end in ("", "_mask"):
        shutil.copyfile(folder / f"case1{end}.nii.gz", folder / f"case5{end}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def settings(cts: Path, untrained_weights: Path) -> BatchSettings:
    card = read_manifest(untrained_weights / "manifest.json")[0]
    return BatchSettings(
        inputs=(str(cts),),
        weights=card.name,
        weights_sha256=card.sha256,
        runtime=runtimes.REFERENCE,
        adjustment=vars(untrained_card().default_adjustment).copy(),
        versions={"numpy": report.versions()["numpy"]},
    )


@pytest.fixture(scope="module")
def batch_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def crew(cluster: Cluster, settings: BatchSettings, batch_folder: Path) -> Iterator[DaskCrew]:
    """One for several tests, which leave nothing undone: every new one starts processes that load torch."""
    cluster.faults({})
    crew = DaskCrew(cluster.address, settings, batch_folder, time_limit_s=60)
    yield crew
    crew.close()


@pytest.fixture
def hire(settings: BatchSettings, tmp_path: Path) -> Iterator[Callable[..., DaskCrew]]:
    """`hire(cluster, **changed settings)` is a crew that is closed with the test."""
    crews: list[DaskCrew] = []

    def make(cluster: Cluster, **changes: Any) -> DaskCrew:
        cluster.faults({})
        crews.append(DaskCrew(cluster.address, replace(settings, **changes), tmp_path, time_limit_s=60))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


def job(cts: Path, number: int) -> BatchJob:
    return BatchJob(f"case{number}", str(cts / f"case{number}.nii.gz"), mask=str(cts / f"case{number}_mask.nii.gz"))


def until(crew: DaskCrew, kind: type) -> Any:
    """The next event of that kind."""
    return next(event for event in crew.events() if isinstance(event, kind))


def test_the_table_is_byte_for_byte_that_of_the_same_cases_done_here(
    cluster: Cluster, cts: Path, tmp_path: Path, only_untrained
) -> None:
    cluster.faults({})
    there, here = tmp_path / "there", tmp_path / "here"
    options = ["--weights", "untrained", "--device", "cpu", "--runtime", runtimes.REFERENCE, "--reports"]
    assert cli.main(["batch", str(cts), "--out", str(there), *options, "--scheduler", cluster.address]) == 0
    assert not list(there.glob(".medconv-cluster-*"))

    begun = read_settings(there)
    assert begun is not None
    here.mkdir()
    tools = Tools.load(begun, here)
    with Ledger(here) as ledger, Ledger(there) as of_cluster:
        for case, _ in of_cluster.outcomes():
            ledger.done(case, run_job(case, tools))
        table.write_table(here, ledger)
    expected = (here / "table.csv").read_bytes()
    assert (there / "table.csv").read_bytes() == expected
    assert (expected.count(b"\n"), expected.count(b",ok,"), expected.count(b",refused,")) == (7, 5, 1)
    assert expected.count(b",case1,") == 1, "case5 has the same pixels"
    files = {file.relative_to(here) for file in here.glob("cases/*/*")}
    assert len(files) > 20
    assert files == {file.relative_to(there) for file in there.glob("cases/*/*")}
    assert [file for file in files if (here / file).read_bytes() != (there / file).read_bytes()] == []


def test_a_case_with_the_pixels_of_an_earlier_one_takes_its_answer(crew: DaskCrew, cts: Path, batch_folder) -> None:
    crew.submit(job(cts, 1))
    first = until(crew, Done).outcome
    with Ledger(batch_folder) as ledger:
        ledger.done(job(cts, 1), first)
    crew.submit(job(cts, 5))
    second = until(crew, Done).outcome
    assert replace(second, measured={}) == replace(first, case_id="case5", measured={})
    assert "network" in first.measured
    assert "network" not in second.measured, "the network ran again"


def test_a_file_that_is_nowhere_is_the_case_s_outcome_as_on_one_computer(crew: DaskCrew, cts: Path) -> None:
    crew.submit(replace(job(cts, 0), ct=str(cts / "gone.nii.gz")))
    outcome = until(crew, Done).outcome
    assert (outcome.status, outcome.code) == (Status.REFUSED, "file_missing")
    assert crew.left_out == {}


def test_a_case_that_crashes_ends_its_child_and_not_the_dask_worker(
    cluster: Cluster, crew: DaskCrew, cts: Path
) -> None:
    before = cluster.log("scheduler").count("Remove worker")
    cluster.faults({"case0": "segmentation_fault"})
    crew.submit(job(cts, 0))
    crashed = until(crew, Crashed)
    assert crashed.case_id == "case0"
    assert crashed.code == "worker_died"
    assert cluster.log("scheduler").count("Remove worker") == before


def test_a_case_whose_dask_worker_is_killed_is_done_elsewhere(cluster: Cluster, crew: DaskCrew, cts: Path) -> None:
    cluster.faults({"case2": "hang"})
    crew.submit(job(cts, 2))
    process_id = int(until(crew, Started).worker.split()[-1])
    children = process_tree.members(process_id, None) - {process_id}
    assert children
    cluster.faults({})
    os.kill(process_id, signal.SIGKILL)
    outcome = until(crew, Done).outcome
    assert (outcome.case_id, outcome.status) == ("case2", Status.OK)
    eventually(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))


def test_closing_ends_what_still_runs_on_the_cluster(cluster: Cluster, hire, cts: Path) -> None:
    crew = hire(cluster)
    cluster.faults({"case4": "hang"})
    crew.submit(job(cts, 4))
    process_id = int(until(crew, Started).worker.split()[-1])
    assert process_tree.members(process_id, None) - {process_id}
    crew.close()
    crew.close()
    eventually(lambda: not _python_children(process_id))
    assert process_tree.members(process_id, None)  # the Dask worker itself lives


def test_a_new_run_in_the_folder_ends_what_a_killed_one_has_left_running(
    cluster: Cluster, hire, cts: Path, monkeypatch
) -> None:
    killed = hire(cluster)
    cluster.faults({"case4": "hang"})
    killed.submit(job(cts, 4))
    process_id = int(until(killed, Started).worker.split()[-1])
    assert _python_children(process_id)
    monkeypatch.setattr(dask_workers, "OLD_BATCH_S", 0.0)
    hire(cluster)
    eventually(lambda: not _python_children(process_id))


def _python_children(process_id: int) -> set[int]:
    """Children that run a case; multiprocessing's own helper, which tracks resources, may stay."""
    children = process_tree.members(process_id, None) - {process_id}
    return {child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inputs": ("/nowhere/archive",)}, "does not see /nowhere/archive"),
        ({"weights_sha256": "cd" * 32}, "has other weights (SHA-256"),
        ({"weights": "unknown"}, "There are no weights named 'unknown'"),
        ({"versions": {"numpy": "0.1"}}, "has other packages (numpy"),
    ],
)
def test_workers_that_can_not_do_the_work_are_named_with_the_reason(cluster: Cluster, hire, changes, told: str) -> None:
    with pytest.raises(MissingRequirement) as missing:
        hire(cluster, **changes)
    assert missing.value.code == "cluster_worker_unfit"
    assert "2 of 2 workers" in missing.value.message
    assert told in missing.value.message


def test_a_worker_that_does_not_see_the_batch_folder_says_so(
    settings: BatchSettings, only_untrained, tmp_path: Path
) -> None:
    given, number = settings.to_json(), "0123456789ab"
    assert dask_case.probe(given, str(tmp_path), number, [])["problems"] == [f"does not see the folder {tmp_path}"]
    (tmp_path / dask_case.TOKEN.format(number)).write_text(number)
    assert dask_case.probe(given, str(tmp_path), number, [str(tmp_path)])["problems"] == []
    # A drive that is not mounted is an empty folder: a file in it is looked for as well.
    empty = str(tmp_path / "mounted" / "ct.nii.gz")
    assert dask_case.probe(given, str(tmp_path), number, [empty])["problems"] == [f"does not see {empty}"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux: a path that every process sees differently")
def test_a_worker_that_does_not_see_a_file_that_is_there_is_left_out(cluster: Cluster, hire, cts: Path) -> None:
    crew = hire(cluster)
    with (cts / "case0.nii.gz").open("rb") as file:
        os.dup2(file.fileno(), 250)
        try:
            crew.submit(replace(job(cts, 0), ct="/proc/self/fd/250"))
            with pytest.raises(MissingRequirement, match="does not see /proc/self/fd/250") as missing:
                until(crew, Done)
        finally:
            os.close(250)
    assert missing.value.code == "cluster_worker_unfit"
    assert len(crew.left_out) == 2


def test_a_lost_scheduler_ends_the_batch_with_a_next_step(start, hire, cts: Path) -> None:
    own = start(1)
    crew = hire(own)
    crew.submit(job(cts, 0))
    own.scheduler.kill()
    with pytest.raises(MissingRequirement) as missing:
        until(crew, Done)
    assert missing.value.code == "scheduler_lost"
    assert "the same command goes on" in missing.value.remedy


def test_no_scheduler_at_the_address_is_said_soon() -> None:
    with pytest.raises(MissingRequirement) as missing:
        dask_cluster.connect("tcp://127.0.0.1:9", within_s=0.5)
    assert missing.value.code == "scheduler_missing"
    assert "within 0.5 s" in missing.value.message


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "http://host:8786", "tcp://host", "tcp://:8786", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        dask_cluster.connect(address, within_s=0.5)


def test_the_command_says_so_before_it_lists_an_archive(cts: Path, only_untrained, tmp_path: Path, capsys) -> None:
    assert (
        cli.main(["batch", str(cts), "--out", str(tmp_path / "out"), "--scheduler", "nowhere"]) == UsageError.exit_code
    )
    assert "is no address of a Dask scheduler" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_encryption_that_does_not_fit_the_address_points_to_the_configuration() -> None:
    import dask

    with pytest.raises(UsageError, match="needs certificates") as told:
        dask_cluster.connect("tls://127.0.0.1:9", within_s=0.5)
    assert "distributed.comm.tls" in told.value.remedy
    with dask.config.set({"distributed.comm.require-encryption": True}):
        with pytest.raises(UsageError, match="requires encryption"):
            dask_cluster.connect("tcp://127.0.0.1:9", within_s=0.5)
    with dask.config.set({"distributed.comm.tls.client.cert": "/nowhere", "distributed.comm.tls.ca-file": "/nowhere"}):
        with pytest.raises(UsageError, match="can't be read"):
            dask_cluster.connect("tls://127.0.0.1:9", within_s=0.5)


def test_without_dask_the_pip_line_is_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingRequirement) as missing:
        dask_cluster.connect("tcp://127.0.0.1:9", within_s=0.5)
    assert 'pip install "bonedensity-medconv[batch]"' in missing.value.remedy
