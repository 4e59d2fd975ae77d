"""report.html: one self-contained page with the three planes, the class, the figures, and how far to trust them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from medconv import RESEARCH_USE_ONLY, __version__
from medconv.config import CLASS_ORDER
from medconv.tau_adjustment import method
from medconv.tscore import LABELS
from medconv.types import TScoreClass

HU_SCALE = (0.0, 260.0)
# Mean L1 HU by DXA class, British cohort 2023 (n = 536, 120 kVp, no contrast).
CLASS_MEANS_HU = {TScoreClass.OSTEOPOROSIS: 118.0, TScoreClass.OSTEOPENIA: 143.0, TScoreClass.NORMAL: 178.0}

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d4dae0;--card:#fff;--page:#f4f6f8;--bar:#2f6fb0;
--warn:#8a5a00;--warnbg:#fff4db}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebef;--soft:#a3adb7;--line:#39424b;--card:#1d2329;--page:#14181c;
--bar:#6aa7e2;--warn:#ffcf7a;--warnbg:#3a2e14}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:20px}h1{font-size:1.05rem;color:var(--soft);font-weight:600;margin:0 0 4px}
h2{font-size:1rem;margin:0 0 8px}.class{font-size:1.9rem;font-weight:700;margin:0 0 12px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px;margin:0 0 14px}
.banner{background:var(--warnbg);color:var(--warn);border:1px solid currentColor;border-radius:8px;padding:8px 14px;
margin:0 0 14px;font-weight:600}.planes{display:grid;grid-template-columns:repeat(3,1fr);gap:10px}
.planes img{width:100%;display:block;border-radius:4px;background:#000}figure{margin:0}
figcaption{color:var(--soft);font-size:.85rem;text-align:center;padding-top:4px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}.two .card{margin:0}
.row{display:grid;grid-template-columns:8.5rem 1fr 3.6rem;gap:10px;align-items:center;margin:6px 0}
.track{background:var(--line);height:16px;border-radius:4px;overflow:hidden}
.fill{background:var(--bar);height:100%}.value{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:0;padding-left:1.2rem}.warning{color:var(--warn);font-weight:600}.soft{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;width:100%}td{padding:3px 8px 3px 0;vertical-align:top}td:first-child{color:var(--soft);
white-space:nowrap}svg text{fill:var(--ink);font:11px system-ui,sans-serif}
@media(max-width:760px){.two,.planes{grid-template-columns:1fr}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


def result_page(document: Mapping[str, Any], pictures_png: Mapping[str, bytes]) -> str:
    """The page for a result.json document; pictures by plane name."""
    body = _answer(document, pictures_png) if document["status"] == "ok" else _refusal(document)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>MedConv: L1 T-score class</title><style>{STYLE}</style></head><body><main>"
        f'<p class="banner" role="note">{escape(RESEARCH_USE_ONLY)}</p>{body}'
        f'<p class="soft">MedConv {escape(__version__)} · {escape(_versions(document))}</p></main></body></html>'
    )


def _answer(document: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    label = LABELS[TScoreClass(document["t_score_class"])]
    simulated = any(n["code"] == "trained_on_simulated_ct" for n in document["quality"])
    badge = '<p class="banner">Trained on simulated CT: demonstration only.</p>' if simulated else ""
    return (
        f'{badge}<section class="card"><h1>L1, WHO T-score class</h1><p class="class">{escape(label)}</p>'
        f"{_bars(document['probabilities'])}</section>{_planes(pictures)}"
        f'<div class="two"><section class="card"><h2>L1 trabecular attenuation</h2>{_attenuation(document)}</section>'
        f'<section class="card"><h2>How far to trust this</h2>{_notes(document["quality"])}</section></div>'
        f'<section class="card" style="margin-top:14px"><h2>How it was made</h2>{_making(document)}</section>'
    )


def _refusal(document: Mapping[str, Any]) -> str:
    refusal = document["refusal"]
    return (
        '<section class="card"><h1>L1, WHO T-score class</h1><p class="class">No answer</p>'
        f"<p>{escape(refusal['message'])}</p><p><strong>What to do:</strong> {escape(refusal['remedy'])}</p></section>"
    )


def _bars(probabilities: Mapping[str, float]) -> str:
    rows = []
    for c in CLASS_ORDER:
        percent = 100 * probabilities[c]
        rows.append(
            f'<div class="row"><span>{escape(c.capitalize())}</span><div class="track"><div class="fill" '
            f'style="width:{percent:.1f}%"></div></div><span class="value">{percent:.1f} %</span></div>'
        )
    return "".join(rows)


def _planes(pictures: Mapping[str, bytes]) -> str:
    figures = []
    for name, png in pictures.items():
        data = base64.b64encode(png).decode("ascii")
        figures.append(
            f'<figure><img alt="{name} plane through L1 with the outline of the mask" '
            f'src="data:image/png;base64,{data}"><figcaption>{name.capitalize()}</figcaption></figure>'
        )
    return (
        f'<section class="card"><div class="planes">{"".join(figures)}</div>'
        '<p class="soft" style="margin:8px 0 0">L1 mask outlined. Bone window: level 400, width 1800 HU. '
        "Scale bar 20 mm. The patient's right is on the left of the axial and coronal pictures.</p></section>"
    )


def _attenuation(document: Mapping[str, Any]) -> str:
    core, l1 = document["attenuation"], document["l1"]
    return (
        f"<p><strong>{core['mean_hu']:.0f} HU</strong> mean, {core['median_hu']:.0f} median, SD {core['sd_hu']:.0f} "
        f"({core['voxels']:,} voxels, {core['volume_ml']:.1f} ml). L1 as a whole: {l1['volume_ml']:.1f} ml.</p>"
        f"{_hu_scale(core['mean_hu'])}"
        '<p class="soft">Marks: mean L1 HU of people with osteoporosis, osteopenia and normal DXA (British cohort '
        "2023, n = 536, 120 kVp without contrast). Below 110 HU: over 90 % specific, up to 160 HU: 90 % sensitive for "
        "osteoporosis against DXA (Pickhardt 2013, n = 1867).</p>"
    )


def _hu_scale(mean_hu: float) -> str:
    low, high = HU_SCALE

    def x(hu: float) -> float:
        return 10 + 380 * (min(max(hu, low), high) - low) / (high - low)

    marks = "".join(
        f'<line x1="{x(hu):.1f}" x2="{x(hu):.1f}" y1="34" y2="46" stroke="currentColor"/>'
        f'<text x="{x(hu):.1f}" y="{60 + 14 * (row % 2)}" text-anchor="middle">{c} {hu:.0f}</text>'
        for row, (c, hu) in enumerate(CLASS_MEANS_HU.items())
    )
    return (
        f'<svg viewBox="0 0 400 82" role="img" aria-label="L1 mean {mean_hu:.0f} HU on a scale of {low:.0f} to '
        f'{high:.0f} HU"><line x1="10" x2="390" y1="40" y2="40" stroke="currentColor" stroke-width="2"/>{marks}'
        f'<path d="M{x(mean_hu):.1f} 36 l-7 -13 h14 z" fill="var(--bar)"/>'
        f'<text x="{min(max(x(mean_hu), 40), 360):.1f}" y="16" text-anchor="middle">this L1: {mean_hu:.0f} HU</text>'
        "</svg>"
    )


def _notes(notes: list[Mapping[str, str]]) -> str:
    if not notes:
        return "<p>No quality notes.</p>"
    ordered = sorted(notes, key=lambda note: note["severity"] != "warning")
    return "<ul>" + "".join(f'<li class="{n["severity"]}">{escape(n["message"])}</li>' for n in ordered) + "</ul>"


def _making(document: Mapping[str, Any]) -> str:
    model, adjustment = document["model"], document["adjustment"]
    logits = ", ".join(f"{c} {document['logits'][c]:.3f}" for c in CLASS_ORDER)
    center = ", ".join(f"{v:.1f}" for v in document["l1"]["center_ras_mm"])
    rows = {
        "Weights": f"{model['name']} (SHA-256 {model['sha256'][:16]}…), trained on {model['trained_on']}",
        "Adjustment": f"{method(adjustment['method']).label}, tau1 {adjustment['tau1']:g}, tau2 {adjustment['tau2']:g}",
        "Logits (unadjusted)": logits,
        "L1 centre": f"{center} mm (right-anterior-superior)",
        "Device": f"{document['device']}, {sum(document['timing_s'].values()):.2f} s",
    }
    cells = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return f"<table>{cells}</table>"


def _versions(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in document["versions"].items() if name != "medconv")
