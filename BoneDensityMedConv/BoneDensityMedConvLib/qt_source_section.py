"""The part of the Qt panel where the reader says where the mask of L1 comes from, and what that source needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import qt
import slicer

from BoneDensityMedConvLib.presenter import Presenter
from BoneDensityMedConvLib.qt_binding import connect, quiet, shows_errors
from BoneDensityMedConvLib.qt_drawing import entry_of, fill, show, show_text
from BoneDensityMedConvLib.qt_installation import everything_installed

WEIGHTS_FILES = "Weights of TotalSegmentator (*.zip)"


class SourceSection:
    """Draws `segmenters`, `segmenter_options` and `segmenter_weights`, and asks before anything is fetched or removed.

    follow_work: called after an action that may have started work, so that the panel begins to poll.
    """

    def __init__(self, ui: Any, presenter: Presenter, follow_work: Callable[[], None]) -> None:
        self._ui = ui
        self._presenter = presenter
        self._follow_work = follow_work
        for name, signal, slot in (
            ("segmenterSelector", "currentIndexChanged(int)", self._choose_segmenter),
            ("qualitySelector", "currentIndexChanged(int)", self._choose_quality),
            ("fetchWeightsButton", "clicked()", self._fetch_weights),
            ("importWeightsButton", "clicked()", self._import_weights),
            ("removeWeightsButton", "clicked()", self._remove_weights),
            ("folderButton", "directorySelected(QString)", self._choose_folder),
            ("labelMapSelector", "currentIndexChanged(int)", self._choose_label_map),
            ("insistCheckBox", "toggled(bool)", self._insist),
        ):
            connect(getattr(ui, name), name, signal, slot)

    @shows_errors("Choosing the source of the mask")
    def _choose_segmenter(self) -> None:
        self._presenter.set_segmenter(self._ui.segmenterSelector.currentData)

    @shows_errors("Choosing the quality")
    def _choose_quality(self) -> None:
        self._presenter.set_quality(self._ui.qualitySelector.currentData)

    @shows_errors("Choosing the nnU-Net folder")
    def _choose_folder(self) -> None:
        self._presenter.set_nnunet_folder(self._ui.folderButton.directory)

    @shows_errors("Choosing the numbering")
    def _choose_label_map(self) -> None:
        self._presenter.set_nnunet_label_map(self._ui.labelMapSelector.currentData)

    @shows_errors("Allowing the demonstration network")
    def _insist(self) -> None:
        self._presenter.set_insist(self._ui.insistCheckBox.checked)

    @shows_errors("Fetching the weights")
    def _fetch_weights(self) -> None:
        asked = slicer.util.confirmOkCancelDisplay(self._weights()["fetch_question"])
        if asked and everything_installed("totalsegmentator"):
            self._presenter.fetch_weights()
            self._follow_work()

    @shows_errors("Importing the weights")
    def _import_weights(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(None, "Import the weights of TotalSegmentator", "", WEIGHTS_FILES)
        if chosen:
            self._presenter.import_weights(str(Path(chosen)))
            self._follow_work()

    @shows_errors("Removing the weights")
    def _remove_weights(self) -> None:
        if slicer.util.confirmOkCancelDisplay(self._weights()["remove_question"]):
            self._presenter.remove_weights()

    def _weights(self) -> Mapping[str, Any]:
        weights: Mapping[str, Any] = self._presenter.view_model()["segmenter_weights"]
        return weights

    def draw(self, model: Mapping[str, Any]) -> None:
        """Show only what the chosen source has to do with."""
        ui, options, busy = self._ui, model["segmenter_options"], model["busy"]
        with quiet(ui.segmenterSelector, ui.qualitySelector, ui.labelMapSelector, ui.insistCheckBox, ui.folderButton):
            fill(ui.segmenterSelector, model["segmenters"], model["segmenter"])
            fill(ui.qualitySelector, options["qualities"], options["quality"])
            fill(ui.labelMapSelector, options["nnunet_label_maps"], options["nnunet_label_map"])
            ui.folderButton.directory = options["nnunet_folder"]
            ui.insistCheckBox.checked = options["insist"]
        chosen = entry_of(model["segmenters"], model["segmenter"])
        show_text(ui.segmenterNote, chosen["reason"] if chosen else "")
        show(model["segmenter"] == "existing", ui.segmentLabel, ui.segmentSelector)
        show(options["quality_enabled"], ui.segmentationQualityLabel, ui.qualitySelector)
        quality = entry_of(options["qualities"], options["quality"])
        show_text(ui.qualityHelp, quality["help"] if quality and options["quality_enabled"] else "")
        nnunet = options["nnunet_enabled"]
        show(nnunet, ui.folderLabel, ui.folderButton, ui.labelMapLabel, ui.labelMapSelector)
        ui.insistCheckBox.visible = options["insist_enabled"]
        ui.insistCheckBox.text = options["insist_label"]
        show_text(ui.demonstrationNote, options["demonstration_note"])
        self._draw_weights(model["segmenter_weights"], busy)
        choices = (ui.segmenterSelector, ui.qualitySelector, ui.folderButton, ui.labelMapSelector, ui.insistCheckBox)
        for widget in choices:
            widget.enabled = not busy

    def _draw_weights(self, weights: Mapping[str, Any] | None, busy: bool) -> None:
        ui = self._ui
        buttons = (ui.fetchWeightsButton, ui.importWeightsButton, ui.removeWeightsButton)
        show(weights is not None, ui.weightsLabel, ui.weightsText, *buttons)
        if weights is not None:
            ui.weightsText.text = weights["text"]
            for button, key in zip(buttons, ("can_fetch", "can_import", "can_remove"), strict=True):
                button.enabled = bool(weights[key] and not busy)
