"""One simulated patient of a cohort: everything that is hidden, drawn before a voxel is made.

Each group of variables has a random stream of its own, (seed, patient, group). So a whole CT and a crop show the same
person, a fixed tube voltage changes the scan and nobody's bones, and patient i does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medconv.simulate import scan as scanning
from medconv.simulate.cohort import CohortModel, t_score_within
from medconv.simulate.enumeration import VARIANTS, curve_of, draw_curvature
from medconv.simulate.findings import NO_FINDINGS, Findings, draw_findings
from medconv.simulate.fracture import Collapse
from medconv.simulate.patient import SIZE_STEP, Patient, draw_patient
from medconv.simulate.physics import DENSITY_MG_HA, MINIMUM_DENSITY_MG_HA
from medconv.simulate.scan import Scan
from medconv.simulate.spine import PlacedVertebra, place_spine, rotation
from medconv.simulate.template import load_template
from medconv.simulate.vertebra import LEVEL_SCALE
from medconv.types import TScoreClass

COHORT_KEY = 4  # apart from the streams (seed, split, case) of the training crops, whose splits are 0 to 3
STREAMS = (
    "t_score", "patient", "scan", "contrast", "pose", "dose", "findings", "arch", "tissue", "mask", "scanner",
    "lesions", "template", "metal",
)  # fmt: skip

POSE_SD_DEG = (4.0, 3.0, 3.0)  # how somebody lies on the table: about x (pitch), y (roll), z; our assumption
SCANNERS = ("A", "B", "C")  # thin, medium and thick slices: scanners have house protocols
SCANNER_SLICES_MM = (1.25, 2.5)  # scanner A up to the first, B up to the second
DRAWN_DIAMETER_CM = 25.0
GIRTH_RANGE = (0.84, 1.19)  # what fits into the box that is drawn
ARCH_TO_CORE = 1.25  # trabecular HU of the arch, as in the drawn vertebra
OSTEOPHYTE_OF_DEGENERATION, SCLEROSIS_OF_DEGENERATION = 0.14, 0.8  # at full degeneration; our assumption
TEMPLATE_SCALE_SD = 0.05
OTHER_PROTOCOL_SHARE = 0.15  # scans that do not follow the house protocol; our assumption


@dataclass(frozen=True)
class PersonSettings:
    """What is the same for all persons of a cohort. None leaves a property of the scan to chance.

    dose: tube dose relative to the usual one. finding_shares: how frequent each finding is, by its name.
    only_core: the trabecular core of the bodies alone carries signal; arch, cortex, texture and size are independent.
    templates: label maps of real L1 whose forms take the place of the drawn ones.
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
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Person:
    """A patient, the scan, and how the patient lies in it.

    pose_deg: rotation about x, y, z. curvature: factor on the spine's curve. diameter_cm: water-equivalent diameter
    of the trunk. relative_dose: 1 is usual. arch_density_mg_ha: of the arch's own trabecular bone where it does not
    follow the body's. template: whose form the vertebrae have, a file; its number and scale go to the truth sheet.
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
    template: str = ""
    template_number: int = -1
    template_scale: float = 1.0

    def stream(self, name: str) -> np.random.Generator:
        """This person's random stream of that name (one of STREAMS); the same numbers whenever it is asked for."""
        return _stream(self.seed, self.index, name)

    def spine(self, levels: Sequence[str]) -> list[PlacedVertebra]:
        """The vertebrae named, in the person's curve and pose, with what L1 has."""
        tilt = curve_of(VARIANTS["usual"], self.curvature)
        del tilt["sacrum"]
        collapse = Collapse(self.findings.fracture, self.findings.height_loss) if self.findings.fracture else None
        lean, down = (0.0, 0.0) if collapse is None else collapse.settling(self.patient.shape)
        above = list(tilt)[: list(tilt).index("L1")]
        tilt |= {level: tilt[level] + lean for level in above}
        pose = rotation(*self.pose_deg)
        axis = (pose @ rotation(tilt["L1"], 0.0, 0.0))[:, 2]
        template = load_template(Path(self.template)) if self.template else None
        arch = self._arch()
        return [
            replace(
                placed,
                arch=arch,
                center=placed.center - down * axis if placed.level in above else placed.center,
                collapse=collapse if placed.level == "L1" else None,
                template=template and template.scaled(self.template_scale * LEVEL_SCALE[placed.level]),
            )
            for placed in place_spine(self.patient, pose, levels, tilt)
        ]

    @property
    def girth(self) -> float:
        """The trunk's size relative to the one that is drawn, which has 25 cm of water-equivalent diameter."""
        return min(max(self.diameter_cm / DRAWN_DIAMETER_CM, GIRTH_RANGE[0]), GIRTH_RANGE[1])

    def _arch(self) -> float:
        """HU of the arch relative to the core's."""
        if self.arch_density_mg_ha is None:
            return ARCH_TO_CORE
        own = replace(self.patient, density_mg_ha=self.arch_density_mg_ha).trabecular_hu(self.scan)
        return ARCH_TO_CORE * own / self.patient.trabecular_hu(self.scan)

    def truth(self) -> dict[str, float | str]:
        """Every hidden variable, flat."""
        sheet = self.patient.truth(self.scan)
        sheet |= {f"pose_{axis}_deg": angle for axis, angle in zip("xyz", self.pose_deg, strict=True)}
        sheet |= {"curvature": self.curvature, "diameter_cm": self.diameter_cm, "relative_dose": self.relative_dose}
        sheet |= {"scanner": self.scanner}
        arch = self.patient.density_mg_ha if self.arch_density_mg_ha is None else self.arch_density_mg_ha
        sheet |= {"arch_density_mg_ha": arch, "template": self.template_number, "template_scale": self.template_scale}
        return sheet | self.findings.truth()


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
    findings = draw_findings(stream("findings"), settings.finding_shares, patient.signal)
    patient, number, scale = _with_template(_degenerated(patient, findings), settings.templates, stream("template"))
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
        findings=findings,
        arch_density_mg_ha=_own_arch_density(stream("arch")) if settings.only_core else None,
        template=settings.templates[number] if settings.templates else "",
        template_number=number,
        template_scale=scale,
    )


