"""Small things that every part of the Qt panel does with its widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SEVERITY_WORDS = {"info": "Note", "warning": "Warning", "error": "Error"}


def show_text(label: Any, text: str) -> None:
    """An empty label takes no room."""
    label.text = text
    label.visible = bool(text)


def show(visible: bool, *widgets: Any) -> None:
    """Show or hide widgets that belong together, such as a row of a form."""
    for widget in widgets:
        widget.visible = visible


def fill(selector: Any, entries: Sequence[Mapping[str, Any]], chosen: str) -> None:
    """Items with the entries' labels and ids; only refilled when they differ, so that an open list stays open."""
    if [selector.itemData(index) for index in range(selector.count)] != [entry["id"] for entry in entries]:
        selector.clear()
        for entry in entries:
            selector.addItem(entry["label"], entry["id"])
    selector.currentIndex = selector.findData(chosen)


def entry_of(entries: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any] | None:
    """The entry with that id, or None."""
    return next((entry for entry in entries if entry["id"] == wanted), None)


def note_lines(notes: Sequence[Mapping[str, Any]]) -> str:
    """Quality notes, one a line, each with its severity in words."""
    return "\n".join(f"{SEVERITY_WORDS[note['severity']]}: {note['message']}" for note in notes)
