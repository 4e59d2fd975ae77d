"""The level, as a document and in words: what was found, what is in doubt, what is measured and who said so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np

from medconv import vertebrae
from medconv.html_page import banner, notes_list
from medconv.level_picture import NamedLevel, shown_levels
from medconv.segmentation_comparison import structure_mask
from medconv.segmenter import DEMONSTRATION, EXISTING, SPOKEN_NAMES
from medconv.types import LevelChoice, QualityNote, SpineSegmentation

SVG_WIDTH = re.compile(r'<svg[^>]* width="(\d+)"')
SEE_DOUBTS = "There are doubts about the level; they stand under “Doubts about the level”."
DEMONSTRATION_BANNER = (
    "The mask comes from the demonstration network, which knows simulated CTs only: do not rely on it."
)


def level_document(
    choice: LevelChoice | None,
    segmentation: SpineSegmentation | None = None,
    doubts: Iterable[QualityNote] = (),
    doubtful: Iterable[str] = (),
) -> dict[str, Any]:
    """The `level` of result.json. Without a choice: nothing was measured, and `doubts` or their lack say why.

    doubtful: the segmenter's names of the vertebrae that a doubt concerns.
    """
    notes = choice.doubts if choice else tuple(doubts)
    return {
        "found_as": choice.found_as if choice else None,
        "used_as": choice.used_as if choice else None,
        "decided_by": choice.decided_by if choice else None,
        "segmenter": segmentation.segmenter if segmentation else (choice.segmenter if choice else EXISTING),
        "identity": segmentation.identity if segmentation else "",
        "demonstration": is_demonstration(choice, segmentation),
        "doubts": [{"code": n.code, "severity": str(n.severity), "message": n.message} for n in notes],
        "levels": level_rows(segmentation, choice, set(doubtful)) if segmentation else [],
    }


def is_demonstration(choice: LevelChoice | None, segmentation: SpineSegmentation | None = None) -> bool:
    """True if the mask was made by the demonstration network."""
    if segmentation is not None:
        return segmentation.is_demonstration
    return choice is not None and choice.segmenter == DEMONSTRATION


def level_rows(segmentation: SpineSegmentation, choice: LevelChoice | None, doubtful: set[str]) -> list[dict[str, Any]]:
    """Every vertebra that was found (and the sacrum), cranial to caudal."""
    names = shown_levels(segmentation)
    shown = shown_names(names, choice)
    rows = []
    for name in names:
        mask = structure_mask(segmentation, name)
        assert mask is not None  # shown_levels names what is there
        x, y, z = (float(v) for v in mask.geometry.index_to_lps(np.argwhere(mask.block_zyx).mean(axis=0)[::-1]))
        rows.append(
            {
                "name": name,
                "shown_as": shown[name],
                "is_target": choice is not None and name == choice.found_as,
                "is_doubtful": name in doubtful,
                "volume_ml": float(np.count_nonzero(mask.block_zyx)) * mask.ct_geometry.voxel_volume_ml,
                "center_ras_mm": [-x, -y, z],
            }
        )
    return rows


def shown_names(names: Iterable[str], choice: LevelChoice | None) -> dict[str, str]:
    """The segmenter's names → names in use: where a person moved the level, all vertebrae move with it.

    S1 keeps its name: it is a part of the sacrum.
    """
    found = list(names)
    usual = [v for v in vertebrae.ORDER if v != "S1" and (v in found or v not in ("T13", "L6"))]
    if choice is None or choice.found_as == choice.used_as or choice.found_as not in usual:
        return {name: name for name in found}
    standard = [v for v in vertebrae.ORDER if v not in ("T13", "S1")]
    shift = standard.index(choice.used_as) - usual.index(choice.found_as)
    moved = {name: usual.index(name) + shift for name in found if name in usual}
    return {name: standard[moved[name]] if 0 <= moved.get(name, -1) < len(standard) else name for name in found}


def named_levels(rows: Iterable[Mapping[str, Any]]) -> dict[str, NamedLevel]:
    """How the level picture shows each row of `level_rows`."""
    levels = {}
    for row in rows:
        name, shown = row["name"], row["shown_as"]
        text = shown if shown == name else f"{shown} (was {name})"
        levels[name] = NamedLevel(name, text, row["is_target"], row["is_doubtful"])
    return levels


def statement(level: Mapping[str, Any]) -> str:
    """What is measured, and who says that it is that vertebra."""
    found, used, by = level["found_as"], level["used_as"], level["decided_by"]
    source = SPOKEN_NAMES.get(level["segmenter"], level["segmenter"])
    if used is None:
        return f"Nothing was measured: which vertebra is L1 is open ({source})."
    instead = "" if used == "L1" else f"Measured on {used} instead of L1. "
    if by in ("label", "segment"):
        return f"{instead}{used}: " + ("so named in the mask." if found == used else f"{found} of the given mask.")
    if by == "person":
        if found == used:
            return f"{instead}{used}: found by {source}, confirmed by a person."
        return f"{instead}{used}: a person's decision; {source} calls this vertebra {found}."
    return f"{instead}{used}: found by {source}; the level check has no doubt."


def told_once(notes: Iterable[Mapping[str, str]], level: Mapping[str, Any] | None) -> list[Mapping[str, str]]:
    """Notes for a page that has `level_section` too: one line that points there, in place of the doubts themselves."""
    doubts = {doubt["message"] for doubt in level["doubts"]} if level else set()
    others = [note for note in notes if note["message"] not in doubts]
    return [{"severity": "warning", "message": SEE_DOUBTS}, *others] if doubts else others


def told_cause(code: str, message: str) -> str:
    """Why nothing was measured, for the same page."""
    return SEE_DOUBTS if code == "level_in_doubt" else message


def level_banners(level: Mapping[str, Any] | None) -> str:
    """What must not be overlooked: another vertebra than L1, a demonstration network."""
    if level is None:
        return ""
    lines = []
    if level["used_as"] not in (None, "L1"):
        lines.append(
            f"Measured on {level['used_as']} instead of L1. Weights and reference values are for L1: the answer is "
            "less certain."
        )
    if level["demonstration"]:
        lines.append(DEMONSTRATION_BANNER)
    return "".join(banner(line) for line in lines)


def level_section(level: Mapping[str, Any] | None, svg: str) -> str:
    """The part of a page on the level: picture, statement, doubts, table of what was found. `svg`: of level_drawing."""
    if level is None:
        return ""
    doubts = ""
    if level["doubts"] or level["levels"]:
        doubts = f"<h2>Doubts about the level</h2>{notes_list(level['doubts'], 'The level check found none.')}"
    source = SPOKEN_NAMES.get(level["segmenter"], level["segmenter"])
    source += f" ({level['identity']})" if level["identity"] else ""
    return (
        '<section class="card"><h2>Which vertebra</h2>'
        f"<p><strong>{escape(statement(level))}</strong></p>"
        f'<div class="level">{_picture(svg)}<div class="words">{doubts}{_found_table(level["levels"])}'
        f'<p class="soft">Segmented by: {escape(source)}</p></div></div></section>'
    )


def _picture(svg: str) -> str:
    if not svg:
        return ""
    width = SVG_WIDTH.search(svg)
    limit = f' style="max-width:{width[1]}px"' if width else ""  # the words below must not widen it
    return (
        f'<figure class="picture"{limit}>{svg}<figcaption>Orange: measured. Red, with a question mark: in doubt. '
        "The picture follows the spine. Scale bar 20 mm.</figcaption></figure>"
    )


def _found_table(rows: Iterable[Mapping[str, Any]]) -> str:
    cells = [
        f"<tr{' class=target' if row['is_target'] else ''}><td>{escape(_row_name(row))}</td>"
        f"<td>{row['volume_ml']:.1f}</td></tr>"
        for row in rows
    ]
    if not cells:
        return ""
    return (
        '<h2 style="margin-top:14px">Found</h2><table class="figures"><tr><th>Vertebra</th><th>ml</th></tr>'
        f"{''.join(cells)}</table>"
    )


def _row_name(row: Mapping[str, Any]) -> str:
    name = row["shown_as"] if row["shown_as"] == row["name"] else f"{row['shown_as']} (found as {row['name']})"
    return f"{name} ?" if row["is_doubtful"] else name
