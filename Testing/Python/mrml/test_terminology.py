"""Which vertebra a segment says it is."""

from __future__ import annotations

import pytest
import slicer

from BoneDensityMedConvLib import terminology


def segment(name: str, tag: str | None = None):
    made = slicer.vtkSegment()
    made.SetName(name)
    if tag is not None:
        made.SetTerminology(tag)
    return made


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("L1", "L1"),
        ("vertebrae_L1", "L1"),
        ("L1 vertebra", "L1"),
        ("l1-mask", "L1"),
        ("Lumbar vertebra 1", "L1"),
        ("L2", "L2"),
        ("vertebrae_T12", "T12"),
        ("L11", ""),
        ("XL1", ""),
        ("Segment_1", ""),
        ("L1-L5", ""),
        ("L1 and L2", ""),
        ("aorta", ""),
    ],
)
def test_a_name_tells_the_level_only_if_it_names_exactly_one(name, level):
    assert terminology.level_in_name(name) == level


def test_the_l1_tag_is_read_by_slicers_own_terminology_code():
    entry = slicer.vtkSlicerTerminologyEntry()
    assert slicer.vtkSlicerTerminologiesModuleLogic().DeserializeTerminologyEntry(terminology.L1_TERMINOLOGY, entry)
    category, kind = entry.GetCategoryObject(), entry.GetTypeObject()
    assert (category.GetCodingSchemeDesignator(), category.GetCodeValue()) == ("SCT", "123037004")
    assert (kind.GetCodingSchemeDesignator(), kind.GetCodeValue()) == ("SCT", "66794005")
    assert kind.GetCodeMeaning() == "L1 vertebra"


def test_snomed_14293000_is_l2_and_not_l1():
    tag = terminology.L1_TERMINOLOGY.replace("66794005^L1 vertebra", "14293000^L2 vertebra")
    level = terminology.level_of(segment("Segment_1", tag))
    assert (level.name, level.stated_by, level.is_other) == ("L2", "tag", True)


def test_a_tag_outweighs_the_name():
    other = segment("L2")
    terminology.tag_as_l1(other)
    assert terminology.level_of(other).is_l1


def test_slicers_default_tag_says_nothing_so_the_name_counts():
    assert terminology.level_of(segment("L2")) == terminology.Level("L2", "name")
    assert terminology.level_of(segment("Segment_1")) == terminology.Level()


@pytest.mark.parametrize("damaged", ["", "~", "~~~~~~", "a~b", "~DCM^1^x~DCM^66794005^x~^^~~^^~^^"])
def test_a_damaged_or_foreign_tag_says_nothing(damaged):
    assert terminology.level_in_tag(damaged) == ""


@pytest.mark.parametrize(
    ("structure", "code", "side"),
    [
        ("T12", "23215003", None),
        ("L5", "49668003", None),
        ("L6", "51282000", None),
        ("sacrum", "54735007", None),
        ("rib_left_12", "43993008", "7771000"),
        ("rib_right_11", "58830002", "24028007"),
        ("liver", "10200004", None),
    ],
)
def test_a_structure_is_tagged_so_that_slicer_and_this_module_read_it_back(structure, code, side):
    tagged = segment(terminology.plain_name(structure))
    terminology.tag(tagged, structure)
    entry = slicer.vtkSlicerTerminologyEntry()
    assert slicer.vtkSlicerTerminologiesModuleLogic().DeserializeTerminologyEntry(tagged.GetTerminology(), entry)
    assert entry.GetTypeObject().GetCodeValue() == code
    modifier = entry.GetTypeModifierObject()
    assert (modifier.GetCodeValue() or None if modifier else None) == side
    assert terminology.structure_of(tagged) == structure


def test_the_codes_are_those_of_totalsegmentators_own_mapping():
    """Its table is an independent source."""
    import csv
    from importlib import resources

    import totalsegmentator

    from medconv import vertebrae

    table = resources.files(totalsegmentator) / "resources" / "totalsegmentator_snomed_mapping.csv"
    rows = {row["Structure"]: row for row in csv.DictReader(table.read_text("utf-8").splitlines())}
    prefix = "SegmentedPropertyType"
    compared = 0
    for name in vertebrae.TOTALSEGMENTATOR:
        row = rows.get(name) or rows[f"vertebrae_{name}"]
        tagged = segment("")
        terminology.tag(tagged, name)
        _, _, kind, side, *_ = tagged.GetTerminology().split("~")
        assert kind.split("^")[1] == row[f"{prefix}CodeSequence.CodeValue"], name
        assert side.split("^")[1] == row[f"{prefix}ModifierCodeSequence.CodeValue"], name
        compared += 1
    assert compared > 50


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("rib_left_12", "rib_left_12"),
        ("Rib 12 left", "rib_left_12"),
        ("Right rib 11", "rib_right_11"),
        ("rib 12", ""),
        ("Sacrum", "sacrum"),
        ("vertebrae_L1", "L1"),
        ("sacrum and L5", "L5"),
        ("liver", "liver"),
        ("liver tumour", ""),
        ("ribbon left 1", ""),
    ],
)
def test_a_name_tells_the_structure_only_if_it_names_one(name, structure):
    assert terminology.structure_of(segment(name)) == structure
