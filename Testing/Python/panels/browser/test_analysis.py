"""From files on disk to the result card and the sliders: the real panel, presenter and worker in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from panel_process import COMMAND, PanelProcess, wait_until_ended

from medconv import tau_adjustment
from medconv.config import ModelCard
from medconv.types import Adjustment, TScoreClass

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def predicted(phantom_files, environment, tmp_path_factory) -> dict:
    """`medconv predict`'s result.json for the phantom."""
    ct, mask = phantom_files
    out = tmp_path_factory.mktemp("predicted")
    subprocess.run(
        [sys.executable, "-c", COMMAND, "predict", str(ct), "--mask", str(mask), "--label", "31", "--out", str(out)],
        check=True,
        env=PanelProcess.environment(environment),
        capture_output=True,
        timeout=120,
    )
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def card(random_weights) -> ModelCard:
    return ModelCard.from_json(json.loads((random_weights / "manifest.json").read_text())["models"][0])


def expected(predicted: dict, card: ModelCard, method: str, tau1: float, tau2: float) -> dict[str, float]:
    """The probabilities by `tau_adjustment`, from the logits in result.json."""
    p = tau_adjustment.adjust(
        {TScoreClass(name): logit for name, logit in predicted["logits"].items()},
        Adjustment(method, tau1, tau2),
        class_prior=card.class_prior,
        minority_classes=card.minority_classes,
        tau1_train=card.tau1_train,
    )
    return {str(name): value for name, value in p.items()}


def wait_for_probabilities(page, wanted: dict[str, float], timeout_s: float = 5.0) -> None:
    """Until the card shows exactly these."""
    deadline = time.monotonic() + timeout_s
    while page.probabilities() != pytest.approx(wanted, abs=1e-5):
        assert time.monotonic() < deadline, f"{page.probabilities()} is not {wanted}"
        time.sleep(0.005)


def test_the_panel_gives_the_same_answer_as_medconv_predict(analysed, predicted):
    assert analysed.control("result").get_attribute("data-class") == predicted["t_score_class"]
    assert analysed.probabilities() == pytest.approx(predicted["probabilities"], abs=1e-5)
    attenuation = predicted["attenuation"]
    assert f"mean {attenuation['mean_hu']:.0f} HU, median {attenuation['median_hu']:.0f} HU" in analysed.text("hu-line")
    assert f"{predicted['l1']['volume_ml']:.1f} ml" in analysed.text("l1-line")
    assert analysed.text("demonstration") == "Trained on simulated CT: demonstration only."
    # The demonstration's own note is the badge above; here the segment's name says L1, there a person's --label did.
    elsewhere = ("trained_on_simulated_ct", "level_not_checked")
    notes = [note["message"] for note in predicted["quality"] if note["code"] not in elsewhere]
    shown = analysed.control("quality").locator("li").all_inner_texts()
    assert [text.split(" ", 1)[1] for text in shown] == notes


def test_tau2_moves_with_the_arrow_keys_and_the_card_follows_every_step(analysed, predicted, card):
    own = card.default_adjustment
    analysed.control("tau2").focus()
    for step in range(1, 9):
        analysed.page.keyboard.press("ArrowRight")
        wanted = expected(predicted, card, "log_prior", own.tau1, round(own.tau2 + 0.05 * step, 2))
        wait_for_probabilities(analysed, wanted)
    assert analysed.control("result").get_attribute("data-class") == max(wanted, key=wanted.__getitem__)
    assert analysed.text("tau2-value") == f"{own.tau2 + 0.4:.2f}"
    assert "changed by the reader" in analysed.text("adjustment-line")


def test_dragging_the_slider_ends_on_the_value_under_the_mouse(analysed, predicted, card):
    box = analysed.control("tau2").bounding_box()
    y = box["y"] + box["height"] / 2
    analysed.page.mouse.move(box["x"] + box["width"] * 0.25, y)
    analysed.page.mouse.down()
    for part in np.linspace(0.25, 0.8, 40):
        analysed.page.mouse.move(box["x"] + box["width"] * part, y)
    analysed.page.mouse.up()
    shown = float(analysed.text("tau2-value"))
    assert shown == pytest.approx(1.6, abs=0.1)
    wait_for_probabilities(analysed, expected(predicted, card, "log_prior", card.tau1_train, shown))
    assert float(analysed.text("tau2-value")) == shown


def test_temperature_frees_tau1_and_reset_brings_the_weights_own_setting_back(analysed, predicted, card):
    assert not analysed.is_enabled("tau1")
    analysed.control("method").select_option("temperature")
    analysed.page.wait_for_function("!document.querySelector('[data-test=tau1]').disabled")
    tau2 = float(analysed.text("tau2-value"))
    wait_for_probabilities(analysed, expected(predicted, card, "temperature", 1.0, tau2))
    analysed.control("tau1").focus()
    analysed.page.keyboard.press("ArrowRight")
    wait_for_probabilities(analysed, expected(predicted, card, "temperature", 1.05, tau2))
    analysed.click("reset-adjustment")
    wait_for_probabilities(analysed, predicted["probabilities"])
    assert analysed.control("method").input_value() == card.default_adjustment.method
    assert not analysed.is_enabled("tau1")


def test_cancel_ends_even_a_worker_that_hangs_and_the_next_analysis_starts_anew(analysed, panel, predicted):
    workers = panel.descendants()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    analysed.click("analyse")
    analysed.page.wait_for_function("!document.querySelector('[data-test=cancel]').disabled")
    assert not analysed.is_enabled("analyse")
    analysed.click("slice-axial")  # the page answers while the worker doesn't
    analysed.click("cancel")
    analysed.wait_for_text("message-text", "Cancelled.")
    wait_until_ended(workers)
    analysed.click("analyse")
    analysed.page.wait_for_function("!document.querySelector('[data-test=message]')")
    analysed.page.wait_for_function("document.querySelector('[data-test=cancel]').disabled", timeout=60_000)
    assert analysed.probabilities() == pytest.approx(predicted["probabilities"], abs=1e-5)
    assert panel.descendants() != workers
