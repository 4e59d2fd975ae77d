"""What moved the answer, in words: explanation.json and its part of report.html; the panel says it the same way."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from medconv import RESEARCH_USE_ONLY
from medconv.explanation import TARGETS, Explanation
from medconv.explanation_picture import colour_range
from medconv.html_page import notes_list
from medconv.report import notes_document, versions

METHOD = (
    "Occlusion: each piece of the vertebra (about 1 ml) in turn gets the HU level of an average vertebra, with its own "
    "fine pattern; what the answer loses by it is what that piece had moved."
)
LIMITS = (
    "The map shows what the network used in this image, compared with an average vertebra. It does not show where "
    "disease is, and not whether the network was right."
)
NO_MOVE = math.log(1.1)  # odds changed by less than a tenth: no direction is named


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """The document of explanation.json: plain JSON types, no identity, no path."""
    return {
        "research_use": RESEARCH_USE_ONLY,
        "vertebra": explanation.vertebra,
        "headline": headline(explanation),
        "target": {"id": explanation.target, "label": TARGETS[explanation.target].label},
        "score": explanation.score,
        "average_vertebra_score": explanation.reference_score,
        "sum_of_pieces": explanation.sum_of_pieces,
        "parts": [
            vars(part) | {"odds_factor": math.exp(part.effect), "direction": direction(part.effect)}
            for part in explanation.parts
        ],
        "map_unit": "log-odds per ml; above 0: towards osteoporosis",
        "colour_range": colour_range(explanation),
        "method": METHOD,
        "limits": LIMITS,
        "passes": explanation.passes,
        "quality": notes_document(explanation.notes),
        "model": vars(explanation.model).copy(),
        "versions": versions(),
    }


def headline(explanation: Explanation) -> str:
    """The part that moved the answer most, and where to."""
    most = max(explanation.parts, key=lambda part: abs(part.effect))
    if not direction(most.effect):
        return f"No part of {explanation.vertebra} moved the answer much: all are near those of an average vertebra."
    return f"The {most.name} of {explanation.vertebra} moved the answer most, {direction(most.effect)}."


def direction(effect: float) -> str:
    """Where a change of log-odds goes, in words; "" if it is too small to be named."""
    if abs(effect) < NO_MOVE:
        return ""
    return "towards osteoporosis" if effect > 0 else "towards normal"


def effect_words(effect: float) -> str:
    """A change of log-odds as a factor of the odds, for people: at most two digits matter."""
    where = direction(effect)
    return f"{where}, odds × {math.exp(abs(effect)):.2g}" if where else "hardly"


def explanation_section(document: Mapping[str, Any], png: bytes) -> str:
    """Its card in report.html."""
    vertebra, picture = document["vertebra"], base64.b64encode(png).decode("ascii")
    rows = "".join(
        f"<tr><td>{escape(part['name'].capitalize())}</td><td>{escape(effect_words(part['effect']))}</td>"
        f"<td>{part['mass_share']:.0%}</td><td>{part['volume_share']:.0%}</td></tr>"
        for part in document["parts"]
    )
    notes = notes_list(document["quality"], "") if document["quality"] else ""
    return (
        f'<section class="card"><h2>What moved the answer</h2><p><strong>{escape(document["headline"])}</strong></p>'
        f'<figure><img style="width:100%;border-radius:4px" alt="Three planes through {escape(vertebra)}; blue where '
        f'the bone moved the answer towards normal, red towards osteoporosis" src="data:image/png;base64,{picture}">'
        "<figcaption>Sagittal, axial, coronal. Red: the bone there moved the answer towards osteoporosis; blue: "
        f"towards normal. Full colour: {document['colour_range']:.2f} log-odds per ml.</figcaption></figure>"
        '<table class="figures"><tr><th>Part</th><th>Replaced at once, it had moved the answer</th>'
        f"<th>Share of the map</th><th>Share of the volume</th></tr>{rows}</table>"
        f'<p class="soft">{escape(LIMITS)} {escape(METHOD)} Odds are those of '
        f"{escape(document['target']['label'].removeprefix('log-odds of '))}.</p>{notes}</section>"
    )


def print_explanation(explanation: Explanation) -> None:
    """The parts in lines."""
    print(f"  {headline(explanation)}")
    for part in explanation.parts:
        print(f"    {part.name}: {effect_words(part.effect)} ({part.mass_share:.0%} of the map)")
    print(f"  {LIMITS}")
