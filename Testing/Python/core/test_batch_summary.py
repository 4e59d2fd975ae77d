"""The quality summary of a batch: every count from rows worked out by hand, drift, page, plots, many rows."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medconv import weights
from medconv.batch.jobs import COLUMNS
from medconv.batch.summary import write_summary
from medconv.batch.summary_plots import reasons
from medconv.batch.summary_rows import Rows, keep_largest, largest
from medconv.config import ModelCard

FOLDER = Path(__file__).parents[3] / "model_weights"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def card() -> ModelCard:
    """The shipped weights."""
    return weights.read_manifest(FOLDER / "manifest.json")[0]


def answered(case_id: str, t_class: str = "normal", hu: float = 160.0, **more: Any) -> dict[str, Any]:
    logits = {"logit_normal": 0.0, "logit_osteopenia": 0.0, "logit_osteoporosis": 0.0, f"logit_{t_class}": 4.0}
    return {
        "case_id": case_id, "status": "ok", "t_score_class": t_class, "hu_mean": hu, "hu_sd": 30.0,
        "l1_volume_ml": 45.0, "kvp": 120.0, "slice_thickness_mm": 1.0, "contrast_agent": "",
        "prediction_set": [t_class], "warnings": ["trained_on_simulated_ct"], "notes": [], "same_pixels_as": "",
        "files": [f"cases/{case_id}/report.html", f"cases/{case_id}/result.json"], **logits, **more,
    }  # fmt: skip


def unanswered(case_id: str, status: str, code: str, message: str = "Why.", next_step: str = "") -> dict[str, Any]:
    told = {"code": code, "message": message, "next_step": next_step}
    return {"case_id": case_id, "status": status, **told, "files": []}


def ward() -> list[dict[str, Any]]:
    return [
        answered("a1", "normal", 180.0, warnings=["sharp_kernel", "trained_on_simulated_ct"]),
        answered("a2", "osteoporosis", 170.0, warnings=["sharp_kernel", "network_and_attenuation_disagree"]),
        answered("a3", "osteopenia", 120.0, prediction_set=["normal", "osteopenia", "osteoporosis"]),
        answered("a4", "normal", 180.0, same_pixels_as="a1", level_in_doubt=True),
        answered("a5", "normal", 200.0, notes=["mask_resampled"], kvp=None, contrast_agent="Iomeprol"),
        unanswered("b2", "refused", "l1_missing", "No L1 <here>."),
        unanswered("b1", "refused", "l1_missing", "No L1 & none near.", "Give <another> CT."),
        unanswered("b3", "refused", "wrong_modality"),
        unanswered("c1", "failed", "out_of_memory"),
        unanswered("d1", "set_aside", "worker_died"),
    ]


MEASURED = [
    ("a1", {"read": 1.0, "network": 0.2, "total": 1.4, "peak_mb": 600.0, "resident_mb": 500.0}),
    ("a2", {"read": 3.0, "network": 0.4, "total": 3.6, "peak_mb": 800.0, "resident_mb": 500.0}),
    ("b1", {"read": 0.5, "total": 0.5, "peak_mb": 300.0}),
]
RUN = {"seconds": 20.0, "workers": 2, "cases_this_run": 10, "crashes": 3}


@pytest.fixture
def summary(tmp_path: Path, card: ModelCard) -> dict[str, Any]:
    return write_summary(tmp_path, ward(), MEASURED, card, RUN)


def test_every_case_is_counted_by_how_it_ended(summary: dict[str, Any]) -> None:
    assert summary["cases"] == 10
    assert summary["by_status"] == {"ok": 5, "refused": 3, "failed": 1, "set_aside": 1}
    told = [(e["status"], e["code"], e["cases"], [x["case_id"] for x in e["examples"]]) for e in summary["unanswered"]]
    assert told == [
        ("set_aside", "worker_died", 1, ["d1"]),
        ("failed", "out_of_memory", 1, ["c1"]),
        ("refused", "l1_missing", 2, ["b1", "b2"]),
        ("refused", "wrong_modality", 1, ["b3"]),
    ]
    assert summary["unanswered"][2]["message"] == "No L1 & none near.", "of the first in the alphabet"


def test_classes_have_shares_and_intervals_beside_those_of_training(summary: dict[str, Any], card: ModelCard) -> None:
    found = summary["classes"]
    assert {name: entry["cases"] for name, entry in found.items()} == {"normal": 3, "osteopenia": 1, "osteoporosis": 1}
    assert found["normal"]["share"] == 0.6
    assert (found["normal"]["low"], found["normal"]["high"]) == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson 3/5
    assert card.population is not None
    assert found["normal"]["share_in_training"] == card.population.predicted["normal"] / 1000


def test_figures_count_a_ct_once_that_is_there_twice(summary: dict[str, Any]) -> None:
    hu = summary["attenuation"]["hu_mean"]
    assert (hu["cases"], hu["mean"], hu["p50"]) == (4, 167.5, 175.0)
    assert summary["hu_by_class"]["normal"]["cases"] == 2
    assert summary["copies"] == {"cases": 1, "first": [{"case_id": "a1", "copies": 1}]}
    assert summary["acquisition"]["kvp"] == {"120": 3, "not told": 1}
    assert summary["acquisition"]["contrast_agent"] == {"not named": 3, "named": 1}


def test_notes_are_counted_without_those_that_every_case_has(summary: dict[str, Any]) -> None:
    assert summary["notes"] == {
        "warnings": {"sharp_kernel": 2, "network_and_attenuation_disagree": 1}, "notes": {"mask_resampled": 1},
    }  # fmt: skip
    assert [entry["case_id"] for entry in summary["most_warned"]] == ["a2", "a1"]
    assert (summary["undecided"], summary["levels_in_doubt"]) == (1, 1)


def test_time_and_memory_are_told_by_stage(summary: dict[str, Any]) -> None:
    time = summary["time"]
    assert time["cases_per_hour"] == 1800.0
    assert time["stages"]["read"] == {"cases": 3, "median_s": 1.0, "p95_s": 2.8, "sum_s": 4.5}
    assert "peak_mb" not in time["stages"]
    assert "resident_mb" not in time["stages"]
    assert time["peak_mb"] == {"median": 600.0, "largest": 800.0}
    assert [entry["case_id"] for entry in time["slowest"]] == ["a2", "a1", "b1"]


def test_what_to_look_at_first_begins_with_what_was_set_aside(summary: dict[str, Any]) -> None:
    told = [entry["what"] for entry in summary["look_at_first"]]
    assert told == [
        "1 case was set aside: every attempt ended its process (worker died 1).",
        "1 case was not finished for the computer's or the program's reasons (out of memory 1).",
        "3 of 10 CTs (30%) were refused, most often: l1 missing.",
        "In 1 of 5 answered cases class and HU point to opposite ends of the scale.",
        "In 1 of 5 answered cases it is in doubt which vertebra is L1.",
        "In 1 of 5 answered cases every class remains possible.",
        "1 CT is a copy of another one, voxel for voxel.",
    ]
    assert all(entry["do"] for entry in summary["look_at_first"])


def test_the_text_of_the_table_gives_the_same_summary(tmp_path: Path, card: ModelCard, summary: dict[str, Any]) -> None:
    def as_text(value: Any) -> str:
        return "" if value is None else ";".join(value) if isinstance(value, list) else str(value)

    texts = [{column: as_text(row.get(column)) for column in COLUMNS} for row in ward()]
    assert write_summary(tmp_path, reversed(texts), MEASURED, card, RUN) == summary


def test_the_page_stands_alone_and_lets_nothing_through(tmp_path: Path, summary: dict[str, Any]) -> None:
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert "Research use only" in page
    assert "No L1 &amp; none near." in page
    assert "Give &lt;another&gt; CT." in page
    assert "<here>" not in page
    assert '<a href="cases/a2/report.html">a2</a>' in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("http://www.w3.org", "")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {f"summary_{name}.png" for name in ("classes", "hu", "reasons", "time")}
    assert names == {"summary.json", "summary.html", *pictures}, "nothing half-written stays"
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in pictures)


def test_without_matplotlib_the_page_says_what_is_missing(
    tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_summary(tmp_path, ward(), MEASURED, card)
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert "Plots need the package matplotlib." in page
    assert "bonedensity-medconv[batch]" in page
    assert "<img" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "summary.html"}


def test_the_legend_covers_no_number() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def ended(status: str, code: str) -> dict[str, Any]:
        return {"status": status, "code": code, "cases": 1}

    figure = reasons([ended("set_aside", "worker_died"), ended("failed", "internal"), ended("refused", "cut_off")])
    FigureCanvasAgg(figure).draw()
    (axes,), legends = figure.axes, [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    legend = legends[0].get_window_extent()
    drawn = [*axes.texts, *axes.patches]
    assert {artist.get_text() for artist in axes.texts} == {"1"}
    assert [artist for artist in drawn if legend.overlaps(artist.get_window_extent())] == []


def test_nothing_and_only_refusals_are_summaries_too(tmp_path: Path, card: ModelCard) -> None:
    assert write_summary(tmp_path, [], card=card)["cases"] == 0
    refused = [unanswered(f"b{i}", "refused", "l1_missing") for i in range(30)]
    told = write_summary(tmp_path, refused, card=card)
    assert "No CT was answered." in [entry["what"] for entry in told["look_at_first"]]
    assert not told["drift"]["judged"]
    assert "No CT was answered." in (tmp_path / "summary.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("file_cut_off", "Copy or export the file again."),
        ("mask_missing", "Copy or export the file again."),
        ("slices_too_thick", "If that is one kind of series"),
    ],
)
def test_the_advice_on_many_refusals_depends_on_their_reason(
    tmp_path: Path, card: ModelCard, code: str, advice: str
) -> None:
    refused = [unanswered(f"b{i}", "refused", code, next_step="Copy or export the file again.") for i in range(7)]
    told = write_summary(tmp_path, [answered("a1"), answered("a2"), *refused], card=card)
    (entry,) = (entry for entry in told["look_at_first"] if "were refused" in entry["what"])
    assert entry["do"].startswith(advice)


@pytest.mark.parametrize(("cases", "drawn"), [(4, False), (5, True)])
def test_a_histogram_needs_five_cts(tmp_path: Path, card: ModelCard, cases: int, drawn: bool) -> None:
    write_summary(tmp_path, [answered(f"a{i}", hu=150.0 + i) for i in range(cases)], card=card)
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert (tmp_path / "summary_hu.png").exists() is drawn
    assert ("there is no histogram" in page) is not drawn


# Drift


def archive(card: ModelCard, n: int, hu_shift: float = 0.0, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Cases drawn from what the weights' own card tells of their training."""
    assert card.population is not None
    rng, known = np.random.default_rng(seed), card.population

    def drawn(counts: dict[str, int]) -> str:
        return str(rng.choice(list(counts), p=np.array(list(counts.values())) / sum(counts.values())))

    for number in range(n):
        values = {name: float(known.quantities[name].at(rng.random())) for name in ("hu_mean", "hu_sd", "l1_volume_ml")}
        values["hu_mean"] += hu_shift
        sick = float(known.quantities["p_osteoporosis"].at(rng.random()))
        logits = {
            "logit_normal": -1e-9,
            "logit_osteopenia": -9.0,
            "logit_osteoporosis": float(np.log(sick / (1 - sick))),
        }
        made = {name: drawn(dict(counts)) for name, counts in known.acquisition.items()}
        agent = "Iomeprol" if made["contrast_agent"] == "named" else ""
        yield answered(f"c{number}") | values | logits | made | {"contrast_agent": agent}


