"""The host refuses what real Slicer would refuse, and what real Slicer would swallow."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from panels.slicer_host import proxy
from panels.slicer_host.host import SlicerHost, UnexpectedDialog
from panels.slicer_host.interface import HostRefusal, UnknownName, UnknownSignal, WrongType, slicer_version

UI = """<?xml version="1.0" encoding="UTF-8"?><ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="rows">
<item><widget class="QLabel" name="line"><property name="text"><string>L1</string></property></widget></item>
<item><widget class="QPushButton" name="button"/></item>
<item><widget class="QProgressBar" name="bar"/></item>
<item><widget class="QComboBox" name="box"/></item>
<item><widget class="ctkSliderWidget" name="slider">
<property name="maximum"><double>2.0</double></property></widget></item>
<item><widget class="qMRMLNodeComboBox" name="nodes"><property name="nodeTypes"><stringlist notr="true">
<string>vtkMRMLScalarVolumeNode</string></stringlist></property></widget></item>
<item><widget class="qMRMLSegmentSelectorWidget" name="segments"/></item>
</layout></widget>
<customwidgets>{customwidgets}</customwidgets><resources/>
<connections>{connections}</connections></ui>"""
CUSTOM = "".join(
    f"<customwidget><class>{name}</class><extends>QWidget</extends><header>{name}.h</header></customwidget>"
    for name in ("qMRMLWidget", "ctkSliderWidget", "qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget")
)
CONNECTION = (
    "<connection><sender>Panel</sender><signal>{signal}</signal><receiver>{receiver}</receiver><slot>{slot}</slot>"
    "</connection>"
)
SCENE_CHANGED, SET_SCENE = "mrmlSceneChanged(vtkMRMLScene*)", "setMRMLScene(vtkMRMLScene*)"


def _ui_file(folder: Path, text: str = UI, **parts: str) -> str:
    path = folder / "panel.ui"
    filled = text.replace("{customwidgets}", parts.get("customwidgets", CUSTOM))
    path.write_text(filled.replace("{connections}", parts.get("connections", "")), encoding="utf-8")
    return str(path)


@pytest.fixture
def ui(slicer_host: SlicerHost, tmp_path: Path) -> Any:
    """The widgets of a small .ui file; the top widget stays referenced as `Panel`."""
    import slicer.util

    return slicer.util.childWidgetVariables(slicer.util.loadUI(_ui_file(tmp_path)))


def test_the_interfaces_come_from_a_named_slicer() -> None:
    assert slicer_version().startswith("5.13.0")


def test_a_property_is_read_and_written_as_an_attribute(ui: Any) -> None:
    ui.line.text = "L2"
    assert ui.line.text == "L2"


def test_calling_a_property_is_a_type_error_as_in_pythonqt(ui: Any) -> None:
    with pytest.raises(TypeError, match="not callable"):
        ui.line.text()


def test_an_unknown_attribute_raises(ui: Any) -> None:
    with pytest.raises(UnknownName, match="has no attribute 'isVissible'"):
        ui.line.isVissible()


def test_an_attribute_of_ones_own_on_a_widget_raises(ui: Any) -> None:
    with pytest.raises(UnknownName, match="could be set"):
        ui.line.patient = "x"


def test_a_read_only_property_cannot_be_set(ui: Any) -> None:
    with pytest.raises(UnknownName, match="can only be read"):
        ui.box.count = 3


@pytest.mark.parametrize(
    ("widget", "name", "value"),
    [("line", "text", 3), ("line", "text", None), ("bar", "value", 0.5), ("slider", "value", "1"),
     ("button", "enabled", 1), ("slider", "value", True), ("nodes", "nodeTypes", "vtkMRMLScalarVolumeNode")],
)  # fmt: skip
def test_a_property_takes_its_own_type_only(ui: Any, widget: str, name: str, value: Any) -> None:
    with pytest.raises(WrongType):
        setattr(getattr(ui, widget), name, value)


def test_a_slot_with_the_wrong_arguments_has_no_overload(ui: Any) -> None:
    with pytest.raises(WrongType, match="no matching overload"):
        ui.bar.setValue(0.5)
    with pytest.raises(WrongType, match="no matching overload"):
        ui.bar.setRange(0)


def test_an_unknown_signal_raises_and_names_those_alike(ui: Any) -> None:
    with pytest.raises(UnknownSignal, match=r"clicked\(bool\)"):
        ui.button.connect("clicked(int)", lambda: None)


def test_a_signal_that_qt_6_no_longer_has_raises(ui: Any) -> None:
    with pytest.raises(UnknownSignal, match="not in Qt 6"):
        ui.box.connect("currentIndexChanged(QString)", lambda text: None)


def test_a_signal_is_connected_by_its_signature_only(ui: Any) -> None:
    with pytest.raises(UnknownSignal, match="use connect"):
        _ = ui.button.clicked


def test_something_that_cannot_be_called_is_no_slot(ui: Any) -> None:
    with pytest.raises(WrongType, match="callable"):
        ui.button.connect("clicked()", "print")


def test_the_permissive_mode_answers_false_like_pythonqt(ui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "permissive_connect", True)
    assert ui.button.connect("clicked(int)", lambda: None) is False
    assert ui.button.connect("clicked()", lambda: None) is True


def test_an_error_in_a_slot_reaches_the_test(ui: Any) -> None:
    ui.button.connect("clicked()", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ui.button.click()


def test_a_slot_gets_as_many_arguments_as_the_signature_names(ui: Any) -> None:
    heard: list[tuple[Any, ...]] = []
    ui.button.connect("clicked()", lambda *given: heard.append(given))
    ui.button.connect("clicked(bool)", lambda *given: heard.append(given))
    ui.button.click()
    assert heard == [(), (False,)]


def test_a_dialog_that_was_not_announced_raises(slicer_host: SlicerHost) -> None:
    import slicer.util

    with pytest.raises(UnexpectedDialog, match="no weights"):
        slicer.util.errorDisplay("no weights")
    slicer_host.expect_dialog("confirmOkCancelDisplay", answer=False)
    assert slicer.util.confirmOkCancelDisplay("Install?") is False


def test_blocked_signals_are_silent(ui: Any) -> None:
    heard: list[float] = []
    ui.slider.connect("valueChanged(double)", heard.append)
    ui.slider.blockSignals(True)
    ui.slider.value = 1.5
    ui.slider.blockSignals(False)
    ui.slider.value = 0.5
    assert heard == [0.5]


def test_a_timer_that_nobody_keeps_stops(slicer_host: SlicerHost) -> None:
    import qt

    heard: list[int] = []
    timer = qt.QTimer()
    timer.interval = 1
    timer.connect("timeout()", lambda: heard.append(1))
    timer.start()
    assert timer.active
    del timer
    gc.collect()
    for _ in range(20):
        slicer_host.application.processEvents()
    assert heard == []


def test_qt_has_only_what_the_host_knows(slicer_host: SlicerHost) -> None:
    import qt

    with pytest.raises(UnknownName):
        _ = qt.QRegExp


def test_a_timer_is_no_widget(slicer_host: SlicerHost) -> None:
    import qt

    with pytest.raises(UnknownName):
        _ = qt.QTimer().enabled


def test_the_application_has_only_its_real_names(slicer_host: SlicerHost) -> None:
    with pytest.raises(UnknownName):
        slicer_host.application.sleep(1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [('<property name="text">', '<property name="txt">', "no property 'txt'"),
     ("<string>L1</string>", "<number>1</number>", "gives a <number>"),
     ('class="QProgressBar"', 'class="QProgressBra"', "QProgressBra"),
     ("<double>2.0</double>", "<number>2</number>", "is double")],
)  # fmt: skip
def test_a_wrong_ui_file_is_refused(slicer_host: SlicerHost, tmp_path: Path, old: str, new: str, message: str) -> None:
    import slicer.util

    assert old in UI
    with pytest.raises(HostRefusal, match=message):
        slicer.util.loadUI(_ui_file(tmp_path, UI.replace(old, new, 1)))


def test_a_class_that_is_not_listed_as_custom_is_refused(slicer_host: SlicerHost, tmp_path: Path) -> None:
    import slicer.util

    with pytest.raises(HostRefusal, match="customwidgets"):
        slicer.util.loadUI(_ui_file(tmp_path, customwidgets=CUSTOM.replace("ctkSliderWidget", "ctkSlider")))


@pytest.mark.parametrize(
    ("signal", "slot"),
    [("mrmlSceneChanged()", SET_SCENE), (SCENE_CHANGED, "setScene(vtkMRMLScene*)"), (SCENE_CHANGED, "update()")],
)
def test_a_wrong_connection_in_the_ui_file_is_refused(
    slicer_host: SlicerHost, tmp_path: Path, signal: str, slot: str
) -> None:
    import slicer.util

    connection = CONNECTION.format(signal=signal, receiver="nodes", slot=slot)
    with pytest.raises(HostRefusal):
        slicer.util.loadUI(_ui_file(tmp_path, connections=connection))


def test_the_scene_reaches_mrml_widgets_through_the_ui_file(slicer_host: SlicerHost, tmp_path: Path) -> None:
    import slicer
    import slicer.util

    connections = CONNECTION.format(signal=SCENE_CHANGED, receiver="nodes", slot=SET_SCENE)
    top = slicer.util.loadUI(_ui_file(tmp_path, connections=connections))
    ui = slicer.util.childWidgetVariables(top)
    assert not ui.nodes.enabled
    top.setMRMLScene(slicer.mrmlScene)
    assert ui.nodes.enabled
    ct = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert ui.nodes.currentNode() is ct
    slicer.mrmlScene.RemoveNode(ct)
    assert ui.nodes.currentNode() is None
    ui.nodes.setMRMLScene(None)


def test_the_segment_selector_offers_a_new_segmentations_first_segment_before_it_reports_the_node(
    slicer_host: SlicerHost, ui: Any
) -> None:
    """A habit of the real widget that a panel has to know, or it would analyse the spleen."""
    import slicer

    nodes = []
    for names in (("L1",), ("spleen", "vertebra")):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", names[0])
        for name in names:
            node.GetSegmentation().AddEmptySegment(name, name)
        nodes.append(node)
    ui.segments.noneEnabled = True
    ui.segments.setMRMLScene(slicer.mrmlScene)
    ui.segments.setCurrentNode(nodes[0])
    ui.segments.setCurrentSegmentID("L1")
    heard: list[str] = []
    ui.segments.connect("currentSegmentChanged(QString)", heard.append)
    ui.segments.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: heard.append(node and node.GetName()))
    ui.segments.setCurrentNode(nodes[1])
    assert heard == ["spleen", "spleen"]
    ui.segments.setMRMLScene(None)


def test_the_parameter_node_wrapper_checks_types_and_keeps_slicers_text_form(slicer_host: SlicerHost) -> None:
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    kinds = {"ct": slicer.vtkMRMLScalarVolumeNode, "tau": float, "isDefault": bool}
    Fields = parameterNodeWrapper(type("Fields", (), {"__annotations__": kinds, "tau": 1.0, "isDefault": True}))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    fields = Fields(node)
    assert (node.GetParameter("tau"), node.GetParameter("isDefault"), fields.ct) == ("1.0", "True", None)
    with pytest.raises(TypeError):
        fields.tau = "1"
    fields.isDefault = False
    assert Fields(node).isDefault is False
    node.SetParameter("tau", "0.5")
    assert fields.tau == 0.5


def test_closing_the_host_leaves_no_module_behind() -> None:
    import sys

    import slicer

    before = (set(sys.modules), set(vars(slicer)))
    host = SlicerHost()
    host.open()
    assert "qt" in sys.modules
    host.close()
    assert "qt" not in sys.modules
    assert (set(sys.modules) & before[0], set(vars(slicer))) == before


def test_keyword_constructors_and_isinstance_do_not_work_on_qt_classes(slicer_host: SlicerHost) -> None:
    import qt

    with pytest.raises(TypeError):
        qt.QTimer(interval=100)
    with pytest.raises(TypeError):
        isinstance(qt.QTimer(), qt.QTimer)
