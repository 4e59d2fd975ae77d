"""From files on disk to the result card and the sliders: the real panel, presenter and worker in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from panel_process import PanelProcess, wait_until_ended

from medconv import tau_adjustment
from medconv.config import ModelCard
from medconv.types import Adjustment, TScoreClass

pytestmark = pytest.mark.browser

COMMAND = "import sys; from medconv.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def environment(random_weights, tmp_path_factory) -> dict[str, str]:
    """Random weights only, nobody's own folders, and no package index."""
    home = tmp_path_factory.mktemp("home")
    return {
        "MEDCONV_WEIGHTS_DIR": str(random_weights),
        "MEDCONV_DATA": str(home / "data"),
        "MEDCONV_CACHE": str(home / "cache"),
        "PIP_NO_INDEX": "1",
    }


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


@pytest.fixture(scope="module")
def panel(environment):
    panel = PanelProcess(["-c", COMMAND, "panel", "--no-open"], environment=environment)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def blank_page(panel, watch_pages):
    """One page on the panel for all tests of this module."""
    return watch_pages(panel)


@pytest.fixture
def page(blank_page):
    """The page, with its case section open."""
    blank_page.control("case").evaluate("details => details.open = true")
    return blank_page


@pytest.fixture
def analysed(page, phantom_files):
    """The page with the phantom's result and the weights' own adjustment."""
    if page.control("result").count() == 0 or page.control("case-name").inner_text() != "ct.nii.gz · L1":
        load(page, *phantom_files)
        page.wait_for_text("case-name", "ct.nii.gz · L1")
        page.click("analyse")
        page.control("result").wait_for(timeout=60_000)
    if page.is_enabled("reset-adjustment"):
        page.click("reset-adjustment")
        page.page.wait_for_function("document.querySelector('[data-test=reset-adjustment]').disabled")
    return page


def load(page, ct, mask="", label: int | None = None) -> None:
    """Type the paths and press Load."""
    page.control("case").evaluate("details => details.open = true")
    page.control("ct-path").fill(str(ct))
    page.control("mask-path").fill(str(mask))
    if label is None:
        page.control("label-map").select_option("totalsegmentator")
    else:
        page.control("label-map").select_option("other")
        page.control("label-number").fill(str(label))
    page.click("load-files")


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
    # The demonstration's own note is the badge above.
    notes = [note["message"] for note in predicted["quality"] if note["code"] != "trained_on_simulated_ct"]
    shown = analysed.control("quality").locator("li").all_inner_texts()
    assert [text.split(" ", 1)[1] for text in shown] == notes


def test_after_loading_the_case_section_folds_away_and_leaves_the_names(analysed, phantom_files):
    load(analysed, *phantom_files)
    analysed.page.wait_for_function("!document.querySelector('[data-test=case]').open")
    assert analysed.text("case-name") == "ct.nii.gz · L1"