def _degenerated(patient: Patient, findings: Findings) -> Patient:
    """With the osteophytes and the sclerosis under the endplates that degeneration brings."""
    if not findings.degeneration:
        return patient
    shape = patient.shape
    osteophyte = shape.osteophyte + OSTEOPHYTE_OF_DEGENERATION * findings.degeneration
    sclerosis = shape.sclerosis + SCLEROSIS_OF_DEGENERATION * findings.degeneration
    return replace(patient, shape=replace(shape, osteophyte=osteophyte, sclerosis=sclerosis))


def _with_template(patient: Patient, templates: Sequence[str], rng: np.random.Generator) -> tuple[Patient, int, float]:
    """The patient with a template's proportions, its number, and its scale: a vertebra's size still carries signal."""
    if not templates:
        return patient, -1, 1.0
    number = int(rng.integers(len(templates)))
    scale = (1.0 + TEMPLATE_SCALE_SD * float(rng.standard_normal())) * (1.0 + SIZE_STEP * patient.features["size"])
    width, depth, height = (scale * v for v in load_template(Path(templates[number])).size_mm)
    return replace(patient, shape=replace(patient.shape, width=width, depth=depth, height=height)), number, scale


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
    mean, sd = DENSITY_MG_HA
    return max(mean + sd * float(rng.standard_normal()), MINIMUM_DENSITY_MG_HA)


def _stream(seed: int, index: int, name: str) -> np.random.Generator:
    key = (COHORT_KEY, index, STREAMS.index(name))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
