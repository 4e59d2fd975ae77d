# mypy: disable-error-code="attr-defined"
"""Draws the picture for the extension's page: the real panel after a real analysis, and the three planes beside it.

    PYTHONPATH=Testing/Python:BoneDensityMedConv python Testing/Python/panels/take_screenshot.py CASE OUT.png

CASE is a folder with example_ct.nii.gz and totalseg.nii.gz (the registered sample case).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

REPOSITORY = Path(__file__).resolve().parents[3]
PANEL_WIDTH, GAP, GAP_GREY = 450, 8, 40


def main() -> int:
    from panels.slicer_host.host import SlicerHost
    from PySide6 import QtTest

    case, out = Path(sys.argv[1]), Path(sys.argv[2])
    host = SlicerHost()
    host.open()
    widget = host.open_module(host.load_module(REPOSITORY / "BoneDensityMedConv/BoneDensityMedConv.py"))
    source = host.sample_data.sources["BoneDensityMedConv"][0]
    host.sample_data.downloads = {uri: case / uri.rpartition("/")[2] for uri in source.uris}
    ct, segmentation = host.sample_data.press(source.sampleName)
    widget.ui.ctSelector.setCurrentNode(ct)
    widget.ui.segmentSelector.setCurrentNode(segmentation)
    widget.ui.analyseButton.click()
    while widget.ui.cancelButton.enabled:
        QtTest.QTest.qWait(50)
    if not widget.ui.resultCard.visible:
        raise SystemExit(widget.ui.messageLabel.text)
    panel = _panel(widget.parent._object)
    height = panel.shape[0]
    half = (height - GAP) // 2
    large, upper, lower = _planes(ct, segmentation, widget.ui.segmentSelector.currentSegmentID(), height, half)
    picture = np.full((height, PANEL_WIDTH + 2 * (GAP + half), 3), GAP_GREY, np.uint8)
    picture[:, :PANEL_WIDTH] = panel
    left, right = PANEL_WIDTH + GAP, PANEL_WIDTH + half + 2 * GAP
    picture[:, left : left + half] = large
    picture[:half, right:] = upper
    picture[half + GAP : 2 * half + GAP, right:] = lower
    _save(picture, out)
    host.close()
    return 0


def _panel(window: Any) -> NDArray[np.uint8]:
    """The panel as it looks in Slicer's scrolled column, all of it, shape (rows, columns, 3). Clipped words end it."""
    from PySide6 import QtGui, QtTest, QtWidgets

    for _ in range(3):  # wrapped lines settle
        window.resize(PANEL_WIDTH, max(900, window.layout().totalHeightForWidth(PANEL_WIDTH)))
        QtTest.QTest.qWait(50)
    for label in window.findChildren(QtWidgets.QLabel):
        if label.isVisible() and label.wordWrap() and label.height() < label.heightForWidth(label.width()):
            raise SystemExit(f"{label.objectName()} is clipped: {label.text()}")
    image = window.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def _planes(ct: Any, segmentation: Any, segment_id: str, height: int, half: int) -> list[NDArray[np.uint8]]:
    """Sagittal (tall), axial and coronal (square), centred on L1, only L1 outlined."""
    import slicer

    from BoneDensityMedConvLib.offscreen_view import OffscreenSliceView

    core, display = segmentation.GetSegmentation(), segmentation.GetDisplayNode()
    for index in range(core.GetNumberOfSegments()):
        display.SetSegmentVisibility(core.GetNthSegmentID(index), core.GetNthSegmentID(index) == segment_id)
    to_ras = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetSliceToRAS()
    center = [to_ras.GetElement(axis, 3) for axis in range(3)]  # where the panel has put the views
    pictures = []
    for plane, size in (("Sagittal", (half, height)), ("Axial", (half, half)), ("Coronal", (half, half))):
        view = OffscreenSliceView(slicer.mrmlScene, slicer.app.applicationLogic(), plane, size)
        view.show(ct, center)
        pictures.append(view.pixels())
        view.close()
    return pictures


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    from PySide6 import QtGui

    rows, columns, _ = picture.shape
    image = QtGui.QImage(picture.tobytes(), columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
    if not image.save(str(path)):
        raise SystemExit(f"{path} can't be written")


if __name__ == "__main__":
    sys.exit(main())
