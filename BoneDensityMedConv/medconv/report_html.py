"""report.html: one self-contained page with the three planes, the class, the figures, and how far to trust them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from medconv.config import CLASS_ORDER
from medconv.html_page import banner, facts_table, notes_list, page
from medconv.level_report import level_banners, level_section, told_cause, told_once
from medconv.tau_adjustment import method
from medconv.tscore import QUALIFYING, headline
from medconv.types import TScoreClass

HU_SCALE = (0.0, 260.0)
# Mean L1 HU by DXA class, British cohort 2023 (n = 536, 120 kVp, no contrast).
CLASS_MEANS_HU = {TScoreClass.OSTEOPOROSIS: 118.0, TScoreClass.OSTEOPENIA: 143.0, TScoreClass.NORMAL: 178.0}


def result_page(
    document: Mapping[str, Any], pictures_png: Mapping[str, bytes], levels_svg: str = "", explanation: str = ""
) -> str:
    """The page for a result.json document; pictures by plane name, the level picture, and what moved the answer (a
    section of `explanation_report`)."""
    if document["status"] == "ok":
        body = _answer(document, pictures_png, levels_svg, explanation)
    else:
        body = _refusal(document, levels_svg)
    return page(f"MedConv: {vertebra_of(document)} T-score class", body, document["versions"])


def vertebra_of(document: Mapping[str, Any]) -> str:
    """Which vertebra the answer is about: "L1", or the one that a person chose instead."""
    level = document["level"]
    return (level and level["used_as"]) or "L1"


def _answer(document: Mapping[str, Any], pictures: Mapping[str, bytes], levels_svg: str, explanation: str) -> str:
    vertebra, notes = vertebra_of(document), {n["code"]: n for n in document["quality"]}
    label = headline(TScoreClass(document["t_score_class"]), notes, document.get("prediction_set") or ())
    qualifying = [notes[code] for code in QUALIFYING if code in notes]
    under_class = notes_list(qualifying, "") if qualifying else ""
    others = [n for n in document["quality"] if n["code"] not in QUALIFYING]
    simulated = "trained_on_simulated_ct" in notes
    badge = banner("Trained on simulated CT: demonstration only.") if simulated else ""
    instead = "" if vertebra == "L1" else f" (measured on {vertebra} instead of L1)"
    return (
        f"{badge}{level_banners(document['level'])}"
        f'<section class="card"><h1>{vertebra}, WHO T-score class{instead}</h1>'
        f'<p class="class">{escape(label)}</p>{under_class}{_bars(document["probabilities"])}</section>'
        f"{_planes(pictures, vertebra)}"
        f'<div class="two"><section class="card"><h2>{vertebra} trabecular attenuation</h2>'
        f'{_attenuation(document, vertebra)}</section><section class="card"><h2>How far to trust this</h2>'
        f"{notes_list(told_once(others, document['level']), 'No other notes.' if qualifying else 'No quality notes.')}"
        "</section></div>"
        f"{explanation}{level_section(document['level'], levels_svg)}"
        f'<section class="card"><h2>How it was made</h2>{_making(document, vertebra)}</section>'
    )


def _refusal(document: Mapping[str, Any], levels_svg: str) -> str:
    refusal = document["refusal"]
    return (
        f'{level_banners(document["level"])}<section class="card"><h1>L1, WHO T-score class</h1>'
        f'<p class="class">No answer</p><p>{escape(told_cause(refusal["code"], refusal["message"]))}</p>'
        f"<p><strong>What to do:</strong> {escape(refusal['remedy'])}</p></section>"
        f"{level_section(document['level'], levels_svg)}"
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


def _planes(pictures: Mapping[str, bytes], vertebra: str) -> str:
    figures = []
    for name, png in pictures.items():
        data = base64.b64encode(png).decode("ascii")
        figures.append(
            f'<figure><img alt="{name} plane through {vertebra} with the outline of the mask" '
            f'src="data:image/png;base64,{data}"><figcaption>{name.capitalize()}</figcaption></figure>'
        )
    return (
        f'<section class="card"><div class="planes">{"".join(figures)}</div>'
        f'<p class="soft" style="margin:8px 0 0">{vertebra} mask outlined. Bone window: level 400, width 1800 HU. '
        "Scale bar 20 mm. The patient's right is on the left of the axial and coronal pictures.</p></section>"
    )


def _attenuation(document: Mapping[str, Any], vertebra: str) -> str:
    core, l1 = document["attenuation"], document["l1"]
    return (
        f"<p><strong>{core['mean_hu']:.0f} HU</strong> mean, {core['median_hu']:.0f} median, SD {core['sd_hu']:.0f} "
        f"({core['voxels']:,} voxels, {core['volume_ml']:.1f} ml). {vertebra} as a whole: {l1['volume_ml']:.1f} ml.</p>"
        f"{_hu_scale(core['mean_hu'], vertebra)}"
        '<p class="soft">Marks: mean L1 HU of people with osteoporosis, osteopenia and normal DXA (British cohort '
        "2023, n = 536, 120 kVp without contrast). Below 110 HU: over 90 % specific, up to 160 HU: 90 % sensitive for "
        "osteoporosis against DXA (Pickhardt 2013, n = 1867).</p>"
    )


def _hu_scale(mean_hu: float, vertebra: str) -> str:
    low, high = HU_SCALE

    def x(hu: float) -> float:
        return 10 + 380 * (min(max(hu, low), high) - low) / (high - low)

    marks = "".join(
        f'<line x1="{x(hu):.1f}" x2="{x(hu):.1f}" y1="34" y2="46" stroke="currentColor"/>'
        f'<text x="{x(hu):.1f}" y="{60 + 14 * (row % 2)}" text-anchor="middle">{c} {hu:.0f}</text>'
        for row, (c, hu) in enumerate(CLASS_MEANS_HU.items())
    )
    return (
        f'<svg viewBox="0 0 400 82" role="img" aria-label="{vertebra} mean {mean_hu:.0f} HU on a scale of {low:.0f} to '
        f'{high:.0f} HU"><line x1="10" x2="390" y1="40" y2="40" stroke="currentColor" stroke-width="2"/>{marks}'
        f'<path d="M{x(mean_hu):.1f} 36 l-7 -13 h14 z" fill="var(--bar)"/>'
        f'<text x="{min(max(x(mean_hu), 40), 360):.1f}" y="16" text-anchor="middle">'
        f"this {vertebra}: {mean_hu:.0f} HU</text></svg>"
    )


def _making(document: Mapping[str, Any], vertebra: str) -> str:
    model, adjustment, timing = document["model"], document["adjustment"], document["timing_s"]
    logits = ", ".join(f"{c} {document['logits'][c]:.3f}" for c in CLASS_ORDER)
    center = ", ".join(f"{v:.1f}" for v in document["l1"]["center_ras_mm"])
    seconds = timing.get("total", sum(timing.values()))
    rows = {
        "Weights": f"{model['name']} (SHA-256 {model['sha256'][:16]}…), trained on {model['trained_on']}",
        "Adjustment": f"{method(adjustment['method']).label}, tau1 {adjustment['tau1']:g}, tau2 {adjustment['tau2']:g}",
        "Logits (unadjusted)": logits,
        f"{vertebra} centre": f"{center} mm (right-anterior-superior)",
        "Device": f"{document['device']} ({document.get('runtime') or 'eager'}), {seconds:.2f} s",
    }
    if possible := document.get("prediction_set"):
        rows["Classes that remain possible"] = f"{' or '.join(possible)} (conformal set of the weights' own adjustment)"
    if "segment" in timing:
        rows["Segmentation"] = f"{timing['segment']:.1f} s of these"
    return facts_table(rows)
