"""The page draws what the presenter tells it and asks the presenter for what the person does."""

from __future__ import annotations

import pytest
from panels.scripted_presenter import COMPARISON, LEVELS, WEIGHTS
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


def automatic(**options):
    """The view with an automatic source whose options are all there."""
    own = {**empty_view()["segmenter_options"], "quality_enabled": True, "nnunet_enabled": True, **options}
    segmenters = [{"id": "totalsegmentator", "label": "TotalSegmentator", "available": True, "reason": ""}]
    return {
        "segmenter": "totalsegmentator", "segmenters": segmenters, "segmenter_options": own,
        "segmenter_weights": WEIGHTS,
    }  # fmt: skip


def test_what_a_source_needs_is_shown_with_it_alone(scripted_panel, page):
    assert page.control("source-options").count() == 0
    scripted_panel.show(**automatic(insist_enabled=True, demonstration_note="Learnt from simulated CT."))
    page.wait_for_text("quality-help", "Finer outline.")
    assert page.text("weights-text") == "135 MB are missing."
    assert page.text("demonstration-note") == "Learnt from simulated CT."
    assert (page.is_enabled("fetch-weights"), page.is_enabled("remove-weights")) == (True, False)


def test_quality_folder_numbering_and_insisting_are_asked_for(scripted_panel, page):
    scripted_panel.show(**automatic(insist_enabled=True))
    page.wait_for_text("quality-help", "Finer outline.")
    page.control("quality").select_option("fast")
    page.control("nnunet-folder").fill(" '/models/Dataset900 Rücken' ")
    page.click("use-nnunet-folder")
    page.control("nnunet-label-map").select_option("verse")
    page.control("insist").check()
    for call in (
        ["set_quality", "fast"], ["set_nnunet_folder", "/models/Dataset900 Rücken"], ["set_nnunet_label_map", "verse"],
        ["set_insist", True],
    ):  # fmt: skip
        scripted_panel.wait_for_call(call)


def test_weights_are_fetched_only_after_a_yes(scripted_panel, page):
    scripted_panel.show(**automatic())
    page.wait_for_text("weights-text", "135 MB")
    page.click("fetch-weights")
    assert page.text("weights-question-text") == "Download 135 MB?"
    page.click("weights-no")
    page.click("import-weights")
    page.control("weights-path").fill("/tmp/a b/weights.zip")
    page.click("weights-yes")
    scripted_panel.wait_for_call(["import_weights", "/tmp/a b/weights.zip"])
    assert ["fetch_weights"] not in scripted_panel.calls()
    page.click("fetch-weights")
    page.click("weights-yes")
    scripted_panel.wait_for_call(["fetch_weights"])


def test_a_level_in_doubt_is_asked_about(scripted_panel, page):
    assert page.control("levels").count() == 0
    scripted_panel.show(levels={**LEVELS, "alternatives": [{"id": "L2", "label": "Use L2 instead"}]})
    page.wait_for_text("level-question", "Is the outlined vertebra L1?")
    assert page.text("level-statement") == "L1 is in doubt."
    assert page.text("level-doubts") == "Warning Neither rib 12 nor the sacrum is in view."
    assert page.text("shift-up") == "L1 is one higher (called T12)"
    assert not page.is_enabled("shift-down")
    assert page.control("shift-down").get_attribute("title").startswith("L2 can't be measured: ")
    for button in ("confirm-level", "shift-up", "use-L2"):
        page.click(button)
    for call in (["confirm_level"], ["shift_level", 1], ["use_instead", "L2"]):
        scripted_panel.wait_for_call(call)


def test_where_nothing_is_in_doubt_the_other_answers_wait_behind_one_button(scripted_panel, page):
    sure = {**LEVELS, "undecided": False, "can_confirm": False, "statement": "L1, counted from S1."}
    scripted_panel.show(levels=LEVELS)
    page.wait_for_text("level-statement", "L1 is in doubt.")
    assert page.control("shift-up").is_visible()
    assert not page.control("change-level").is_visible()
    scripted_panel.show(levels=sure)
    page.wait_for_text("level-statement", "L1, counted from S1.")
    assert not page.control("shift-up").is_visible()
    assert page.text("change-level") == "Not L1?"
    page.click("change-level")
    page.click("shift-up")
    scripted_panel.wait_for_call(["shift_level", 1])
    scripted_panel.show(levels={**sure, "statement": "Corrected.", "change_label": "Change the level"})
    page.wait_for_text("change-level", "Change the level")
    assert not page.control("shift-up").is_visible()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1440, 900)])
