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

from medconv import RESEARCH_USE_ONLY, pipeline
from medconv.inference import LoadedModel
from medconv.planes import FIELD_OF_VIEW_MM, OUTLINE_RGB, PIXEL_MM, png_bytes, render_planes
from medconv.report import refusal_document, result_document, schema
from medconv.report_html import result_page
from medconv.types import InputRefused


@pytest.fixture
def prediction(vertebra, only_untrained):
    return pipeline.predict(vertebra.ct, vertebra.mask, LoadedModel.load(None, "cpu"))


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
