"""`medconv bench`: sections apart from each other, what is kept, and what a person gets to see."""

from __future__ import annotations

import json
import locale
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

from medconv import bench, bench_command, l1_mask, pipeline, volume_io
from medconv.bench import (
    apart,
    growth_cohort,
    machine,
    panel_click,
    plots,
    runner,
    sections,
    stages,
    tables,
    training_feed,
    trunk_files,
    verdict,
)
from medconv.bench.figures import Row, number
from medconv.bench.runner import SectionResult
from medconv.bench.settings import Settings, silent
from medconv.cli import main

SCHEMA = json.loads((Path(bench.__file__).parent / "bench.schema.json").read_text("utf-8"))
ROW = Row("pass", 12.5, "ms", 0.25, 7, 512.0, 0.25, "the old way", 0.8, "GEMM", 0.2, "ratio", note="8 GFLOP")


def fake_stream(messages: dict[str, list[Any]]) -> Any:
    """What a section's process would send, by section; an exception is raised in its place."""

    def stream(_function: str, arguments: dict[str, Any]) -> Iterator[Any]:
        for message in messages.get(arguments["name"], []):
            if isinstance(message, BaseException):
                raise message
            yield message

    return stream


def row_message(row: Row) -> dict[str, Any]:
    return {"row": row.to_json()}


def run(messages: dict[str, list[Any]], names: list[str], **settings: Any) -> tuple[list[SectionResult], bool]:
    chosen = [sections.find(name) for name in names]
    return runner.run(
        chosen, Settings(**settings), say=silent, finished=lambda result: None, stream=fake_stream(messages)
    )


# --- sections -----------------------------------------------------------------------------------------------------


def test_a_section_that_fails_keeps_its_rows_and_the_others_go_on() -> None:
    messages = {
        "network": [row_message(ROW), apart.Failed("its process was killed, most likely because memory ran out")],
        "panel": [row_message(replace(ROW, name="click"))],
    }
    results, stopped = run(messages, ["machine", "network", "panel"])
    assert not stopped
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert [row.name for row in results[1].rows] == ["pass"]
    assert "memory ran out" in results[1].reason
    assert results[2].rows[0].name == "click"


def test_ctrl_c_keeps_what_is_finished_and_says_what_is_not() -> None:
    messages = {"machine": [row_message(ROW)], "network": [row_message(ROW), KeyboardInterrupt()]}
    results, stopped = run(messages, ["machine", "network", "stages", "panel"])
    assert stopped
    assert [result.status for result in results] == ["done", "interrupted", "left out", "left out"]
    document = runner.document(results, Settings())
    jsonschema.validate(document, SCHEMA)
    told = tables.markdown(document)
    assert "interrupted: stopped with Ctrl-C" in told
    assert "left out: stopped before it" in told


def test_the_measured_peaks_go_to_the_later_sections() -> None:
    given: list[dict[str, Any]] = []

    def stream(_function: str, arguments: dict[str, Any]) -> Iterator[Any]:
        given.append(arguments["settings"]["peaks"])
        yield row_message(replace(ROW, median=200.0, point={"peak": "gemm"}))

    chosen = [sections.find("machine"), sections.find("network")]
    runner.run(chosen, Settings(), say=silent, finished=lambda result: None, stream=stream)
    assert given == [{}, {"gemm": 200.0}]


def test_the_remaining_time_is_the_usual_one_scaled_by_what_it_took_so_far() -> None:
    chosen = [replace(sections.find("machine"), seconds=20.0), replace(sections.find("network"), seconds=80.0)]
    remaining = runner.Remaining(chosen, quick=False)
    assert remaining.seconds(0, 0.0, 0.0) == 100.0
    assert remaining.seconds(1, 0.5, 120.0) == pytest.approx(40.0 * 2), "twice as slow as usual"


def test_what_is_named_is_measured_after_the_machine_and_segmentation_only_if_asked() -> None:
    assert [s.name for s in runner.chosen(["panel"], full=False)] == ["machine", "panel"]
    usual = [s.name for s in runner.chosen([], full=False)]
    assert "segmentation" not in usual
    assert [s.name for s in runner.chosen([], full=True)] == list(sections.NAMES)
    for section in sections.SECTIONS:
        assert callable(__import__(f"medconv.bench.{section.module}", fromlist=["measure"]).measure)


