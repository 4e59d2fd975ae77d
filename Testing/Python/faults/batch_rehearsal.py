"""A batch with everything that goes wrong in an archive, disturbed at random, and judged by what was put in.

    python Testing/Python/faults/batch_rehearsal.py --cases 1000 --source COHORT --out DIR

COHORT is a folder of `medconv simulate`. Builds DIR/archive with faults of every kind in 5 % of the cases, has it
answered twice (once left alone; once with workers and the batch itself killed at random moments and started again),
and compares: every case exactly one row, the expected code for every fault, for every other case what the pipeline
answers or refuses without any batch, both tables equal byte by byte, memory flat, no process and no file left behind.
Ends with exit code 1 if anything differs. --judge only compares what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medconv import l1_mask, pipeline, volume_io
from medconv.batch.lock import LOCK_FILE
from medconv.batch.rehearsal import VARIABLE
from medconv.config import CLASS_ORDER
from medconv.inference import LoadedModel
from medconv.processes import one_thread_each
from medconv.segmenter import EXISTING
from medconv.types import InputRefused, LevelChoice

L1 = 31
LOGITS = [f"logit_{name}" for name in CLASS_ORDER]
PAUSE_S = 0.1
ENDS_WITHIN_S = 3600.0


def cut_off(ct: Path, mask: Path) -> None:
    ct.write_bytes(ct.read_bytes()[: ct.stat().st_size // 2])


def text_file(ct: Path, mask: Path) -> None:
    ct.write_text("This CT was moved to the archive of 2019.\n")


def no_mask(ct: Path, mask: Path) -> None:
    mask.unlink()


def label_absent(ct: Path, mask: Path) -> None:
    change(mask, lambda labels: labels * 0 + 20 * (labels > 0))


def mask_elsewhere(ct: Path, mask: Path) -> None:
    image = sitk.ReadImage(str(mask))
    image.SetOrigin([x + 1000.0 for x in image.GetOrigin()])
    sitk.WriteImage(image, str(mask))


def not_a_number(ct: Path, mask: Path) -> None:
    change(ct, lambda hu: np.where(np.indices(hu.shape).sum(axis=0) % 7 == 0, np.nan, hu.astype(np.float32)))


def like_mr(ct: Path, mask: Path) -> None:
    change(ct, lambda hu: ((hu + 1024.0) / 4.0).astype(np.int16))


def at_the_border(ct: Path, mask: Path) -> None:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
    middle = int(np.median(np.flatnonzero((labels == L1).any(axis=(1, 2)))))
    for file in (ct, mask):
        sitk.WriteImage(sitk.ReadImage(str(file))[:, :, middle:], str(file))


def four_d(ct: Path, mask: Path) -> None:
    image = sitk.ReadImage(str(ct))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(ct))


def pipe(ct: Path, mask: Path) -> None:
    ct.unlink()
    os.mkfifo(ct)


def link_to_nothing(ct: Path, mask: Path) -> None:
    ct.unlink()
    ct.symlink_to("gone.nii.gz")


def name_of_bytes(ct: Path, mask: Path) -> None:
    ct.rename(ct.with_name(os.fsdecode(ct.name.split(".")[0].encode("ascii") + b"-\xff.nii.gz")))


def damaged_inside(ct: Path, mask: Path) -> None:
    data = bytearray(ct.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 64):
        data[place] ^= 0xFF
    ct.write_bytes(data)


def nothing(ct: Path, mask: Path) -> None:
    """The fault comes from the rehearsal file."""


def change(file: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    image = sitk.ReadImage(str(file))
    other = sitk.GetImageFromArray(how(sitk.GetArrayFromImage(image)))
    other.CopyInformation(image)
    sitk.WriteImage(other, str(file))


@dataclass(frozen=True)
class Fault:
    """What is done to a case, and what its row must say: the status and one of the codes.

    rehearsed: what the worker itself does, see `medconv.batch.rehearsal`.
    """

    do: Callable[[Path, Path], None]
    status: str
    codes: tuple[str, ...]
    rehearsed: str = ""


FAULTS = {
    "cut-off file": Fault(cut_off, "refused", ("file_cut_off",)),
    "text named .nii.gz": Fault(text_file, "refused", ("unreadable",)),
    "damaged inside": Fault(damaged_inside, "refused", ("unreadable", "file_cut_off", "not_hu")),
    "no mask": Fault(no_mask, "refused", ("mask_missing",)),
    "label absent": Fault(label_absent, "refused", ("label_absent",)),
    "mask elsewhere": Fault(mask_elsewhere, "refused", ("mask_elsewhere",)),
    "NaN voxels": Fault(not_a_number, "refused", ("not_hu",)),
    "values like MR": Fault(like_mr, "refused", ("not_hu",)),
    "L1 at the border": Fault(at_the_border, "refused", ("l1_touches_border",)),
    "4D image": Fault(four_d, "refused", ("image_4d",)),
    "a pipe": Fault(pipe, "refused", ("not_a_file",)),
    "link to nothing": Fault(link_to_nothing, "refused", ("file_missing",)),
    "name that is no text": Fault(name_of_bytes, "refused", ("path_not_text",)),
    "crash in C": Fault(nothing, "set_aside", ("worker_died",), "segmentation_fault"),
    "process ends itself": Fault(nothing, "set_aside", ("worker_died",), "exit"),
    "hangs": Fault(nothing, "set_aside", ("time_limit",), "hang"),
    "no memory": Fault(nothing, "set_aside", ("out_of_memory",), "no_memory"),
    "program error": Fault(nothing, "failed", ("internal_error",), "error"),
}


@dataclass
class Archive:
    """cases: case → kind of fault, "" for a healthy one; sources: case → CT and mask that it was made from."""

    cts: Path
    masks: Path
    rehearsal: Path
    cases: dict[str, str] = field(default_factory=dict)
    sources: dict[str, tuple[Path, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the pipeline says of a case, without any batch."""

    status: str
    code: str = ""
    t_score_class: str = ""
    hu_mean: str = ""
    logits: tuple[float, ...] = ()

    def differs_from(self, row: dict[str, str]) -> bool:
        told = tuple(row[name] for name in ("status", "code", "t_score_class", "hu_mean"))
        if told != (self.status, self.code, self.t_score_class, self.hu_mean):
            return True
        found = [float(row[name]) for name in LOGITS] if self.logits else []
        return any(abs(a - b) > 2e-5 for a, b in zip(found, self.logits, strict=True))


