"""What a batch came to, as summary.json and summary.html: counts, refusals, attenuation, drift, time, what to look at.

Rows are read once, one at a time; what is kept of a case is a few numbers, so that 100,000 cases take some megabytes.
Times and memory stand here and in the ledger only: they differ between runs of the same cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medconv import RESEARCH_USE_ONLY
from medconv.batch import drift
from medconv.batch.drift_statistics import wilson
from medconv.batch.jobs import Status
from medconv.batch.summary_advice import look_at_first
from medconv.batch.summary_page import summary_page
from medconv.batch.summary_plots import all_plots
from medconv.batch.summary_rows import SHOWN, Rows, Times, largest
from medconv.config import CLASS_ORDER, ModelCard
from medconv.report import versions
from medconv.types import FloatArray, MissingRequirement

JSON_FILE, HTML_FILE, PLOT_FILE = "summary.json", "summary.html", "summary_{}.png"
SHARES = (5, 25, 50, 75, 95)


def write_summary(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    measured: Iterable[tuple[str, Mapping[str, float]]] = (),
    card: ModelCard | None = None,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write summary.json, summary.html and the plots into the batch's folder; returns the document of summary.json.

    rows: one a case, by `jobs.COLUMNS`, in any order; values typed or as the text of table.csv, empty where there is
        none; several codes in one value are apart by blanks, commas, semicolons or bars.
    measured: `CaseOutcome.measured` by case id, of the cases that have any: seconds by stage, "total" the whole
        case's, and "peak_mb". card: of the weights that answered; None compares with no training population.
    run: what the caller knows of the whole run, each optional: "seconds" (wall time), "workers", "cases_this_run",
        "crashes". All of it may be left out.
    Raises OSError if the folder can't be written. Without matplotlib the page has no plots and says so.
    """
    seen, times = Rows(), Times()
    for row in rows:
        seen.add(row)
    for case_id, figures in measured:
        times.add(case_id, figures)
    document = summary_document(seen, times, card, run or {})
    try:
        plots, missing = all_plots(document, seen, card), ""
    except MissingRequirement as error:
        plots, missing = {}, f"{error.message} {error.remedy}"
    for name, png in plots.items():
        _write(folder / PLOT_FILE.format(name), png)
    _write(folder / HTML_FILE, summary_page(document, plots, missing).encode())
    _write(folder / JSON_FILE, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    return document


def summary_document(seen: Rows, times: Times, card: ModelCard | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """The document of summary.json: plain JSON types."""
    document: dict[str, Any] = {
        "research_use": RESEARCH_USE_ONLY,
        "cases": seen.statuses.total(),
        "by_status": {str(status): seen.statuses[str(status)] for status in Status},
        "classes": _classes(seen, card),
        "own_adjustment": _own_adjustment(seen, card),
        "undecided": seen.undecided,
        "levels_in_doubt": seen.levels_in_doubt,
        "unanswered": _unanswered(seen),
        "attenuation": {name: _spread(seen.column(name)) for name in seen.numbers if not name.startswith("logit")},
        "hu_by_class": _hu_by_class(seen),
        "notes": {kind: dict(counts.most_common()) for kind, counts in seen.notes.items()},
        "acquisition": {name: dict(counts.most_common()) for name, counts in seen.acquisition.items()},
        "drift": _drift(seen, card),
        "most_warned": _most_warned(seen),
        "copies": {
            "cases": seen.copies.total(),
            "first": [{"case_id": i, "copies": n} for i, n in sorted(seen.copies.items())[:SHOWN]],
        },
        "time": _time(times, run),
        "weights": {"name": card.name, "sha256": card.sha256, "trained_on": card.trained_on} if card else None,
        "versions": versions(),
    }
    return document | {"look_at_first": look_at_first(document)}


def _classes(seen: Rows, card: ModelCard | None) -> dict[str, Any]:
    answered = seen.classes.total()
    trained = card.population.predicted if card and card.population else {}
    found = {}
    for c in map(str, CLASS_ORDER):
        low, high = wilson(seen.classes[c], answered)
        share = seen.classes[c] / answered if answered else None
        found[c] = {"cases": seen.classes[c], "share": share, "low": low, "high": high}
        found[c]["share_in_training"] = trained[c] / sum(trained.values()) if trained else None
    return found


def _own_adjustment(seen: Rows, card: ModelCard | None) -> bool:
    """Whether the classes of the table are those of the weights' own adjustment."""
    given = np.bincount(np.array(seen.given, int), minlength=len(CLASS_ORDER)).tolist()
    return card is None or not any(given) or given == list(seen.batch(card).predicted.values())


def _unanswered(seen: Rows) -> list[dict[str, Any]]:
    order = [str(status) for status in (Status.SET_ASIDE, Status.FAILED, Status.REFUSED)]
    entries = sorted(seen.ended.items(), key=lambda e: (order.index(e[0][0]), -e[1].cases, e[0][1]))
    return [
        {
            "status": status,
            "code": code,
            "cases": ended.cases,
            "message": ended.message,
            "next_step": ended.next_step,
            "examples": [{"case_id": i, "page": seen.pages.get(i, "")} for i in ended.examples],
        }
        for (status, code), ended in entries
    ]


def _most_warned(seen: Rows) -> list[dict[str, str]]:
    """Without the warnings that every answered case has."""
    everyones = {code for code, cases in seen.notes["warnings"].items() if cases == seen.classes.total()}
    found = []
    for _, case_id in largest(seen.most_warned):
        own = [code for code in seen.warned_about[case_id] if code not in everyones]
        found.append({"case_id": case_id, "warnings": ", ".join(own), "page": seen.pages.get(case_id, "")})
    return [entry for entry in found if entry["warnings"]]


def _spread(values: FloatArray) -> dict[str, float] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    quantiles = {f"p{share}": round(float(np.percentile(known, share)), 3) for share in SHARES}
    return {"cases": len(known), "mean": round(float(known.mean()), 3), **quantiles}


def _hu_by_class(seen: Rows) -> dict[str, Any]:
    hu, given = seen.column("hu_mean"), np.array(seen.given, int)
    return {str(c): _spread(hu[given == i]) for i, c in enumerate(CLASS_ORDER)}


def _drift(seen: Rows, card: ModelCard | None) -> dict[str, Any]:
    population = card.population if card else None
    batch = seen.batch(card) if card else drift.Batch({}, {}, {})
    findings = [*drift.unusual(batch, population), *drift.compare(batch, population)]
    return {
        "judged": any(finding.figures for finding in findings),
        "alarms": sum(finding.is_alarm for finding in findings),
        "false_alarms_expected": drift.FALSE_ALARMS,
        "measured_on": population.measured if population else "",
        "findings": [finding.to_json() for finding in findings],
    }


def _time(times: Times, run: Mapping[str, Any]) -> dict[str, Any]:
    stages = {name: np.array(values, float) for name, values in times.seconds.items()}
    memory = np.array(times.peak_mb, float)
    seconds, cases = run.get("seconds"), run.get("cases_this_run")
    return {
        "run": dict(run),
        "cases_per_hour": round(3600.0 * cases / seconds, 1) if seconds and cases else None,
        "stages": {
            name: {
                "cases": len(values),
                "median_s": round(float(np.median(values)), 4),
                "p95_s": round(float(np.percentile(values, 95)), 4),
                "sum_s": round(float(values.sum()), 3),
            }
            for name, values in stages.items()
        },
        "peak_mb": {"median": round(float(np.median(memory)), 1), "largest": round(float(memory.max()), 1)}
        if len(memory)
        else None,
        "slowest": [{"case_id": case_id, "seconds": round(s, 3)} for s, case_id in largest(times.slowest)],
    }


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
