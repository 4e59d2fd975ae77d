"""The weights' conformal threshold in the product: which classes remain possible, whatever the sliders say."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from medconv import pipeline
from medconv.config import CLASS_ORDER, ModelCard
from medconv.inference import LoadedModel
from medconv.pipeline import Measured
from medconv.report import result_document, schema
from medconv.report_html import result_page
from medconv.types import Adjustment, Attenuation, TScoreClass

N, P, Q = CLASS_ORDER  # normal, osteopenia, osteoporosis
CORE = Attenuation(mean_hu=150.0, median_hu=150.0, sd_hu=10.0, voxels=900, volume_ml=2.0)


@pytest.fixture
def card(only_untrained) -> ModelCard:
    own = LoadedModel.load("untrained", "cpu").card
    prior = {N: 0.5, P: 0.4, Q: 0.1}
    return replace(
        own, class_prior=prior, default_adjustment=Adjustment("log_prior", 1.0, 1.0), tau1_train=1.0,
        conformal={"alpha": 0.1, "threshold": 0.6},
    )  # fmt: skip


@pytest.fixture
def conclude(vertebra):
    case = pipeline.prepare(vertebra.ct, vertebra.mask)

    def concluded(card: ModelCard, logits: tuple[float, float, float], adjustment: Adjustment | None = None):
        measured = Measured(CORE, dict(zip(CLASS_ORDER, logits, strict=True)), (), "cpu", {})
        return pipeline.conclude(case, measured, card, adjustment or card.default_adjustment)

    return concluded


def codes(prediction) -> set[str]:
    return {note.code for note in prediction.quality}


def test_a_sure_answer_stands_alone(card: ModelCard, conclude) -> None:
    # softmax(2, 0, 0) = (0.787, 0.107, 0.107): the first class holds more than 0.6.
    sure = conclude(card, (2.0, 0.0, 0.0))
    assert sure.prediction_set == (N,)
    assert "indeterminate" not in codes(sure)


def test_an_unsure_answer_is_indeterminate_in_document_page_and_notes(card: ModelCard, conclude) -> None:
    # softmax(0, 1, 0.5) = (0.186, 0.506, 0.307): osteopenia alone holds 0.506, with osteoporosis 0.814.
    unsure = conclude(card, (0.0, 1.0, 0.5))
    assert unsure.prediction_set == (P, Q)
    assert "indeterminate" in codes(unsure)
    document = json.loads(json.dumps(result_document(unsure)))
    jsonschema.validate(document, schema())
    assert document["prediction_set"] == ["osteopenia", "osteoporosis"]
    page = result_page(document, {})
    assert page.count("Indeterminate, consider DXA: osteopenia or osteoporosis is possible") == 1
    headline, note = page.index("Osteopenia, or osteoporosis<"), page.index("Indeterminate, ")
    assert headline < note < page.index('class="track"'), "directly under the class"
    assert "osteopenia or osteoporosis (conformal set" in page


def test_the_sliders_do_not_move_the_set(card: ModelCard, conclude) -> None:
    moved = conclude(card, (0.0, 1.0, 0.5), Adjustment("log_prior", 1.0, 0.0))
    assert moved.prediction_set == (P, Q)
    assert moved.t_score_class is TScoreClass.OSTEOPENIA


def test_weights_without_a_threshold_say_nothing_of_sets(card: ModelCard, conclude) -> None:
    old = conclude(replace(card, conformal={}), (0.0, 1.0, 0.5))
    assert old.prediction_set == ()
    assert "indeterminate" not in codes(old)
    document = json.loads(json.dumps(result_document(old)))
    jsonschema.validate(document, schema())
    assert document["prediction_set"] is None


def test_cards_with_and_without_a_threshold_are_read_and_a_senseless_one_is_not(card: ModelCard) -> None:
    entry = json.loads(json.dumps(card.to_json()))
    assert ModelCard.from_json(entry) == card
    del entry["conformal"]
    assert ModelCard.from_json(entry).conformal == {}
    for wrong in ({"alpha": 0.1}, {"alpha": 0.0, "threshold": 0.5}, {"alpha": 0.1, "threshold": 1.5}):
        with pytest.raises((KeyError, ValueError)):
            ModelCard.from_json(entry | {"conformal": wrong})
