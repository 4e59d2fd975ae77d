"""The simulator against what is known independently: published ceilings and HU, geometry measured by SimpleITK."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import SimpleITK as sitk

from medconv import tscore
from medconv.attenuation import measure
from medconv.config import CLASS_ORDER
from medconv.simulate import CohortModel, Scan, SimulatedCase, physics, simulate_l1_case, simulate_lumbar_ct
from medconv.simulate.scan import contrast_offset_hu, expected_noise_hu
from medconv.types import ImageGeometry, L1Case, TScoreClass

# r → balanced accuracy and AUC of osteoporosis that the best reader reaches, at 11.8 / 35.0 / 53.2 %.
PUBLISHED_CEILINGS = {
    0.35: (0.450, 0.69),
    0.54: (0.527, 0.79),
    0.63: (0.569, 0.83),
    0.72: (0.621, 0.88),
    0.79: (0.668, 0.91),
    0.85: (0.718, 0.94),
    0.95: (0.839, 0.98),
}
# One quiet scan on a coarse grid: quick to make, and what is tested does not depend on its noise.
PLAIN = Scan(in_plane_spacing_mm=1.0, slice_thickness_mm=1.5, slice_increment_mm=1.5, noise_hu=4.0)


@pytest.fixture(scope="module")
def lumbar() -> SimulatedCase:
    """A whole simulated CT, on a coarser grid than the sample's to be quick."""
    return simulate_lumbar_ct(seed=3, in_plane_spacing_mm=1.5, slice_thickness_mm=2.5)


def case_of(simulated: SimulatedCase) -> L1Case:
    """L1 of a whole CT as a case."""
    from medconv.simulate.l1_case import as_case

    return as_case(simulated.ct, simulated.labels_zyx == 31)


@pytest.mark.parametrize(("r", "expected"), PUBLISHED_CEILINGS.items())
def test_bayes_ceiling_agrees_with_the_published_table(r: float, expected: tuple[float, float]) -> None:
    ceiling = CohortModel(signal_correlation=r).bayes_ceiling()
    assert ceiling.balanced_accuracy == pytest.approx(expected[0], abs=0.0015)
    assert ceiling.auc_osteoporosis == pytest.approx(expected[1], abs=0.005)


def test_default_ceiling_is_the_papers_accuracy() -> None:
    ceiling = CohortModel().bayes_ceiling()
    assert ceiling.balanced_accuracy == pytest.approx(0.653, abs=0.001)
    assert ceiling.auc_osteoporosis == pytest.approx(0.900, abs=0.001)


def test_ceiling_is_what_an_ideal_reader_scores_on_drawn_patients() -> None:
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    cohort, rng = CohortModel(), np.random.default_rng(1)
    drawn = [cohort.draw(rng) for _ in range(20_000)]
    truth = np.array([CLASS_ORDER.index(tscore.classify(p.t_score)) for p in drawn])
    posterior = cohort.class_given_signal(np.array([p.signal for p in drawn]))
    answers = (posterior / [cohort.class_prior()[c] for c in CLASS_ORDER]).argmax(axis=1)
    ceiling = cohort.bayes_ceiling()
    assert balanced_accuracy_score(truth, answers) == pytest.approx(ceiling.balanced_accuracy, abs=0.01)
    assert roc_auc_score(truth == 2, posterior[:, 2]) == pytest.approx(ceiling.auc_osteoporosis, abs=0.01)


def test_cohort_has_the_austin_class_shares() -> None:
    prior = CohortModel().class_prior()
    counts = {TScoreClass.NORMAL: 207, TScoreClass.OSTEOPENIA: 136, TScoreClass.OSTEOPOROSIS: 46}
    for name, count in counts.items():
        assert prior[name] == pytest.approx(count / 389, abs=0.001)