def subjects(summary: dict[str, Any]) -> set[str]:
    alarming = ("small", "clear", "strong")
    return {f["subject"] for f in summary["drift"]["findings"] if f["verdict"] in alarming} - {"classes"}


def test_an_archive_like_the_shipped_weights_training_does_not_alarm(tmp_path: Path, card: ModelCard) -> None:
    told = write_summary(tmp_path, archive(card, 300), card=card)
    assert subjects(told) == set()
    assert told["drift"]["judged"]


def test_an_archive_twenty_hu_lower_is_told_first(tmp_path: Path, card: ModelCard) -> None:
    told = write_summary(tmp_path, archive(card, 200, hu_shift=-20.0), card=card)
    assert subjects(told) == {"hu_mean"}
    assert any(entry["what"].startswith("The HU of L1 are") for entry in told["look_at_first"])
    page = (tmp_path / "summary.html").read_text("utf-8")
    assert "lower than in training: median" in page
    assert "By chance, one archive in twenty" in page


def test_drift_is_judged_by_the_weights_own_adjustment(tmp_path: Path, card: ModelCard) -> None:
    """The table's classes and probabilities are by another tau; the logits are the network's own."""
    rows = [row | {"t_score_class": "osteoporosis", "p_osteoporosis": 0.99} for row in archive(card, 100)]
    told = write_summary(tmp_path, rows, card=card)
    assert not told["own_adjustment"]
    assert "p_osteoporosis" not in subjects(told)
    assert "another adjustment" in (tmp_path / "summary.html").read_text("utf-8")