@pytest.mark.parametrize("view", ["sagittal", "axial", "coronal"])
def test_each_plane_shows_bone_in_the_bone_window_and_the_mask_centred_on_l1(analysed, screenshots, view):
    analysed.click("center-on-l1")
    pixels = analysed.wait_for_pixels(view, lambda p: outline(p).sum() > 200).astype(int)
    rows, columns = np.nonzero(outline(pixels))
    height, width = pixels.shape[:2]
    if view != "sagittal":  # in the sagittal plane the arch lies to one side of the body
        assert abs((columns.min() + columns.max()) / 2 - width / 2) < 0.06 * width
    assert rows.min() < height / 2 < rows.max()
    # Window 1800, level 400: 40 HU (soft tissue) is grey 76, 150 HU (trabecular bone) 92, 700 HU (cortex) 170; the
    # light fill mixes a quarter of the segment's colour (241, 214, 145) in.
    soft = pixels[8:20, width // 4 : width // 2].reshape(-1, 3)
    if view == "axial":
        assert np.median(soft, axis=0) == pytest.approx([76, 76, 76], abs=6)
    trabecular = pixels[height // 2 - 6 : height // 2 + 6, width // 2 - 6 : width // 2 + 6].reshape(-1, 3)
    assert np.median(trabecular, axis=0) == pytest.approx([129, 122, 105], abs=8)
    analysed.page.screenshot(path=screenshots / "browser_panel_phantom.png")


def outline(pixels: np.ndarray) -> np.ndarray:
    """Where a pixel has the hue of Slicer's bone colour, brighter than the fill."""
    r, g, b = (pixels[..., i].astype(int) for i in range(3))
    return (r > 200) & (r - b > 45) & (abs(r - g) < 60)


def test_3d_shows_the_vertebra(analysed):
    analysed.click("center-on-l1")

    def has_surface(pixels: np.ndarray) -> bool:
        r, b = pixels[..., 0].astype(int), pixels[..., 2].astype(int)
        return bool(((r - b > 40) & (r > 90)).mean() > 0.02)

    analysed.wait_for_pixels("three_d", has_surface)


def test_the_mouse_wheel_and_the_arrow_keys_scroll_through_the_slices(analysed):
    analysed.click("center-on-l1")
    area = analysed.control("view-axial").locator(".view__image").bounding_box()
    before = analysed.text("position-axial")
    analysed.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    analysed.page.mouse.wheel(0, -240)
    analysed.page.wait_for_function(
        "before => document.querySelector('[data-test=position-axial]').innerText !== before", arg=before
    )
    wheeled = analysed.text("position-axial")
    picture = analysed.pixels("axial")
    analysed.control("slice-axial").focus()
    for _ in range(12):
        analysed.page.keyboard.press("ArrowUp")
    analysed.page.wait_for_function(
        "before => document.querySelector('[data-test=position-axial]').innerText !== before", arg=wheeled
    )
    analysed.wait_for_pixels("axial", lambda pixels: not np.array_equal(pixels, picture))


def test_the_planes_carry_the_letters_of_the_patient_s_sides(analysed):
    letters = {
        view: "".join(analysed.text(f"edge-{edge}-{view}") for edge in ("left", "right", "top", "bottom"))
        for view in ("axial", "coronal", "sagittal")
    }
    assert letters == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


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


def test_a_file_that_is_not_there_is_named_and_the_case_before_it_stays(analysed, tmp_path):
    load(analysed, tmp_path / "nothing.nii.gz")
    analysed.wait_for_text("message-text", f"There is no file or folder {tmp_path / 'nothing.nii.gz'}.")
    assert analysed.text("message-remedy") == "Check the path."
    assert analysed.text("case-name") == "ct.nii.gz · L1"
    assert analysed.is_enabled("analyse")


def test_a_label_that_the_mask_lacks_is_refused_with_what_it_holds(analysed, phantom_files):
    load(analysed, *phantom_files, label=20)
    analysed.wait_for_text("message-text", "Label 20 (L1) is not in the mask; it holds 31.")


def test_a_ct_that_is_not_in_hounsfield_units_is_refused_and_its_predecessor_s_result_is_gone(
    analysed, phantom_files, tmp_path
):
    image = sitk.ReadImage(str(phantom_files[0]))
    sitk.WriteImage(sitk.Cast(image + 1024, sitk.sitkInt16), str(tmp_path / "shifted.nii.gz"))
    load(analysed, tmp_path / "shifted.nii.gz", phantom_files[1])
    analysed.wait_for_text("case-name", "shifted.nii.gz · L1")
    assert analysed.control("result").count() == 0
    analysed.click("analyse")
    analysed.wait_for_text("message-text", "are not Hounsfield units")
    assert "rescale slope and intercept" in analysed.text("message-remedy")
    assert analysed.control("result").count() == 0


def test_of_several_dicom_series_one_is_asked_for(page, phantom_files, tmp_path):
    from core.dicom_writer import write_series
    from core.phantom import grid, phantom

    small = phantom(grid((2.0, 2.0, 3.0))).ct
    write_series(tmp_path / "study", small, SeriesDescription="Soft tissue", shuffle_seed=None)
    second = write_series(tmp_path / "study" / "b", small, SeriesDescription="Bone", shuffle_seed=None)
    load(page, tmp_path / "study")
    page.wait_for_text("message-text", "holds 2 series")
    page.control("series").select_option(second)
    page.click("load-files")
    page.wait_for_text("case-name", "study")
    assert page.control("message").count() == 0
    assert page.text("hint") == "Choose a segmentation that holds L1."


def test_what_a_dicom_file_says_of_its_making_reaches_the_analysis(page, tmp_path):
    from core.dicom_writer import write_series
    from core.phantom import grid, phantom, write

    small = phantom(grid((2.0, 2.0, 2.0)))
    write_series(tmp_path / "mr", small.ct, modality="MR")
    mask = write(small, tmp_path)[1]
    load(page, tmp_path / "mr", mask)
    page.wait_for_text("case-name", "mr · L1")
    page.click("analyse")
    page.wait_for_text("message-text", "The image is MR, not CT.")


def test_the_sample_is_loaded_by_one_button_and_a_simulated_one_says_so(page, phantom_files, environment):
    from medconv import __version__
    from medconv.volume_io import SIMULATED_MARK

    # The cache holds a simulated sample already, as after a first run without a package index.
    cache = Path(environment["MEDCONV_CACHE"])
    cache.mkdir(exist_ok=True)
    image = sitk.ReadImage(str(phantom_files[0]))
    image.SetMetaData("descrip", SIMULATED_MARK)
    sitk.WriteImage(image, str(cache / f"simulated-lumbar-ct-{__version__}.nii.gz"))
    sitk.WriteImage(
        sitk.ReadImage(str(phantom_files[1])), str(cache / f"simulated-lumbar-vertebrae-{__version__}.nii.gz")
    )
    page.click("load-sample")
    page.wait_for_text("simulated-ct", "This CT is simulated; it shows no patient.", timeout_ms=60_000)
    assert "Simulated CT of the lumbar spine" in page.text("case-name")
    page.click("analyse")
    page.control("result").wait_for(timeout=60_000)


def test_the_real_sample_case_is_analysed(page, real_case, screenshots):
    case = real_case("abdomen_3mm_l1_complete")
    load(page, case / "example_ct.nii.gz", case / "totalseg.nii.gz")
    page.wait_for_text("case-name", "example_ct.nii.gz · L1")
    page.click("analyse")
    page.control("result").wait_for(timeout=60_000)
    # 2145 voxels of 27 mm³ carry label 31, counted with numpy.
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "totalseg.nii.gz")))
    assert f"{(labels == 31).sum() * 0.027:.1f} ml" in page.text("l1-line")
    page.wait_for_pixels("sagittal", lambda pixels: outline(pixels).sum() > 200)
    page.page.wait_for_timeout(300)
    page.page.screenshot(path=screenshots / "browser_panel_real.png")
