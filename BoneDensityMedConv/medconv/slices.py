"""Slice thickness: how thin it must be for the network."""

from __future__ import annotations

from medconv.types import CTVolume, InputRefused, QualityNote, Severity

WARN_ABOVE_MM = 3.0
REFUSE_ABOVE_MM = 5.0


def check_slices(ct: CTVolume) -> list[QualityNote]:
    """A note above 3 mm; raises InputRefused above 5 mm (spacing or nominal thickness, whichever is larger)."""
    spacing = max(ct.geometry.spacing_mm_xyz)
    thickness = max(spacing, ct.acquisition.slice_thickness_mm or 0.0)
    if thickness > REFUSE_ABOVE_MM + 1e-3:
        raise InputRefused(
            "slices_too_thick",
            f"The slices are {thickness:.1f} mm thick; above {REFUSE_ABOVE_MM:.0f} mm trabecular bone can't be judged.",
            "Use a reconstruction with slices of 3 mm or less.",
        )
    if thickness > WARN_ABOVE_MM + 1e-3:
        return [
            QualityNote(
                "thick_slices",
                Severity.WARNING,
                f"Slices of {thickness:.1f} mm: the answer is less certain than with 3 mm or less.",
            )
        ]
    return []
