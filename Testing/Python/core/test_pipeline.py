"""The whole story: the same answer however the CT is stored, in one step or two, and none where none is due."""

from dataclasses import replace

import numpy as np
import pytest
from core.phantom import grid, phantom, reoriented

from medconv import pipeline
from medconv.case_file import load_case, save_case
from medconv.inference import LoadedModel
from medconv.types import (
    Adjustment,
    Cancelled,
    InputRefused,
    LevelChoice,
    QualityNote,
    Severity,
    TScoreClass,
    UsageError,
)


@pytest.fixture
def model(only_untrained):
    return LoadedModel.load("untrained", "cpu")


@pytest.fixture(scope="module")
def noisy():
    return phantom(grid((0.9, 0.9, 1.5)), noise_sd=25)


def test_the_answer_is_complete_and_consistent(vertebra, model):
    p = pipeline.predict(vertebra.ct, vertebra.mask, model)
    assert sum(p.probabilities.values()) == pytest.approx(1)
    assert p.probabilities[p.t_score_class] == max(p.probabilities.values())
    assert p.attenuation.mean_hu == 150.0
    assert p.adjustment == Adjustment("log_prior", 1.0, 0.5)
    assert p.model.name == "untrained"
    assert "trained_on_simulated_ct" in {n.code for n in p.quality}


@pytest.mark.parametrize("code", ["RAS", "PIR", "SAL", "LAI"])
def test_orientation_and_storage_order_do_not_move_the_answer(noisy, model, code):
    straight = pipeline.predict(noisy.ct, noisy.mask, model)
    turned = reoriented(noisy, code)
    p = pipeline.predict(turned.ct, turned.mask, model)
    assert p.t_score_class is straight.t_score_class
    assert p.attenuation == straight.attenuation
    for c in TScoreClass:
        assert p.logits[c] == pytest.approx(straight.logits[c], abs=1e-3)


def test_two_steps_through_a_file_equal_one(noisy, model, tmp_path):
    whole = pipeline.predict(noisy.ct, noisy.mask, model)
    save_case(tmp_path / "case.npz", pipeline.prepare(noisy.ct, noisy.mask))
    parts = pipeline.analyse(load_case(tmp_path / "case.npz"), model)
    assert parts.logits == whole.logits
    assert parts.attenuation == whole.attenuation
    assert parts.quality == whole.quality
    assert (tmp_path / "case.npz").stat().st_size < 30e6


def test_the_case_holds_only_l1s_neighbourhood(noisy):
    case = pipeline.prepare(noisy.ct, noisy.mask)
    assert case.ct.array_zyx.base is not None  # a view: the CT was not copied
    assert case.mask_zyx.sum() == np.count_nonzero(noisy.labels_zyx)
    assert case.ct.array_zyx.shape == case.mask_zyx.shape


def test_progress_rises_and_names_its_stages(vertebra, model):
    seen = []
    pipeline.predict(vertebra.ct, vertebra.mask, model, progress=lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [f for _, f in seen]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert len({s for s, _ in seen}) == len(seen) >= 5


def test_cancelling_stops_before_the_network(vertebra, model):
    ran = []
    model.run = lambda crop: ran.append(crop)
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    with pytest.raises(Cancelled):
        pipeline.analyse(case, model, is_cancelled=lambda: True)
    assert ran == []


def test_tau_moves_probabilities_but_never_logits(vertebra, model):
    one = pipeline.predict(vertebra.ct, vertebra.mask, model, Adjustment("log_prior", 1.0, 0.0))
    two = pipeline.predict(vertebra.ct, vertebra.mask, model, Adjustment("log_prior", 1.0, 1.0))
    assert one.logits == two.logits
    assert one.probabilities[TScoreClass.OSTEOPOROSIS] < two.probabilities[TScoreClass.OSTEOPOROSIS]
    assert "adjustment_not_default" in {n.code for n in two.quality}


def test_a_tau_without_meaning_stops_before_the_work(vertebra, model):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)
    with pytest.raises(UsageError):
        pipeline.analyse(case, model, Adjustment("temperature", 1.0, -1.0))


def test_thick_slices_are_refused(model):
    thick = phantom(grid((1.0, 1.0, 6.0)))
    with pytest.raises(InputRefused) as caught:
        pipeline.predict(thick.ct, thick.mask, model)
    assert caught.value.code == "slices_too_thick"


DOUBT = QualityNote("no_landmark", Severity.WARNING, "Neither the twelfth rib nor the sacrum was found.")


def test_a_level_without_doubt_is_kept_and_adds_nothing(vertebra):
    level = LevelChoice("L1", "L1", "segmenter", "totalsegmentator")
    case = pipeline.prepare(vertebra.ct, vertebra.mask, level=level)
    assert case.level == level
    assert case.quality == pipeline.prepare(vertebra.ct, vertebra.mask).quality


@pytest.mark.parametrize("notes", [(), (DOUBT,)])
def test_a_doubt_that_was_confirmed_stays_as_a_warning_told_once(vertebra, model, notes):
    level = LevelChoice("L1", "L1", "person", "totalsegmentator", (DOUBT,))
    prediction = pipeline.predict(vertebra.ct, vertebra.mask, model, notes=notes, level=level)
    assert prediction.quality.count(DOUBT) == 1
    assert prediction.case.level == level


def test_a_relabel_and_a_stand_in_are_told(vertebra):
    relabelled = LevelChoice("L2", "L1", "person", "totalsegmentator")
    (note,) = pipeline.prepare(vertebra.ct, vertebra.mask, level=relabelled).quality
    assert (note.code, note.severity) == ("level_relabelled", Severity.WARNING)
    assert note.message == "A person took this vertebra for L1; TotalSegmentator calls it L2."
    (note,) = pipeline.prepare(
        vertebra.ct, vertebra.mask, level=LevelChoice("T12", "T12", "person", "totalsegmentator")
    ).quality
    assert (note.code, note.severity) == ("stand_in", Severity.WARNING)
    assert note.message.startswith("T12 was measured instead of L1")


def test_messages_name_the_vertebra_that_is_measured(vertebra, model):
    told = []
    pipeline.predict(
        vertebra.ct,
        vertebra.mask,
        model,
        level=LevelChoice("L2", "L2", "person", "totalsegmentator"),
        progress=lambda stage, fraction: told.append(stage),
    )
    assert {"Checking L2", "Measuring L2's attenuation", "Cutting out L2"} <= set(told)
    cut = vertebra.mask.block_zyx[:12]
    with pytest.raises(InputRefused, match="The L2 mask has"):
        pipeline.prepare(
            vertebra.ct,
            replace(vertebra.mask, block_zyx=cut),
            level=LevelChoice("L2", "L2", "person", "totalsegmentator"),
        )
