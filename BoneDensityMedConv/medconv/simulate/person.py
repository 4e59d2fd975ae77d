"""One simulated patient of a cohort: everything that is hidden, drawn before a voxel is made.

Each group of variables has a random stream of its own, (seed, patient, group). So a whole CT and a crop show the same
person, a fixed tube voltage changes the scan and nobody's bones, and patient i does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medconv.simulate import scan as scanning
from medconv.simulate.cohort import CohortModel, t_score_within
from medconv.simulate.enumeration import VARIANTS, curve_of, draw_curvature
from medconv.simulate.findings import NO_FINDINGS, Findings, draw_findings
from medconv.simulate.patient import Patient, draw_patient
from medconv.simulate.scan import Scan
from medconv.simulate.spine import PlacedVertebra, place_spine, rotation
from medconv.types import TScoreClass

COHORT_KEY = 4  # apart from the streams (seed, split, case) of `training.crops`, whose splits are 0 to 3
STREAMS = ("t_score", "patient", "scan", "contrast", "pose", "dose", "findings", "arch", "tissue", "mask", "scanner")

POSE_SD_DEG = (4.0, 3.0, 3.0)  # how somebody lies on the table: about x (pitch), y (roll), z; our assumption
SCANNERS = ("A", "B", "C")  # thin, medium and thick slices: scanners have house protocols
SCANNER_SLICES_MM = (1.25, 2.5)  # scanner A up to the first, B up to the second
OTHER_PROTOCOL_SHARE = 0.15  # scans that do not follow the house protocol; our assumption


@dataclass(frozen=True)
class PersonSettings:
    """What is the same for all persons of a cohort. None leaves a property of the scan to chance.

    dose: tube dose relative to the usual one. finding_shares: how frequent each finding is, by its name.
    only_core: the trabecular core of the bodies alone carries signal; arch, cortex, texture and size are independent.
    """

    seed: int = 0
    model: CohortModel = field(default_factory=CohortModel)
    kvp: float | None = None
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    phase: str | None = None
    dose: float | None = None
    finding_shares: Mapping[str, float] = field(default_factory=dict)
    only_core: bool = False


@dataclass(frozen=True)
class Person:
    """A patient, the scan, and how the patient lies in it.

    pose_deg: rotation about x, y, z. curvature: factor on the spine's curve. diameter_cm: water-equivalent diameter
    of the trunk. relative_dose: 1 is usual. arch_density_mg_ha: of the arch's own trabecular bone where it does not
    follow the body's.
    """

    index: int
    seed: int
    patient: Patient
    scan: Scan
    pose_deg: tuple[float, float, float]
    curvature: float
    diameter_cm: float
    relative_dose: float
    scanner: str
    findings: Findings = NO_FINDINGS
    arch_density_mg_ha: float | None = None

    def stream(self, name: str) -> np.random.Generator:
        """This person's random stream for `tissue` or `mask`; the same numbers whenever it is asked for."""
        return _stream(self.seed, self.index, name)

    def spine(self, levels: Sequence[str]) -> list[PlacedVertebra]:
        """The vertebrae named, in the person's curve and pose."""
        tilt = curve_of(VARIANTS["usual"], self.curvature)
        del tilt["sacrum"]
        return place_spine(self.patient, rotation(*self.pose_deg), levels, tilt)

    def truth(self) -> dict[str, float | str]:
        """Every hidden variable, flat."""
        sheet = self.patient.truth(self.scan)
        sheet |= {f"pose_{axis}_deg": angle for axis, angle in zip("xyz", self.pose_deg, strict=True)}
        sheet |= {"curvature": self.curvature, "diameter_cm": self.diameter_cm, "relative_dose": self.relative_dose}
        sheet |= {"scanner": self.scanner}
        arch = self.patient.density_mg_ha if self.arch_density_mg_ha is None else self.arch_density_mg_ha
        return sheet | {"arch_density_mg_ha": arch} | self.findings.truth()


def draw_person(settings: PersonSettings, index: int, t_class: TScoreClass | None = None) -> Person:
    """Person `index` of a cohort; with `t_class`, a random one of that class."""

    def stream(name: str) -> np.random.Generator:
        return _stream(settings.seed, index, name)

    model = settings.model
    t_score = None if t_class is None else t_score_within(model, t_class, stream("t_score"))
    patient = draw_patient(stream("patient"), model, t_score)
    posed = stream("pose")
    x, y, z = (sd * float(v) for sd, v in zip(POSE_SD_DEG, posed.standard_normal(3), strict=True))
    curvature = draw_curvature(posed)
    dosed = stream("dose")
    diameter, dose = scanning.draw_diameter_cm(dosed), scanning.draw_relative_dose(dosed)
    dose = dose if settings.dose is None else settings.dose
    scan = _scan(settings, stream("scan"), stream("contrast"), diameter, dose)
    return Person(
        index=index,
        seed=settings.seed,
        patient=patient,
        scan=scan,
        pose_deg=(x, y, z),
        curvature=curvature,
        diameter_cm=diameter,
        relative_dose=dose,
        scanner=_scanner(scan, stream("scanner")),
        findings=draw_findings(stream("findings"), settings.finding_shares, patient.signal),
        arch_density_mg_ha=_own_arch_density(stream("arch")) if settings.only_core else None,
    )


def _scan(
    settings: PersonSettings, rng: np.random.Generator, contrast: np.random.Generator, diameter: float, dose: float
) -> Scan:
    """A random scan with what is fixed put in, and the noise that follows from dose and size."""
    drawn = scanning.draw_scan(rng)
    kvp = drawn.kvp if settings.kvp is None else settings.kvp
    thickness, increment = drawn.slice_thickness_mm, drawn.slice_increment_mm
    if settings.slice_thickness_mm is not None:
        thickness = increment = settings.slice_thickness_mm
    kernel, phase = settings.kernel or drawn.kernel, settings.phase or drawn.phase
    return Scan(
        kvp=kvp,
        in_plane_spacing_mm=drawn.in_plane_spacing_mm,
        slice_thickness_mm=thickness,
        slice_increment_mm=increment,
        kernel=kernel,
        noise_hu=scanning.noise_hu(kvp, thickness, kernel, dose, diameter),
        phase=phase,
        contrast_offset_hu=scanning.contrast_offset_hu(contrast, phase),
    )


def _scanner(scan: Scan, rng: np.random.Generator) -> str:
    other = SCANNERS[int(rng.integers(len(SCANNERS)))]
    if rng.random() < OTHER_PROTOCOL_SHARE:
        return other
    return SCANNERS[int(np.searchsorted(SCANNER_SLICES_MM, scan.slice_thickness_mm))]


def _own_arch_density(rng: np.random.Generator) -> float:
    from medconv.simulate.physics import DENSITY_MG_HA, MINIMUM_DENSITY_MG_HA

    mean, sd = DENSITY_MG_HA
    return max(mean + sd * float(rng.standard_normal()), MINIMUM_DENSITY_MG_HA)


def _stream(seed: int, index: int, name: str) -> np.random.Generator:
    key = (COHORT_KEY, index, STREAMS.index(name))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