def test_a_real_section_runs_in_its_own_process_and_gives_peaks(tmp_path: Path) -> None:
    settings = Settings(quick=True, repeats=1, folder=str(tmp_path))
    results, _ = runner.run([sections.find("machine")], settings, say=silent, finished=lambda result: None)
    assert (results[0].status, results[0].reason) == ("done", "")
    peaks = {row.point["peak"]: row.median for row in results[0].rows if row.point}
    assert set(peaks) == {machine.GEMM, machine.GEMM_ONE, machine.CONVOLUTION, machine.TRIAD, machine.COPY, "reading"}
    assert all(value and value > 0 for value in peaks.values())
    document = runner.document(results, settings)
    jsonschema.validate(document, SCHEMA)
    assert str(tmp_path) not in json.dumps(document)


# --- what a person sees -------------------------------------------------------------------------------------------


def test_the_table_tells_median_spread_ratio_share_and_aim() -> None:
    assert tables.cells(ROW) == [
        "pass", "12.5 ms", "0.250", "7", "512", "0.25 (4.00 x faster)", "80%", "≤ 0.2: MISSED",
    ]  # fmt: skip
    assert tables.ratio(replace(ROW, ratio=1.5)) == "1.5 (1.50 x slower)"
    assert tables.ratio(replace(ROW, unit="MB", ratio=0.5)) == "0.5"
    assert tables.aim(replace(ROW, aim=20.0, aim_of="median")) == "≤ 20 ms: reached"


def test_a_row_without_a_figure_shows_its_reason_everywhere() -> None:
    result = SectionResult(sections.find("network"), rows=[ROW, Row("openvino", reason="OpenVINO <is> not installed")])
    document = runner.document([result], Settings())
    jsonschema.validate(document, SCHEMA)
    shown = tables.on_screen("Network", result.to_json())
    assert "no figure: OpenVINO <is> not installed" in shown
    assert "baseline: the old way" in shown
    assert "OpenVINO <is> not installed" in tables.markdown(document)
    page = tables.page(document, {"network.png": b"png"})
    assert "OpenVINO &lt;is&gt; not installed" in page
    assert "data:image/png;base64,cG5n" in page


def test_a_row_needs_a_figure_or_a_reason() -> None:
    document = runner.document([SectionResult(sections.find("panel"), rows=[Row("click")])], Settings())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


AIMS = [
    (Row("fast", 28.0, "ms", ratio=0.28, baseline="theirs", aim=0.4, aim_of="ratio", note="how"),
     ("met", "fast", "at least 2.5 x faster than theirs", "3.57 x faster", "how")),
    (Row("slow", 50.0, "ms", ratio=0.5, baseline="theirs", aim=0.4, aim_of="ratio"),
     ("MISSED", "slow", "at least 2.5 x faster than theirs", "2 x faster", "")),
    (Row("whole", 1.5, ratio=1.25, baseline="the read", aim=1.2, aim_of="ratio"),
     ("MISSED", "whole", "at most 1.2 x the read", "1.25 x", "")),
    (Row("click", 0.31, aim=1.0, aim_of="median"), ("met", "click", "at most 1 s", "0.310 s", "")),
    (Row("gone", aim=1.0, aim_of="median", reason="no room"), ("no figure", "gone", "at most 1 s", "–", "no room")),
]  # fmt: skip


def test_the_verdict_is_every_row_with_an_aim_from_the_same_figures() -> None:
    rows = [Row("no aim", 1.0), *(row for row, _ in AIMS)]
    results = [
        SectionResult(sections.find("network"), rows=rows),
        SectionResult(sections.find("panel"), "failed", "why"),
    ]
    document = runner.document(results, Settings())
    jsonschema.validate(document, SCHEMA)
    assert verdict.lines(document) == [line for _, line in AIMS]
    assert [aim["met"] for aim in document["verdict"]] == [True, False, False, True, None]
    told = ["2 of 5 aims are met in this run, 2 missed.", "From a click to the class: failed (why)."]
    assert verdict.summary(document) == told
    for shown in (tables.markdown(document), tables.page(document, {}), tables.verdict_on_screen(document)):
        assert shown.index("at most 1.2 x the read") < shown.index("1.25 x")
        assert all(text in shown for text in told)
    page = tables.markdown(document)
    assert page.index("## Verdict") < page.index("## The network"), "it comes first"
    document["verdict"][0]["met"] = None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize("small", [{"quick": True}, {"slices": 300}])
