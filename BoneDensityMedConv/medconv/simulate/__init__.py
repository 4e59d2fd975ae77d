"""Physics-based CTs of the lumbar spine with known T-scores: a whole CT to look at, or L1 alone by the thousand.

What is simulated, from which sources, and how far to trust it: docs/decisions/0003-simulation.md.
"""

from medconv.simulate.cohort import BayesCeiling, CohortModel
from medconv.simulate.l1_case import simulate_l1_case
from medconv.simulate.lumbar_ct import SimulatedCase, simulate_lumbar_ct
from medconv.simulate.scan import Scan

__all__ = ["BayesCeiling", "CohortModel", "Scan", "SimulatedCase", "simulate_l1_case", "simulate_lumbar_ct"]
