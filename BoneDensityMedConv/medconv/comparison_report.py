"""Two segmentations compared, as a document, a table and a page (the paper's Table III, for one case)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from medconv import RESEARCH_USE_ONLY
from medconv.html_page import banner, page
from medconv.level_report import DEMONSTRATION_BANNER
from medconv.report import notes_document, versions
from medconv.segmentation_comparison import StructureComparison
from medconv.segmenter import SPOKEN_NAMES
from medconv.types import SpineSegmentation

MEASURES = ("dice", "mean_surface_mm", "hausdorff95_mm", "volume_a_ml", "volume_b_ml", "centre_distance_mm")
HEADINGS = ("Dice", "Mean surface distance, mm", "Hausdorff 95 %, mm", "A, ml", "B, ml", "Centres apart, mm")
DECIMALS = (3, 2, 2, 1, 1, 1)
DEFINITIONS = (
    "Dice: twice the shared volume over the sum of both. Mean surface distance: from every surface voxel of either "
    "mask to the other's surface, averaged. Hausdorff 95 %: the larger of the two directed 95th percentiles of these "
    "distances (definitions: Taha and Hanbury 2015). Neither of the two is a reference: they say how far A and B agree."
)


def comparison_document(
    a: SpineSegmentation, b: SpineSegmentation, vertebra: str, rows: Iterable[StructureComparison]
) -> dict[str, Any]:
    """The document of comparison.json: plain JSON types, no identity of a patient, no path."""
    return {
        "research_use": RESEARCH_USE_ONLY,
        "vertebra": vertebra,
        "a": _source(a),
        "b": _source(b),
        "levels": [_row(row) for row in rows],
        "versions": versions(),
    }


def comparison_csv(document: Mapping[str, Any]) -> str:
    """One line a structure; empty where one of the two lacks it."""
    text = io.StringIO()
    columns = ("name", *MEASURES, "only_in", "a_in_b")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["levels"])
    return text.getvalue()


def comparison_page(document: Mapping[str, Any], svg: str) -> str:
    """comparison.html: the pictures, the table, and how to read it. `svg`: of comparison_picture."""
    vertebra = document["vertebra"]
    demonstration = document["a"]["demonstration"] or document["b"]["demonstration"]
    body = (
        f"{banner(DEMONSTRATION_BANNER.replace('The mask comes', 'One mask comes')) if demonstration else ''}"
        f"{''.join(banner(sentence) for sentence in counted_differently(document))}"
        f'<section class="card"><h1>{escape(vertebra)} in two segmentations of one CT</h1>'
        f"<p>A: {escape(source_name(document['a']))}<br>B: {escape(source_name(document['b']))}</p>"
        f'<div class="picture">{svg}</div><p class="soft">All three planes run through the centre of {escape(vertebra)}'
        " in A. Bone window: level 400, width 1800 HU. Scale bar 20 mm.</p></section>"
        f'<section class="card"><h2>Agreement</h2>{_table(document)}<p class="soft">{DEFINITIONS}</p></section>'
    )
    return page(f"MedConv: two segmentations of {vertebra}", body, document["versions"])


def counted_differently(document: Mapping[str, Any]) -> list[str]:
    """A sentence if the two give different names to the vertebra that is compared."""
    row = next((r for r in document["levels"] if r["name"] == document["vertebra"]), None)
    if row is None or row["only_in"] == "b" or row["a_in_b"] in ("", row["name"]):
        return []
    return [f"The two count differently: what A calls {row['name']} is {row['a_in_b']} in B."]


def source_name(source: Mapping[str, Any]) -> str:
    """A segmentation's source in words."""
    name = SPOKEN_NAMES.get(source["segmenter"], source["segmenter"])
    return f"{name} ({source['identity']})" if source["identity"] else name


def _source(segmentation: SpineSegmentation) -> dict[str, Any]:
    return {
        "segmenter": segmentation.segmenter,
        "identity": segmentation.identity,
        "demonstration": segmentation.is_demonstration,
        "notes": notes_document(segmentation.notes),
        "timing_s": dict(segmentation.timing_s),
    }


def _row(row: StructureComparison) -> dict[str, Any]:
    measures = {name: getattr(row.comparison, name) if row.comparison else None for name in MEASURES}
    return {"name": row.name, **measures, "only_in": row.only_in or None, "a_in_b": row.a_in_b}


def _table(document: Mapping[str, Any]) -> str:
    lines = ["<tr><th></th>" + "".join(f"<th>{heading}</th>" for heading in HEADINGS) + "</tr>"]
    for row in document["levels"]:
        target = " class=target" if row["name"] == document["vertebra"] else ""
        if row["only_in"]:
            cells = f'<td colspan="{len(MEASURES)}">only in {row["only_in"].upper()}</td>'
        else:
            cells = "".join(f"<td>{row[m]:.{d}f}</td>" for m, d in zip(MEASURES, DECIMALS, strict=True))
        lines.append(f"<tr{target}><td>{escape(row['name'])}</td>{cells}</tr>")
    return f'<table class="figures">{"".join(lines)}</table>'
