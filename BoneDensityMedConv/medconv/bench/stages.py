"""The section `stages`: one CT from its files to the result, stage by stage, for every kind of file.

The baseline is plain SimpleITK reading the whole CT, in turns with ours in the same process; the files have been read
once before, so that no disk is timed.
Checks, HU, adjusting and the report have no counterpart outside MedConv, so no baseline, and are bound by no one peak.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import SimpleITK as sitk

from medconv import pipeline, planes, report, report_html, volume_io
from medconv.bench import apart, flops, machine, memory, preprocessing, trunk_files
from medconv.bench.figures import Row, of_values, paired_ratio
from medconv.bench.settings import FULL_SLICES, Say, Settings, part
from medconv.bench.trunk_files import DICOM, GZ, NII, TrunkFiles
from medconv.case_reading import ReadCase, read_around_mask
from medconv.ct_source import CTSource
from medconv.inference import LoadedModel, input_shape
from medconv.types import CTVolume, L1Mask, Prediction

EDGE, QUICK_SLICES = 512, 120
AIM = 1.2  # from files to result, against reading the CT
SAID = {NII: ".nii", GZ: ".nii.gz", DICOM: "DICOM series"}
STAGES: Mapping[str, str] = {  # in their order
    "locate": "read the mask, find L1 in it",
    "read": "read the CT around L1",
    "prepare": "check the CT, cut out L1's neighbourhood",
    "attenuation": "HU: the trabecular core, checks of L1",
    "crop": "the network's crop",
    "network": "the network's pass",
    "adjust": "adjust and classify",
    "report": "pictures, mask, report, result.json",
}
WHOLE, COMMAND = "from files to result", "command"
READ, MASK = "plain SimpleITK read of the CT", "plain read of the mask"


def measure(settings: Settings, say: Say) -> Iterator[Row]:
    """Rows of each kind of file, then preprocessing and the slider."""
    kinds = (NII,) if settings.quick else (NII, GZ, DICOM)
    shape = (QUICK_SLICES if settings.quick else settings.slices, EDGE, EDGE)
    for place, kind in enumerate(kinds):
        at, own = 0.8 * place / len(kinds), 0.8 / len(kinds)
        files = trunk_files.write_trunk(settings.place, shape, kind, part(say, at, 0.5 * own))
        say(f"reading {SAID[kind]}", at + 0.5 * own)
        yield from _one_kind(kind, files, settings)
        _remove(files)
    say("preprocessing", 0.85)
    yield from preprocessing.measure(shape, settings)


class _Watched:
    """A CT that can be read, and that says when its voxels are about to be: the mask is read and L1 found by then."""

    def __init__(self, source: CTSource, located: Callable[[], None]) -> None:
        self.geometry = source.geometry
        self._source, self._located = source, located

    def read_around(self, mask: L1Mask) -> CTVolume:
        self._located()
        return self._source.read_around(mask)


def read_around_l1(ct: str, mask: str, located: Callable[[], None] = lambda: None) -> tuple[ReadCase, dict[str, float]]:
    """The CT's slab around L1 and its mask as `predict` reads them, and seconds of "locate" and "read"."""
    started = perf_counter()
    source = volume_io.open_ct(ct)
    opened = perf_counter()
    read = read_around_mask(cast(CTSource, _Watched(source, located)), mask, trunk_files.LABEL)
    return read, {"locate": read.timing_s["read_mask"], "read": opened - started + read.timing_s["read_ct"]}


def passes(ct: str, mask: str, out: str, rounds: int) -> dict[str, Any]:
    """For a process of its own: every stage in turns with the baselines. Seconds and peaks by name, one a round."""
    from medconv.network import build_network

    Path(out).mkdir(exist_ok=True)
    model = LoadedModel.load(None, "cpu")
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        fresh = memory.forget_peak()
        started = perf_counter()
        answer = action()
        seconds.setdefault(name, []).append(perf_counter() - started)
        if fresh:
            peaks[name] = max(peaks.get(name, 0.0), memory.peak_mb())
        return answer

    def stages() -> float:
        watch = memory.Laps(peaks)
        read, told = read_around_l1(ct, mask, lambda: watch.lap("locate"))
        watch.lap("read")
        for name, taken in told.items():
            seconds.setdefault(name, []).append(taken)
        _analyse(read, model, Path(out), seconds, watch)
        return float(read.ct.array_zyx.nbytes) / 1e6

    for number in range(rounds + 1):
        timed(READ, lambda: plain_read(Path(ct)))
        timed(MASK, lambda: sitk.ReadImage(mask))
        slab_mb = timed(WHOLE, stages)
        timed(COMMAND, lambda: _command(ct, mask, out))
        if number == 0:  # the first warms up: files in the system's memory, libraries loaded
            seconds.clear()
            peaks.clear()
    if peaks:  # what `timed` saw of the whole is its last lap
        peaks[WHOLE] = max(peaks[name] for name in STAGES)
    flop = flops.counted(build_network(model.card.architecture), (1, *input_shape(model.card)))
    return {"seconds": seconds, "peaks": peaks, "slab_mb": slab_mb, "flop": flop}


