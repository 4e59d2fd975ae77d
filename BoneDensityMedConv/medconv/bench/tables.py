"""The figures for a person: on the screen, as Markdown, as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from medconv.bench import verdict
from medconv.bench.figures import NO_VALUE, Row, number

HEAD = ("", "Median", "± Spread", "n", "Peak MB", "Of baseline", "Of peak", "Aim")
INTRODUCTION = (
    "Median of n repeats; spread: {spread}; peak: largest resident memory of the process. 'Of baseline' is the median "
    "of the ratios of runs that were done in turns, under 1 is less than the baseline's; 'of peak' is the share of "
    "what this computer was measured to do at best."
)


def cells(row: Row) -> list[str]:
    """What stands in the columns of HEAD; a row without a figure has its reason beside its name."""
    if row.median is None:
        return [row.name, NO_VALUE, "", "", "", "", "", ""]
    return [
        row.name,
        f"{number(row.median)} {row.unit}" if row.unit else f"{row.median:g}",
        number(row.spread) if row.spread is not None else "",
        str(row.repeats or ""),
        f"{row.peak_mb:,.0f}" if row.peak_mb is not None else "",
        ratio(row),
        f"{row.share:.0%}" if row.share is not None else "",
        aim(row),
    ]


def ratio(row: Row) -> str:
    """0.28 (3.6 x faster); plain for what is no time."""
    if row.ratio is None:
        return ""
    if row.unit.startswith(("s", "ms")) and row.ratio > 0:
        faster = 1 / row.ratio
        said = f"{number(faster)} x faster" if faster >= 1 else f"{number(row.ratio)} x slower"
        return f"{row.ratio:.3g} ({said})" if not 0.97 < row.ratio < 1.03 else f"{row.ratio:.3g}"
    return f"{row.ratio:.3g}"


def aim(row: Row) -> str:
    """≤ 0.286: reached, or MISSED."""
    if row.aim is None or row.reached is None:
        return ""
    return f"≤ {row.aim:.3g}{'' if row.aim_of == 'ratio' else ' ' + row.unit}: {'reached' if row.reached else 'MISSED'}"


def baselines(rows: Sequence[Row]) -> list[str]:
    """What 'of baseline' and 'of peak' refer to in a section."""
    named = [f"baseline: {name}" for name in dict.fromkeys(row.baseline for row in rows if row.baseline)]
    return named + [f"peak: {name}" for name in dict.fromkeys(row.of_peak for row in rows if row.of_peak)]


def on_screen(title: str, section: Mapping[str, Any]) -> str:
    """A section as aligned columns."""
    rows = [Row.from_json(fields) for fields in section["rows"]]
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    lines = [f"{title}  ({section['seconds']:.0f} s)", *_status(section)]
    lines += [f"  {text}" for text in baselines(rows)]
    for place, line in enumerate(table if rows else []):
        told = "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append(f"  {told.rstrip()}")
        if place and rows[place - 1].reason:
            lines.append(f"    no figure: {rows[place - 1].reason}")
    return "\n".join(lines)


def markdown(document: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """bench.md."""
    lines = ["# medconv bench", "", _computer(document), "", "## Verdict", "", *verdict.summary(document), ""]
    if document["verdict"]:
        lines += [_pipes(verdict.HEAD), _pipes(["---"] * len(verdict.HEAD)), *map(_pipes, verdict.lines(document)), ""]
    lines += ["## How to read the tables", "", INTRODUCTION.format(spread=document["spread"]), ""]
    for section in document["sections"].values():
        rows = [Row.from_json(fields) for fields in section["rows"]]
        lines += [f"## {section['title']}", "", *(f"**{text}**" for text in _status(section))]
        lines += [f"{'; '.join(baselines(rows))}", ""] if baselines(rows) else []
        if rows:
            lines += [_pipes((*HEAD, "Note")), _pipes(["---"] * (len(HEAD) + 1))]
            lines += [_pipes((*cells(row), row.reason or row.note)) for row in rows]
            lines.append("")
    lines += [f"![{name}]({name})" for name in plots]
    lines += ["", f"{document['research_use']}", ""]
    return "\n".join(lines)


def page(document: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """bench.html, with the plots inside."""
    from base64 import b64encode

    from medconv import html_page

    body = [f"<h1>medconv bench</h1><p>{escape(_computer(document))}</p>", _verdict(document)]
    body.append(f'<p class="soft">{escape(INTRODUCTION.format(spread=document["spread"]))}</p>')
    plots_of = _by_section(pictures)
    for name, section in document["sections"].items():
        body.append(f'<section class="card"><h2>{escape(section["title"])}</h2>{"".join(_table(section))}')
        for title, png in plots_of.get(name, {}).items():
            source = b64encode(png).decode("ascii")
            body.append(
                f'<p><img style="max-width:100%;background:#fff" alt="{escape(title)}" '
                f'src="data:image/png;base64,{source}"></p>'
            )
        body.append("</section>")
    versions = document["computer"]["versions"]
    wide = "<style>main{max-width:1400px}</style>"
    return html_page.page("medconv bench", wide + "".join(body), versions)


def verdict_on_screen(document: Mapping[str, Any]) -> str:
    """The verdict as aligned columns."""
    table = [line[:4] for line in verdict.lines(document)]
    widths = [max(len(line[column]) for line in table) for column in range(4)] if table else []
    lines = ["Verdict", *(f"  {text}" for text in verdict.summary(document))]
    for line in table:
        lines.append("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _verdict(document: Mapping[str, Any]) -> str:
    told = "".join(f"<p>{escape(text)}</p>" for text in verdict.summary(document))
    rows = "".join(
        f'<tr><td class="{"warning" if line[0] == verdict.MISSED else ""}">{escape(line[0])}</td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:]) + "</tr>"
        for line in verdict.lines(document)
    )  # fmt: skip
    heads = "".join(f"<th>{escape(name)}</th>" for name in verdict.HEAD)
    table = f"<table><tr>{heads}</tr>{rows}</table>" if rows else ""
    return f'<section class="card"><h2>Verdict</h2>{told}{table}</section>'


def _by_section(pictures: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for name, png in pictures.items():
        found.setdefault(name.removesuffix(".png").partition("-")[0], {})[name] = png
    return found


def _table(section: Mapping[str, Any]) -> Iterator[str]:
    rows = [Row.from_json(fields) for fields in section["rows"]]
    yield "".join(f'<p class="warning">{escape(text)}</p>' for text in _status(section))
    if told := baselines(rows):
        yield f'<p class="soft">{escape("; ".join(told))}</p>'
    if not rows:
        return
    heads = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    yield f'<table class="figures"><tr>{heads}<th style="text-align:left">Note</th></tr>'
    for row in rows:
        note = f'<td style="text-align:left" class="soft">{escape(row.reason or row.note)}</td>'
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row)) + note + "</tr>"
    yield "</table>"


def _status(section: Mapping[str, Any]) -> list[str]:
    return [] if section["status"] == "done" else [f"{section['status']}: {section['reason']}"]


def _computer(document: Mapping[str, Any]) -> str:
    own = document["computer"]
    versions = ", ".join(f"{name} {text}" for name, text in own["versions"].items())
    return f"{document['date']}; {own['processor']}, {own['cores']} cores, {own['system']}; {versions}"


def _pipes(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "/") for text in texts) + " |"
