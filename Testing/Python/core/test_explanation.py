"""What moved the answer: against networks whose answer is known by hand."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from core.conftest import untrained_card
from core.phantom import grid, phantom

from medconv import crop, explanation, explanation_cells, pipeline
from medconv.case_file import save_case
from medconv.config import Preprocessing
from medconv.explanation import explain
from medconv.explanation_file import load_explanation, save_explanation
from medconv.inference import LoadedModel
from medconv.packages import how_to_install
from medconv.reference_vertebra import ARCH_HU, BODY_HU, DEPTH_MM, average_levels, reference_crop
from medconv.simulate.l1_case import simulate_l1_case
from medconv.simulate.scan import Scan
from medconv.types import Cancelled, MissingRequirement, QualityNote, Severity, UsageError
from medconv.vertebra_parts import CORE, PARTS, POSTERIOR, SHELL, vertebra_parts
from medconv.worker import Worker

PREPROCESSING = Preprocessing(size_xyz=(28, 36, 28), spacing_mm=2.8)
CARD = untrained_card(preprocessing=PREPROCESSING)
EDGE = 6


@pytest.fixture(autouse=True)
def large_pieces(monkeypatch):
    """Fewer passes than the product's own: nothing here depends on their number."""
    monkeypatch.setattr(explanation, "PIECE_MM", EDGE * PREPROCESSING.spacing_mm)


@pytest.fixture(scope="module")
def case():
    """The phantom on 2 mm voxels: its core is a little less dense than the average vertebra's, its shell far denser."""
    made = phantom(grid((2.0, 2.0, 2.0)), trabecular_hu=120, noise_sd=10)
    return pipeline.prepare(made.ct, made.mask)


@pytest.fixture(scope="module")
def parts(case):
    return vertebra_parts(case.mask_zyx, case.ct.geometry, crop.crop_geometry(case, PREPROCESSING))


@pytest.fixture(scope="module")
def inputs(case, parts):
    """The crop and the average vertebra in its place, as the network sees them, shape (z, y, x)."""
    hu = crop.crop_hu(case, PREPROCESSING)
    both = hu, reference_crop(hu, parts, PREPROCESSING)
    return tuple(crop.as_input(grid, PREPROCESSING)[0].astype(np.float64) for grid in both)


def model(weights_zyx, card=CARD, channels=1) -> LoadedModel:
    """Logits (0, 0, Σ weight · input): the log-odds of osteoporosis against normal are linear in the voxels."""
    import torch

    class Linear(torch.nn.Module):
        def forward(self, batch):
            total = (batch.double().mean(dim=1) * torch.from_numpy(weights_zyx)).sum(dim=(1, 2, 3))
            return torch.stack([0 * total, 0 * total, total], dim=1)

    return LoadedModel(replace(card, preprocessing=replace(card.preprocessing, channels=channels)), Linear())


def weights_on(parts, which, seed=0):
    return np.random.default_rng(seed).normal(size=parts.labels_zyx.shape) * (parts.labels_zyx == which)


# The parts


def test_the_parts_of_the_phantom_are_where_it_was_drawn(case, parts):
    """Body: an ellipse of 44 x 32 mm, 26 mm high; the core lies 4 mm deep; the arch is behind it."""
    geometry = crop.crop_geometry(case, PREPROCESSING)
    x, y, z = np.moveaxis(geometry.index_to_lps(np.argwhere(parts.inside)[:, ::-1]), -1, 0)
    label = parts.labels_zyx[parts.inside]
    deep = ((x / 17) ** 2 + (y / 11) ** 2 <= 1) & (np.abs(z) <= 8)
    outside = ((x / 19) ** 2 + (y / 13) ** 2 > 1) | (np.abs(z) > 10)
    assert set(label[deep]) == {CORE}
    assert CORE not in label[outside & (y < 5)], "behind, the pedicles leave no wall between body and arch"
    assert set(label[(y > 21) & (np.abs(x) < 22)]) == {POSTERIOR}
    assert set(label[(y < 0) & outside]) == {SHELL}
    assert sum(parts[part].sum() for part in PARTS) == parts.inside.sum()