def answers_of(sources: Sequence[tuple[Path, Path]], weights: str, processes: int) -> dict[Path, Answer]:
    """By CT. The whole CT is read, and none of `medconv.batch` is used."""
    distinct = sorted(set(sources))
    if processes == 1:
        return dict(_answers(distinct, weights))
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(processes, context) as pool:
        parts = [distinct[i::processes] for i in range(processes)]
        return {ct: answer for part in pool.map(_answers, parts, [weights] * processes) for ct, answer in part}


def _answers(pairs: Sequence[tuple[Path, Path]], weights: str) -> list[tuple[Path, Answer]]:
    model = LoadedModel.load(weights or None, "cpu", "eager")
    return [(ct, _answer(ct, mask, model)) for ct, mask in pairs]


def _answer(ct_file: Path, mask_file: Path, model: LoadedModel) -> Answer:
    try:
        ct = volume_io.read_ct(ct_file)
        labels, geometry, _owner = volume_io.read_labels(mask_file)
        mask, notes = l1_mask.from_labels(labels, geometry, L1, ct.geometry)
        found = pipeline.predict(
            ct, mask, model, notes=notes, level=LevelChoice(f"label {L1}", "L1", "label", EXISTING)
        )
    except InputRefused as refusal:
        return Answer("refused", refusal.code)
    logits = tuple(found.logits[name] for name in CLASS_ORDER)
    return Answer("ok", "", str(found.t_score_class), f"{found.attenuation.mean_hu:.3f}", logits)


