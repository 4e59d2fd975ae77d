"""What is chosen on validation, and that nothing else may choose: scale, adjustment, sets, thresholds, readings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from core.evaluation_cohort import OVERCONFIDENCE, predictions
from sklearn.metrics import recall_score

from medconv.config import CLASS_ORDER
from medconv.prediction_set import mass_before, prediction_set, set_notes
from medconv.training.figures import choice, conformal, metrics, test_readings
from medconv.training.figures.choice import LogitReading, RunChoice, choose_on_validation
from medconv.training.figures.decision_curve import decision_curve, net_benefit
from medconv.types import Adjustment, InputRefused, TScoreClass, UsageError

N, P, Q = CLASS_ORDER  # normal, osteopenia, osteoporosis
PRIOR = (0.5, 0.4, 0.1)
READING = LogitReading(dict(zip(CLASS_ORDER, PRIOR, strict=True)), (Q,), 1.0)


# --- the adjustment -------------------------------------------------------------------------------------------------


def test_without_clear_evidence_theory_chooses_the_adjustment() -> None:
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1, 2], [50, 40, 10])
    logits = np.eye(3)[classes] * 1.5 + rng.normal(0.0, 1.0, (100, 3))
    chosen = choice.choose_adjustment(READING, logits, classes)
    assert chosen.adjustment == Adjustment("log_prior", 1.0, 1.0)
    assert chosen.candidates[choice.describe(chosen.adjustment)] == pytest.approx(
        recall_score(classes, logits.argmax(axis=1), average="macro")
    )


def test_a_clearly_better_adjustment_is_chosen() -> None:
    # Logits that already hold the prior (tau1_train says they do not): taking nothing out is wrong here.
    rng = np.random.default_rng(2)
    classes = np.repeat([0, 1, 2], [500, 400, 100])
    logits = np.eye(3)[classes] + rng.normal(0.0, 1.0, (1000, 3)) + 1.5 * np.log(PRIOR)
    assert choice.choose_adjustment(READING, logits, classes).adjustment != Adjustment("log_prior", 1.0, 1.0)


def test_the_rarest_class_is_the_minority() -> None:
    assert choice.minority_classes(READING.class_prior) == (Q,)
    assert choice.minority_classes({N: 0.2, P: 0.5, Q: 0.3}) == (N,)


# --- the whole choice -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen() -> RunChoice:
    return choose_on_validation(predictions("validation", 1500, seed=3))


@pytest.mark.parametrize("tau1", [0.0, 1.0])
def test_scale_undoes_overconfidence_whatever_the_networks_tau1(tau1: float) -> None:
    found = choose_on_validation(predictions("validation", 1500, seed=3, tau1=tau1))
    assert found.logit_scale == pytest.approx(1 / OVERCONFIDENCE, rel=0.15)
    assert found.adjustment == Adjustment("log_prior", tau1, 1.0)  # right here, where the model holds exactly


def test_only_the_validation_split_may_choose() -> None:
    for split in ("train", "test"):
        with pytest.raises(UsageError, match="validation split only"):
            choose_on_validation(predictions(split, 30, seed=0))


def test_choice_comes_back_from_its_file(chosen: RunChoice, tmp_path: Path) -> None:
    stored = chosen.save(tmp_path)
    assert RunChoice.load(tmp_path) == stored == chosen
    assert [path.name for path in tmp_path.iterdir()] == ["choice.json"]


def test_a_missing_or_damaged_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="nothing was chosen") as missing:
        RunChoice.load(tmp_path)
    assert missing.value.code == "choice_missing"
    (tmp_path / "choice.json").write_text('{"logit_scale": 1}')
    with pytest.raises(InputRefused, match="can't be read"):
        RunChoice.load(tmp_path)


def test_a_choice_after_a_test_reading_says_so(chosen: RunChoice, tmp_path: Path) -> None:
    chosen.save(tmp_path)
    first = test_readings.record_reading(tmp_path, 10, "cases", choice.hash_of_file(tmp_path))
    assert test_readings.sentences(first, 0) == [
        "This test set has been read once with this run, this reading included."
    ]
    again = test_readings.record_reading(tmp_path, 10, "cases", "another choice")
    assert "An earlier reading used other choices" in test_readings.sentences(again, 0)[1]
    assert "read twice" in test_readings.sentences(again, 0)[0]
    late = chosen.save(tmp_path)
    assert late.test_readings_before == 2
    assert "had been read twice" in test_readings.sentences(again, late.test_readings_before)[1]


def test_a_damaged_count_of_readings_is_refused_not_reset(tmp_path: Path) -> None:
    (tmp_path / "test_readings.json").write_text("{")
    with pytest.raises(InputRefused, match="how often"):
        test_readings.record_reading(tmp_path, 1, "a", "b")


def test_decision_thresholds_by_hand() -> None:
    # Ten with osteoporosis, P = 0.05, 0.15 … 0.95: nine of them lie at or above 0.15. Ten without at 0.00 … 0.09, so
    # nine of ten lie below 0.09.
    classes = np.repeat([2, 0], 10)
    p = np.concatenate([np.arange(10) / 10 + 0.05, np.arange(10) / 100])
    assert choice.decision_thresholds(classes, p) == pytest.approx({"rule_out": 0.15, "rule_in": 0.09})
    assert choice.decision_thresholds(np.zeros(3, int), np.array([0.1, 0.2, 0.3]))["rule_out"] == 0.0


def test_hash_names_the_cases_whatever_their_order() -> None:
    assert choice.hash_of(["a", "b"]) == choice.hash_of(["b", "a"]) != choice.hash_of(["a", "c"])


# --- conformal sets -------------------------------------------------------------------------------------------------


def test_a_set_grows_from_the_answer_to_the_more_probable_neighbour() -> None:
    assert mass_before({N: 0.3, P: 0.5, Q: 0.2}) == pytest.approx({P: 0.0, N: 0.5, Q: 0.8})
    # Normal and osteoporosis both probable: the set passes through osteopenia, since sets are neighbours.
    assert mass_before({N: 0.5, P: 0.1, Q: 0.4}) == pytest.approx({N: 0.0, P: 0.5, Q: 0.6})
    assert prediction_set({N: 0.3, P: 0.5, Q: 0.2}, 0.0) == (P,)
    assert prediction_set({N: 0.3, P: 0.5, Q: 0.2}, 0.5) == (N, P)
    assert prediction_set({N: 0.5, P: 0.1, Q: 0.4}, 0.6) == (N, P, Q)
    assert prediction_set({N: 1.0, P: 0.0, Q: 0.0}, 1.0) == (N, P, Q)


def test_more_than_one_class_is_indeterminate() -> None:
    assert set_notes((Q,), 0.1) == []
    (note,) = set_notes((P, Q), 0.1)
    assert note.message.startswith("Indeterminate, consider DXA: osteopenia or osteoporosis is possible")
    assert "90%" in note.message
    every = [CLASS_ORDER[i:j] for i, j in itertools.combinations(range(4), 2)]
    assert all(set_notes(s, 0.1) for s in every if len(s) > 1)


def test_quantile_is_the_finite_sample_one() -> None:
    scores = np.arange(1, 20) / 20  # 19 scores: ⌈20·0.9⌉ = 18th smallest
    assert conformal.finite_sample_quantile(scores, 0.1) == 0.9
    assert conformal.finite_sample_quantile(scores[:8], 0.1) == 1.0  # ⌈9·0.9⌉ = 9 of 8: no promise but with all classes
    assert conformal.finite_sample_quantile(scores[:9], 0.1) == scores[8]


def test_sets_are_neighbours_hold_the_answer_and_are_the_products_own() -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), 500)
    for thresholds in (0.0, 0.4, 0.8, (0.1, 0.5, 0.9), (0.9, 0.1, 0.9)):
        sets = conformal.prediction_sets(p, thresholds)
        assert sets[np.arange(500), metrics.answers(p)].all()
        assert not (sets[:, 0] & sets[:, 2] & ~sets[:, 1]).any()
    own = [prediction_set(dict(zip(CLASS_ORDER, row, strict=True)), 0.4) for row in p.tolist()]
    sets = conformal.prediction_sets(p, 0.4)
    assert [tuple(c for c, held in zip(CLASS_ORDER, row, strict=True) if held) for row in sets] == own


def test_coverage_is_kept_on_fresh_patients_overall_and_by_class() -> None:
    # Split conformal: over draws of both sets the mean coverage lies in [0.9, 0.9 + 1/(n + 1)].
    overall, by_class = [], []
    for seed in range(6):
        validation, test = predictions("validation", 400, seed), predictions("test", 600, seed)
        found = choose_on_validation(validation)
        shown = LogitReading.of(test).probabilities(test.logits * found.logit_scale, found.adjustment)
        sets = conformal.prediction_sets(shown, found.conformal_threshold)
        overall.append(conformal.coverage(test.classes, sets, 0.1)["overall"]["value"])
        sets = conformal.prediction_sets(shown, found.class_thresholds)
        by_class.append([c["value"] for c in conformal.coverage(test.classes, sets, 0.1)["by_class"].values()])
    assert np.mean(overall) == pytest.approx(0.9, abs=0.025)
    assert np.mean(by_class, axis=0) == pytest.approx([0.9] * 3, abs=0.05)


def test_coverage_by_hand() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)
    found = conformal.coverage(np.array([0, 2, 2, 1]), sets, 0.1)
    assert found["overall"]["value"] == 0.75
    assert found["by_class"]["osteoporosis"]["value"] == 0.5
    assert found["mean_size"] == 2.0
    assert found["sizes"] == {"1": 1, "2": 2, "3": 1}
    assert found["single_class"]["value"] == 0.25
    assert found["single_class_right"]["value"] == 1.0


# --- decision curve -------------------------------------------------------------------------------------------------


def test_net_benefit_by_hand() -> None:
    # Ten patients, two with osteoporosis; at t = 0.2 four are sent, both of them among these: 2/10 − 2/10 · 0.25.
    targets = np.array([2, 2, 0, 0, 0, 0, 1, 1, 1, 1])
    p = np.array([0.9, 0.2, 0.3, 0.25, 0, 0, 0, 0, 0, 0.1])
    once = np.ones((1, 10))
    assert net_benefit(targets, p, (0.2,), once)[0, 0] == pytest.approx(0.15)
    assert net_benefit(targets, np.ones(10), (0.2,), once)[0, 0] == pytest.approx(0.2 - 0.8 * 0.25)
    found = decision_curve(targets, {"network": p}, np.ones((5, 10)))
    assert found["curves"]["network"][19] == pytest.approx(0.15)
    assert set(found["curves"]) == {"network", "everyone", "no_one"}
    row = next(r for r in found["table"] if r["threshold"] == 0.2)
    # Everyone: 0. Six are spared and none is missed, so at 4 DXA a case: (0.15 − 0)·1000·4 = 600 for 1000 patients.
    assert row["examinations_spared_per_1000"]["value"] == pytest.approx(600)
    assert row["sent"] == 0.4


def test_reading_keeps_the_prior_and_the_tau_of_the_run() -> None:
    p = predictions("test", 5, seed=0, tau1=0.0)
    reading = LogitReading.of(p)
    powers = np.exp(p.logits)
    assert reading.natural(p.logits) == pytest.approx(powers / powers.sum(axis=1, keepdims=True))
    assert reading.log_prior == pytest.approx(np.log(p.class_prior))
    assert math.isclose(sum(reading.class_prior.values()), 1.0)
    assert dataclasses.replace(reading, tau1_train=1.0).minority_classes == (TScoreClass.OSTEOPOROSIS,)
