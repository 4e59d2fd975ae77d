"""The paper's table beside ours for people: Markdown, an HTML page and a CSV, made from the document alone."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from medconv import RESEARCH_USE_ONLY, html_page
from medconv.training.paper.paper_tables import FIGURE_LABELS, OUR_TEST_PATIENTS, PAPER_TEST_PATIENTS
from medconv.training.paper.reproduce_figures import FORMS

NOT_PRETRAINED = "†"
NOT_PRETRAINED_TEXT = (
    "not pretrained here: the paper's row started from photographs' weights; without --pretrained it starts from "
    "scratch, and is then the same training as its row without 'pretrain'"
)
SETS = {"test": "the cohort's test set", "extra": "the further test set"}
WITH_INTERVAL = ("accuracy", "auc")
CSV_COLUMNS = ("row", "not_pretrained", "set", "reading", "figure", "paper", "ours", "low", "high", "sd", "seeds")


@dataclass(frozen=True)
class Sheet:
    """A table for people: a title, headings, rows of texts; a last line may say what it is."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def header(document: Mapping[str, Any]) -> list[str]:
    """What must be known before a figure is read, in sentences."""
    cohort = document["cohort"]
    said = [_cases(cohort)]
    if "significance" in document:
        said += [_significance(document), _intervals(document)]
    said += document["how"]
    return said


def sheets(document: Mapping[str, Any]) -> list[Sheet]:
    """All tables of a document."""
    if "classes" in document:
        return [_class_sheet(document)]
    found = [_main_sheet(document)]
    if document["rows"][0]["forms"]:
        found += [_form_sheet(document, split) for split in document["patients"]]
    else:
        found.append(_chosen_sheet(document))
    if "extra" in document["patients"]:
        found.insert(1, _extra_sheet(document))
    found.append(_reference_sheet(document))
    return found


def footnotes(document: Mapping[str, Any]) -> list[str]:
    """Footnotes in order, each with its mark; † first."""
    said = []
    if any(row.get("not_pretrained") for row in document.get("rows", ())):
        said.append(f"{NOT_PRETRAINED} {NOT_PRETRAINED_TEXT}.")
    return said + [f"[{note['mark']}] {note['text']}" if note["mark"] else note["text"] for note in document["notes"]]


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    lines = [f"# {document['title']} ({document['source']}), reproduced", "", f"**{RESEARCH_USE_ONLY}**", ""]
    lines += [f"- {said}" for said in header(document)]
    for sheet in sheets(document):
        lines += ["", f"## {sheet.title}", "", *_markdown_rows(sheet)]
    lines += ["", "## Notes", "", *(f"- {note}" for note in footnotes(document)), ""]
    return "\n".join(lines)


def page(document: Mapping[str, Any], png: bytes) -> str:
    """The whole report as one HTML file."""
    cards = [f"<ul>{''.join(f'<li>{escape(said)}</li>' for said in header(document))}</ul>"]
    picture = b64encode(png).decode()
    cards.append(
        f'<figure><img alt="{escape(document["title"])}" style="width:100%" '
        f'src="data:image/png;base64,{picture}"></figure>'
    )
    cards += [f"<h2>{escape(sheet.title)}</h2>{_html_rows(sheet)}" for sheet in sheets(document)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in footnotes(document))
    cards.append(f"<h2>Notes</h2><ul>{notes}</ul>")
    title = f"{document['title']} ({document['source']}), reproduced"
    body = f"<h1>{escape(title)}</h1>" + "".join(f'<section class="card">{card}</section>' for card in cards)
    return html_page.page(title, body, document["versions"])