def test_weights_that_tell_nothing_of_their_training_are_told_as_that(tmp_path: Path, card: ModelCard) -> None:
    told = write_summary(tmp_path, ward(), card=replace(card, population=None))
    assert not told["drift"]["judged"]
    assert "can&#x27;t be judged" in (tmp_path / "summary.html").read_text("utf-8")
    assert write_summary(tmp_path, ward())["weights"] is None


# The card


def test_the_shipped_weights_tell_whom_they_were_trained_on(card: ModelCard) -> None:
    known = card.population
    assert known is not None
    assert known.patients == 11000
    assert {name: len(spread.quantiles) for name, spread in known.quantities.items()} == dict.fromkeys(
        ("hu_mean", "hu_sd", "l1_volume_ml", "p_normal", "p_osteopenia", "p_osteoporosis"), 101
    )
    assert {spread.cases for spread in known.quantities.values()} <= set(range(980, 1001))
    assert sum(known.predicted.values()) == 1000
    assert 0.7 < known.acquisition["kvp"]["120"] / 1000 < 0.86, "the simulator's mixed practice has 0.78"
    assert "1000 of the simulated training patients" in (FOLDER / "MODEL_CARD.md").read_text("utf-8")


def test_a_card_survives_json_with_and_without_a_population(card: ModelCard) -> None:
    for kept in (card, replace(card, population=None)):
        assert ModelCard.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    older = card.to_json()
    del older["population"]
    assert ModelCard.from_json(older).population is None


# Many


def test_a_row_costs_some_bytes_not_a_row(card: ModelCard) -> None:
    def kept(n: int) -> int:
        seen = Rows()
        tracemalloc.start()
        for number in range(n):
            seen.add(answered(f"case_{number:06d}", hu=150.0 + number % 50, warnings=["sharp_kernel"]))
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    assert (kept(12_000) - kept(4_000)) / 8_000 < 100, "bytes a row; a row itself has 3000"


def test_the_largest_are_kept_and_equals_by_name() -> None:
    heap: list[tuple[float, str]] = []
    for case_id, measure in [("d", 1.0), ("c", 2.0), ("b", 2.0), ("a", 2.0), ("e", 5.0)]:
        keep_largest(heap, measure, case_id, most=3)
    assert largest(heap) == [(5.0, "e"), (2.0, "a"), (2.0, "b")]