def test_features_are_independent_and_add_up_to_the_signal() -> None:
    cohort, rng = CohortModel(), np.random.default_rng(2)
    drawn = [cohort.draw(rng) for _ in range(20_000)]
    features = np.array([list(p.features.values()) for p in drawn])
    signal = np.array([p.signal for p in drawn])
    weights = np.sqrt(list(cohort.shares.values()))
    np.testing.assert_allclose(features @ weights, signal, atol=1e-9)
    assert np.abs(np.cov(features.T) - np.eye(4)).max() < 0.04
    t_scores = [p.t_score for p in drawn]
    assert np.corrcoef(signal, t_scores)[0, 1] == pytest.approx(0.77, abs=0.01)
    # Density alone correlates with T as multicentre HU studies report.
    assert np.corrcoef(features[:, 0], t_scores)[0, 1] == pytest.approx(0.63, abs=0.015)


def test_class_means_are_those_of_the_british_cohort_at_120_kvp() -> None:
    from medconv.simulate.patient import draw_patient

    cohort, rng, scan = CohortModel(), np.random.default_rng(3), Scan()
    hu: dict[TScoreClass, list[float]] = {c: [] for c in CLASS_ORDER}
    for _ in range(6000):
        patient = draw_patient(rng, cohort)
        hu[tscore.classify(patient.t_score)].append(patient.trabecular_hu(scan))
    for name, expected in zip(CLASS_ORDER, (178.0, 143.0, 118.0), strict=True):
        assert np.mean(hu[name]) == pytest.approx(expected, abs=5.0)


def test_same_seed_same_voxels_and_another_seed_another_patient() -> None:
    first, second, other = (simulate_l1_case(seed, scan=PLAIN) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0].ct.array_zyx, second[0].ct.array_zyx)
    np.testing.assert_array_equal(first[0].mask_zyx, second[0].mask_zyx)
    assert first[1] == second[1]
    assert first[1]["t_score"] != other[1]["t_score"]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_measured_core_is_the_true_attenuation(seed: int) -> None:
    case, truth = simulate_l1_case(seed, scan=PLAIN, perfect_mask=True)
    measured, _ = measure(case)
    # The core of one patient differs from the body's mean by its texture: SD/sqrt(patches) ≈ 5 HU.
    assert measured.mean_hu == pytest.approx(truth["trabecular_hu"], abs=16.0)


def test_attenuation_rises_with_the_t_score_of_the_same_patient() -> None:
    cases = [simulate_l1_case(8, scan=PLAIN, t_score=t) for t in (-4.0, -2.5, -1.0, 0.5, 2.0)]
    density = [float(truth["density_mg_ha"]) for _, truth in cases]
    measured = [measure(case)[0].median_hu for case, _ in cases]
    assert [truth["t_score"] for _, truth in cases] == pytest.approx([-4.0, -2.5, -1.0, 0.5, 2.0])
    assert np.all(np.diff(density) > 5.0)
    assert np.all(np.diff(measured) > 5.0)


def test_lower_voltage_raises_bone_by_the_ratio_of_its_slopes() -> None:
    # By hand: 127 mg/cm³ and marrow of 42.5 % fat: 127·1.45 + (0.425·−120 + 0.575·45) = 184.15 − 25.125 = 159.0 HU.
    assert physics.trabecular_hu(127.0, 120.0, 0.425, 0.0) == pytest.approx(159.0, abs=0.1)
    assert physics.trabecular_hu(127.0, 80.0, 0.425, 0.0) == pytest.approx(127 * 2.06 - 25.125, abs=0.01)
    low, high = (
        measure(simulate_l1_case(4, scan=Scan(kvp=kvp, noise_hu=4.0), perfect_mask=True)[0])[0].mean_hu
        for kvp in (80.0, 140.0)
    )
    density = float(simulate_l1_case(4, scan=PLAIN)[1]["density_mg_ha"])
    assert low - high == pytest.approx(density * (2.06 - 1.25), rel=0.08)


@pytest.mark.parametrize("kvp", [60.0, 150.0])
def test_voltages_without_a_source_are_refused(kvp: float) -> None:
    with pytest.raises(ValueError, match=r"kVp must lie in 80\.\.140"):
        simulate_lumbar_ct(kvp=kvp)


