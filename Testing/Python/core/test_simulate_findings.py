"""What L1 may have besides its density, against what the analysis finds in it, and against geometry and physics."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medconv.attenuation import measure
from medconv.grid import to_image
from medconv.simulate.findings import FINDINGS, NO_FINDINGS, Findings, draw_findings, fracture_risk
from medconv.simulate.fracture import Collapse
from medconv.simulate.l1_case import person_l1_case
from medconv.simulate.metal import instrumentation
from medconv.simulate.person import PersonSettings, draw_person
from medconv.simulate.rendering import PixelGrid
from medconv.simulate.scan import Scan
from medconv.simulate.streaks import Streaks, TrunkOutline
from medconv.simulate.template import load_template
from medconv.simulate.vertebra import VertebraShape, body_distance
from medconv.types import InputRefused, L1Case
from medconv.vertebra_check import body_heights, check_vertebra
from medconv.vertebral_body import upright_body

SETTINGS = PersonSettings(
    8, kvp=120.0, slice_thickness_mm=1.0, kernel="soft", phase="native", dose=4.0
)  # quiet, so that what is found is the finding's


@functools.cache
def case_with(findings: Findings = NO_FINDINGS, index: int = 0) -> L1Case:
    person = draw_person(SETTINGS, index)
    return person_l1_case(replace(person, findings=findings), perfect_mask=True)


def hu_in_body(case: L1Case) -> np.ndarray:
    """HU of the voxels within 9 mm of the body's centre."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in case.ct.geometry.size_xyz), indexing="ij")
    points = case.ct.geometry.index_to_lps(np.stack([x, y, z], axis=-1))
    near = np.linalg.norm(points, axis=-1) < 9.0  # the body's centre is the origin
    return case.ct.array_zyx[near.transpose(2, 1, 0)].astype(float)


# --- draws


def test_a_finding_comes_and_goes_by_itself() -> None:
    def drawn(shares: dict[str, float]) -> list[Findings]:
        return [draw_findings(np.random.default_rng(i), shares, 0.0) for i in range(400)]

    alone, together = drawn({"haemangioma": 0.3}), drawn(dict.fromkeys(FINDINGS, 0.3))
    assert [f.haemangioma_mm for f in alone] == [f.haemangioma_mm for f in together]
    assert np.mean([f.haemangioma_mm > 0 for f in alone]) == pytest.approx(0.3, abs=0.06)
    assert drawn({}) == [NO_FINDINGS] * 400


def test_fractures_have_their_share_and_marshalls_risk() -> None:
    z = np.random.default_rng(0).standard_normal(200_000)
    risk = np.array([fracture_risk(0.08, v) for v in z[:20_000]])
    assert risk.mean() == pytest.approx(0.08, abs=0.003)
    assert fracture_risk(0.08, -1.0) / fracture_risk(0.08, 0.0) == pytest.approx(2.3)
    fractured = [draw_findings(np.random.default_rng(i), {"fracture": 1.0}, -3.0) for i in range(300)]
    for found in (f for f in fractured if f.fracture):
        low, high = {"mild": (0.20, 0.25), "moderate": (0.25, 0.40), "severe": (0.40, 0.55)}[found.fracture_grade]
        assert low <= found.height_loss <= high


def test_cement_lies_in_fractured_vertebrae() -> None:
    cemented = [draw_findings(np.random.default_rng(i), {"cement": 1.0}, 1.0) for i in range(50)]
    assert all(2.0 <= f.cement_ml <= 6.0 and f.fracture for f in cemented)


# --- fracture


@pytest.mark.parametrize("form", ["wedge", "biconcave"])
@pytest.mark.parametrize("loss", [0.25, 0.4])
def test_collapsed_body_has_lost_the_height_it_was_told_to(form: str, loss: float) -> None:
    flat = VertebraShape(wedge=0.0, endplate_concavity=0.0)
    z = np.arange(-20.0, 20.0, 0.01, dtype=np.float32)
    at = {"wedge": -0.85, "biconcave": -0.1}[form] * flat.depth / 2.0
    lowest = _height(Collapse(form, loss), flat, at, z)
    back = _height(Collapse(form, loss), flat, 0.8 * flat.depth / 2.0, z)
    assert back == pytest.approx(flat.height, rel=0.04)
    assert 1.0 - lowest / flat.height == pytest.approx(loss, abs=0.02)


