"""CTK's widgets that the panel uses, drawn with plain Qt; properties and signals as in the real ones."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets

HEADER_HEIGHT = 26
UNLIMITED_HEIGHT = 16777215  # Qt's QWIDGETSIZE_MAX


class CtkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header to click on, with contents below that it hides and shows."""

    HOST_INTERFACE = "ctk.ctkCollapsibleButton"
    HOST_SIGNALS = {"contentsCollapsed(bool)": "contents_collapsed"}  # noqa: RUF012
    contents_collapsed = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, HEADER_HEIGHT, 0, 0)
        # CTK's own policy: wrapped words below the header get the height that they need.
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self._open_again: set[QtCore.QObject] = set()
        self.toggled.connect(lambda checked: self._collapse(not checked))

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if event.added():
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        """What is shown while the button is collapsed stays hidden until it is opened, as in CTK."""
        if event.type() == QtCore.QEvent.Type.ShowToParent and self._is_collapsed():
            self._open_again.add(child)
            child.hide()
        return super().eventFilter(child, event)

    def _collapse(self, collapsed: bool) -> None:
        if collapsed:
            contents = [child for child in self.children() if isinstance(child, QtWidgets.QWidget)]
            self._open_again = {child for child in contents if not child.isHidden()}
        for child in list(self._open_again):
            child.setVisible(not collapsed)
        self.setMaximumHeight(HEADER_HEIGHT if collapsed else UNLIMITED_HEIGHT)
        self.contents_collapsed.emit(collapsed)

    def _is_collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, _is_collapsed, _set_collapsed)

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), HEADER_HEIGHT - 4)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        mark = "▸" if self._is_collapsed() else "▾"
        painter.drawText(
            option.rect.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, f"{mark}  {self.text()}"
        )
        if not self._is_collapsed():
            painter.setPen(self.palette().mid().color())
            painter.drawRect(0, HEADER_HEIGHT - 4, self.width() - 1, self.height() - HEADER_HEIGHT + 3)

    def sizeHint(self) -> QtCore.QSize:
        layout = self.layout()
        return layout.sizeHint() if layout else QtCore.QSize(120, HEADER_HEIGHT)


class CtkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box that show one number; rounds to its decimals and keeps within its limits."""

    HOST_INTERFACE = "ctk.ctkSliderWidget"
    HOST_SIGNALS = {"valueChanged(double)": "value_changed"}  # noqa: RUF012
    value_changed = QtCore.Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spin_box = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin_box)
        self._spin_box.setRange(0.0, 99.0)
        self._spin_box.valueChanged.connect(self._show)
        self._slider.sliderMoved.connect(lambda step: self._spin_box.setValue(step * self._spin_box.singleStep()))
        self.setFocusProxy(self._spin_box)
        self._show()

    def _show(self) -> None:
        step = self._spin_box.singleStep()
        with QtCore.QSignalBlocker(self._slider):
            self._slider.setRange(round(self._spin_box.minimum() / step), round(self._spin_box.maximum() / step))
            self._slider.setValue(round(self._spin_box.value() / step))
        if self._spin_box.value() != getattr(self, "_last", None):
            self._last = self._spin_box.value()
            self.value_changed.emit(self._last)

    def _set_step(self, step: float) -> None:
        self._spin_box.setSingleStep(step)
        self._show()

    def _set_minimum(self, minimum: float) -> None:
        self._spin_box.setMinimum(minimum)
        self._show()

    def _set_maximum(self, maximum: float) -> None:
        self._spin_box.setMaximum(maximum)
        self._show()

    def setValue(self, value: float) -> None:
        self._spin_box.setValue(value)

    def reset(self) -> None:
        self._spin_box.setValue(min(max(0.0, self._spin_box.minimum()), self._spin_box.maximum()))

    value = QtCore.Property(float, lambda self: self._spin_box.value(), setValue)
    minimum = QtCore.Property(float, lambda self: self._spin_box.minimum(), _set_minimum)
    maximum = QtCore.Property(float, lambda self: self._spin_box.maximum(), _set_maximum)
    singleStep = QtCore.Property(float, lambda self: self._spin_box.singleStep(), _set_step)
    pageStep = QtCore.Property(
        float, lambda self: float(self._slider.pageStep()), lambda self, step: self._slider.setPageStep(round(step))
    )
    decimals = QtCore.Property(
        int, lambda self: self._spin_box.decimals(), lambda self, digits: self._spin_box.setDecimals(digits)
    )


class CtkDirectoryButton(QtWidgets.QPushButton):
    """A button that shows a folder and opens a dialog for another; here `choose` stands for the dialog."""

    HOST_INTERFACE = "ctk.ctkDirectoryButton"
    HOST_SIGNALS = {  # noqa: RUF012
        "directoryChanged(QString)": "directory_changed",
        "directorySelected(QString)": "directory_selected",
    }
    directory_changed = QtCore.Signal(str)
    directory_selected = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._directory = ""
        self._caption = ""
        self.setText("(choose)")

    def _set_directory(self, directory: str) -> None:
        if directory != self._directory:
            self._directory = directory
            self.setText(directory or "(choose)")
            self.directory_changed.emit(directory)

    def _set_caption(self, caption: str) -> None:
        self._caption = caption

    def choose(self, directory: str) -> None:
        """What the person does in the dialog: both signals come, as from the real button."""
        self._set_directory(directory)
        self.directory_selected.emit(directory)

    directory = QtCore.Property(str, lambda self: self._directory, _set_directory)
    caption = QtCore.Property(str, lambda self: self._caption, _set_caption)