def test_contrast_raises_bone_as_pompe_found() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([contrast_offset_hu(rng, "portal") for _ in range(2000)]) == pytest.approx(18.2, abs=0.5)
    assert np.mean([contrast_offset_hu(rng, "arterial") for _ in range(2000)]) == pytest.approx(13.5, abs=0.5)
    assert contrast_offset_hu(rng, "native") == 0.0


def test_shell_through_the_psf_is_the_numerical_convolution() -> None:
    step, sigma, shell = 0.01, 0.6, 0.4
    x = np.arange(-15.0, 15.0, step)  # mm, negative inside
    sharp = np.where(x > 0, 40.0, np.where(x > -shell, 1640.0, 150.0))
    psf = np.exp(-0.5 * (x / sigma) ** 2)
    blurred = np.convolve(sharp, psf / psf.sum(), mode="same")
    inner = np.abs(x) < 6.0
    distance = x[inner].astype(np.float32)
    profile = physics.bone_through_psf(
        distance,
        np.full_like(distance, shell),
        np.full_like(distance, 40.0),
        np.full_like(distance, 150.0),
        1640.0,
        sigma,
    )
    np.testing.assert_allclose(profile, blurred[inner], atol=8.0)  # half a step of the grid moves the edge by 7 HU
    assert profile.max() < 700.0  # the thin shell reads far below compact bone


def test_noise_has_its_sd_no_mean_and_the_spectrum_of_the_kernel() -> None:
    rng = np.random.default_rng(0)
    soft, sharp = (physics.correlated_noise(rng, (40, 96, 96), 0.8, sigma, 20.0) for sigma in (0.64, 0.32))
    for noise in (soft, sharp):
        assert noise.std() == pytest.approx(20.0, rel=0.02)
        assert abs(noise.mean()) < 0.2
    neighbours = [float(np.corrcoef(n[:, :, 1:].ravel(), n[:, :, :-1].ravel())[0, 1]) for n in (soft, sharp)]
    assert neighbours[0] > neighbours[1] + 0.2  # a soft kernel's noise is smoother
    slices = float(np.corrcoef(soft[1:].ravel(), soft[:-1].ravel())[0, 1])
    assert abs(slices) < 0.02


def test_noise_falls_with_the_root_of_slice_thickness() -> None:
    assert expected_noise_hu(120.0, 1.0, "soft") / expected_noise_hu(120.0, 4.0, "soft") == pytest.approx(2.0)


@pytest.mark.parametrize("thickness", [0.7, 3.0, 5.0])
def test_l1_keeps_its_place_and_volume_at_any_slice_thickness(thickness: float) -> None:
    scan = Scan(slice_thickness_mm=thickness, slice_increment_mm=thickness, in_plane_spacing_mm=0.8)
    case, _ = simulate_l1_case(11, scan=scan, perfect_mask=True)
    assert case.ct.geometry.spacing_mm_xyz == pytest.approx((0.8, 0.8, thickness))
    assert case.ct.acquisition.slice_thickness_mm == thickness
    reference, _ = simulate_l1_case(11, scan=PLAIN, perfect_mask=True)
    assert case.volume_ml == pytest.approx(reference.volume_ml, rel=0.04)
    np.testing.assert_allclose(case.center_lps_mm, reference.center_lps_mm, atol=0.6)
    assert not case.touches_border


def test_body_sizes_lie_in_the_anatomical_ranges() -> None:
    from medconv.simulate.vertebra import VertebraShape, body_distance, draw_shape

    rng = np.random.default_rng(0)
    shapes = [draw_shape(rng, 1.0) for _ in range(300)]
    assert all(20.0 <= s.height <= 31.0 for s in shapes)
    assert 30.0 < np.mean([s.depth for s in shapes]) < 35.0
    assert 40.0 < np.mean([s.width for s in shapes]) < 50.0
    # Along x through the centre the surface lies where the waist says: width/2·(1 − waist).
    x = np.linspace(0.0, 40.0, 4001, dtype=np.float32)
    shape = VertebraShape(width=44.0, waist=0.1)
    zero = np.zeros_like(x)
    assert x[np.argmin(np.abs(body_distance(x, zero, zero, shape)))] == pytest.approx(19.8, abs=0.05)