def test_the_parts_cover_what_the_network_sees(case, parts):
    hu = crop.crop_hu(case, PREPROCESSING)
    assert np.array_equal(parts.inside, hu > PREPROCESSING.window_hu[0])


# The average vertebra


def test_the_average_levels_are_those_of_the_table(parts):
    average = average_levels(parts, PREPROCESSING)
    assert average[parts[CORE] & (parts.depth_mm_zyx > 8)] == pytest.approx(158.0)
    at_surface = parts.depth_mm_zyx <= DEPTH_MM[0]
    assert average[parts[SHELL] & at_surface] == pytest.approx(BODY_HU[0])
    assert average[parts[POSTERIOR] & at_surface] == pytest.approx(ARCH_HU[0])


def test_the_average_levels_follow_the_voltage_that_the_network_sees(parts):
    """Mineral attenuates 1.66 / 1.45 times as much at 100 kVp as at 120 kVp."""
    at_100 = average_levels(parts, replace(PREPROCESSING, reference_kvp=100.0))
    at_120 = average_levels(parts, replace(PREPROCESSING, reference_kvp=120.0))
    assert at_100[parts.inside] == pytest.approx(at_120[parts.inside] * 1.66 / 1.45)


def test_a_level_goes_to_the_average_and_a_fine_pattern_stays(parts):
    average = average_levels(parts, PREPROCESSING)
    assert reference_crop(average + 37, parts, PREPROCESSING)[parts.inside] == pytest.approx(
        average[parts.inside], abs=0.01
    )
    pattern = np.where(np.indices(average.shape).sum(axis=0) % 2, 20.0, -20.0).astype(np.float32)
    kept = reference_crop(average + 37 + pattern, parts, PREPROCESSING) - average
    assert np.abs(kept - pattern)[parts[CORE]].max() < 3
    assert (np.abs(kept - pattern)[parts.inside] < 5).mean() > 0.95


def test_a_low_half_is_raised_and_the_rest_of_the_image_stays(parts):
    average = average_levels(parts, PREPROCESSING)
    left = np.indices(average.shape)[2] >= average.shape[2] // 2
    hu = np.where(parts.inside, average - 60 * left, 40).astype(np.float32)
    result = reference_crop(hu, parts, PREPROCESSING)
    assert np.array_equal(result[~parts.inside], hu[~parts.inside])
    far = parts[CORE] & (np.abs(np.indices(average.shape)[2] - average.shape[2] / 2 + 0.5) > 4)
    assert result[far] == pytest.approx(average[far], abs=3)


# The pieces


def test_every_voxel_is_in_one_piece_of_one_part_in_each_of_four_cuts(parts):
    cuts = list(explanation_cells.cuts(parts.labels_zyx, 4))
    assert len(cuts) == 4
    for cut in cuts:
        assert np.array_equal(cut > 0, parts.inside)
        pieces = np.unique(cut[cut > 0])
        assert np.array_equal(pieces, np.arange(1, cut.max() + 1))
        for piece in pieces:
            assert len(np.unique(parts.labels_zyx[cut == piece])) == 1
        extent = [np.ptp(np.argwhere(cut == piece), axis=0).max() for piece in pieces]
        assert max(extent) <= 8, "no piece reaches farther than two blocks"
    borders = [tuple(np.flatnonzero(np.diff(cut[parts[CORE]]))) for cut in cuts]
    assert len(set(borders)) == 4


# The map