def test_class_and_probabilities_stay_in_view_at_the_sliders_and_cover_nothing(
    scripted_panel, open_panel, width, height
):
    warning = {"severity": "warning", "message": "Indeterminate, consider DXA: two classes are possible. " * 2}
    notes = [{"severity": "warning", "message": "A long note on the image. " * 8}] * 4
    result = {**some_result(), "class_label": "Osteopenia, or osteoporosis", "qualifiers": [warning], "quality": notes}
    rows = [{**COMPARISON["rows"][0], "name": f"V{number}"} for number in range(30)]
    more = {"levels": LEVELS, "can_analyse": True, "comparison": {**COMPARISON, "rows": rows}}
    scripted_panel.show(**{**empty_view(), "result": result, **more})
    page = open_panel(scripted_panel, width, height)
    page.wait_for_text("class-label", "Osteopenia, or osteoporosis")
    headline = page.control("result")
    below = page.page.locator(".side").bounding_box()
    for name in ("second-source", "tau2"):
        page.control(name).focus()
        assert headline.bounding_box()["y"] == pytest.approx(below["y"], abs=1)
        assert page.control("qualifiers").is_visible()
    head = headline.bounding_box()
    shown = [page.control(f"probability-{c}").bounding_box()["y"] for c in ("normal", "osteopenia", "osteoporosis")]
    assert below["y"] < shown[0] < shown[1] < shown[2] < head["y"] + head["height"]
    # Where a person has scrolled the next control under the headline, the Tab key brings it out.
    page.control("method").evaluate("m => { m.closest('.side').scrollTop += m.getBoundingClientRect().top - 120 }")
    assert page.control("method").bounding_box()["y"] < head["y"] + head["height"]
    reached = []
    while "case-summary" not in reached:
        page.page.keyboard.press("Shift+Tab")
        name, is_covered = page.page.evaluate(
            """() => {
                const control = document.activeElement, box = control.getBoundingClientRect();
                const corners = [[box.left + 6, box.top + 3], [box.left + 6, box.bottom - 3]];
                return [control.dataset.test, corners.some(at => !control.contains(document.elementFromPoint(...at)))];
            }"""
        )
        reached.append(name)
        assert not is_covered, name
    assert {"method", "confirm-level", "analyse"} <= set(reached)


def test_the_class_is_headed_by_the_vertebra_that_was_measured(scripted_panel, page):
    scripted_panel.show(result=some_result())
    page.wait_for_text("result-heading", "WHO T-score class of L1")
    l1, l2 = (
        {**LEVELS["levels"][0], "name": name, "shown_as": name, "is_target": name == "L2"} for name in ("L1", "L2")
    )
    scripted_panel.show(result=some_result(), levels={**LEVELS, "levels": [l1, l2]})
    page.wait_for_text("result-heading", "WHO T-score class of L2")


def test_a_second_source_is_compared_and_its_figures_are_shown(scripted_panel, page):
    assert not page.is_enabled("compare")
    scripted_panel.show(can_compare=True)
    page.page.wait_for_function("!document.querySelector('[data-test=compare]').disabled")
    page.click("compare")
    scripted_panel.wait_for_call(["compare_with", "demonstration"])
    scripted_panel.show(comparison=COMPARISON)
    page.wait_for_text("comparison-line", "L1: Dice 0.912")
    assert "L1 0.912 0.6 2.0 T12 only one of the two found it" in page.text("comparison-rows")
    page.control("second-source").select_option("nnunet")
    scripted_panel.wait_for_call(["set_second_source", "nnunet"])
    scripted_panel.show(second_source="nnunet")
    page.wait_for_text("second-source-reason", "Choose its folder first.")
    assert not page.is_enabled("compare")
    page.click("clear-comparison")
    scripted_panel.wait_for_call(["clear_comparison"])


def test_the_demonstration_network_can_be_insisted_on_as_second_source(scripted_panel, page):
    assert page.control("second-insist").count() == 0
    options = {**empty_view()["segmenter_options"], "second_insist_enabled": True}
    scripted_panel.show(segmenter_options=options)
    page.click("second-insist")
    scripted_panel.wait_for_call(["set_insist", True])
    assert page.control("insist").count() == 0
    scripted_panel.show(segmenter_options={**options, "insist": True}, busy=True)
    page.page.wait_for_function("document.querySelector('[data-test=second-insist]').disabled")
    assert page.control("second-insist").is_checked()