def _height(collapse: Collapse, shape: VertebraShape, y_mm: float, z: np.ndarray) -> float:
    x, y = np.zeros_like(z), np.full_like(z, y_mm)
    before, compression = collapse.undone(x, y, z, shape)
    inside = z[body_distance(x, y, before, shape, compression) < 0.0]
    return float(inside.max() - inside.min())


@pytest.mark.parametrize("findings", [Findings("wedge", "moderate", 0.35), Findings("biconcave", "moderate", 0.38)])
def test_the_analysis_sees_the_fracture(findings: Findings) -> None:
    losses = []
    for shown in (case_with(), case_with(findings)):
        losses.append(body_heights(upright_body(shown.mask_zyx, shown.ct.geometry), shown).loss)
    # The endplates are tilted by a wedge, and heights are means over bands: a third of the loss may go missing.
    assert losses[1] - losses[0] > 0.6 * findings.height_loss
    notes = check_vertebra(case_with(findings), measure(case_with(findings))[0])
    assert "height_loss" in {note.code for note in notes}


def test_collapse_keeps_the_mineral() -> None:
    collapse, shape = Collapse("biconcave", 0.5), VertebraShape(wedge=0.0, endplate_concavity=0.0)
    z = np.arange(-13.0, 13.0, 0.01, dtype=np.float32)
    deepest = np.full_like(z, -0.1 * shape.depth / 2.0)
    before, compression = collapse.undone(np.zeros_like(z), deepest, z, shape)
    inside = np.abs(before) < shape.height / 2.0
    # At the deepest place half of the height is left: the column is twice as dense, the bands under the plates aside.
    assert compression[inside].mean() == pytest.approx(2.0, rel=1e-4)
    dense = collapse.compacted(np.ones_like(z), compression, before, shape)
    assert dense[np.abs(z) < 1.0].mean() == pytest.approx(2.0, rel=0.02)
    assert compression[inside].sum() * 0.01 == pytest.approx(shape.height, rel=0.01)


# --- haemangioma, cement, degeneration


def test_haemangioma_has_fat_between_dense_trabeculae() -> None:
    plain, lesion = hu_in_body(case_with()), hu_in_body(case_with(Findings(haemangioma_mm=18.0)))
    assert np.percentile(lesion, 10) < np.percentile(plain, 10) - 60.0
    assert np.percentile(lesion, 97) > np.percentile(plain, 97) + 60.0


def test_cement_is_refused_by_the_analysis_and_has_its_volume() -> None:
    case = case_with(Findings("wedge", "mild", 0.22, cement_ml=4.0))
    assert (case.ct.array_zyx > 1200).sum() * case.ct.geometry.voxel_volume_ml == pytest.approx(4.0, rel=0.35)
    with pytest.raises(InputRefused, match="metal or bone cement"):
        check_vertebra(case, measure(case_with())[0])


def test_degeneration_makes_facets_dense_and_leaves_the_core() -> None:
    plain, worn = case_with(), case_with(Findings(degeneration=1.0))
    assert (
        np.percentile(worn.ct.array_zyx[worn.mask_zyx], 99) > np.percentile(plain.ct.array_zyx[plain.mask_zyx], 99) + 40
    )
    assert measure(worn)[0].median_hu == pytest.approx(measure(plain)[0].median_hu, abs=15.0)


# --- metal


def test_screws_are_clipped_at_twelve_bits_and_shade_what_lies_between() -> None:
    case = case_with(Findings(metal="in_l1"))
    assert case.ct.array_zyx.max() == 3071
    plain = case_with()
    rows = np.flatnonzero((case.ct.array_zyx > 2500).any(axis=(1, 2)))
    gained = case.ct.array_zyx[rows].astype(float) - plain.ct.array_zyx[rows]
    soft = plain.ct.array_zyx[rows] < 100
    assert np.percentile(gained[soft], 1) < -60.0
    spanning = instrumentation("spanning", draw_person(SETTINGS, 0).spine(("T12", "L1", "L2")))
    assert len(spanning) == 2 * (2 * 2 + 1)  # a screw and a head at two levels, and a rod, on both sides
    assert instrumentation("", []) == []