def build_archive(
    folder: Path,
    pairs: Sequence[tuple[Path, Path]],
    count: int,
    faulty: int,
    seed: int,
    kinds: Sequence[str] = tuple(FAULTS),
) -> Archive:
    """So many cases from (CT, mask) pairs, as links where healthy; the faults go round all kinds, in random places."""
    archive = Archive(folder / "ct", folder / "masks", folder / "rehearsal.json")
    shutil.rmtree(folder, ignore_errors=True)
    for place in (archive.cts, archive.masks):
        place.mkdir(parents=True)
    draw = random.Random(seed)
    faults = {number: kinds[i % len(kinds)] for i, number in enumerate(draw.sample(range(count), faulty))}
    rehearsed = {}
    for number in range(count):
        name = f"case-{number:05d}"
        files = archive.cts / f"{name}.nii.gz", archive.masks / f"{name}.nii.gz"
        kind = faults.get(number, "")
        for source, file in zip(pairs[number % len(pairs)], files, strict=True):
            if kind:
                shutil.copyfile(source, file)
            else:
                file.symlink_to(source.resolve())
        if kind:
            FAULTS[kind].do(*files)
            if FAULTS[kind].rehearsed:
                rehearsed[name] = FAULTS[kind].rehearsed
        archive.cases[name], archive.sources[name] = kind, pairs[number % len(pairs)]
    archive.rehearsal.write_text(json.dumps(rehearsed))
    return archive


