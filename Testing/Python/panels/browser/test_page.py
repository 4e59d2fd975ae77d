"""The page draws what the presenter tells it and asks the presenter for what the person does."""

from __future__ import annotations

import pytest
from scripted_presenter import empty_view, some_result

pytestmark = pytest.mark.browser


@pytest.fixture
def page(scripted_panel, scripted_page):
    """The page, back on the view model before anything was chosen."""
    scripted_panel.show(**empty_view())
    scripted_page.page.wait_for_function(
        "document.querySelector('[data-test=tau2-value]').innerText === '0.50'"
        "&& !document.querySelector('[data-test=result]') && !document.querySelector('[data-test=message]')"
        "&& !document.querySelector('[data-test=progress]') && !document.querySelector('[data-test=case-name]')"
        "&& document.querySelector('[data-test=method]').value === 'log_prior'"
        "&& document.querySelector('[data-test=analyse]').disabled"
    )
    scripted_page.open_case()
    return scripted_page


def test_the_research_use_sentence_and_the_demonstration_badge_are_always_there(scripted_panel, page):
    assert page.text("research-use") == "Research use only."
    assert page.text("demonstration") == "trained on simulated CT: demonstration only"
    assert page.control("simulated-ct").count() == 0
    scripted_panel.show(simulated_ct="Simulated CT: no patient.", demonstration="")
    page.wait_for_text("simulated-ct", "Simulated CT: no patient.")
    assert page.control("demonstration").count() == 0


def test_a_result_is_drawn_with_class_bars_lines_and_notes(scripted_panel, page):
    assert page.control("result").count() == 0
    scripted_panel.show(result=some_result())
    page.wait_for_text("class-label", "Osteopenia")
    assert page.probabilities() == {"normal": 0.25, "osteopenia": 0.625, "osteoporosis": 0.125}
    assert page.text("probability-osteopenia") == "62.5 %"
    fills = page.page.locator(".fill").evaluate_all(
        "fills => fills.map(f => f.getBoundingClientRect().width / f.parentElement.getBoundingClientRect().width)"
    )
    # The bars move for 0.12 s.
    page.page.wait_for_timeout(200)
    fills = page.page.locator(".fill").evaluate_all(
        "fills => fills.map(f => f.getBoundingClientRect().width / f.parentElement.getBoundingClientRect().width)"
    )
    assert fills == pytest.approx([0.25, 0.625, 0.125], abs=0.01)
    assert page.text("hu-line") == "Trabecular attenuation of L1: 132 HU (mean), 110 HU (median)"
    assert page.text("l1-line") == "L1: 35.6 ml"
    assert page.text("quality") == "Warning Tube voltage unknown. Note No contrast agent stated."
    assert page.text("model-line") == "medconv-slim (1a2b3c4d)"
    assert page.text("adjustment-line") == "log_prior, τ1 = 1, τ2 = 0.5"


@pytest.mark.parametrize("best", ["normal", "osteopenia", "osteoporosis"])
def test_the_name_of_the_class_in_bold_stays_beside_its_bar(scripted_panel, page, best):
    scripted_panel.show(result={**some_result(), "class_id": best})
    page.page.wait_for_selector(f'[data-class="{best}"]')
    widths = page.page.locator(".bar-row > :first-child").evaluate_all(
        "names => names.map(name => [name.scrollWidth, name.clientWidth])"
    )
    assert len(widths) == 3
    assert all(needed <= given for needed, given in widths), widths


def test_a_segmenter_that_is_not_there_is_disabled_and_says_why(page):
    assert page.is_enabled("segmenter-existing")
    assert not page.is_enabled("segmenter-totalsegmentator")
    described_by = page.control("segmenter-totalsegmentator").get_attribute("aria-describedby")
    assert page.page.locator(f"#{described_by}").inner_text() == "Not installed."


def test_analyse_waits_until_it_may_be_pressed_and_then_asks_for_the_analysis(scripted_panel, page):
    assert not page.is_enabled("analyse")
    assert page.text("hint") == "Choose a CT."
    scripted_panel.show(can_analyse=True, hint="")
    page.page.wait_for_function("!document.querySelector('[data-test=analyse]').disabled")
    page.click("analyse")
    scripted_panel.wait_for_call(["analyse"])


def test_while_busy_the_stage_shows_and_only_cancel_works(scripted_panel, page):
    scripted_panel.show(busy=True, stage="Running MedConv", fraction=0.5, can_analyse=True, hint="")
    page.wait_for_text("stage", "Running MedConv")
    assert page.control("progress").locator("progress").get_attribute("value") == "0.5"
    assert not page.is_enabled("analyse")
    assert not page.is_enabled("load-sample")
    assert not page.is_enabled("load-files")
    page.click("cancel")
    scripted_panel.wait_for_call(["cancel"])


