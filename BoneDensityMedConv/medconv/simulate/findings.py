"""What may be wrong with L1 besides its density: fracture, haemangioma, cement, metal, degeneration. Nouns and draws.

Sources. Height loss in Genant's grades (Genant 1993). Spine fractures are 2.3 times as likely per SD of lower density
(Marshall 1996, meta-analysis of cohorts, bone density at the spine); here per SD of the image's own signal z, so that
a fracture says nothing of the T-score that z does not say, and the Bayes ceiling stays what it is. Haemangiomas are in
11 % of spines at autopsy (Schmorl and Junghanns 1971). Cement: 2 to 6 ml are injected in a vertebroplasty. All else
here is our assumption, and each share can be set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

FINDINGS = ("fracture", "haemangioma", "cement", "metal", "degeneration")
# Shares where a finding is asked for without a number; high enough that a cohort of hundreds shows each.
USUAL_SHARES: Mapping[str, float] = {
    "fracture": 0.10, "haemangioma": 0.10, "cement": 0.03, "metal": 0.03, "degeneration": 0.40,
}  # fmt: skip
FRACTURE_RISK_PER_SD = 2.3
HIGHEST_FRACTURE_RISK = 0.9
# Grade → its share of all fractures (assumed) and the range of height loss.
GENANT_GRADES: Mapping[str, tuple[float, tuple[float, float]]] = {
    "mild": (0.50, (0.20, 0.25)),
    "moderate": (0.35, (0.25, 0.40)),
    "severe": (0.15, (0.40, 0.55)),
}
WEDGE_SHARE = 0.65  # the others are biconcave
HAEMANGIOMA_MM = (9.0, 19.0)  # diameter
CEMENT_ML = (2.0, 6.0)
SPANNING_SHARE = 0.5  # screws above and below L1 with rods over it; else in L1 too


@dataclass(frozen=True)
class Findings:
    """What L1 has; 0 or "" where it has not.

    height_loss: 1 − lowest / posterior height, on top of the vertebra's own form. haemangioma_mm: diameter, and
    where its centre lies in shares of the body's half width, depth and height. metal: "spanning" or "in_l1".
    degeneration: 0 to 1, of the whole spine.
    """

    fracture: str = ""
    fracture_grade: str = ""
    height_loss: float = 0.0
    haemangioma_mm: float = 0.0
    haemangioma_at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cement_ml: float = 0.0
    metal: str = ""
    degeneration: float = 0.0

    def truth(self) -> dict[str, float | str]:
        """Flat, for the truth sheet."""
        fields = asdict(self)
        at = fields.pop("haemangioma_at")
        sheet = {f"finding_{name}": value for name, value in fields.items()}
        return sheet | {f"finding_haemangioma_{axis}": at[i] for i, axis in enumerate("xyz")}


NO_FINDINGS = Findings()


def draw_findings(rng: np.random.Generator, shares: Mapping[str, float], signal: float) -> Findings:
    """Findings of a patient with signal z; each comes or goes with its own share, whatever the others' shares are."""
    chance = dict(zip(FINDINGS, rng.random(len(FINDINGS)).tolist(), strict=True))
    form, grade, depth, size, volume, side = rng.random(6).tolist()
    at = rng.uniform(-0.35, 0.35, 3)
    severity = float(rng.beta(1.6, 2.0))
    has = {name: chance[name] < shares.get(name, 0.0) for name in FINDINGS}
    has["fracture"] = chance["fracture"] < fracture_risk(shares.get("fracture", 0.0), signal)
    collapsed = has["fracture"] or has["cement"]  # cement is injected into fractured vertebrae
    name, loss = _height_loss(grade, depth) if collapsed else ("", 0.0)
    return Findings(
        fracture=("wedge" if form < WEDGE_SHARE else "biconcave") if collapsed else "",
        fracture_grade=name,
        height_loss=loss,
        haemangioma_mm=_between(HAEMANGIOMA_MM, size) if has["haemangioma"] else 0.0,
        haemangioma_at=(float(at[0]), float(at[1]), float(at[2])) if has["haemangioma"] else (0.0, 0.0, 0.0),
        cement_ml=_between(CEMENT_ML, volume) if has["cement"] else 0.0,
        metal=("spanning" if side < SPANNING_SHARE else "in_l1") if has["metal"] else "",
        degeneration=0.25 + 0.75 * severity if has["degeneration"] else 0.0,
    )


def fracture_risk(share: float, signal: float) -> float:
    """Probability of a fracture at signal z, where `share` of all have one (before the highest risk cuts it off)."""
    slope = math.log(FRACTURE_RISK_PER_SD)
    # exp(−b·z) has the mean exp(b²/2) over z ~ N(0, 1).
    return min(share * math.exp(-slope * signal - slope**2 / 2.0), HIGHEST_FRACTURE_RISK)


def _height_loss(grade: float, depth: float) -> tuple[str, float]:
    names = list(GENANT_GRADES)
    reached = np.cumsum([GENANT_GRADES[name][0] for name in names])[:-1]
    name = names[int(np.searchsorted(reached, grade, side="right"))]
    return name, _between(GENANT_GRADES[name][1], depth)


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