def test_a_small_run_says_what_it_can_not_judge(small: dict[str, Any]) -> None:
    document = runner.document([], Settings(**small))
    assert verdict.summary(document)[0] == "No aim was judged in this run."
    assert len(verdict.summary(document)) == 2
    busy = verdict.summary(runner.document([], Settings(load_before=6.25, **small)))
    assert "(load 6.2 on" in busy[2]
    assert "700 slices" in verdict.summary(document)[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.0123"), (0.000186, "0.000186"), (12.345, "12.3"), (1234.5, "1,234"), (0.0, "0"), (1e-9, "1.00e-09")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_plots_are_drawn_from_the_document_alone() -> None:
    def point(plot: str, series: Any, x: float, group: str = "") -> Row:
        fields = {"plot": plot, "series": series, "x": x, "group": group, "gflop": 10.0 * x, "said": f"{x:g}³"}
        return Row("r", 2.0 + x, peak_mb=100.0, ratio=0.5, share=0.5, point=fields)

    network = [point("network", name, 1, "64³") for name in ("eager", "openvino")]
    network += [point("batch", name, x) for name in (stages.READ, "eager") for x in (1, 2)]
    stage = [point("stages", name, 1, ".nii") for name in ("plain", *stages.STAGES, stages.WHOLE)]
    growth = [point("volume", name, x) for name in (stages.READ, "slab") for x in (1, 2)]
    growth += [point("cohort", workers, x) for workers in (1, 2) for x in (10, 20)]
    clicks = [point("panel", name, 1) for name in (panel_click.COLD, panel_click.WARM)]
    both = [point("transformers", name, x) for name in ("MedConv, ResNet-50", "ViT") for x in (1, 2)]
    results = [
        SectionResult(sections.find(name), rows=rows)
        for name, rows in (
            ("network", network),
            ("stages", stage),
            ("growth", growth),
            ("transformers", both),
            ("panel", clicks),
        )
    ]
    document = json.loads(json.dumps(runner.document(results, Settings())))
    pictures = plots.all_plots(document)
    assert set(pictures) == {
        "network.png", "network-batch.png", "stages.png", "growth-volume.png", "growth-cohort.png", "transformers.png",
        "panel.png",
    }  # fmt: skip
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    for section in document["sections"].values():
        section["rows"] = [row for row in section["rows"] if row["point"]["x"] == 1]
    assert set(plots.all_plots(document)) == {"network.png", "stages.png", "panel.png"}, "a single point is no line"


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """No section runs; what they would have been asked."""
    asked: list[Settings] = []

    def fake(chosen: Any, settings: Settings, **_: Any) -> tuple[list[SectionResult], bool]:
        asked.append(settings)
        return [SectionResult(section, rows=[ROW]) for section in chosen], settings.widen == 13

    monkeypatch.setattr(runner, "run", fake)
    return asked


def test_the_command_writes_json_table_and_page(measured: list[Settings], tmp_path: Path, capsys: Any) -> None:
    assert main(["bench", "--only", "panel", "--only", "network", "--repeats", "3", "--out", str(tmp_path / "o")]) == 0
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"bench.json", "bench.md", "bench.html"}
    document = json.loads((tmp_path / "o" / "bench.json").read_text("utf-8"))
    jsonschema.validate(document, SCHEMA)
    assert list(document["sections"]) == ["machine", "network", "panel"]
    assert document["settings"]["repeats"] == 3
    assert "bench.json" in capsys.readouterr().out
    assert measured[0].folder != ""


