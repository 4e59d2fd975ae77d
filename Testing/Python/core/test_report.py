"""result.json obeys its schema; report.html stands alone; the pictures show what they say."""

import base64
import json
import re
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import grid, phantom, reoriented
from core.spine_phantom import NAMES, segmentation_of, spine_phantom

from medconv import RESEARCH_USE_ONLY, pipeline
from medconv.inference import LoadedModel
from medconv.level_report import level_document, shown_names
from medconv.planes import FIELD_OF_VIEW_MM, OUTLINE_RGB, PIXEL_MM, png_bytes, render_planes
from medconv.report import refusal_document, result_document, schema
from medconv.report_html import result_page
from medconv.types import InputRefused, LevelChoice, QualityNote, Severity


@pytest.fixture(scope="module")
def spine():
    """Treat as read-only."""
    return spine_phantom()


@pytest.fixture(scope="module")
def concluded(vertebra, untrained_weights):
    """`concluded(level)`: the phantom's prediction, with a level or without; the network runs once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCONV_WEIGHTS_DIR", str(untrained_weights))
        model = LoadedModel.load(None, "cpu")
    measured = pipeline.measure(pipeline.prepare(vertebra.ct, vertebra.mask), model)

    def conclude(level=None):
        case = pipeline.prepare(vertebra.ct, vertebra.mask, level=level)
        return pipeline.conclude(case, measured, model.card, model.card.default_adjustment)

    return conclude


@pytest.fixture
def prediction(concluded):
    return concluded()


@pytest.fixture
def answer_with(concluded, spine):
    """result.json's document and page of an answer whose mask came with a level."""

    def answer(choice, **changes):
        found = segmentation_of(spine, **changes)
        level = level_document(choice, found, doubtful=("L1",) if choice.doubts else ())
        document = json.loads(json.dumps(result_document(concluded(choice), level)))
        jsonschema.validate(document, schema())
        return document, result_page(document, {"sagittal": b"png"}, "<svg>levels</svg>")

    return answer


def test_the_schema_is_one_and_both_documents_obey_it(prediction):
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    answer = json.loads(json.dumps(result_document(prediction)))
    validator.validate(answer)
    refusal = refusal_document(InputRefused("label_absent", "No L1.", "Use another CT."))
    validator.validate(refusal)
    for broken in (
        answer | {"status": "refused"},
        answer | {"t_score_class": "fine"},
        answer | {"probabilities": {"normal": 1.2, "osteopenia": 0, "osteoporosis": 0}},
        answer | {"patient": "A"},
        {k: v for k, v in answer.items() if k != "versions"},
        refusal | {"t_score_class": "normal"},
    ):
        assert not validator.is_valid(broken)


def test_the_centre_is_told_in_ras(prediction):
    x, y, z = prediction.case.center_lps_mm
    assert result_document(prediction)["l1"]["center_ras_mm"] == [-x, -y, z]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_says_what_it_must(prediction, vertebra):
    pictures = {n: png_bytes(p) for n, p in render_planes(vertebra.ct, prediction.case).items()}
    page = Page(result_page(result_document(prediction), pictures))
    assert len(page.links) == 3
    for link, png in zip(page.links, pictures.values(), strict=True):
        assert base64.b64decode(link.removeprefix("data:image/png;base64,")) == png
    assert RESEARCH_USE_ONLY in page.text
    assert "Trained on simulated CT: demonstration only." in page.text
    assert "150 HU" in page.text
    for c, p in prediction.probabilities.items():
        assert c.capitalize() in page.text
        assert f"{100 * p:.1f} %" in page.text


def test_a_refusal_page_gives_cause_and_remedy_and_escapes_them():
    page = result_page(refusal_document(InputRefused("x", "File <b>.nii", "Do & so.")), {})
    assert "File &lt;b&gt;.nii" in page
    assert "Do &amp; so." in page
    assert RESEARCH_USE_ONLY in page
    assert not re.search(r"https?://", page)


def test_pictures_put_the_outline_where_the_mask_ends(vertebra):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    pictures = render_planes(vertebra.ct, case)
    side = round(FIELD_OF_VIEW_MM / PIXEL_MM)
    assert {n: p.shape for n, p in pictures.items()} == dict.fromkeys(("sagittal", "axial", "coronal"), (side, side, 3))
    outline = (pictures["sagittal"] == np.array(OUTLINE_RGB)).all(axis=2)
    rows, columns = np.nonzero(outline)
    # In the sagittal plane L1 reaches from the front of the body (y = −16) to the spinous process (y = 60).
    middle = (side - 1) / 2
    front = case.center_lps_mm[1] + (columns.min() - middle) * PIXEL_MM
    back = case.center_lps_mm[1] + (columns.max() - middle) * PIXEL_MM
    assert front == pytest.approx(-16, abs=1.0)
    assert back == pytest.approx(60, abs=1.0)
    top = case.center_lps_mm[2] - (rows.min() - middle) * PIXEL_MM
    assert top == pytest.approx(13, abs=1.0)


@pytest.mark.parametrize("code", ["RAS", "PIR"])
def test_pictures_do_not_depend_on_storage(code):
    case = phantom(grid((1.0, 1.2, 1.5)))
    turned = reoriented(case, code)
    straight = render_planes(case.ct, pipeline.prepare(case.ct, case.mask))
    other = render_planes(turned.ct, pipeline.prepare(turned.ct, turned.mask))
    for name, picture in straight.items():
        assert np.mean(picture != other[name]) < 0.002