def test_whole_ct_shows_a_body_in_air_with_every_level(lumbar: SimulatedCase) -> None:
    hu = lumbar.ct.array_zyx
    assert hu.dtype == np.int16
    assert lumbar.ct.is_simulated
    assert lumbar.ct.acquisition.modality == "CT"
    assert lumbar.ct.acquisition.kvp == 120.0
    corner = hu[:, :8, :8]
    assert corner.mean() == pytest.approx(-1000.0, abs=15.0)
    assert set(np.unique(lumbar.labels_zyx)) == {0, 28, 29, 30, 31, 32, 33}
    assert lumbar.labels_zyx.shape == hu.shape
    assert lumbar.t_score == lumbar.truth["t_score"]


def test_levels_stand_in_anatomical_order_and_in_one_piece(lumbar: SimulatedCase) -> None:
    labels = sitk.GetImageFromArray(lumbar.labels_zyx)
    labels.SetSpacing(lumbar.ct.geometry.spacing_mm_xyz)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels)
    heights = [shapes.GetCentroid(label)[2] for label in (28, 29, 30, 31, 32, 33)]
    assert np.all(np.diff(heights) > 22.0)
    assert np.all(np.diff(heights) < 45.0)
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(labels == 31, True), sortByObjectSize=True)
    sizes = np.bincount(sitk.GetArrayFromImage(pieces).ravel())[1:]
    assert sizes[0] / sizes.sum() > 0.98


def test_whole_ct_gives_a_case_that_the_analysis_accepts(lumbar: SimulatedCase) -> None:
    case = case_of(lumbar)
    assert 25.0 < case.volume_ml < 75.0
    assert not case.touches_border
    assert measure(case)[0].mean_hu == pytest.approx(lumbar.truth["trabecular_hu"], abs=16.0)


def test_segmenter_errors_are_small_and_of_both_signs() -> None:
    dice = []
    for seed in range(8):
        true, _ = simulate_l1_case(seed, scan=PLAIN, perfect_mask=True)
        found, _ = simulate_l1_case(seed, scan=PLAIN)
        assert true.ct.geometry == found.ct.geometry
        both = np.logical_and(true.mask_zyx, found.mask_zyx).sum()
        dice.append(2.0 * both / (true.mask_zyx.sum() + found.mask_zyx.sum()))
    assert 0.8 < np.min(dice) < np.max(dice) < 0.98


def test_interpolation_agrees_with_numpy() -> None:
    from medconv.simulate.rendering import interpolation

    coarse, fine = np.arange(0.0, 10.0, 1.5), np.linspace(-1.0, 11.0, 57)
    values = np.random.default_rng(0).standard_normal(len(coarse))
    np.testing.assert_allclose(interpolation(coarse, fine) @ values, np.interp(fine, coarse, values), atol=1e-5)


def test_geometry_of_a_case_is_where_its_voxels_are() -> None:
    case, _ = simulate_l1_case(2, scan=PLAIN, perfect_mask=True)
    geometry: ImageGeometry = case.ct.geometry
    mean_index = [float(i.mean()) for i in np.nonzero(case.mask_zyx)][::-1]
    np.testing.assert_allclose(geometry.index_to_lps(mean_index), case.center_lps_mm, atol=1e-6)
    # The origin of the anatomy is the centre of L1's body; the arch pulls the centroid back.
    x, y, z = case.center_lps_mm
    assert abs(x) < 4.0
    assert 2.0 < y < 20.0
    assert abs(z) < 8.0


# --- the trunk: every level, ribs, pelvis, variants

