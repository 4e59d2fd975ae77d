"""The parameter node: every choice and result that a saved scene keeps.

One `vtkMRMLScriptedModuleNode` holds it all. In Slicer it is read and written through Slicer's own
`parameterNodeWrapper`; slicer-core has none, so `PlainParameters` does the same on the same node, in the same form:
a string is stored as it is, a number as `str(number)`, a truth value as "True" or "False", and a node as a node
reference whose role is the field's name (so that it follows the node when a scene is loaded) beside an empty string.
"""

from __future__ import annotations

from typing import Any, get_type_hints

import slicer

try:
    from slicer.parameterNodeWrapper import parameterNodeWrapper
except ImportError:  # slicer-core has no wrapper
    parameterNodeWrapper = None


class ParameterFields:
    """The fields and their defaults; an empty `weights` or `method` means the shipped default."""

    ct: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    segmentId: str = ""
    # Where the vertebrae come from. Scenes of the first version say "existing" themselves.
    segmenter: str = "totalsegmentator"
    quality: str = "full"
    nnunetFolder: str = ""
    nnunetLabelMap: str = ""
    insist: bool = False
    # The levels found, what was in doubt and what the reader decided; only for the segmentation it was read from.
    levelJson: str = ""
    levelCt: slicer.vtkMRMLScalarVolumeNode
    levelSegmentation: slicer.vtkMRMLSegmentationNode
    weights: str = ""
    device: str = "auto"
    adjustmentIsDefault: bool = True
    method: str = ""
    tau1: float = 1.0
    tau2: float = 1.0
    # The result, and what it was computed from: a result is shown only while these are still the inputs.
    resultJson: str = ""
    resultModel: str = ""
    resultCt: slicer.vtkMRMLScalarVolumeNode
    resultSegmentation: slicer.vtkMRMLSegmentationNode
    resultSegmentId: str = ""
    resultFingerprint: str = ""
    # What moved the answer: of the result above, as a map over the CT.
    explanationJson: str = ""
    explanation: slicer.vtkMRMLScalarVolumeNode
    explanationVisible: bool = True
    explanationOpacity: float = 0.6
    # Two segmentations of one CT, one beside the other, and the source that was chosen for the second.
    secondSource: str = ""
    comparisonJson: str = ""
    comparisonCt: slicer.vtkMRMLScalarVolumeNode
    comparisonFirst: slicer.vtkMRMLSegmentationNode
    comparisonSecond: slicer.vtkMRMLSegmentationNode


def field_types() -> dict[str, Any]:
    """Field name → str, float, bool or a MRML node class."""
    return get_type_hints(ParameterFields)


def _plain_property(name: str, kind: Any) -> property:
    default = getattr(ParameterFields, name, None)

    def read(self: PlainParameters) -> Any:
        node = self.parameterNode
        if issubclass(kind, slicer.vtkMRMLNode):
            return node.GetNodeReference(name)
        text = node.GetParameter(name) if node.HasParameter(name) else str(default)
        return text == "True" if kind is bool else kind(text)

    def write(self: PlainParameters, value: Any) -> None:
        node = self.parameterNode
        if issubclass(kind, slicer.vtkMRMLNode):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, None if value is None else value.GetID())
            return
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted):
            raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}")
        node.SetParameter(name, str(value))

    return property(read, write)


class PlainParameters:
    """`ParameterFields` on a node, without Slicer's wrapper; same names, same text, same references."""

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        for name in field_types():
            if not parameterNode.HasParameter(name):
                setattr(self, name, getattr(ParameterFields, name, None))


for _name, _kind in field_types().items():
    setattr(PlainParameters, _name, _plain_property(_name, _kind))

if parameterNodeWrapper is None:
    Parameters: Any = PlainParameters
else:
    # A class of its own: the decorator turns the fields of the class it is given into properties.
    Parameters = parameterNodeWrapper(type("Parameters", (ParameterFields,), {}))


def wrap(parameter_node: Any) -> Any:
    """Typed access to a `vtkMRMLScriptedModuleNode`; what has been wrapped already is returned as it is."""
    return parameter_node if hasattr(parameter_node, "parameterNode") else Parameters(parameter_node)
