"""Which weights are chosen, and which ones the sliders belong to."""

from __future__ import annotations

from typing import Any

from BoneDensityMedConvLib import stored_result
from medconv import weights
from medconv.config import ModelCard
from medconv.types import MedConvError


class ModelChoice:
    """Looks weights up by the name in the parameter node; remembers the answer until `forget`."""

    def __init__(self) -> None:
        self._found: dict[str, ModelCard | MedConvError] = {}

    def forget(self) -> None:
        """Look again next time: weights may have been installed or removed."""
        self._found.clear()

    def chosen(self, parameters: Any) -> ModelCard | MedConvError:
        """The card of the weights that the next analysis uses, or why there are none."""
        name = parameters.weights
        if name not in self._found:
            try:
                self._found[name] = weights.find_model(name or None)[0]
            except MedConvError as error:
                self._found[name] = error
        return self._found[name]

    def problem(self, parameters: Any) -> str:
        """Why there are no weights, and what to do; "" if there are."""
        found = self.chosen(parameters)
        return str(found) if isinstance(found, MedConvError) else ""

    def in_use(self, parameters: Any) -> ModelCard | None:
        """The card that the sliders belong to: the result's, as saved with it, else the chosen weights'."""
        saved = stored_result.card(parameters)
        if saved is not None:
            return saved
        found = self.chosen(parameters)
        return found if isinstance(found, ModelCard) else None