# TotalSegmentator v2, task "total" (map_to_binary.py), as its own package prints it.
TOTAL = {"liver": 5, "sacrum": 25, "vertebrae_S1": 26, "vertebrae_L5": 27, "vertebrae_L1": 31, "vertebrae_T12": 32,
         "vertebrae_T8": 36, "rib_left_11": 102, "rib_left_12": 103, "rib_right_11": 114, "rib_right_12": 115,
         "hip_left": 77, "hip_right": 78}  # fmt: skip
T8_TO_SACRUM = (-265.0, 175.0)


@functools.cache
def trunk_of(variant: str = "usual", shown: tuple[float, float] = T8_TO_SACRUM, seed: int = 4) -> SimulatedCase:
    """A trunk on a coarse grid."""
    return simulate_lumbar_ct(
        seed, in_plane_spacing_mm=3.0, slice_thickness_mm=3.0, field_of_view_mm=shown, variant=variant
    )


@pytest.fixture(scope="module")
def trunk() -> SimulatedCase:
    return trunk_of()


def centroid_mm(case: SimulatedCase, label: int) -> np.ndarray:
    """LPS centroid of a label, by SimpleITK."""
    image = sitk.GetImageFromArray((case.labels_zyx == label).astype(np.uint8))
    geometry = case.ct.geometry
    image.SetSpacing(geometry.spacing_mm_xyz)
    image.SetOrigin(geometry.origin_lps_mm)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    return np.array(shapes.GetCentroid(1))


def test_voxels_that_shipped_weights_and_the_sample_rest_on_are_unchanged() -> None:
    """Sums noted down before the trunk was added; another processor may round a voxel in a million differently."""
    case, _ = simulate_l1_case(0)
    assert sums(case.ct.array_zyx) == pytest.approx((49148373, 24790087858), rel=1e-6)
    sketch = simulate_lumbar_ct(seed=3, in_plane_spacing_mm=1.5, slice_thickness_mm=2.5)
    assert sums(sketch.ct.array_zyx) == pytest.approx((-934624580, -470930537847), rel=1e-6)
    assert sums(sketch.labels_zyx) == pytest.approx((1222281, 618918782), rel=1e-6)


def sums(array_zyx: np.ndarray) -> tuple[int, int]:
    """All voxels, and all voxels by their place, so that a shift shows."""
    voxels = array_zyx.astype(np.int64).ravel()
    return int(voxels.sum()), int((voxels * (np.arange(voxels.size) % 1009)).sum())


def test_numbers_are_totalsegmentators_own() -> None:
    from totalsegmentator.map_to_binary import class_map as class_maps

    class_map = class_maps["total"]
    assert {name: number for number, name in class_map.items() if name in TOTAL} == TOTAL
    assert not {118, 119, 120} & set(class_map)  # ours: L6 and the ribs of L1


def test_trunk_shows_every_level_from_t8_to_the_sacrum_with_ribs_hips_and_liver(trunk: SimulatedCase) -> None:
    found = set(np.unique(trunk.labels_zyx).tolist())
    assert set(TOTAL.values()) | set(range(25, 37)) <= found
    assert not found & {118, 119, 120}


def test_trunk_levels_stand_one_above_the_other_and_curve_as_a_lordosis(trunk: SimulatedCase) -> None:
    centers = np.array([centroid_mm(trunk, label) for label in range(26, 37)])  # S1 … T8
    gaps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    assert np.all(np.diff(centers[:, 2]) > 15.0)
    assert np.all((gaps > 18.0) & (gaps < 48.0))
    y = centers[:, 1]
    l3 = y[29 - 26]
    assert l3 < y[0] - 5.0  # S1 and T10 lie behind L3
    assert l3 < y[34 - 26] - 5.0


def test_left_and_right_are_the_patients(trunk: SimulatedCase) -> None:
    spine_x = centroid_mm(trunk, 31)[0]  # LPS: left is +x
    for left, right in ((102, 114), (103, 115), (77, 78)):
        assert centroid_mm(trunk, left)[0] > spine_x + 30.0
        assert centroid_mm(trunk, right)[0] < spine_x - 30.0
    assert centroid_mm(trunk, 5)[0] < spine_x - 40.0  # the liver


