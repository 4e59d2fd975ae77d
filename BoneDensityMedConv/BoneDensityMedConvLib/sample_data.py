"""The sample cases in Slicer's Sample Data module: one real CT (fetched when asked for), one simulated (made here)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import slicer

from BoneDensityMedConvLib.resources import resource_path

if TYPE_CHECKING:
    from medconv.simulate import SimulatedCase

CATEGORY = "BoneDensityMedConv"
REAL_CASE = "Abdominal CT with L1"
SIMULATED_CASE = "Simulated lumbar CT"
SIMULATED_SEED = 1
L1_LABEL = 31

# A fixed commit of TotalSegmentator's repository (Apache-2.0); the masks are that program's output, not an expert's.
_SOURCE = (
    "https://raw.githubusercontent.com/wasserth/TotalSegmentator/0e65a448d557382b1e925276212b3bec7f5aff83/"
    "tests/reference_files/"
)
REAL_FILES: dict[str, Any] = {
    "uris": [_SOURCE + "example_ct.nii.gz", _SOURCE + "spine_report/example_ct_report/totalseg.nii.gz"],
    "fileNames": ["BoneDensityMedConv-abdomen-ct.nii.gz", "BoneDensityMedConv-abdomen-vertebrae.nii.gz"],
    "nodeNames": ["Abdominal CT", "Abdominal CT vertebrae"],
    "checksums": [
        "SHA256:dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
        "SHA256:1dee90b23f201480e42211527b1e3acefd99c22e21291ef319a95d0b460d7376",
    ],
    "loadFileTypes": ["VolumeFile", "SegmentationFile"],
}
# Label values of TotalSegmentator 2 ("total" task) that occur in the sample's spine.
VERTEBRA_OF_LABEL = {
    26: "S1", 27: "L5", 28: "L4", 29: "L3", 30: "L2", L1_LABEL: "L1", 32: "T12", 33: "T11",
}  # fmt: skip


def register() -> None:
    """Register both cases; doing it twice changes nothing."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory(CATEGORY, title=CATEGORY)
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=REAL_CASE,
        thumbnailFileName=str(resource_path("Icons/SampleAbdominalCT.png")),
        customDownloader=load_real_case,
        **REAL_FILES,
    )
    # Nothing to download: an empty list of addresses is what the Sample Data module accepts for that.
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SIMULATED_CASE,
        thumbnailFileName=str(resource_path("Icons/SampleSimulatedCT.png")),
        uris=[],
        fileNames=[],
        nodeNames=[],
        customDownloader=load_simulated_case,
    )


def load_real_case(_source: Any = None) -> tuple[Any, Any]:
    """Download (once) and load the abdominal CT with its vertebrae; returns the CT and the segmentation node.

    Raises RuntimeError if the files could not be fetched, after Slicer has shown why.
    """
    import SampleData

    with slicer.util.tryWithErrorDisplay(f"“{REAL_CASE}” could not be loaded.", waitCursor=True):
        nodes = SampleData.downloadFromURL(**REAL_FILES)
        if len(nodes) != 2:
            raise RuntimeError(
                "The files could not be downloaded from GitHub. Check the network connection, or use "
                f"“{SIMULATED_CASE}”, which needs none."
            )
        ct, segmentation = nodes
        name_vertebrae(segmentation)
        slicer.util.setSliceViewerLayers(background=ct, fit=True)
    return ct, segmentation


def load_simulated_case(_source: Any = None) -> tuple[Any, Any]:
    """Compute a lumbar CT with known bone density and its L1 mask; returns the CT and the segmentation node."""
    from BoneDensityMedConvLib import segments
    from medconv import l1_mask

    with slicer.util.tryWithErrorDisplay(f"“{SIMULATED_CASE}” could not be made.", waitCursor=True):
        made = simulated_case(SIMULATED_SEED)
        ct = segments.add_ct(slicer.mrmlScene, made.ct, SIMULATED_CASE)
        mask = l1_mask.from_array(made.labels_zyx == L1_LABEL, made.ct.geometry, made.ct.geometry, SIMULATED_CASE)
        segmentation, _ = segments.add_l1(slicer.mrmlScene, mask, ct)
        slicer.util.setSliceViewerLayers(background=ct, fit=True)
    return ct, segmentation


def simulated_case(seed: int) -> SimulatedCase:
    """A simulated lumbar CT with voxels coarse enough to be ready in seconds."""
    from medconv.simulate import simulate_lumbar_ct

    return simulate_lumbar_ct(seed, in_plane_spacing_mm=1.2, slice_thickness_mm=2.5)


def name_vertebrae(segmentation: Any) -> None:
    """Name the segments of a TotalSegmentator label map after their vertebrae; colour and tag L1."""
    from BoneDensityMedConvLib import segments, terminology

    core = segmentation.GetSegmentation()
    for index in range(core.GetNumberOfSegments()):
        segment = core.GetNthSegment(index)
        level = VERTEBRA_OF_LABEL.get(segment.GetLabelValue())
        if level:
            segment.SetName(level)
        if level == "L1":
            terminology.tag_as_l1(segment)
            segment.SetColor(*segments.BONE_COLOR)
