"""Cases from files: what can be read is shown, what can't is refused with a reason, and the page lives on."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from page_driver import outline

from medconv.types import InputRefused
from medconv.volume_io import read_ct

pytestmark = pytest.mark.browser


def test_after_loading_the_case_section_folds_away_and_leaves_the_names(analysed, phantom_files):
    analysed.load(*phantom_files)
    analysed.page.wait_for_function("!document.querySelector('[data-test=case]').open")
    assert analysed.text("case-name") == "ct.nii.gz · L1"


def test_a_file_that_is_not_there_is_refused_as_the_core_refuses_it_and_the_case_before_it_stays(analysed, tmp_path):
    with pytest.raises(InputRefused) as refusal:
        read_ct(tmp_path / "nothing.nii.gz")
    assert refusal.value.code == "file_missing"
    analysed.load(tmp_path / "nothing.nii.gz")
    analysed.wait_for_text("message-text", refusal.value.message)
    assert analysed.text("message-remedy") == refusal.value.remedy
    assert analysed.text("case-name") == "ct.nii.gz · L1"
    assert analysed.is_enabled("analyse")


def test_a_label_that_the_mask_lacks_is_refused_with_what_it_holds(analysed, phantom_files):
    analysed.load(*phantom_files, label=20)
    analysed.wait_for_text("message-text", "Label 20 (L1) is not in the mask; it holds 31.")


def test_a_ct_that_is_not_in_hounsfield_units_is_refused_and_its_predecessor_s_result_is_gone(
    analysed, phantom_files, tmp_path
):
    image = sitk.ReadImage(str(phantom_files[0]))
    sitk.WriteImage(sitk.Cast(image + 1024, sitk.sitkInt16), str(tmp_path / "shifted.nii.gz"))
    analysed.load(tmp_path / "shifted.nii.gz", phantom_files[1])
    analysed.wait_for_text("case-name", "shifted.nii.gz · L1")
    assert analysed.control("result").count() == 0
    analysed.click("analyse")
    analysed.wait_for_text("message-text", "are not Hounsfield units")
    assert "rescale slope and intercept" in analysed.text("message-remedy")
    assert analysed.control("result").count() == 0


def test_of_several_dicom_series_one_is_asked_for(panel_page, phantom_files, tmp_path):
    from core.dicom_writer import write_series
    from core.phantom import grid, phantom

    small = phantom(grid((2.0, 2.0, 3.0))).ct
    write_series(tmp_path / "study", small, SeriesDescription="Soft tissue", shuffle_seed=None)
    second = write_series(tmp_path / "study" / "b", small, SeriesDescription="Bone", shuffle_seed=None)
    panel_page.load(tmp_path / "study")
    panel_page.wait_for_text("message-text", "holds 2 series")
    panel_page.control("series").select_option(second)
    panel_page.click("load-files")
    panel_page.wait_for_text("case-name", "study")
    assert panel_page.control("message").count() == 0
    assert panel_page.control("segmenter-totalsegmentator").is_checked(), "without a mask, L1 is to be found"


def test_what_a_dicom_file_says_of_its_making_reaches_the_analysis(panel_page, tmp_path):
    from core.dicom_writer import write_series
    from core.phantom import grid, phantom, write

    small = phantom(grid((2.0, 2.0, 2.0)))
    write_series(tmp_path / "mr", small.ct, modality="MR")
    mask = write(small, tmp_path)[1]
    panel_page.load(tmp_path / "mr", mask)
    panel_page.wait_for_text("case-name", "mr · L1")
    panel_page.click("analyse")
    panel_page.wait_for_text("message-text", "The image is MR, not CT.")


def test_the_sample_is_loaded_by_one_button_and_a_simulated_one_says_so(panel_page, phantom_files, environment):
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
    panel_page.open_case()
    panel_page.click("load-sample")
    panel_page.wait_for_text("simulated-ct", "This CT is simulated; it shows no patient.", timeout_ms=60_000)
    assert "Simulated CT of the lumbar spine" in panel_page.text("case-name")
    panel_page.click("analyse")
    panel_page.control("result").wait_for(timeout=60_000)


def test_the_real_sample_case_is_analysed(panel_page, real_case, screenshots):
    case = real_case("abdomen_3mm_l1_complete")
    panel_page.load(case / "example_ct.nii.gz", case / "totalseg.nii.gz")
    panel_page.wait_for_text("case-name", "example_ct.nii.gz · L1")
    panel_page.click("analyse")
    panel_page.control("result").wait_for(timeout=60_000)
    # 2145 voxels of 27 mm³ carry label 31, counted with numpy.
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "totalseg.nii.gz")))
    assert f"{(labels == 31).sum() * 0.027:.1f} ml" in panel_page.text("l1-line")
    panel_page.wait_for_pixels("sagittal", lambda pixels: outline(pixels).sum() > 200)
    panel_page.page.wait_for_timeout(300)
    panel_page.page.screenshot(path=screenshots / "browser_panel_real.png")
