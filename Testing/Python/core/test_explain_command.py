"""`medconv explain`: the answer's files as by predict, the map as a volume, its picture and its words."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from core.phantom import grid, phantom, write

from medconv import explanation, explanation_report, pipeline, planes
from medconv.cli import main
from medconv.crop import crop_geometry
from medconv.explanation import Explanation, PartShare, explain
from medconv.explanation_picture import FAINTEST, SMALLEST_RANGE, colour_range, colours
from medconv.inference import LoadedModel
from medconv.types import ImageGeometry, ModelIdentity

SIDE = round(planes.FIELD_OF_VIEW_MM / planes.PIXEL_MM)


@pytest.fixture
def made():
    return phantom(grid((2.0, 2.0, 2.0)), trabecular_hu=120)


@pytest.fixture
def run(made, tmp_path, only_untrained, monkeypatch, capsys):
    """`run(*more)`: exit code, output and folder of medconv explain on the phantom, with few large pieces."""
    monkeypatch.setattr(explanation, "PIECE_MM", 20.0)
    ct, labels = write(made, tmp_path)

    def command(*more):
        out = tmp_path / "out"
        code = main(["explain", str(ct), "--mask", str(labels), "--label", "31", "--out", str(out), *more])
        return code, capsys.readouterr(), out

    return command


EFFECTS = (math.log(2), -math.log(4), 0.01)


def some(values=(0.2, -0.1), effects=EFFECTS) -> Explanation:
    """An explanation with these values in the map and these effects of its parts."""
    array = np.zeros((2, 2, 2), np.float32)
    array.flat[: len(values)] = values
    names = ("trabecular core", "cortical shell and endplates", "posterior elements")
    parts = tuple(PartShare(name, 1.0, 1 / 3, 1 / 3, effect) for name, effect in zip(names, effects, strict=True))
    identity = ModelIdentity("a", "b", "c")
    geometry = ImageGeometry((2, 2, 2), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
    return Explanation(array, geometry, explanation.DEFAULT_TARGET, 0.5, 0.1, parts, "L1", identity, 9)


def test_it_writes_the_answer_and_the_map_where_the_network_saw_it(run, made):
    code, printed, out = run()
    assert code == 0, printed.err
    assert {path.name for path in out.iterdir()} == {
        "result.json", "report.html", "l1_mask.nii.gz", "l1_sagittal.png", "l1_axial.png", "l1_coronal.png",
        "explanation.json", "l1_explanation.nii.gz", "l1_explanation.png",
    }  # fmt: skip
    case, model = pipeline.prepare(made.ct, made.mask), LoadedModel.load(device="cpu")
    expected = explain(model, case)
    image = sitk.ReadImage(str(out / "l1_explanation.nii.gz"))
    assert sitk.GetArrayFromImage(image) == pytest.approx(expected.values_zyx, abs=1e-6)
    geometry = crop_geometry(case, model.card.preprocessing)
    assert image.GetSpacing() == pytest.approx(geometry.spacing_mm_xyz)
    assert image.GetOrigin() == pytest.approx(geometry.origin_lps_mm, abs=1e-3)
    document = json.loads((out / "explanation.json").read_text())
    assert [part["effect"] for part in document["parts"]] == pytest.approx([part.effect for part in expected.parts])
    assert document["target"]["id"] == "osteoporosis_against_normal"
    assert document["research_use"].startswith("Research use only")
    result = json.loads((out / "result.json").read_text())
    assert document["score"] == pytest.approx(result["logits"]["osteoporosis"] - result["logits"]["normal"], abs=1e-5)
    assert result["timing_s"]["explain"] > 0
    picture = sitk.ReadImage(str(out / "l1_explanation.png"))
    assert picture.GetSize()[0] == 3 * SIDE + 2 * 6
    report = (out / "report.html").read_text()
    assert "What moved the answer" in report
    assert "It does not show where disease is" in report
    assert document["headline"] in printed.out


def test_predict_alone_writes_no_map_and_removes_an_older_one(run, tmp_path, capsys):
    _, _, out = run()
    ct, labels = tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
    assert main(["predict", str(ct), "--mask", str(labels), "--label", "31", "--out", str(out)]) == 0
    assert not [path.name for path in out.iterdir() if "explanation" in path.name]
    assert "What moved the answer" not in (out / "report.html").read_text()


def test_the_target_can_be_chosen_and_a_wrong_one_is_told_before_any_work(run):
    code, _, out = run("--target", "osteoporosis")
    assert code == 0
    logits = json.loads((out / "result.json").read_text())["logits"]
    rest = np.logaddexp(logits["normal"], logits["osteopenia"])
    document = json.loads((out / "explanation.json").read_text())
    assert document["score"] == pytest.approx(logits["osteoporosis"] - rest, abs=1e-5)
    code, printed, _ = run("--target", "age")
    assert code == 2
    assert "osteoporosis_against_normal" in printed.err


def test_a_missing_captum_is_told_with_what_to_install(run, monkeypatch):
    find = explanation.importlib.util.find_spec
    monkeypatch.setattr(explanation.importlib.util, "find_spec", lambda name: None if name == "captum" else find(name))
    code, printed, out = run()
    assert code == 4
    assert 'pip install "captum>=0.9,<1"' in printed.err
    assert not (out / "result.json").exists()


# Words and colours


def test_the_effect_is_told_as_a_factor_of_the_odds():
    assert explanation_report.effect_words(math.log(2)) == "towards osteoporosis, odds × 2"
    assert explanation_report.effect_words(-math.log(3.44)) == "towards normal, odds × 3.4"
    assert explanation_report.effect_words(math.log(1.09)) == "hardly"
    assert explanation_report.headline(some()) == (
        "The cortical shell and endplates of L1 moved the answer most, towards normal."
    )
    assert explanation_report.headline(some(effects=(0.01, 0.0, -0.02))).startswith("No part of L1 moved")


def test_colours_tell_the_direction_and_leave_the_ct_free_around_zero():
    rgba = colours(np.array([-1.0, -0.5, 0.0, 0.5 * FAINTEST, 0.5, 1.0]))
    red, _, blue, opacity = rgba.T
    assert opacity[2] == opacity[3] == 0
    assert opacity[0] == opacity[5] > opacity[1] == opacity[4] > 0
    assert (blue[:2] > red[:2]).all()
    assert (red[4:] > blue[4:]).all()


def test_the_colour_range_is_the_maps_own_but_never_smaller_than_what_matters():
    assert colour_range(some(values=(0.2,) * 8)) == pytest.approx(0.2)
    assert colour_range(some(values=(0.001,) * 8)) == SMALLEST_RANGE
    assert colour_range(some(values=())) == SMALLEST_RANGE


def test_an_overlay_is_blended_into_the_picture_at_its_place(made):
    case = pipeline.prepare(made.ct, made.mask)
    values = np.zeros((3, 3, 3), np.float32)
    values[:, :, 2] = 1.0  # the patient's left of the centre
    x, y, z = case.center_lps_mm
    geometry = ImageGeometry((3, 3, 3), (10.0, 10.0, 10.0), (x - 10.0, y - 10.0, z - 10.0))
    half_red = lambda shown: np.stack([255 + 0 * shown, 0 * shown, 0 * shown, 0.5 * (shown > 0.9)], axis=-1)  # noqa: E731
    overlay = planes.Overlay(values, geometry, half_red)
    plain = planes.render_regions(made.ct, case.center_lps_mm, [])["axial"].astype(int)
    laid = planes.render_regions(made.ct, case.center_lps_mm, [], [overlay])["axial"].astype(int)
    middle, left = (SIDE // 2, SIDE // 2), (SIDE // 2, SIDE // 2 + round(10 / planes.PIXEL_MM))
    assert np.array_equal(laid[middle], plain[middle])
    assert laid[left] == pytest.approx((plain[left] + np.array([255, 0, 0])) / 2, abs=1)


def test_a_part_without_a_direction_is_told_so_in_the_document():
    document = explanation_report.explanation_document(replace(some(), target="osteoporosis"))
    assert [part["direction"] for part in document["parts"]] == ["towards osteoporosis", "towards normal", ""]
    assert document["parts"][0]["odds_factor"] == pytest.approx(2.0)
    section = explanation_report.explanation_section(document, b"png")
    assert "Odds are those of osteoporosis against the rest" in section
