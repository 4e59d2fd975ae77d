"""The section `stages`: one CT from its files to the result, stage by stage, for every kind of file.

The baseline is plain SimpleITK reading the whole CT, in turns with ours in the same process; the files have been read
once before, so that no disk is timed. Preprocessing stands beside the naive way: resample everything, then cut.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import SimpleITK as sitk

from medconv import crop, l1_mask, pipeline, planes, report, report_html, volume_io
from medconv.bench import apart, machine, memory, trunk_files
from medconv.bench.figures import Action, Row, of_values, paired_ratio, take_turns
from medconv.bench.settings import Say, Settings, part
from medconv.bench.trunk_files import DICOM, GZ, NII, TrunkFiles
from medconv.case_reading import ReadCase, read_around_mask
from medconv.grid import index3, to_image
from medconv.inference import LoadedModel
from medconv.tau_adjustment import adjust
from medconv.types import CTVolume, ImageGeometry, L1Mask, Prediction

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
NAIVE, OURS = "resample everything, then cut", "check, cut, then resample"
SLIDER_REPEATS = 200


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
    yield from preprocessing(shape, settings)


def read_around_l1(ct: str, mask: str) -> tuple[ReadCase, dict[str, float]]:
    """The CT's slab around L1 and its mask as `predict` reads them, and seconds of "locate" and "read"."""
    started = perf_counter()
    source = volume_io.open_ct(ct)
    opened = perf_counter()
    read = read_around_mask(source, mask, trunk_files.LABEL)
    return read, {"locate": read.timing_s["read_mask"], "read": opened - started + read.timing_s["read_ct"]}


def passes(ct: str, mask: str, out: str, rounds: int) -> dict[str, Any]:
    """For a process of its own: every stage in turns with the baselines. Seconds and peaks by name, one a round."""
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

    def stages() -> None:
        read, told = read_around_l1(ct, mask)
        for name, taken in told.items():
            seconds.setdefault(name, []).append(taken)
        _analyse(read, model, Path(out), seconds)

    for number in range(rounds + 1):
        timed(READ, lambda: plain_read(Path(ct)))
        timed(MASK, lambda: sitk.ReadImage(mask))
        timed(WHOLE, stages)
        timed(COMMAND, lambda: _command(ct, mask, out))
        if number == 0:  # the first warms up: files in the system's memory, libraries loaded
            seconds.clear()
            peaks.clear()
    return {"seconds": seconds, "peaks": peaks}


def _analyse(read: ReadCase, model: LoadedModel, out: Path, seconds: dict[str, list[float]]) -> None:
    card = model.card

    def lap(name: str, started: float) -> float:
        now = perf_counter()
        seconds.setdefault(name, []).append(now - started)
        return now

    now = perf_counter()
    case = pipeline.prepare(read.ct, read.mask, notes=read.notes, level=read.level)
    lap("prepare", now)
    measured = pipeline.measure(case, model)
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
    plain = seconds[READ]
    size = f"{EDGE} x {EDGE} x {QUICK_SLICES if settings.quick else settings.slices}, {files.megabytes:.0f} MB"
    peak = settings.peaks.get(machine.READING) if kind == NII else None
    yield of_values(
        f"{said}: {READ}", plain, peak_mb=peaks.get(READ), note=size, point=_point(kind, "plain"),
        share=files.megabytes / 1e3 / median(plain) / peak if peak else None,
        of_peak=machine.SAID[machine.READING] if peak else "",
    )  # fmt: skip
    yield of_values(f"{said}: {MASK}", seconds[MASK], peak_mb=peaks.get(MASK), note="uint8, compressed")
    for name, what in STAGES.items():
        yield of_values(f"{said}: {what}", seconds[name], point=_point(kind, name))
    for name, told in ((WHOLE, "files → result"), (COMMAND, "the command predict, without its start")):
        yield of_values(
            f"{said}: {told}", seconds[name], peak_mb=peaks.get(name), ratio=paired_ratio(seconds[name], plain),
            baseline=READ, aim=AIM, aim_of="ratio", point=_point(kind, name),
        )  # fmt: skip


def preprocessing(shape_zyx: tuple[int, int, int], settings: Settings) -> Iterator[Row]:
    """Ours and the naive way on a CT in memory; and the slider, which needs neither image nor network."""
    ct, mask, model = _in_memory(shape_zyx)
    wanted = model.card.preprocessing

    def ours() -> object:
        return crop.standardised_crop(pipeline.prepare(ct, mask), wanted)

    def naive() -> object:
        spacing = wanted.spacing_mm
        size = np.ceil(np.asarray(ct.geometry.size_xyz) * np.asarray(ct.geometry.spacing_mm_xyz) / spacing)
        target = ImageGeometry(index3(size), (spacing, spacing, spacing), ct.geometry.origin_lps_mm)
        grid = sitk.Image(target.size_xyz, sitk.sitkUInt8)
        grid.SetSpacing(target.spacing_mm_xyz)
        return [
            sitk.Resample(to_image(array, ct.geometry), grid, sitk.Transform(), how, 0)
            for array, how in ((ct.array_zyx, sitk.sitkLinear), (mask.full_array_zyx(), sitk.sitkNearestNeighbor))
        ]

    actions: dict[str, Action] = {NAIVE: naive, OURS: ours}
    trial = take_turns(actions, settings.rounds, settle=False)
    for name in actions:
        yield trial.row(name, NAIVE, name=f"preprocessing: {name}", note="CT and mask in memory")
    measured = pipeline.measure(pipeline.prepare(ct, mask), model)
    card = model.card
    slider = take_turns(
        {"slider": lambda: adjust(
            measured.logits, card.default_adjustment, class_prior=card.class_prior,
            minority_classes=card.minority_classes, tau1_train=card.tau1_train,
        )}, SLIDER_REPEATS, settle=False,
    )  # fmt: skip
    yield slider.row("slider", per=1e-3, unit="ms", name="tau slider to probabilities")


def _in_memory(shape_zyx: tuple[int, int, int]) -> tuple[CTVolume, L1Mask, LoadedModel]:
    hu, labels = trunk_files.trunk_arrays(shape_zyx)
    geometry = trunk_files.trunk_geometry(shape_zyx)
    ct = CTVolume(hu, geometry, is_simulated=True)
    return ct, l1_mask.from_array(labels, geometry, geometry), LoadedModel.load(None, "cpu")


def _point(kind: str, series: str) -> dict[str, str]:
    return {"plot": "stages", "group": SAID[kind], "series": series}


def _remove(files: TrunkFiles) -> None:
    shutil.rmtree(files.ct) if files.ct.is_dir() else files.ct.unlink()