def _analyse(
    read: ReadCase, model: LoadedModel, out: Path, seconds: dict[str, list[float]], watch: memory.Laps
) -> None:
    card = model.card
    at_share = iter(("", "attenuation", "crop"))  # `measure` tells as it begins with each; before the first is nothing

    def tell(_stage: str, _fraction: float) -> None:
        if ended := next(at_share):
            watch.lap(ended)

    def lap(name: str, started: float) -> float:
        seconds.setdefault(name, []).append(perf_counter() - started)
        watch.lap(name)
        return perf_counter()

    now = perf_counter()
    case = pipeline.prepare(read.ct, read.mask, notes=read.notes, level=read.level)
    lap("prepare", now)
    measured = pipeline.measure(case, model, progress=tell)
    watch.lap("network")
    for name in ("attenuation", "crop", "network"):
        seconds.setdefault(name, []).append(measured.timing_s[name])
    now = perf_counter()
    prediction = pipeline.conclude(case, measured, card, card.default_adjustment)
    now = lap("adjust", now)
    _write(out, read.ct, prediction)
    lap("report", now)


def _write(out: Path, ct: CTVolume, prediction: Prediction) -> None:
    """What `predict` writes of an answer."""
    from medconv.predict_command import measured_mask

    pictures = {name: planes.png_bytes(p) for name, p in planes.render_planes(ct, prediction.case).items()}
    volume_io.write_mask(out / "l1_mask.nii.gz", measured_mask(ct, prediction))
    document = report.result_document(prediction)
    (out / "report.html").write_text(report_html.result_page(document, pictures, "", ""), "utf-8")


def _command(ct: str, mask: str, out: str) -> None:
    from medconv.cli import main

    code = main(["predict", ct, "--mask", mask, "--label", str(trunk_files.LABEL), "--device", "cpu", "--out", out])
    assert code == 0, f"medconv predict ended with {code}"


def plain_read(path: Path) -> sitk.Image:
    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
        return reader.Execute()
    return sitk.ReadImage(str(path))


def _one_kind(kind: str, files: TrunkFiles, settings: Settings) -> Iterator[Row]:
    said, out = SAID[kind], settings.place / f"result-{kind}"
    rounds = min(settings.rounds, 5)
    try:
        found = apart.call(
            "medconv.bench.stages:passes",
            {"ct": str(files.ct), "mask": str(files.mask), "out": str(out), "rounds": rounds},
        )
    except apart.Failed as failure:
        yield Row(f"{said}: {WHOLE}", reason=str(failure))
        return
    seconds, peaks = found["seconds"], found["peaks"]
    plain, slab = seconds[READ], found["slab_mb"]
    aim = AIM if not settings.quick and settings.slices >= FULL_SLICES else None
    size = f"{EDGE} x {EDGE} x {QUICK_SLICES if settings.quick else settings.slices}, {files.megabytes:.0f} MB"
    reading = settings.peaks.get(machine.READING) if kind == NII else None  # the others decompress or open many files
    gemm = settings.peaks.get(machine.GEMM)
    of_reading = {"of_peak": machine.SAID[machine.READING]} if reading else {}
    yield of_values(
        f"{said}: {READ}", plain, peak_mb=peaks.get(READ), note=size, point=_point(kind, "plain"),
        share=files.megabytes / 1e3 / median(plain) / reading if reading else None, **of_reading,
    )  # fmt: skip
    yield of_values(f"{said}: {MASK}", seconds[MASK], peak_mb=peaks.get(MASK), note="uint8, compressed")
    own: dict[str, dict[str, Any]] = {
        "locate": {"ratio": paired_ratio(seconds["locate"], seconds[MASK]), "baseline": MASK},
        "read": {
            "ratio": paired_ratio(seconds["read"], plain), "baseline": READ, "note": f"{slab:.0f} MB of it",
            "share": slab / 1e3 / median(seconds["read"]) / reading if reading else None, **of_reading,
        },
        "network": {
            "share": found["flop"] / 1e9 / median(seconds["network"]) / gemm if gemm else None,
            "of_peak": machine.SAID[machine.GEMM] if gemm else "",
            "note": "one thread, as a slim network has; ratio: section 'network'",
        },
        "crop": {"note": "ratio: with the check, 'preprocessing' below"},
    }  # fmt: skip
    for name, what in STAGES.items():
        yield of_values(
            f"{said}: {what}", seconds[name], peak_mb=peaks.get(name), point=_point(kind, name), **own.get(name, {})
        )
    for name, told in ((WHOLE, "files → result"), (COMMAND, "the command predict, without its start")):
        yield of_values(
            f"{said}: {told}", seconds[name], peak_mb=peaks.get(name), ratio=paired_ratio(seconds[name], plain),
            baseline=READ, aim=aim, aim_of="ratio" if aim else "", point=_point(kind, name),
            note="" if aim else f"the aim ({AIM:g}) is for {FULL_SLICES} slices",
        )  # fmt: skip


def _point(kind: str, series: str) -> dict[str, str]:
    return {"plot": "stages", "group": SAID[kind], "series": series}


def _remove(files: TrunkFiles) -> None:
    shutil.rmtree(files.ct) if files.ct.is_dir() else files.ct.unlink()