@pytest.mark.parametrize("severity", ["info", "warning", "error"])
def test_a_message_shows_cause_and_remedy(scripted_panel, page, severity):
    scripted_panel.show(message={"severity": severity, "text": "L1 is cut.", "remedy": "Use a larger CT."})
    page.wait_for_text("message-text", "L1 is cut.")
    assert page.text("message-remedy") == "Use a larger CT."
    assert page.control("message").get_attribute("data-severity") == severity


def test_a_fixed_tau1_is_disabled_and_tells_the_reason(scripted_panel, page):
    assert not page.is_enabled("tau1")
    assert page.text("tau1-note") == "τ1 = 1 belongs to the weights."
    adjustment = {**empty_view()["adjustment"], "method": "temperature", "tau1_enabled": True, "tau1_note": ""}
    scripted_panel.show(adjustment=adjustment)
    page.page.wait_for_function("!document.querySelector('[data-test=tau1]').disabled")
    assert page.text("method-help") == "Help on temperature."
    assert not page.control("tau1-note").is_visible()


def test_the_arrow_keys_move_tau2_by_one_step(scripted_panel, page):
    page.control("tau2").focus()
    page.page.keyboard.press("ArrowRight")
    scripted_panel.wait_for_call(["set_tau2", 0.55])


def test_what_the_presenter_itself_sets_is_not_sent_back_to_it(scripted_panel, page):
    before = len(scripted_panel.calls())
    adjustment = {**empty_view()["adjustment"], "method": "temperature", "tau2": 0.8, "tau1": 1.3}
    scripted_panel.show(adjustment=adjustment)
    page.wait_for_text("tau2-value", "0.80")
    page.wait_for_text("tau1-value", "1.30")
    page.page.wait_for_timeout(300)
    assert scripted_panel.calls()[before:] == []


def test_the_method_is_asked_for_and_reset_is_offered_once_it_is_not_the_default(scripted_panel, page):
    assert not page.is_enabled("reset-adjustment")
    page.control("method").select_option("temperature")
    scripted_panel.wait_for_call(["set_method", "temperature"])
    scripted_panel.show(adjustment={**empty_view()["adjustment"], "is_default": False})
    page.page.wait_for_function("!document.querySelector('[data-test=reset-adjustment]').disabled")
    page.click("reset-adjustment")
    scripted_panel.wait_for_call(["reset_adjustment"])


def test_centre_on_l1_is_asked_for_once_there_is_a_segment(scripted_panel, page):
    assert not page.is_enabled("center-on-l1")
    scripted_panel.show(segment_name="L1")
    page.page.wait_for_function("!document.querySelector('[data-test=center-on-l1]').disabled")
    before = scripted_panel.calls().count(["center_on_l1"])
    page.click("center-on-l1")
    page.page.wait_for_timeout(300)
    assert scripted_panel.calls().count(["center_on_l1"]) == before + 1


def test_every_control_has_a_name_for_a_screen_reader_and_can_be_reached_by_the_tab_key(scripted_panel, page):
    scripted_panel.show(can_analyse=True, hint="", segment_name="L1", result=some_result())
    page.wait_for_text("class-label", "Osteopenia")
    nameless = page.page.evaluate(
        """() => [...document.querySelectorAll('.page button, .page input, .page select')].filter(control => !(
            control.innerText.trim() || control.getAttribute('aria-label') || (control.labels && control.labels.length)
        )).map(control => control.outerHTML)"""
    )
    assert nameless == []
    page.control("case-summary").focus()
    reached = set()
    for _ in range(40):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate("document.activeElement.dataset.test"))
    expected = {"load-sample", "ct-path", "mask-path", "label-map", "load-files", "segmenter-existing", "analyse"}
    assert reached >= expected | {"center-on-l1", "method", "tau2", "slice-sagittal", "slice-axial", "slice-coronal"}


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_the_page_fits_the_screen(scripted_panel, open_panel, screenshots, width, height):
    scripted_panel.show(**{**empty_view(), "result": some_result(), "segment_name": "L1", "ct_name": "phantom"})
    page = open_panel(scripted_panel, width, height)
    page.wait_for_text("class-label", "Osteopenia")
    page.wait_for_pixels("sagittal", lambda pixels: pixels.max() > 200)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.evaluate("document.documentElement.scrollHeight") <= height
    for view in ("sagittal", "axial", "coronal", "three_d"):
        box = page.control(f"view-{view}").bounding_box()
        assert box["x"] >= 380
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
        assert box["width"] > 400
        assert box["height"] > 300
    page.page.screenshot(path=screenshots / f"browser_panel_scripted_{width}.png")