def test_the_options_of_old_still_work_or_say_what_to_do(
    measured: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--segmentation", "--widen", "4", "--slices", "300"]) == 0
    assert (measured[-1].widen, measured[-1].slices) == (4, 300)
    assert main(["bench", "--loader", str(tmp_path)]) == 0
    assert measured[-1].loader == str(tmp_path)
    assert main(["bench", "--out", str(tmp_path / "figures.json")]) == 2
    assert "Give a folder" in capsys.readouterr().err
    for wrong in (["--slices", "3"], ["--repeats", "0"], ["--widen", "0"], ["--loader", str(tmp_path / "gone")]):
        assert main(["bench", *wrong]) == 2
    with pytest.raises(SystemExit):
        main(["bench", "--only", "everything"])


def test_an_interrupted_bench_writes_its_files_and_says_so(
    measured: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--widen", "13", "--out", str(tmp_path)]) == 130
    assert "Finished sections are kept: machine, network" in capsys.readouterr().out
    assert (tmp_path / "bench.json").is_file()


def test_a_terminated_bench_writes_its_files_as_an_interrupted_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def terminated(chosen: Any, settings: Settings, **_: Any) -> tuple[list[SectionResult], bool]:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            return [SectionResult(chosen[0], rows=[ROW])], True
        raise AssertionError("SIGTERM was not told")

    monkeypatch.setattr(runner, "run", terminated)
    usual = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that without the change this is a failure, not the end
    try:
        assert main(["bench", "--out", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert (tmp_path / "bench.json").is_file()


def test_progress_is_said_now_and_then_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 31.0, 31.0, 32.0])
    saying = bench_command.Saying(clock=lambda: next(times))
    for stage in ("one", "two", "three"):
        saying(f"network: {stage}", 200.0)
    assert capsys.readouterr().err == "network: two  (about 3 min to go)\n"
    assert bench_command.left(40) == "40 s"


# --- what is measured ---------------------------------------------------------------------------------------------

SHAPE = (110, 160, 176)


@pytest.mark.parametrize("kind", [trunk_files.NII, trunk_files.GZ, trunk_files.DICOM])
def test_the_trunk_is_the_same_ct_in_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    files = trunk_files.write_trunk(tmp_path, SHAPE, kind)
    assert locale.setlocale(locale.LC_ALL) == before, "text would be ASCII from here on"
    hu, labels = trunk_files.trunk_arrays(SHAPE)
    ct = volume_io.read_ct(files.ct)
    assert np.array_equal(ct.array_zyx, hu)
    assert ct.geometry.same_grid_as(trunk_files.trunk_geometry(SHAPE))
    assert files.megabytes == pytest.approx(hu.nbytes / 1e6)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(files.mask)))
    assert np.array_equal(found, labels)
    mask, _ = l1_mask.from_labels(found, ct.geometry, trunk_files.LABEL, ct.geometry)
    case = pipeline.prepare(ct, mask)
    middle = ct.geometry.index_to_lps((np.array(ct.geometry.size_xyz) - 1) / 2)
    assert np.abs(np.array(case.center_lps_mm) - middle).max() < 5, "L1 is in the middle"


def test_the_stages_are_timed_from_files_to_a_report(only_untrained: Path, tmp_path: Path) -> None:
    files = trunk_files.write_trunk(tmp_path, SHAPE)
    out = tmp_path / "out"
    found = stages.passes(str(files.ct), str(files.mask), str(out), 1)
    assert {name: len(times) for name, times in found["seconds"].items()} == dict.fromkeys(
        (*stages.STAGES, stages.READ, stages.MASK, stages.WHOLE, stages.COMMAND), 1
    )
    whole = found["seconds"][stages.WHOLE][0]
    assert sum(found["seconds"][name][0] for name in stages.STAGES) <= whole
    assert set(found["peaks"]) in ({*found["seconds"]}, set()), "every stage's own, or none where nobody tells"
    assert found["peaks"].get(stages.WHOLE, 0.0) == max(found["peaks"].get(name, 0.0) for name in stages.STAGES)
    assert 0 < found["slab_mb"] <= files.megabytes
    document = json.loads((out / "result.json").read_text("utf-8"))
    assert document["status"] == "ok"


def test_the_cost_of_one_more_case_is_the_slope(capsys: pytest.CaptureFixture[str]) -> None:
    found = {(n, w): (3.0 + 0.5 * n / w, 400.0 * w) for n in (10, 50, 200) for w in (1, 2)}
    rows = list(growth_cohort.per_case(found, (10, 50, 200)))
    assert [row.median for row in rows] == pytest.approx([0.5, 0.0, 0.25, 0.0], abs=1e-9)
    assert rows[2].ratio == pytest.approx(0.5)
    assert [row.reached for row in rows] == [None, True, True, True]
    assert "starting takes 3.0 s" in rows[0].note


@pytest.mark.parametrize(("quick", "workers"), [(True, [1]), (False, [1, 2] * len(growth_cohort.CASES))])
def test_few_cases_are_not_given_to_two_workers(
    quick: bool, workers: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def batch(inputs: Path, out: Path, count: int) -> tuple[float, float]:
        asked.append(count)
        return 3.0 + 100 / count, 400.0

    monkeypatch.setattr(growth_cohort, "run_batch", batch)
    monkeypatch.setattr(training_feed, "simulated", lambda patients, say: tmp_path)
    list(growth_cohort.measure(Settings(quick=quick, folder=str(tmp_path)), silent))
    assert asked == workers


def test_a_batch_that_fails_is_a_row_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(RuntimeError, match=r"exit code [1-9]"):
        growth_cohort.run_batch(tmp_path / "in", tmp_path / "out", 1)


def test_the_computer_is_told_without_its_name() -> None:
    found = runner.computer()
    assert found["cores"] > 0
    assert re.match(r"\d+\.\d+", found["versions"]["torch"])
    assert __import__("platform").node() not in json.dumps(found)