def test_ribs_start_at_their_vertebra(trunk: SimulatedCase) -> None:
    for rib, vertebra in ((102, 33), (103, 32), (114, 33), (115, 32)):
        own, other = (distance_between(trunk, rib, label) for label in (vertebra, 31))
        assert own < 8.0
        assert other > 15.0


def distance_between(case: SimulatedCase, first: int, second: int) -> float:
    """Shortest distance of two labels' voxels, mm, by SimpleITK's distance map."""
    image = sitk.GetImageFromArray((case.labels_zyx == second).astype(np.uint8))
    image.SetSpacing(case.ct.geometry.spacing_mm_xyz)
    distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True))
    return float(distance[case.labels_zyx == first].min())


def test_pelvis_stands_below_l5_and_lungs_hold_air(trunk: SimulatedCase) -> None:
    assert centroid_mm(trunk, 25)[2] < centroid_mm(trunk, 27)[2] - 25.0
    assert distance_between(trunk, 25, 77) < 12.0  # the sacroiliac joint
    hu, labels = trunk.ct.array_zyx, trunk.labels_zyx
    slice_of_t9 = hu[int(np.argwhere(labels == 35)[:, 0].mean())]
    assert ((slice_of_t9 > -900) & (slice_of_t9 < -700)).mean() > 0.12


@pytest.mark.parametrize(
    ("variant", "present", "absent"),
    [
        ("four_lumbar", {28, 29, 30, 31, 103, 115}, {27, 118}),
        ("six_lumbar", {27, 28, 29, 30, 31, 118, 103, 115}, set()),
        ("t12_without_ribs", {32, 102, 114}, {103, 115, 119}),
        ("ribs_on_l1", {31, 103, 115, 119, 120}, {118}),
    ],
)
def test_variants_have_their_vertebrae_and_ribs(variant: str, present: set[int], absent: set[int]) -> None:
    found = set(np.unique(trunk_of(variant).labels_zyx).tolist())
    assert present <= found
    assert not found & absent


def test_one_lumbar_vertebra_more_puts_the_sacrum_one_step_lower() -> None:
    five, six = (centroid_mm(trunk_of(variant), 26)[2] for variant in ("usual", "six_lumbar"))
    four = centroid_mm(trunk_of("four_lumbar"), 26)[2]
    assert 22.0 < five - six < 48.0
    assert 22.0 < four - five < 48.0


def test_field_of_view_cuts_where_it_is_told() -> None:
    case = trunk_of(shown=(0.0, 120.0))
    assert case.ct.geometry.size_xyz[2] == 40
    labels = set(np.unique(case.labels_zyx).tolist())
    assert {31, 32, 33, 34} <= labels
    assert not labels & set(range(25, 30))
    assert (case.labels_zyx[0] == 31).any()  # L1 is cut through its middle


def test_ribs_that_a_variant_lacks_change_nothing_else() -> None:
    usual, without = trunk_of(shown=(-60.0, 60.0)), trunk_of("t12_without_ribs", (-60.0, 60.0))
    body = usual.labels_zyx == 31
    np.testing.assert_array_equal(usual.ct.array_zyx[body], without.ct.array_zyx[body])


@pytest.mark.parametrize("shown", [(-400.0, 0.0), (0.0, 300.0), (10.0, 20.0), (50.0, -50.0)])
def test_fields_of_view_that_are_not_drawn_are_refused(shown: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="field_of_view_mm must lie in"):
        simulate_lumbar_ct(field_of_view_mm=shown)


def test_unknown_variants_and_variants_of_the_sketch_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown variant 'thirteen', expected one of"):
        simulate_lumbar_ct(variant="thirteen", field_of_view_mm=(-60.0, 60.0))
    with pytest.raises(ValueError, match="'six_lumbar' needs field_of_view_mm"):
        simulate_lumbar_ct(variant="six_lumbar")