def test_the_map_of_a_linear_network_is_its_weights_times_the_difference_over_each_piece(case, parts, inputs):
    weights = np.random.default_rng(1).normal(size=parts.labels_zyx.shape)
    found = explain(model(weights), case)
    own, reference = inputs
    moved = weights * (own - reference)  # what each voxel adds to the log-odds, beside the average vertebra
    expected = np.zeros(moved.shape)
    for cut in explanation_cells.cuts(parts.labels_zyx, EDGE):
        for piece in range(1, cut.max() + 1):
            here = cut == piece
            expected[here] += moved[here].sum() / (here.sum() * 2.8**3 / 1000) / 4
    assert found.values_zyx == pytest.approx(expected, abs=1e-4)
    assert found.values_zyx.dtype == np.float32
    assert found.geometry == crop.crop_geometry(case, PREPROCESSING)
    for part, share in zip(PARTS, found.parts, strict=True):
        assert share.effect == pytest.approx(moved[parts[part]].sum(), abs=1e-4), share.name
    assert found.score - found.reference_score == pytest.approx(moved.sum(), abs=1e-4)
    assert found.sum_of_pieces == pytest.approx(moved.sum(), abs=1e-3), "nothing acts together in a linear network"


@pytest.mark.parametrize("part", PARTS)
def test_a_network_that_reads_one_part_has_all_its_map_there(case, parts, part):
    shares = explain(model(weights_on(parts, part)), case).parts
    assert [share.mass_share for share in shares] == pytest.approx([float(p == part) for p in PARTS])
    assert sum(share.volume_share for share in shares) == pytest.approx(1.0)


def test_less_dense_than_average_is_towards_osteoporosis_and_denser_towards_normal(case, parts):
    """The network finds osteoporosis where the bone is less dense; core 120 HU (average 158), shell 700 HU."""
    found = explain(model(-np.ones(parts.labels_zyx.shape)), case)
    core, shell, _ = found.parts
    assert core.effect > 0 > shell.effect
    assert (found.values_zyx[parts[CORE]] > 0).mean() > 0.9
    assert (found.values_zyx[parts[SHELL]] < 0).mean() > 0.9
    assert not found.values_zyx[~parts.inside].any()


def test_the_target_can_be_the_log_odds_against_the_rest(case, parts, inputs):
    """Logits (0, 0, s): log-odds s − log 2."""
    weights = weights_on(parts, CORE)
    found = explain(model(weights), case, "osteoporosis")
    assert found.score == pytest.approx((weights * inputs[0]).sum() - np.log(2), abs=1e-5)


def test_replicated_channels_give_the_same_map(case, parts):
    weights = weights_on(parts, CORE)
    one, three = (explain(model(weights, channels=n), case) for n in (1, 3))
    assert three.values_zyx == pytest.approx(one.values_zyx, abs=1e-5)


def test_the_classes_of_the_weights_may_be_in_any_order(case, parts):
    weights = weights_on(parts, CORE)
    turned = replace(CARD, class_order=(CARD.class_order[2], CARD.class_order[1], CARD.class_order[0]))
    assert explain(model(weights, turned), case).score == pytest.approx(-explain(model(weights), case).score)


def test_the_same_case_gives_the_same_map_and_a_real_network_works(case):
    import torch

    from medconv.network import build_network

    torch.manual_seed(0)
    loaded = LoadedModel(CARD, build_network(CARD.architecture))
    first, second = explain(loaded, case), explain(loaded, case)
    assert np.array_equal(first.values_zyx, second.values_zyx)
    assert np.isfinite(first.values_zyx).all()
    assert first.values_zyx.any()


# Another process


