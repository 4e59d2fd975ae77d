"""summary.html of a batch: one page that stands alone and begins with what to look at."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from medconv.batch.drift import Verdict
from medconv.batch.jobs import STATUS_WORDS, Status
from medconv.batch.summary_advice import spoken
from medconv.batch.summary_plots import FEWEST
from medconv.html_page import banner, facts_table, page

VERDICT_WORDS = {
    Verdict.ALIKE: "As in training",
    Verdict.SMALL: "Slightly different",
    Verdict.CLEAR: "Different",
    Verdict.STRONG: "Very different",
    Verdict.TOO_FEW: "Can't be judged",
}
ALT = {
    "classes": "Shares of the given classes with 95 % intervals, and those of training",
    "hu": "Histogram of L1's HU by given class, with the outline of training",
    "reasons": "How often each reason for no answer is",
    "time": "Seconds a case in each stage",
}
SIMULATED = "Trained on simulated CT: demonstration only."


def summary_page(document: Mapping[str, Any], plots: Mapping[str, bytes], missing: str = "") -> str:
    """The page of a summary.json document; PNG by name, of `summary_plots`. missing: why there are none."""
    weights = document["weights"]
    parts = [
        banner(SIMULATED) if weights and "simulated" in weights["trained_on"].lower() else "",
        _outcome(document),
        _first(document),
        _unanswered(document, plots),
        _classes(document, plots),
        _attenuation(document, plots),
        _drift(document),
        _notes(document),
        _time(document, plots),
        f'<p class="soft">{escape(missing)}</p>' if missing else "",
    ]
    return page("MedConv: summary of a batch", "".join(parts), document["versions"])


def _outcome(document: Mapping[str, Any]) -> str:
    cases = document["cases"]
    told = ", ".join(
        f"{document['by_status'][status]} {words}"
        for status, words in STATUS_WORDS.items()
        if document["by_status"][status] or status is Status.OK
    )
    weights = document["weights"]
    made = f" Weights: {weights['name']} (SHA-256 {weights['sha256'][:16]}…)." if weights else ""
    return (
        f"<h1>Summary of a batch</h1><p class='class'>{cases:,} {'case' if cases == 1 else 'cases'}</p>"
        f"<p>{escape(told)}.{escape(made)} Every case has its row in the table.</p>"
    )


def _first(document: Mapping[str, Any]) -> str:
    entries = document["look_at_first"]
    if not entries:
        return _card("What to look at first", "<p>Nothing stands out.</p>")
    items = "".join(
        f"<li><b>{escape(e['what'])}</b><br><span class='soft'>{escape(e['do'])}</span></li>" for e in entries
    )
    return _card("What to look at first", f"<ol>{items}</ol>")


def _unanswered(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    entries = document["unanswered"]
    if not entries:
        return _card("Without an answer", "<p>Every case was answered.</p>")
    rows = [
        (
            escape(STATUS_WORDS[Status(e["status"])].capitalize()),
            escape(spoken(e["code"])),
            f"{e['cases']:,}",
            escape(e["message"])
            + (f"<br><span class='soft'>{escape(e['next_step'])}</span>" if e["next_step"] else ""),
            _cases(e["examples"]) + (" …" if e["cases"] > len(e["examples"]) else ""),
        )
        for e in entries
    ]
    head = ("", "Reason", "Cases", "One of them says, and what to do", "For example")
    return _card("Without an answer", _picture(plots, "reasons") + _table(head, rows))


def _classes(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    found = document["classes"]
    if not any(entry["cases"] for entry in found.values()):
        return ""
    rows = [
        (name.capitalize(), f"{e['cases']:,}", _percent(e["share"]), f"{_percent(e['low'])} to {_percent(e['high'])}",
         _percent(e["share_in_training"]))
        for name, e in found.items()
    ]  # fmt: skip
    head = ("Class", "CTs", "Share", "95 % interval", "In training")
    note = (
        "Intervals: Wilson. In training: the classes that the weights give to patients of their own population. The "
        "share of a given class is not the prevalence of the disease."
    )
    if not document["own_adjustment"]:
        note += " This batch used another adjustment than the weights' own, with which training is compared below."
    return _card("Given classes", _picture(plots, "classes") + _table(head, rows, "figures") + _soft(note))


def _attenuation(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    named = {"hu_mean": "HU, mean in L1", "hu_sd": "HU, SD in L1", "l1_volume_ml": "Volume of the mask, ml"}
    found = {label: document["attenuation"].get(name) for name, label in named.items()}
    found |= {f"HU where {name} was given": entry for name, entry in document["hu_by_class"].items()}
    rows = [
        (escape(label), f"{e['cases']:,}", f"{e['p5']:.0f}", f"{e['p25']:.0f}", f"{e['p50']:.0f}", f"{e['p75']:.0f}",
         f"{e['p95']:.0f}")
        for label, e in found.items()
        if e
    ]  # fmt: skip
    if not rows:
        return ""
    head = ("", "CTs", "5 %", "25 %", "Median", "75 %", "95 %")
    note = (
        "Trabecular core of L1, as scanned: no correction for tube voltage or contrast. A CT that is there twice "
        "counts once."
    )
    if document["by_status"][Status.OK] < FEWEST:
        note += f" Fewer than {FEWEST} CTs were answered: there is no histogram."
    return _card("Attenuation", _picture(plots, "hu") + _table(head, rows, "figures") + _soft(note))


def _drift(document: Mapping[str, Any]) -> str:
    found = document["drift"]
    rows = []
    for finding in found["findings"]:
        verdict = Verdict(finding["verdict"])
        strong = verdict in (Verdict.CLEAR, Verdict.STRONG)
        word = f"<span class='warning'>{VERDICT_WORDS[verdict]}</span>" if strong else VERDICT_WORDS[verdict]
        remedy = f"<br><span class='soft'>{escape(finding['remedy'])}</span>" if finding["remedy"] else ""
        rows.append((word, escape(finding["message"]) + remedy))
    note = (
        f"Compared with {found['measured_on']}. By chance, one archive in twenty that is like training would show any "
        "difference here. A difference says that the weights' accuracy is unknown here, not that answers are wrong; no "
        "difference does not prove that they are right. Method: Kolmogorov-Smirnov distance (Smirnov 1948), "
        "chi-squared test for shares, Bonferroni; size by the population stability index (Siddiqi 2006)."
    )
    return _card("Like the patients the weights were trained on?", _table((), rows, "facts") +
                 (_soft(note) if found["judged"] else ""))  # fmt: skip


def _notes(document: Mapping[str, Any]) -> str:
    answered = max(document["by_status"][Status.OK], 1)
    rows = [
        (
            f"<b>{escape(spoken(code))}</b>" if kind == "warnings" else escape(spoken(code)),
            f"{n:,}",
            _of(n, answered),
        )
        for kind in ("warnings", "notes")
        for code, n in document["notes"][kind].items()
    ]
    warned = [
        (_cases([entry]), escape(", ".join(map(spoken, entry["warnings"].split(", ")))))
        for entry in document["most_warned"]
    ]
    copies = [(_cases([e]), str(e["copies"])) for e in document["copies"]["first"]]
    parts = [
        _table(("Note (warnings in bold)", "Cases", "Of the answered"), rows, "figures") if rows else "<p>None.</p>",
        _heading("Cases with most warnings") + _table(("Case", "Warnings"), warned) if warned else "",
        _heading("CTs that are there more than once") + _table(("First of them", "Copies"), copies) if copies else "",
    ]
    return _card("Quality notes of the answered cases", "".join(parts))


def _time(document: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    found, run = document["time"], document["time"]["run"]
    facts = {}
    if found["cases_per_hour"]:
        facts["Rate"] = f"{found['cases_per_hour']:,.0f} cases an hour"
        facts["This run"] = f"{run['cases_this_run']:,} cases in {run['seconds']:,.0f} s"
    for name, label in (("workers", "Workers"), ("crashes", "Processes that ended by themselves")):
        if name in run:
            facts[label] = f"{run[name]}"
    if found["peak_mb"]:
        facts["Peak memory of a process"] = (
            f"median {found['peak_mb']['median']:,.0f} MB, largest {found['peak_mb']['largest']:,.0f} MB"
        )
    rows = [
        (escape(spoken(name)), f"{e['cases']:,}", f"{e['median_s']:.3f}", f"{e['p95_s']:.3f}", f"{e['sum_s']:,.1f}")
        for name, e in found["stages"].items()
    ]
    if not rows and not facts:
        return ""
    slowest = ", ".join(f"{escape(e['case_id'])} ({e['seconds']:.1f} s)" for e in found["slowest"])
    return _card(
        "Time and memory",
        facts_table(facts)
        + _picture(plots, "time")
        + (_table(("Stage", "Cases", "Median s", "95 % s", "Sum s"), rows, "figures") if rows else "")
        + (f"<p>Slowest: {slowest}.</p>" if slowest else "")
        + _soft("Times vary from run to run; the table holds none."),
    )


def _cases(entries: Iterable[Mapping[str, Any]]) -> str:
    """Case ids, with a link to the report where there is one."""
    named = (
        f'<a href="{quote(e["page"])}">{escape(e["case_id"])}</a>' if e.get("page") else escape(e["case_id"])
        for e in entries
    )
    return ", ".join(f'<span style="white-space:nowrap">{name}</span>' for name in named)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Cells are HTML."""
    first = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{style}">{first}{body}</table>'


def _picture(plots: Mapping[str, bytes], name: str) -> str:
    if name not in plots:
        return ""
    data = base64.b64encode(plots[name]).decode("ascii")
    style = "max-width:640px;width:100%;background:#fff;border-radius:4px"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(ALT[name])}" style="{style}">'


def _card(title: str, body: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>'


def _heading(text: str) -> str:
    return f'<h2 style="margin-top:16px">{escape(text)}</h2>'


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def _of(cases: int, all_cases: int) -> str:
    return f"{cases / all_cases:.{0 if cases >= 0.01 * all_cases else 1}%}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
