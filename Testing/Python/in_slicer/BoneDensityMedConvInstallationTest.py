"""In Slicer: the extension is installed whole, starts without PyTorch, and is ready to be used."""

import importlib
import pkgutil
import sys
import unittest

import slicer


class BoneDensityMedConvInstallationTest(unittest.TestCase):
    """What only a real Slicer can show: the installed files, the factory, the widgets made by Qt's own loader."""

    def test_the_module_is_loaded_with_its_icon(self):
        module = slicer.util.getModule("BoneDensityMedConv")
        self.assertEqual(module.title, "BoneDensityMedConv")
        self.assertFalse(module.icon.isNull())

    def test_opening_the_panel_does_not_load_torch(self):
        loaded_before = "torch" in sys.modules
        slicer.util.getModuleWidget("BoneDensityMedConv")
        self.assertEqual("torch" in sys.modules, loaded_before)

    def test_the_panel_has_every_widget_of_its_right_class(self):
        ui = slicer.util.getModuleWidget("BoneDensityMedConv").ui
        for name, kind in (
            ("ctSelector", "qMRMLNodeComboBox"),
            ("segmentSelector", "qMRMLSegmentSelectorWidget"),
            ("tau2Slider", "ctkSliderWidget"),
            ("resultSection", "ctkCollapsibleButton"),
            ("osteoporosisBar", "QProgressBar"),
        ):
            self.assertEqual(getattr(ui, name).className(), kind, name)
        self.assertIn("Research use only", ui.researchUseLabel.text)
        self.assertFalse(ui.resultCard.visible)

    def test_a_signal_of_a_widget_reaches_the_presenter_and_comes_back(self):
        widget = slicer.util.getModuleWidget("BoneDensityMedConv")
        widget.enter()
        selector, presenter = widget.ui.methodSelector, widget.logic.presenter
        selector.currentIndex = selector.findData("temperature")
        self.assertEqual(presenter.view_model()["adjustment"]["method"], "temperature")
        self.assertTrue(widget.ui.tau1Slider.enabled)
        widget.ui.tau1Slider.value = 0.75
        self.assertEqual(presenter.view_model()["adjustment"]["tau1"], 0.75)
        widget.ui.resetButton.click()
        self.assertTrue(presenter.view_model()["adjustment"]["is_default"])

    def test_every_module_of_the_extension_can_be_imported(self):
        """But for the browser panel, and what is torch through and through."""
        for package in ("BoneDensityMedConvLib", "medconv"):
            folder = importlib.import_module(package).__path__
            for found in pkgutil.walk_packages(folder, package + "."):
                if ".browser_panel" not in found.name and ".training" not in found.name and "network" not in found.name:
                    importlib.import_module(found.name)

    def test_the_weights_are_installed_and_unchanged(self):
        from medconv import weights

        models = weights.list_models()
        self.assertTrue(models, "no weights are installed")
        for card, path in models:
            weights.verify(card, path)

    def test_both_samples_are_registered(self):
        from BoneDensityMedConvLib import sample_data

        sample_data.register()
        names = {source.sampleName for source in slicer.modules.sampleDataSources[sample_data.CATEGORY]}
        self.assertEqual(names, {sample_data.REAL_CASE, sample_data.SIMULATED_CASE})
