# mypy: disable-error-code="attr-defined"
"""Slicer's `SampleData` module: the register, and downloads that tests replace by files they have."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import slicer

FIELDS = ("uris", "fileNames", "nodeNames", "checksums", "loadFileTypes")


class Source:
    """One registered sample: all lists of one length, as the real class demands."""

    def __init__(self, sampleName: str, **given: Any) -> None:
        self.sampleName = sampleName
        self.thumbnailFileName = given.pop("thumbnailFileName", None)
        self.customDownloader = given.pop("customDownloader", None)
        length = len(given["uris"])
        for field in FIELDS:
            values = given.pop(field, None)
            setattr(self, field, [None] * length if values is None else list(values))
        if given:
            raise TypeError(f"registerCustomSampleDataSource has no parameter {sorted(given)}")
        if {len(getattr(self, field)) for field in FIELDS} != {length}:
            raise ValueError("All fields of sample data source must have the same length")


class Register:
    """The state behind the module: samples by category, and files that stand in for downloads."""

    def __init__(self) -> None:
        self.categories: dict[str, str] = {}
        self.sources: dict[str, list[Source]] = {}
        self.downloads: dict[str, Path] = {}

    def press(self, sample_name: str) -> Any:
        """What a click on the sample's button does."""
        source = next(s for entries in self.sources.values() for s in entries if s.sampleName == sample_name)
        return source.customDownloader(source)


def _load(path: Path, kind: str, name: str) -> Any:
    is_volume = kind == "VolumeFile"
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode" if is_volume else "vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode() if is_volume else slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise RuntimeError(f"{path} can't be read")
    node.SetName(name)
    return node


def make_module(register: Register) -> types.ModuleType:
    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataCategory(category: str, title: str) -> None:
            register.categories[category] = title

        @staticmethod
        def registerCustomSampleDataSource(category: str = "Custom", **given: Any) -> None:
            known = register.sources.setdefault(category, [])
            source = Source(**given)
            if source.sampleName not in [other.sampleName for other in known]:
                known.append(source)

    def downloadFromURL(**given: Any) -> list[Any]:
        source = Source("", **given)
        nodes = []
        for uri, kind, name in zip(source.uris, source.loadFileTypes, source.nodeNames, strict=True):
            if uri in register.downloads:  # a failed download is logged and left out
                nodes.append(_load(register.downloads[uri], kind, name))
        return nodes

    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    module.downloadFromURL = downloadFromURL
    return module