def sheet_csv(document: Mapping[str, Any]) -> str:
    """Every figure of every set and reading, one a line; of Fig. 4 the counts."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if "classes" in document:
        sheet = _class_sheet(document)
        writer.writerow(sheet.headings)
        writer.writerows(sheet.rows)
        return stream.getvalue()
    writer.writerow(CSV_COLUMNS)
    for row in document["rows"]:
        for split, reading, figures in _readings(row):
            for name, figure in figures.items():
                seeds = " ".join(f"{value:.4f}" for value in figure["by_seed"])
                numbers = [_number(figure[key]) for key in ("value", "low", "high", "sd")]
                paper = _number(row["paper"][name])
                writer.writerow((row["label"], row["not_pretrained"], split, reading, name, paper, *numbers, seeds))
    return stream.getvalue()


def _readings(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    yield from ((split, "as the paper's row", figures) for split, figures in row["ours"].items())
    yield from ((split, "as validation chose", figures) for split, figures in row["chosen"].items())
    for form, by_split in (row["forms"] or {}).items():
        yield from ((split, form, figures) for split, figures in by_split.items())


def _cases(cohort: Mapping[str, Any]) -> str:
    parts = [f"{name} {'/'.join(str(n) for n in counts.values())}" for name, counts in cohort["cases"].items()]
    kind = "simulated: says nothing about patients" if cohort["simulated"] else cohort["reference_standard"]
    return f"Cohort '{cohort['name']}' ({kind}); normal/osteopenia/osteoporosis: {', '.join(parts)}."


def _significance(document: Mapping[str, Any]) -> str:
    found = document["significance"]
    points = {
        n: "no difference at all" if value is None else f"{value:.1f} points"
        for n, value in found["paired_points"].items()
    }
    how = "measured on the runs below" if found["measured"] else "assumed"
    ours, papers = points[str(OUR_TEST_PATIENTS)], points[str(PAPER_TEST_PATIENTS)]
    return (
        f"What would be significant: two networks of which just one is right on {found['disagreement']:.0%} of "
        f"patients ({how}) differ at the 5 % level (exact McNemar) from {ours} of accuracy on with "
        f"{OUR_TEST_PATIENTS} patients, and from {papers} with {PAPER_TEST_PATIENTS}. The paper's "
        f"{PAPER_TEST_PATIENTS} patients and {OUR_TEST_PATIENTS} others: from {found['unpaired_points']:.0f} points. "
        f"One patient of {OUR_TEST_PATIENTS} is 2.6 points. Smaller differences in these tables are chance, as far as "
        "anyone can tell."
    )


def _intervals(document: Mapping[str, Any]) -> str:
    seeds = document["seeds"]
    spread = f"SD over {seeds} seeds" if seeds > 1 else "one seed: no spread over trainings is known"
    return (
        "Percent; in brackets the 95 % interval over patients (Wilson for the accuracy of a single run, bootstrap over "
        f"patients otherwise); ± {spread}. A test set is read once a run; epochs and adjustments are chosen "
        "on validation."
    )


def _main_sheet(document: Mapping[str, Any]) -> Sheet:
    headings = [document["x"]]
    for label in FIGURE_LABELS.values():
        headings += [f"{label}: paper", "ours"]
    rows = []
    for row in document["rows"]:
        cells = [_label(row)]
        for name in FIGURE_LABELS:
            cells += [f"{row['paper'][name]:.2f}", _told(row["ours"]["test"][name], name in WITH_INTERVAL)]
        rows.append(tuple(cells))
    return Sheet(f"The paper beside ours, on {_size(document, 'test')}", tuple(headings), tuple(rows))


def _extra_sheet(document: Mapping[str, Any]) -> Sheet:
    rows = [
        (
            _label(row),
            f"{row['paper']['accuracy']:.2f}",
            _told(row["ours"]["extra"]["sensitivity"]),
            _told(row["chosen"]["extra"]["sensitivity"]),
            f"{row['paper']['auc']:.2f}",
            _told(row["ours"]["extra"]["auc"]),
        )
        for row in document["rows"]
    ]
    headings = (
        document["x"], "Accuracy: paper", "ours: balanced accuracy", "ours, adjusted as validation chose",
        "ROC AUC: paper", "ours",
    )  # fmt: skip
    return Sheet(f"The same runs on {_size(document, 'extra')}", headings, tuple(rows))


def _chosen_sheet(document: Mapping[str, Any]) -> Sheet:
    rows = [
        (
            _label(row),
            _told(row["ours"]["test"]["sensitivity"]),
            _told(row["chosen"]["test"]["sensitivity"]),
            row["validation_chose"],
        )
        for row in document["rows"]
    ]
    headings = (document["x"], "Balanced accuracy, as the row", "adjusted as validation chose", "what validation chose")
    return Sheet("With the adjustment that validation chose", headings, tuple(rows))


def _form_sheet(document: Mapping[str, Any], split: str) -> Sheet:
    headings = ["τ2", "paper: accuracy", "AUC"]
    for told in FORMS.values():
        headings += [f"{told.split(':')[0]}: balanced accuracy", "AUC"]
    rows = []
    for row in document["rows"]:
        cells = [row["label"], f"{row['paper']['accuracy']:.2f}", f"{row['paper']['auc']:.2f}"]
        for form in FORMS:
            figures = row["forms"][form][split]
            cells += [_told(figures["sensitivity"], False), _told(figures["auc"], False)]
        rows.append(tuple(cells))
    return Sheet(f"The three forms of τ2 on {_size(document, split)}", tuple(headings), tuple(rows))


def _reference_sheet(document: Mapping[str, Any]) -> Sheet:
    rows = [
        (found["label"], SETS[split], _told(found["figures"]["sensitivity"]), _told(found["figures"]["auc"]))
        for split, readers in document["references"].items()
        for found in readers.values()
    ]
    return Sheet("Other readers of the same patients", ("Reader", "on", "Balanced accuracy", "ROC AUC"), tuple(rows))


def _class_sheet(document: Mapping[str, Any]) -> Sheet:
    classes = list(document["classes"]["paper"]["train"])
    rows = []
    for source, splits in document["classes"].items():
        whole = {c: sum(counts[c] for counts in splits.values()) for c in classes}
        for name, counts in (*splits.items(), ("all", whole)):
            share = [f"{counts[c] / max(sum(counts.values()), 1):.1%}" for c in classes]
            rows.append((source, name, *(f"{counts[c]} ({s})" for c, s in zip(classes, share, strict=True))))
    return Sheet("Cases by class", ("", "part", *classes), tuple(rows))


def _size(document: Mapping[str, Any], split: str) -> str:
    counts = document["patients"][split]
    return f"{SETS[split]} ({sum(counts.values())} cases: {', '.join(f'{n} {name}' for name, n in counts.items())})"


def _label(row: Mapping[str, Any]) -> str:
    mark = f" {NOT_PRETRAINED}" if row["not_pretrained"] else ""
    return row["label"] + mark + (f" [{','.join(row['marks'])}]" if row["marks"] else "")


def _told(figure: Mapping[str, Any], interval: bool = True) -> str:
    text = f"{figure['value']:.1f}"
    if figure["sd"] is not None:
        text += f" ± {figure['sd']:.1f}"
    return f"{text} ({figure['low']:.0f}–{figure['high']:.0f})" if interval else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _markdown_rows(sheet: Sheet) -> list[str]:
    rows = [sheet.headings, ("---",) * len(sheet.headings), *sheet.rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]


def _html_rows(sheet: Sheet) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = line(sheet.headings, "th") + "".join(line(row, "td") for row in sheet.rows)
    style = "font-size:.85rem;border-collapse:collapse;width:100%"
    return f'<div style="overflow-x:auto"><table border="1" cellpadding="4" style="{style}">{body}</table></div>'
