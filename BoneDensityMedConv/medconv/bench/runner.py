"""All sections, one after another, each in a process of its own; what is finished is kept whatever happens after it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from medconv import RESEARCH_USE_ONLY, __version__
from medconv.bench import apart, verdict
from medconv.bench.figures import SPREAD, Row, because
from medconv.bench.sections import SECTIONS, Section
from medconv.bench.settings import Settings
from medconv.control_groups import cores
from medconv.report import versions

FORMAT = 1
DONE, FAILED, INTERRUPTED, LEFT_OUT = "done", "failed", "interrupted", "left out"
OWN = ("folder", "peaks", "load_before")  # of the settings: nobody asked for them
OPTIONAL = ("openvino", "onnxruntime", "timm_3d", "totalsegmentator", "nnunetv2", "dask", "pyarrow", "matplotlib")

Stream = Callable[[str, dict[str, Any]], Iterator[Any]]


@dataclass
class SectionResult:
    """What became of a section: the rows it gave, and if it did not end as it should, why."""

    section: Section
    status: str = DONE
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {
            "title": self.section.title, "status": self.status, "reason": self.reason, "seconds": self.seconds,
            "rows": rows,
        }  # fmt: skip


class Remaining:
    """How long the rest will take: the sections' usual times, scaled by what those so far really took."""

    def __init__(self, sections: Sequence[Section], quick: bool) -> None:
        self._usual = [section.quick_seconds if quick else section.seconds for section in sections]

    def seconds(self, number: int, fraction: float, elapsed_s: float) -> float:
        """number: of the section under way, from 0; fraction: of it; elapsed_s: since the first began."""
        done = sum(self._usual[:number]) + self._usual[number] * min(max(fraction, 0.0), 1.0)
        slower = elapsed_s / done if done > 0.1 * sum(self._usual) else 1.0
        return (sum(self._usual) - done) * max(slower, 0.2)


def run(
    sections: Sequence[Section],
    settings: Settings,
    *,
    say: Callable[[str, float], None],
    finished: Callable[[SectionResult], None],
    stream: Stream = apart.stream,
) -> tuple[list[SectionResult], bool]:
    """Measure; returns what was found and whether a person stopped it with Ctrl-C.

    say: called with what is under way, and the seconds that the rest will take. finished: as each section ends.
    """
    results: list[SectionResult] = []
    remaining, began = Remaining(sections, settings.quick), perf_counter()
    for number, section in enumerate(sections):
        result, started = SectionResult(section), perf_counter()
        results.append(result)
        try:
            for message in stream(
                "medconv.bench.sections:run_here", {"name": section.name, "settings": settings.to_json()}
            ):
                if "row" in message:
                    result.rows.append(Row.from_json(message["row"]))
                elif "say" in message:
                    stage, fraction = message["say"]
                    left = remaining.seconds(number, fraction, perf_counter() - began)
                    say(f"{section.name}: {stage}", left)
        except KeyboardInterrupt:
            result.status, result.reason = INTERRUPTED, "stopped with Ctrl-C"
        except Exception as error:  # noqa: BLE001 one section's failure is its own row, not the end
            result.status, result.reason = FAILED, because(error)
        result.seconds = perf_counter() - started
        settings = replace(settings, peaks={**settings.peaks, **_peaks(result)})
        finished(result)
        if result.status == INTERRUPTED:
            results += [SectionResult(left, LEFT_OUT, "stopped before it") for left in sections[number + 1 :]]
            return results, True
    return results, False


def document(results: Sequence[SectionResult], settings: Settings) -> dict[str, Any]:
    """bench.json: plain JSON types; bench.schema.json describes it."""
    asked = {name: value for name, value in settings.to_json().items() if name not in OWN}
    for place in ("loader", "weights_folder"):
        asked[place] = bool(asked[place])  # whether, not where: paths stay on the computer
    told = {result.section.name: result.to_json() for result in results}
    return {
        "format": FORMAT,
        "research_use": RESEARCH_USE_ONLY,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": asked,
        "computer": {**computer(), "load_before": settings.load_before},
        "spread": SPREAD,
        "verdict": verdict.judged(told),
        "sections": told,
    }


def computer() -> dict[str, Any]:
    """What was measured on: processor, cores, versions; no host name."""
    from importlib.metadata import PackageNotFoundError, version

    found = versions()
    for package in OPTIONAL:
        try:
            found[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"medconv": __version__, **found},
    }


def processor() -> str:
    """Its name and widest vector unit, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123 a file without a size
            lines = dict(line.split(":", 1) for line in stream.read().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = facts.get("flags", "").split()
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    return " ".join(filter(None, (facts.get("model name", platform.machine()), widest)))


def chosen(only: Sequence[str], full: bool) -> list[Section]:
    """The sections to measure: those named, with `machine` before them for its peaks; else all that need no asking."""
    if only:
        wanted = {"machine", *only}
        return [section for section in SECTIONS if section.name in wanted]
    return [section for section in SECTIONS if full or not section.on_request]


def _peaks(result: SectionResult) -> dict[str, float]:
    return {row.point["peak"]: row.median for row in result.rows if "peak" in row.point and row.median is not None}
