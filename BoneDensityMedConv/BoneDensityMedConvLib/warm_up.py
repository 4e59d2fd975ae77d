"""The worker loads the chosen weights as soon as a CT is there, so that the first answer comes as fast as the next."""

from __future__ import annotations

from BoneDensityMedConvLib import dependencies
from BoneDensityMedConvLib.panel_state import PanelState
from BoneDensityMedConvLib.work import Work


class WarmUp:
    """Looks whenever the panel's state may have changed; acts once, again after a cancel, and for other weights.

    Without a CT there is no process, and no memory taken.
    """

    def __init__(self, state: PanelState, work: Work) -> None:
        self._state = state
        self._work = work
        state.observe(self._look)

    def _look(self) -> None:
        chosen = self._state.parameters
        wanted = (chosen.weights or None, chosen.device)
        if chosen.ct is not None and self._work.may_warm(*wanted) and not dependencies.missing():
            self._work.warm(*wanted)
