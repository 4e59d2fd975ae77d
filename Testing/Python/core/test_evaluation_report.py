"""The evaluation as a whole: HU readers, ceiling, document, plots, page, another tool's table, the command."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.evaluation_cohort import predictions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from medconv import cli
from medconv.mineral import HU_PER_MG_HA
from medconv.simulate.cohort import CohortModel
from medconv.training.figures import baseline, evaluation, evaluation_plots, metrics
from medconv.training.figures.baseline import HuCases, cross_fitted_hu_readers, hu_readers, strongest
from medconv.training.figures.choice import choose_on_validation
from medconv.training.figures.evaluation_report import evaluation_page
from medconv.training.figures.predictions import Predictions
from medconv.training.figures.reader_comparison import verdict
from medconv.training.figures.sample import Answers, Sample, answers_of_run, at_own_mix

RESAMPLES = 100
ABOUT = {"source": "a test", "test_readings": [], "warnings": ["A warning."], "hu_fit": "Fitted on others."}


def cases_of(p: Predictions) -> HuCases:
    return HuCases(p.median_hu, p.kvp, p.classes)


def evaluated(blur: float = 0.5, n: int = 600) -> tuple[dict[str, Any], Sample, Answers, Any]:
    test, choice = predictions("test", n, 1, blur), choose_on_validation(predictions("validation", 300, 1, blur))
    readers = hu_readers(cases_of(predictions("train", 600, 1)), test.median_hu, test.kvp)
    groups = {"Tube voltage": tuple(f"{v:g} kVp" for v in test.kvp.tolist()), "Scanner": ("",) * n}
    sample = Sample(test, test.case_ids, "simulated T-score", "a cohort", groups, CohortModel())
    answers = answers_of_run(test, choice)
    document = ABOUT | evaluation.evaluate(sample, answers, choice=choice, readers=readers, resamples=RESAMPLES)
    return document, sample, answers, readers


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, Any], Sample, Answers, Any]:
    return evaluated()


# --- HU readers -----------------------------------------------------------------------------------------------------


def test_cumulative_logit_recovers_the_model_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(150.0, 40.0, 20_000)
    x = (hu - 150.0) / 40.0
    noise = np.log(1.0 / rng.random(20_000) - 1.0)  # standard logistic
    latent = 1.5 * x + noise
    classes = np.where(latent > -0.3, 0, np.where(latent > -2.0, 1, 2))
    fitted = baseline.fit_cumulative_logit(hu, classes)
    assert fitted.slope == pytest.approx(1.5, abs=0.06)
    assert fitted.cuts == pytest.approx((-0.3, -2.0), abs=0.06)
    probabilities = fitted.probabilities(hu)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    oracle = LogisticRegression().fit(x[:, None], classes == 0).predict_proba(x[:, None])[:, 1]
    np.testing.assert_allclose(probabilities[:, 0], oracle, atol=0.02)
    assert np.isfinite(fitted.probabilities(np.array([np.nan]))).all()


def test_hu_are_brought_to_120_kvp_by_published_factors_and_by_minerals_slopes() -> None:
    hu, kvp = np.full(4, 100.0), np.array([100.0, 120.0, 140.0, np.nan])
    assert baseline.to_120_kvp(hu, kvp) == pytest.approx([92.7, 100.0, 105.3, 100.0])
    slopes = [100 * HU_PER_MG_HA[120.0] / HU_PER_MG_HA[v] for v in (100.0, 120.0, 140.0)]
    assert baseline.mineral_to_120_kvp(hu, kvp) == pytest.approx([*slopes, 100.0])


def test_the_strongest_reader_is_the_one_whose_voltage_is_right() -> None:
    train = predictions("train", 1200, seed=5)
    readers = hu_readers(cases_of(train), train.median_hu, train.kvp)
    assert strongest(readers) == "hu_only_mineral_corrected"  # by NIST's slopes these HU were made
    assert readers["hu_only"].likelihood < readers["hu_only_mineral_corrected"].likelihood


def test_cross_fitted_answers_never_saw_their_patient() -> None:
    p = predictions("test", 120, seed=2)
    before = cross_fitted_hu_readers(cases_of(p), p.case_ids)["hu_only"].natural
    turned = dataclasses.replace(p, classes=p.classes.copy())
    other = int(np.flatnonzero((p.classes == 0) & np.isfinite(p.median_hu))[0])
    turned.classes[other] = 2
    after = cross_fitted_hu_readers(cases_of(turned), p.case_ids)["hu_only"].natural
    assert after[other] == pytest.approx(before[other], abs=1e-12)
    assert not np.allclose(after, before)


# --- the document ---------------------------------------------------------------------------------------------------


def test_the_document_is_plain_json_and_names_the_reference(whole: Any) -> None:
    document = json.loads(json.dumps(evaluation.plain(whole[0]), allow_nan=False))
    assert document["reference_standard"] == "simulated T-score"
    assert document["cases"] == 600
    assert sum(map(sum, document["confusion"]["counts"])) == 600


def test_figures_of_the_document_are_those_of_scikit_learn(whole: Any) -> None:
    document, sample, answers, _ = whole
    y = sample.predictions.classes
    assert document["metrics"]["macro_auc"]["value"] == pytest.approx(
        roc_auc_score(y, answers.shown, multi_class="ovr", average="macro")
    )
    for c, name in enumerate(("normal", "osteopenia", "osteoporosis")):
        told = metrics.answers(answers.shown)
        assert document["by_class"][name]["sensitivity"]["value"] == pytest.approx(np.mean(told[y == c] == c))
        assert document["by_class"][name]["specificity"]["value"] == pytest.approx(np.mean(told[y != c] != c))


def test_scaling_mends_the_calibration_of_a_network_that_is_too_sure(whole: Any) -> None:
    found = whole[0]["calibration"]
    assert found["after_scaling"]["nll"] < found["before_scaling"]["nll"]
    assert found["after_scaling"]["brier"] < found["before_scaling"]["brier"]


def test_a_network_that_sees_all_beats_hu_and_one_that_sees_little_does_not(whole: Any) -> None:
    document = evaluated(blur=0.1, n=1500)[0]
    assert document["hu"]["verdict"].startswith("The network is better than HU alone. ")
    assert document["hu"]["beaten"] == {"balanced_accuracy": True, "osteoporosis_auc": True}
    assert document["ideal"]["share_of_ideal_reader"]["osteoporosis_auc"]["value"] > 0.97
    weak = evaluated(blur=4.0)[0]
    assert weak["hu"]["verdict"].startswith("The network is worse than HU alone")


def test_the_verdict_names_what_is_not_clear() -> None:
    above, around, below = ({"value": v, "low": v - 0.1, "high": v + 0.1} for v in (0.2, 0.0, -0.2))
    said = {
        (0, 0): "The network is better than HU alone. ",
        (0, 1): "The network is better than HU alone in balanced accuracy, but does not beat it in osteoporosis AUC. ",
        (1, 1): "The network does not beat HU alone. ",
        (1, 2): "The network is worse than HU alone in osteoporosis AUC. ",
    }
    kinds = (above, around, below)
    for (a, b), sentence in said.items():
        differences = {"balanced_accuracy": kinds[a], "osteoporosis_auc": kinds[b]}
        assert verdict(differences, "L1's HU").startswith(sentence)


def test_patients_without_hu_are_left_out_of_the_comparison_and_counted(whole: Any) -> None:
    document, sample, answers, readers = whole
    missing = int(np.isnan(sample.predictions.median_hu).sum())
    assert missing > 0
    assert document["hu"]["without_hu"] == missing
    assert document["hu"]["cases"] == 600 - missing
    none = dataclasses.replace(sample.predictions, median_hu=np.full(600, np.nan))
    bare = evaluation.evaluate(dataclasses.replace(sample, predictions=none), answers, readers=readers, resamples=20)
    assert bare["hu"] is None


def test_another_mix_of_classes_is_seen_and_allowed_for(whole: Any) -> None:
    _, sample, answers, _ = whole
    y = sample.predictions.classes
    own, other = at_own_mix(answers.natural, y, answers.class_prior)
    assert not other
    assert own is answers.natural
    even = np.concatenate([np.flatnonzero(y == c)[:50] for c in range(3)])
    moved, other = at_own_mix(answers.natural[even], y[even], answers.class_prior)
    assert other
    raw = answers.natural[even] / answers.class_prior
    assert moved == pytest.approx(raw / raw.sum(axis=1, keepdims=True))


def test_sub_groups_are_counted_and_small_ones_left_without_figures(whole: Any) -> None:
    rows = whole[0]["groups"]
    assert {row["group"] for row in rows} == {"Tube voltage"}  # the scanner is not known
    assert sum(row["cases"] for row in rows) == 600
    assert all(row["metrics"] is None or min(row["cases_by_class"].values()) >= 5 for row in rows)


def test_two_cts_of_a_patient_leave_out_tests_for_independent_cases(whole: Any) -> None:
    _, sample, answers, readers = whole
    pairs = tuple(str(i // 2) for i in range(600))
    document = evaluation.evaluate(dataclasses.replace(sample, patients=pairs), answers, readers=readers, resamples=20)
    assert document["patients"] == 300
    assert "mcnemar" not in document["hu"]["readers"]["hu_only"]
    assert "mcnemar" in whole[0]["hu"]["readers"]["hu_only"]


# --- plots and page -------------------------------------------------------------------------------------------------


def test_roc_points_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    there, scores = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    x, y, _ = roc_curve(there, scores)
    found = evaluation_plots.roc_curve(there, scores, np.ones(200))
    assert found == pytest.approx(np.interp(evaluation_plots.GRID, x, y))


def test_the_page_begins_with_the_verdict_and_stands_alone(whole: Any) -> None:
    document, *rest = whole
    plots = evaluation_plots.all_plots(document, *rest)
    assert set(plots) == {
        "roc", "confusion", "reliability", "decision_curve", "conformal_sets", "score_against_hu", "difference_to_hu"
    }  # fmt: skip
    page = evaluation_page(document, plots)
    assert page.index(document["hu"]["verdict"][:40]) < page.index("<h2>")
    assert page.count("data:image/png;base64,") == len(plots)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("Reference standard: simulated T-score") >= 3
    assert "A warning." in page
    assert "Research use only" in page


# --- another tool's table, and the command --------------------------------------------------------------------------


def write_table(path: Path, n: int = 90, sums_to: float = 1.0) -> Predictions:
    p = predictions("test", n, seed=4)
    answers = answers_of_run(p, choose_on_validation(predictions("validation", 200, seed=4)))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["SubjectID", "T-score", "p_normal", "p_osteopenia", "p_osteoporosis", "median_hu", "kVp"])
        for i in range(n):
            hu = "" if np.isnan(p.median_hu[i]) else f"{p.median_hu[i]:.1f}"
            shown = [f"{v * sums_to:.4f}" for v in answers.shown[i]]
            writer.writerow([p.case_ids[i], f"{p.t_scores[i]:.4f}", *shown, hu, p.kvp[i]])
    return p


def test_another_tools_table_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = write_table(tmp_path / "other.csv")
    assert cli.main(["evaluate", "--predictions", str(tmp_path / "other.csv"), "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["cases"] == 90
    assert document["reference_standard"] == "DXA T-score"
    assert document["cases_by_class"]["normal"] == int(np.sum(p.classes == 0))
    assert "HU" in capsys.readouterr().out.splitlines()[0]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "predictions_table.csv", "predictions_table.npz", "roc.png"} <= written
    # What was written can be read again, and says the same.
    again = ["evaluate", "--predictions", str(tmp_path / "out" / "predictions_table.csv"), "--out", str(tmp_path / "b")]
    assert cli.main(again) == 0
    second = json.loads((tmp_path / "b" / "evaluation.json").read_text())
    assert second["metrics"]["macro_auc"]["value"] == pytest.approx(document["metrics"]["macro_auc"]["value"], abs=1e-4)


def test_a_table_whose_probabilities_do_not_add_up_is_refused_with_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "other.csv", n=20, sums_to=0.5)
    assert cli.main(["evaluate", "--predictions", str(tmp_path / "other.csv")]) == 3
    told = capsys.readouterr().err
    assert "row 2 has probabilities" in told
    assert "and 10 more" in told


def test_a_table_without_scores_says_what_is_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("SubjectID,T-score\na,-1\nb,0\n")
    assert cli.main(["evaluate", "--predictions", str(tmp_path / "labels.csv")]) == 3
    assert "p_normal" in capsys.readouterr().err


def test_a_run_without_a_choice_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(tmp_path), str(tmp_path), "--split", "test"]) == 3
    assert "nothing was chosen on its validation set" in capsys.readouterr().err
    assert not (tmp_path / "test_readings.json").exists()


def test_wrong_inputs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "RUN COHORT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "a", "b", "--tau2", "0.5"])  # no option changes what validation chose