def test_png_is_lossless(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    (tmp_path / "p.png").write_bytes(png_bytes(picture))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png"))), picture)


DOUBT = QualityNote("lumbar_count", Severity.WARNING, "Six lumbar vertebrae were found <T12 or L1?>.")


def test_an_answer_says_which_vertebra_and_who_said_so(answer_with):
    document, page = answer_with(LevelChoice("L1", "L1", "segmenter", "totalsegmentator"))
    level = document["level"]
    assert (level["found_as"], level["used_as"], level["decided_by"]) == ("L1", "L1", "segmenter")
    assert (level["segmenter"], level["identity"], level["demonstration"]) == (
        "totalsegmentator",
        "test weights",
        False,
    )
    assert [row["name"] for row in level["levels"]] == [*NAMES, "sacrum"]
    assert [row["name"] for row in level["levels"] if row["is_target"]] == ["L1"]
    text = Page(page).text
    assert "L1: found by TotalSegmentator; the level check has no doubt." in text
    assert "TotalSegmentator (test weights)" in text
    assert "<svg>levels</svg>" in page
    assert "instead of L1" not in text


def test_the_table_of_levels_has_volumes_and_centres(answer_with, spine):
    document, _ = answer_with(LevelChoice("L1", "L1", "segmenter", "totalsegmentator"))
    row = next(row for row in document["level"]["levels"] if row["name"] == "L2")
    mask = spine.labels_zyx == 30
    assert row["volume_ml"] == pytest.approx(mask.sum() * 2.0 * 2.0 * 2.5 / 1000)
    x, y, z = spine.ct.geometry.index_to_lps(np.argwhere(mask).mean(axis=0)[::-1])
    assert row["center_ras_mm"] == pytest.approx([-x, -y, z])


def test_a_vertebra_measured_instead_is_named_everywhere(answer_with):
    document, page = answer_with(LevelChoice("T12", "T12", "person", "totalsegmentator"))
    text = Page(page).text
    assert "T12, WHO T-score class (measured on T12 instead of L1)" in text
    assert "Measured on T12 instead of L1." in text
    assert "T12 trabecular attenuation" in text
    assert "this T12: 150 HU" in text
    assert "T12 mask outlined" in text
    for words in ("L1 mask", "this L1", "L1 trabecular", "L1 as a whole", "L1 centre", "L1, WHO"):
        assert words not in text
    assert "stand_in" in {note["code"] for note in document["quality"]}


def test_a_moved_level_renames_its_neighbours_and_keeps_the_doubts(answer_with):
    choice = LevelChoice("T12", "L1", "person", "nnunet", (DOUBT,))
    document, page = answer_with(choice, segmenter="nnunet", identity="Dataset7 abc")
    rows = document["level"]["levels"]
    assert [(row["name"], row["shown_as"]) for row in rows[:4]] == [
        ("T11", "T12"),
        ("T12", "L1"),
        ("L1", "L2"),
        ("L2", "L3"),
    ]
    assert [row["shown_as"] for row in rows[-2:]] == ["L6", "sacrum"]
    assert document["level"]["doubts"] == [{"code": DOUBT.code, "severity": "warning", "message": DOUBT.message}]
    text = Page(page).text
    assert "L1: a person's decision; the nnU-Net model calls this vertebra T12." in text
    assert "L2 (found as L1) ?" in text
    assert text.count(DOUBT.message) == 1  # with the level; how far to trust the answer points there
    assert text.count("There are doubts about the level; they stand under") == 1
    assert "&lt;T12 or L1?&gt;" in page


def test_the_demonstration_network_is_told_before_anything_else(answer_with):
    choice = LevelChoice("L1", "L1", "segmenter", "demonstration")
    document, page = answer_with(choice, segmenter="demonstration", is_demonstration=True)
    assert document["level"]["demonstration"] is True
    text = Page(page).text
    assert "demonstration network, which knows simulated CTs only" in text
    assert text.index("demonstration network, which") < text.index("WHO T-score class")


def test_a_worker_without_the_segmentation_still_tells_the_level(concluded):
    choice = LevelChoice("L1", "L1", "person", "demonstration", (DOUBT,))
    document = result_document(concluded(choice))
    jsonschema.validate(json.loads(json.dumps(document)), schema())
    assert document["level"]["demonstration"] is True
    assert document["level"]["levels"] == []


def test_a_refusal_because_of_the_level_shows_what_was_found(spine):
    level = level_document(None, segmentation_of(spine), (DOUBT,), ("L1",))
    document = refusal_document(InputRefused("level_in_doubt", "Is it L1?", "Look, then confirm."), level)
    jsonschema.validate(json.loads(json.dumps(document)), schema())
    page = result_page(document, {}, "<svg>levels</svg>")
    assert "Nothing was measured: which vertebra is L1 is open" in page
    assert "<svg>levels</svg>" in page
    assert "Six lumbar vertebrae" in page


@pytest.mark.parametrize(
    ("names", "found_as", "used_as", "expected"),
    [
        (("T12", "L1", "L2"), "L1", "L1", ("T12", "L1", "L2")),
        (("T12", "L1", "L2"), "L2", "L1", ("T11", "T12", "L1")),
        (("T12", "T13", "L1", "L2"), "T13", "L1", ("T12", "L1", "L2", "L3")),
        (("T12", "L1", "L2", "S1"), "L2", "L1", ("T11", "T12", "L1", "S1")),
        (("T11", "T12", "L1", "L5", "S1", "sacrum"), "T11", "T12", ("T12", "L1", "L2", "L6", "S1", "sacrum")),
        (("C1", "C2"), "C2", "L1", ("T12", "L1")),
        (("L1",), "label 31", "L1", ("L1",)),
    ],
)
def test_names_move_together(names, found_as, used_as, expected):
    assert tuple(shown_names(names, LevelChoice(found_as, used_as, "person", "x")).values()) == expected