@dataclass
class Batch:
    """The command on the archive, in a folder of its own, with a private place for temporary files."""

    archive: Archive
    out: Path
    workers: int
    time_limit_s: float
    weights: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def temporary(self) -> Path:
        return self.out.with_name(self.out.name + "-tmp")

    def command(self) -> list[str]:
        named = ["--weights", self.weights] if self.weights else []
        return [
            sys.executable, "-m", "medconv.cli", "batch", str(self.archive.cts), "--masks", str(self.archive.masks),
            "--label", str(L1), "--out", str(self.out), "--workers", str(self.workers), "--runtime", "eager",
            "--device", "cpu", "--time-limit", str(self.time_limit_s / 60), *named,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        self.temporary.mkdir(parents=True, exist_ok=True)
        return {**os.environ, VARIABLE: str(self.archive.rehearsal), "TMPDIR": str(self.temporary)}

    def start(self) -> subprocess.Popen[bytes]:
        with (self.out.with_name(self.out.name + ".log")).open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=self.environment())
        return self.process

    def log(self) -> str:
        """What all starts of it have said."""
        return self.out.with_name(self.out.name + ".log").read_text("utf-8", "replace")

    def done(self) -> int:
        """Outcomes in the ledger so far."""
        try:
            return (self.out / "ledger.jsonl").read_bytes().count(b'"event": "done"')
        except OSError:
            return 0

    def holds_lock(self) -> bool:
        """True if the process that was started last works in the folder, and not one of before."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            return bool(json.loads((self.out / LOCK_FILE).read_text("ascii"))["process"] == self.process.pid)
        except (OSError, ValueError, KeyError):
            return False

    def worker_ids(self) -> list[int]:
        """Children that work: they are started by multiprocessing's spawn."""
        if self.process is None:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                    if parent == self.process.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def processes_left(self) -> list[int]:
        """Whoever still has our private folder in the environment."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


@dataclass
class Disturbance:
    """How a run is disturbed: so many kills of a worker and of the batch, at random counts of answered cases."""

    workers: int
    batches: int
    seed: int
    killed_workers: int = 0
    killed_batches: int = 0
    refused_second: bool = False
    memory: list[tuple[float, int, float, float]] = field(default_factory=list)  # s, done, parent MB, largest worker MB


def run_alone(batch: Batch, disturbance: Disturbance) -> int:
    """To the end, undisturbed, with its memory written down; returns the exit code."""
    process = batch.start()
    started = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() - started < ENDS_WITHIN_S, "the batch does not end"
        _note_memory(batch, disturbance, started)
        time.sleep(1.0)
    return process.returncode


def run_disturbed(batch: Batch, disturbance: Disturbance, total: int) -> int:
    """To the end, with kills; the last start is left alone. Returns its exit code."""
    draw = random.Random(disturbance.seed)
    kills = sorted(
        [(draw.randrange(1, total - 5), "worker") for _ in range(disturbance.workers)]
        + [(draw.randrange(1, total - 5), "batch") for _ in range(disturbance.batches)]
    )
    started = time.monotonic()
    while True:
        process = batch.start()
        while process.poll() is None:
            assert time.monotonic() - started < ENDS_WITHIN_S, "the batch does not end"
            if kills and batch.done() >= kills[0][0]:
                _strike(batch, kills.pop(0)[1], disturbance, draw)
            # A second one that comes first, while this one is still starting, would be the batch itself.
            if not disturbance.refused_second and batch.done() > 2 and batch.holds_lock():
                second = subprocess.run(batch.command(), env=batch.environment(), capture_output=True, check=False)
                disturbance.refused_second = second.returncode == 2 and b"Another batch" in second.stderr
            time.sleep(PAUSE_S)
        if process.returncode not in (-signal.SIGKILL, 130):
            return process.returncode


def _strike(batch: Batch, whom: str, disturbance: Disturbance, draw: random.Random) -> None:
    assert batch.process is not None
    time.sleep(draw.random() * PAUSE_S)
    if whom == "worker":
        if workers := batch.worker_ids():
            _kill(draw.choice(workers), signal.SIGKILL)
            disturbance.killed_workers += 1
        return
    gently = disturbance.killed_batches % 3 == 2  # a batch system's SIGTERM now and then
    _kill(batch.process.pid, signal.SIGTERM if gently else signal.SIGKILL)
    disturbance.killed_batches += 1
    batch.process.wait(60)


def _kill(process_id: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, number)


def _note_memory(batch: Batch, disturbance: Disturbance, started: float) -> None:
    assert batch.process is not None
    workers = [_resident_mb(process_id) for process_id in batch.worker_ids()]
    entry = (time.monotonic() - started, batch.done(), _resident_mb(batch.process.pid), max(workers, default=0.0))
    disturbance.memory.append(entry)


def _resident_mb(process_id: int) -> float:
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def slope_mb(memory: Sequence[tuple[float, int, float, float]], column: int) -> float:
    """MB for 1,000 cases, by least squares over the middle of the run (a start and an end are no slope)."""
    last = memory[-1][1]
    points = [(row[1], row[column]) for row in memory if 0.15 * last < row[1] < 0.95 * last and row[column] > 0]
    if len(points) < 3:
        return float("nan")
    done, mb = np.array(points).T
    return float(np.polyfit(done, mb, 1)[0] * 1000)


def differences(archive: Archive, disturbed: Batch, alone: Batch, answers: dict[Path, Answer]) -> list[str]:
    """All that is not as it must be, in words. answers: the pipeline's, by CT."""
    told = []
    rows = read_rows(disturbed.out)
    ids = Counter(case_of(row["case_id"]) for row in rows)
    told += [f"{case}: {ids[case]} rows" for case in archive.cases if ids[case] != 1]
    told += [f"{case}: a row without a case" for case in ids if case not in archive.cases]
    for row in rows:
        case = case_of(row["case_id"])
        kind = archive.cases.get(case, "")
        if fault := FAULTS.get(kind):
            if row["status"] != fault.status or row["code"] not in fault.codes:
                told.append(f"{row['case_id']} ({kind}): {row['status']} {row['code']}, expected {fault.codes}")
        elif case in archive.cases and (expected := answers[archive.sources[case][0]]).differs_from(row):
            told.append(f"{row['case_id']} (healthy): {row['status']} {row['code']}, expected {expected}")
    for name in ("table.csv", "table.parquet"):
        if (disturbed.out / name).read_bytes() != (alone.out / name).read_bytes():
            told.append(f"{name} differs from the undisturbed run's")
    events = [json.loads(line) for line in (disturbed.out / "ledger.jsonl").read_text("ascii").splitlines()]
    done = Counter(event["case_id"] for event in events if event["event"] == "done")
    told += [f"{case}: {count} outcomes" for case, count in done.items() if count != 1]
    for batch in (disturbed, alone):
        told += [f"left behind: {path}" for path in batch.temporary.rglob("*")]
        told += [f"process left: {number}" for number in batch.processes_left()]
        told += [f"unfinished file: {path}" for path in batch.out.rglob(".*")]
    return told


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def case_of(case_id: str) -> str:
    """The case's name in the archive: `case-00012`, whatever was added to it."""
    return case_id[: len("case-00000")]


