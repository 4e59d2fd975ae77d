"""The answer as a DICOM structured report: a measurement report (TID 1500) made from the document of result.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medconv import RESEARCH_USE_ONLY, __version__, dicom_codes, tscore
from medconv.config import CLASS_ORDER
from medconv.dicom_segment import MANUFACTURER, PRODUCT, SEGMENT
from medconv.dicom_source import NO_DATE, UTF_8, SourceSlices
from medconv.level_report import statement
from medconv.types import TScoreClass

SERIES_DESCRIPTION = "RESEARCH USE ONLY: T-score class from CT ({})"
SERIES_NUMBER = 9102
DATE_NOTE = (
    "Date and time of this object are those of the CT's images, so that the same CT, weights and settings always give "
    "the same object. When it was computed is not part of it."
)
NO_DATE_NOTE = "The CT carries no date; 1900-01-01 stands for none."


def report(
    source: SourceSlices, segmentation: Any, vertebra: str, document: Mapping[str, Any], uids: Mapping[str, str]
) -> Any:
    """The report as a highdicom dataset.

    segmentation: the finished Segmentation object. document: of result.json. uids: "device", "tracking" (of the
    vertebra), "core", "class" and "object", which stands for instance and series until they are named.
    """
    from highdicom.sr import EnhancedSR, MeasurementReport

    date, time = source.moment
    content = MeasurementReport(
        observation_context=_observer(document, uids["device"]),
        procedure_reported=dicom_codes.dicom("ct"),
        imaging_measurements=[
            _vertebra_group(source, segmentation, vertebra, document, uids["tracking"]),
            _core_group(vertebra, document, uids["core"]),
            _class_group(vertebra, document, uids["class"]),
        ],
    )
    # Before the measurements, so that a reader meets it first.
    items = content[0].ContentSequence
    at = next(i for i, item in enumerate(items) if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    items[at:at] = [
        _text(dicom_codes.own("research_use"), RESEARCH_USE_ONLY),
        _text(dicom_codes.dicom("summary"), summary(vertebra, document)),
    ]
    items.append(_notes(document, date))
    _separate(content[0])
    made = EnhancedSR(
        evidence=[segmentation, *source.headers],
        content=content[0],
        series_instance_uid=uids["object"],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids["object"],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        series_description=SERIES_DESCRIPTION.format(vertebra),
        is_complete=True,
        is_final=False,
        content_qualification="RESEARCH",
        content_date=date,
        content_time=time,
        coding_schemes=[_own_scheme()],
        specific_character_set=UTF_8,
    )
    made.SpecificCharacterSet = UTF_8
    return made


def summary(vertebra: str, document: Mapping[str, Any]) -> str:
    """The answer in one line, for viewers that show codes and figures without their names."""
    core = document["attenuation"]
    codes = [note["code"] for note in document["quality"]]
    label = tscore.headline(TScoreClass(document["t_score_class"]), codes, document.get("prediction_set") or ())
    shares = ", ".join(f"{name} {document['probabilities'][name]:.1%}" for name in map(str, CLASS_ORDER))
    return (
        f"Research result: {label}. Probabilities: {shares}. "
        f"{vertebra} trabecular attenuation: mean {core['mean_hu']:.0f} HU, median {core['median_hu']:.0f} HU, "
        f"SD {core['sd_hu']:.0f} HU."
    )


def _vertebra_group(
    source: SourceSlices, segmentation: Any, vertebra: str, document: Mapping[str, Any], uid: str
) -> Any:
    """TID 1411: the vertebra itself, by its segment."""
    from highdicom import sr

    segment = sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=SEGMENT,
        # The slices one by one are in the Segmentation object; here they would push everything else off a screen.
        source_series=sr.SourceSeriesForSegmentation(source.series_uid),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, vertebra),
        referenced_segment=segment,
        finding_category=dicom_codes.dicom("anatomical_structure"),
        finding_type=dicom_codes.vertebra(vertebra),
        measurements=[_measurement(dicom_codes.dicom("volume"), document["l1"]["volume_ml"], "ml", 2)],
    )


def _core_group(vertebra: str, document: Mapping[str, Any], uid: str) -> Any:
    """TID 1501: attenuation of the trabecular core, a region inside the vertebra that has no segment of its own."""
    from highdicom import sr

    core, attenuation = document["attenuation"], dicom_codes.dicom("attenuation")
    values = [
        _measurement(attenuation, core[f"{name}_hu"], "hu", 1, dicom_codes.dicom(name))
        for name in ("mean", "median", "sd")
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, f"{vertebra} trabecular core"),
        finding_type=dicom_codes.own("trabecular_core"),
        finding_sites=[sr.FindingSite(dicom_codes.vertebra(vertebra))],
        measurements=[*values, _measurement(dicom_codes.dicom("volume"), core["volume_ml"], "ml", 2)],
    )


def _class_group(vertebra: str, document: Mapping[str, Any], uid: str) -> Any:
    """TID 1501: class, probabilities, possible classes, and the network and weights that gave them."""
    from highdicom import sr

    model, adjustment = document["model"], document["adjustment"]
    parameters = [
        f"weights: {model['name']}",
        f"weights SHA-256: {model['sha256']}",
        f"trained on: {model['trained_on']}",
        f"adjustment: {adjustment['method']}, tau1 {adjustment['tau1']:g}, tau2 {adjustment['tau2']:g}",
    ]
    possible = document["prediction_set"] or []
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, f"WHO T-score class from {vertebra}"),
        finding_type=dicom_codes.own("t_score_class"),
        finding_sites=[sr.FindingSite(dicom_codes.vertebra(vertebra))],
        algorithm_id=sr.AlgorithmIdentification("MedConv", __version__, parameters),
        measurements=[
            _measurement(dicom_codes.own(f"p_{name}"), document["probabilities"][name], "no_units", 4)
            for name in map(str, CLASS_ORDER)
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(dicom_codes.own("t_score_class"), dicom_codes.own(document["t_score_class"])),
            *(sr.QualitativeEvaluation(dicom_codes.own("prediction_set"), dicom_codes.own(c)) for c in possible),
        ],
    )


def _notes(document: Mapping[str, Any], date: str) -> Any:
    """TID 1500's qualitative evaluations: how far to trust it all, in words."""
    from highdicom.sr import ContainerContentItem, ContentSequence

    told = [RESEARCH_USE_ONLY]
    if document["level"]:
        told.append(statement(document["level"]))
    told += [f"{note['severity']}: {note['message']}" for note in document["quality"]]
    told += [DATE_NOTE, *([NO_DATE_NOTE] if date == NO_DATE else [])]
    name = dicom_codes.own("quality_note")
    container = ContainerContentItem(dicom_codes.dicom("evaluations"), relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence([_text(name, text) for text in told])
    return container


def _observer(document: Mapping[str, Any], uid: str) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid, name=f"{PRODUCT} {__version__}", manufacturer_name=MANUFACTURER, model_name=document["model"]["name"]
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


def _measurement(name: Any, value: float, unit: str, digits: int, derivation: Any = None) -> Any:
    from highdicom.sr import Measurement

    # Rounded to what is shown: another processor's last digit must not make another object.
    return Measurement(name=name, value=round(value, digits), unit=dicom_codes.dicom(unit), derivation=derivation)


def _text(name: Any, value: str) -> Any:
    from highdicom.sr import TextContentItem

    return TextContentItem(name, value, relationship_type="CONTAINS")


def _separate(item: Any) -> None:
    """Let viewers show item by item: continuous content is shown as running text, figures without their names."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for part in item.get("ContentSequence", ()):
        _separate(part)


def _own_scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(
        dicom_codes.OWN_SCHEME, name="BoneDensityMedConv", responsible_organization=MANUFACTURER
    )