def test_metal_paths_hold_the_metal_and_back_projection_returns_a_disc() -> None:
    scan = Scan(in_plane_spacing_mm=0.8, noise_hu=0.0)
    pixels = PixelGrid(np.arange(-60.0, 60.0, 0.8), np.arange(-60.0, 60.0, 0.8), np.array([0.0]))
    streaks = Streaks(pixels, TrunkOutline((150.0, 100.0), -22.0), scan)
    x, y = np.meshgrid(pixels.x_mm, pixels.y_mm)
    disc = (np.hypot(x - 10.0, y + 5.0) < 20.0).astype(np.float32)
    paths = streaks._metal_paths(disc)
    # Each projection holds the disc's whole area; the longest path is its diameter, 4 cm.
    np.testing.assert_allclose(paths.sum(axis=1) * 0.1, disc.sum() * 0.08**2, rtol=1e-5)
    assert paths.max() == pytest.approx(4.0, rel=0.03)
    image = streaks._back_projected(paths[None])[0]
    inner = np.hypot(streaks._x[None, :] - 10.0, streaks._y[:, None] + 5.0)
    assert image[inner < 14.0].mean() == pytest.approx(1.0, rel=0.03)
    assert abs(image[(inner > 28.0) & (inner < 45.0)].mean()) < 0.03


def test_without_metal_there_are_no_streaks_and_hardened_beams_read_too_low_between_two_rods() -> None:
    scan = Scan(in_plane_spacing_mm=0.8, noise_hu=0.0)
    pixels = PixelGrid(np.arange(-60.0, 60.0, 0.8), np.arange(-60.0, 60.0, 0.8), np.array([0.0]))
    streaks = Streaks(pixels, TrunkOutline((150.0, 100.0), -22.0), scan)
    x, y = np.meshgrid(pixels.x_mm, pixels.y_mm)
    rng = np.random.default_rng(0)
    assert not streaks.of_slices(np.zeros((1, *x.shape), np.float32), rng).any()
    rods = ((np.hypot(x - 25.0, y) < 5.0) | (np.hypot(x + 25.0, y) < 5.0)).astype(np.float32)
    error = streaks.of_slices(rods[None], rng)[0]
    across, along = np.abs(streaks._y) < 3.0, np.abs(streaks._x) < 15.0
    between = error[np.ix_(across, along)].mean()
    beside = error[np.ix_(np.abs(streaks._y - 35.0) < 3.0, along)].mean()
    assert between < beside - 50.0
    assert math.isfinite(between)


# --- real forms


def test_a_template_gives_its_own_volume_and_proportions(tmp_path: Path) -> None:
    person = draw_person(PersonSettings(8), 3)
    source = person_l1_case(replace(person, scan=Scan(in_plane_spacing_mm=1.0, slice_thickness_mm=1.0,
                                                      slice_increment_mm=1.0)), perfect_mask=True)  # fmt: skip
    file = tmp_path / "someone.nii.gz"
    sitk.WriteImage(to_image((source.mask_zyx * 31).astype(np.uint8), source.ct.geometry), str(file))
    template = load_template(file)
    shape = person.patient.shape
    assert template.size_mm[0] == pytest.approx(shape.width, rel=0.1)
    assert template.size_mm[2] == pytest.approx(shape.height, rel=0.12)
    other = draw_person(replace(SETTINGS, templates=(str(file),)), 5)
    shown = person_l1_case(other, perfect_mask=True)
    assert shown.volume_ml == pytest.approx(source.volume_ml * other.template_scale**3, rel=0.06)
    assert other.truth()["template"] == 0
    assert "someone" not in str(other.truth())


def test_a_template_without_l1_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:4], labels[5:7] = 28, 29
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "l4.nii.gz"))
    with pytest.raises(InputRefused, match=r"holds the labels \[28, 29\], none of them L1's"):
        load_template(tmp_path / "l4.nii.gz")