def ledger_table(archive: Archive, out: Path) -> str:
    """Kinds of faults, how many went in, and what came out."""
    found: dict[str, Counter[str]] = {}
    for row in read_rows(out):
        kind = archive.cases.get(case_of(row["case_id"]), "?") or "healthy"
        found.setdefault(kind, Counter())[f"{row['status']} {row['code']}".strip()] += 1
    put_in = Counter(kind or "healthy" for kind in archive.cases.values())
    lines = [f"{'kind':24} {'put in':>6}  came out"]
    for kind in ("healthy", *FAULTS):
        came = ", ".join(f"{count} {what}" for what, count in found.get(kind, Counter()).items())
        lines.append(f"{kind:24} {put_in[kind]:>6}  {came}")
    return "\n".join(lines)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--cases", type=int, default=1000)
    p.add_argument("--faulty", type=float, default=0.05, help="share of cases with a fault")
    p.add_argument("--source", type=Path, required=True, help="folder of 'medconv simulate'")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--kill-workers", type=int, default=40)
    p.add_argument("--kill-batches", type=int, default=6)
    p.add_argument("--time-limit", type=float, default=30.0, help="seconds for a case")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--judge", action="store_true", help="run nothing, compare what is there")
    options = p.parse_args()
    masks = options.source / "masks"
    cts = sorted(path for path in options.source.rglob("*.nii.gz") if masks not in path.parents)
    pairs = [(ct, masks / ct.name) for ct in cts]
    faulty = round(options.cases * options.faulty)
    archive = build_archive(options.out / "archive", pairs, options.cases, faulty, options.seed)
    alone, disturbed = (
        Batch(archive, options.out / name, options.workers, options.time_limit) for name in ("alone", "disturbed")
    )
    passed = options.judge or run_both(alone, disturbed, options)
    print(ledger_table(archive, disturbed.out))
    told = differences(archive, disturbed, alone, answers_of(pairs[: options.cases], "", options.workers))
    print("\n".join(told) or "no difference")
    return 1 if told or not passed else 0


def run_both(alone: Batch, disturbed: Batch, options: argparse.Namespace) -> bool:
    """Once left alone, once disturbed; prints how it went. True if both ended well."""
    for batch in (alone, disturbed):
        for old in (batch.out, batch.temporary):
            shutil.rmtree(old, ignore_errors=True)
    how = Disturbance(options.kill_workers, options.kill_batches, options.seed)
    codes = run_alone(alone, how), run_disturbed(disturbed, how, options.cases)
    with gzip.open(options.out / "memory.csv.gz", "wt") as stream:
        csv.writer(stream).writerows([("seconds", "done", "batch_mb", "worker_mb"), *how.memory])
    print(f"killed: {how.killed_workers} workers, {how.killed_batches} batches; exit codes {codes}")
    print(f"a second batch in the same folder was {'refused' if how.refused_second else 'NOT refused'}")
    for name, column in (("batch", 2), ("largest worker", 3)):
        peak = max(row[column] for row in how.memory)
        print(f"memory of the {name}: at most {peak:.0f} MB, {slope_mb(how.memory, column):+.1f} MB for 1,000 cases")
    return codes == (0, 0) and how.refused_second


if __name__ == "__main__":
    sys.exit(main())