def test_an_explanation_survives_the_way_through_a_file(case, parts, tmp_path):
    found = explain(model(weights_on(parts, CORE)), case)
    found = replace(found, notes=(QualityNote("code", Severity.WARNING, "Osteoporosis (T ≤ −2.5)"),))
    save_explanation(tmp_path / "e.npz", found)
    read = load_explanation(tmp_path / "e.npz")
    assert np.array_equal(read.values_zyx, found.values_zyx)
    assert replace(read, values_zyx=found.values_zyx) == found
    (tmp_path / "e.npz").write_bytes((tmp_path / "e.npz").read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged"):
        load_explanation(tmp_path / "e.npz")


def test_the_worker_explains_with_the_weights_that_it_has_loaded(case, only_untrained, tmp_path):
    save_case(tmp_path / "case.npz", case)
    output = io.StringIO()
    Worker(output).serve([{"command": "explain", "id": "1", "case": str(tmp_path / "case.npz"), "device": "cpu"}])
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert {stage.partition(":")[0] for stage in stages} == {
        "Loading MedConv",
        "Finding the parts of the vertebra",
        "Asking the network piece by piece",
    }
    assert events[-1]["event"] == "explained"
    there = load_explanation(Path(events[-1]["file"]))
    assert stages[-1] == f"Asking the network piece by piece: {there.passes} of {there.passes}"
    here = explain(LoadedModel.load(device="cpu"), case)
    assert np.array_equal(there.values_zyx, here.values_zyx)
    assert there.parts == here.parts


def test_the_worker_says_what_to_install(case, only_untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    output = io.StringIO()
    Worker(output).serve([{"command": "explain", "id": "1", "case": str(tmp_path / "none.npz")}])
    event = json.loads(output.getvalue().splitlines()[-1])
    assert (event["code"], event["exit_code"]) == ("captum_missing", 4)
    assert "pip install" in event["remedy"]


# How it runs


def test_progress_rises_to_one_and_no_batch_is_large(case, parts):
    told, batches = [], []
    loaded = model(weights_on(parts, CORE))
    run_batch = loaded.run_batch
    loaded.run_batch = lambda crops: (batches.append(len(crops)), run_batch(crops))[1]
    found = explain(loaded, case, progress=lambda stage, fraction: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert sum(batches) == found.passes
    assert max(batches) <= explanation.BATCH


def test_it_stops_at_once_when_cancelled(case, parts):
    answers = iter([False, False, True])
    asked = SimpleNamespace(batches=0)
    loaded = model(weights_on(parts, CORE))
    run_batch = loaded.run_batch

    def counted(crops):
        asked.batches += 1
        return run_batch(crops)

    loaded.run_batch = counted
    with pytest.raises(Cancelled):
        explain(loaded, case, is_cancelled=lambda: next(answers))
    assert asked.batches == 2


def test_an_unknown_target_and_a_missing_captum_are_told_with_the_next_step(case, parts, monkeypatch):
    loaded = model(weights_on(parts, CORE))
    with pytest.raises(UsageError, match="osteoporosis_against_normal"):
        explain(loaded, case, "density")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match="pip install"):
        explain(loaded, case)


def test_a_network_that_sees_the_surroundings_is_said_to(case, parts):
    card = replace(CARD, preprocessing=replace(PREPROCESSING, masked=False))
    found = explain(model(weights_on(parts, CORE), card), case)
    assert [note.code for note in found.notes] == ["surroundings_not_explained"]


def test_pieces_of_porous_bone_speak_for_osteoporosis_though_the_network_reads_unevenness() -> None:
    """A step at a piece's edge looks uneven: the sum of pieces once had the opposite sign of the whole's effect."""
    scan = Scan(kvp=120.0, slice_thickness_mm=1.5, slice_increment_mm=1.5)
    case, _ = simulate_l1_case(5, scan=scan, t_score=-4.0)
    model = LoadedModel.load()
    assert model.card.architecture.texture
    found = explain(model, case)
    whole = found.score - found.reference_score
    assert whole > 1.0
    assert 0.5 * whole < found.sum_of_pieces < 2.0 * whole


@pytest.mark.parametrize(("platform", "words"), [("win32", "py run.py setup"), ("linux", "python3 run.py setup")])
def test_a_missing_package_is_told_in_the_words_of_the_system(monkeypatch, platform, words):
    monkeypatch.delenv("SLICER_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert how_to_install("train").startswith(f"In a checkout: {words} (")


def test_in_slicer_a_missing_package_is_told_with_slicers_own_remedy(monkeypatch):
    monkeypatch.setenv("SLICER_HOME", "Slicer")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(explanation.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingRequirement) as missing:
        explanation.require_captum()
    assert "slicer.util.pip_install('captum>=0.9,<1')" in missing.value.remedy
    assert "checkout" not in missing.value.remedy + how_to_install("segment")
