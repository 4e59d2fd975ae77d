"""The parameter node: the same keys, texts and references as Slicer's `parameterNodeWrapper` writes.

The expected literals were read off Slicer's own serialisers (Base/Python/slicer/parameterNodeWrapper/serializers.py):
a string as it is, `str(number)`, "True"/"False", and for a node an empty string beside a reference of the same name.
"""

from __future__ import annotations

import pytest
import slicer

from BoneDensityMedConvLib import parameters

DEFAULT_TEXTS = {
    "ct": "",
    "segmentation": "",
    "segmentId": "",
    "segmenter": "totalsegmentator",
    "quality": "full",
    "nnunetFolder": "",
    "nnunetLabelMap": "",
    "insist": "False",
    "levelJson": "",
    "levelCt": "",
    "levelSegmentation": "",
    "weights": "",
    "device": "auto",
    "adjustmentIsDefault": "True",
    "method": "",
    "tau1": "1.0",
    "tau2": "1.0",
    "resultJson": "",
    "resultModel": "",
    "resultCt": "",
    "resultSegmentation": "",
    "resultSegmentId": "",
    "resultFingerprint": "",
    "explanationJson": "",
    "explanation": "",
    "explanationVisible": "True",
    "explanationOpacity": "0.6",
    "secondSource": "",
    "comparisonJson": "",
    "comparisonCt": "",
    "comparisonFirst": "",
    "comparisonSecond": "",
}


def texts(node) -> dict[str, str]:
    return {name: node.GetParameter(name) for name in node.GetParameterNames()}


def test_a_new_node_holds_every_field_with_its_default(parameter_node):
    parameters.PlainParameters(parameter_node)
    assert texts(parameter_node) == DEFAULT_TEXTS


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("segmentId", "Segment_1", "Segment_1"),
        ("tau2", 0.35, "0.35"),
        ("tau1", 1, "1"),
        ("tau2", 1e-05, "1e-05"),
        ("adjustmentIsDefault", False, "False"),
        ("resultJson", '{"a": "é"}', '{"a": "é"}'),
    ],
)
def test_a_value_is_stored_as_slicer_stores_it_and_read_back(parameter_node, name, value, text):
    chosen = parameters.PlainParameters(parameter_node)
    setattr(chosen, name, value)
    assert parameter_node.GetParameter(name) == text
    assert getattr(parameters.PlainParameters(parameter_node), name) == value


@pytest.mark.parametrize(
    ("name", "node_class"),
    [
        ("ct", "vtkMRMLScalarVolumeNode"),
        ("segmentation", "vtkMRMLSegmentationNode"),
        ("resultCt", "vtkMRMLScalarVolumeNode"),
        ("resultSegmentation", "vtkMRMLSegmentationNode"),
    ],
)
def test_a_node_is_kept_as_a_reference_of_the_fields_name(headless, parameter_node, name, node_class):
    chosen = parameters.PlainParameters(parameter_node)
    node = headless.add(node_class)
    setattr(chosen, name, node)
    assert parameter_node.GetNodeReferenceID(name) == node.GetID()
    assert parameter_node.GetParameter(name) == ""
    assert getattr(chosen, name) is node
    setattr(chosen, name, None)
    assert getattr(chosen, name) is None


def test_a_wrong_type_is_refused_and_the_old_value_stays(headless, parameter_node):
    chosen = parameters.PlainParameters(parameter_node)
    for name, wrong in (("ct", headless.add("vtkMRMLSegmentationNode")), ("tau1", "1"), ("segmentId", None)):
        with pytest.raises(TypeError, match=name):
            setattr(chosen, name, wrong)
    assert texts(parameter_node) == DEFAULT_TEXTS


def test_wrapping_twice_is_the_same_and_keeps_values(parameter_node):
    chosen = parameters.wrap(parameter_node)
    chosen.tau2 = 0.25
    assert parameters.wrap(chosen) is chosen
    assert parameters.wrap(parameter_node).tau2 == 0.25


def test_a_node_that_was_reset_reads_as_its_defaults(parameter_node):
    chosen = parameters.wrap(parameter_node)
    chosen.tau2 = 0.25
    parameter_node.Reset(slicer.vtkMRMLScriptedModuleNode())
    assert chosen.tau2 == 1.0
    assert chosen.ct is None
    assert chosen.segmenter == "totalsegmentator"
