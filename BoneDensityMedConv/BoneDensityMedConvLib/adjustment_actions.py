"""The presenter's actions for the sliders: which post-hoc adjustment, and which taus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from BoneDensityMedConvLib import adjustment_choice
from BoneDensityMedConvLib.model_choice import ModelChoice
from BoneDensityMedConvLib.panel_state import PanelState
from medconv.config import ModelCard
from medconv.types import Adjustment, UsageError


class AdjustmentActions:
    """Mixed into `Presenter`, which has a state and a choice of weights."""

    _state: PanelState
    _models: ModelChoice
    parameters: Any

    def set_method(self, method: str) -> None:
        """Choose the post-hoc adjustment, by an id of the view model's methods."""
        self._adjust(lambda card: adjustment_choice.with_method(self.parameters, card, method))

    def set_tau1(self, tau1: float) -> None:
        """Move tau1, where the method lets it move."""
        self._adjust(lambda card: adjustment_choice.with_tau1(self.parameters, card, tau1))

    def set_tau2(self, tau2: float) -> None:
        """Move tau2."""
        self._adjust(lambda card: adjustment_choice.with_tau2(self.parameters, card, tau2))

    def reset_adjustment(self) -> None:
        """Back to the weights' own method and taus."""
        self._adjust(lambda card: card.default_adjustment)

    def _adjust(self, choose: Callable[[ModelCard], Adjustment]) -> None:
        card = self._models.in_use(self.parameters)
        if card is None:
            return
        try:
            wanted = choose(card)
            if wanted != adjustment_choice.current(self.parameters, card):
                self._state.message = None
                self._state.write(look=False, **adjustment_choice.fields(wanted, card))
        except UsageError as error:
            self._state.say_error(error, "warning")
            self._state.notify()
