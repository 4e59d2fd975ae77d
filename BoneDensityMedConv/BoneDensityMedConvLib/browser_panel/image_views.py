"""Three planes and 3D: trame-slicer's MRML views, with a slider for the slice and letters for the patient's sides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

# View name → (orientation, colour of Slicer's own view of that orientation).
PLANES = {
    "sagittal": ("Sagittal", "#EFD64D"),
    "axial": ("Axial", "#F34A33"),
    "coronal": ("Coronal", "#6DAD4A"),
}
THREE_D = "three_d"

STILL_QUALITY = 90  # trame-rca's own; PNG ignores it, but equal values spare a second drawing of every image

_RAS_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))
THREE_D_AZIMUTH_DEG, THREE_D_ELEVATION_DEG, THREE_D_CLOSER = 35.0, 20.0, 1.5


def patient_side(direction_ras: Sequence[float]) -> str:
    """The letter of the patient's side that a direction in RAS points to: R, L, A, P, S or I."""
    axis = max(range(3), key=lambda i: abs(direction_ras[i]))
    toward, away = _RAS_LETTERS[axis]
    return toward if direction_ras[axis] > 0 else away


def edge_letters(slice_to_ras: Any) -> dict[str, str]:
    """Letters for the edges of a slice view, from `vtkMRMLSliceNode.GetSliceToRAS()` (columns: right, up, normal)."""
    right, up = ([slice_to_ras.GetElement(row, column) for row in range(3)] for column in (0, 1))
    return {
        "left": patient_side([-x for x in right]),
        "right": patient_side(right),
        "top": patient_side(up),
        "bottom": patient_side([-x for x in up]),
    }


@contextlib.contextmanager
def quiet_vtk() -> Iterator[None]:
    """VTK's warnings off while views are made: no display is needed, and trame-slicer observes an outdated event."""
    from vtkmodules.vtkCommonCore import vtkObject

    before = vtkObject.GetGlobalWarningDisplay()
    vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtkObject.SetGlobalWarningDisplay(before)


class ImageViews:
    """Creates the four views on a server and keeps each plane's slider and letters in step with its slice node.

    Page state per plane: `<plane>_offset` (mm), `<plane>_slice` {minimum, maximum, step, side, left, right, top,
    bottom}; template `<plane>` and `three_d`.
    """

    def __init__(self, server: Any, slicer_app: Any) -> None:
        from trame_slicer.views import SliceView, ThreeDView, ViewLayoutDefinition, ViewType

        self._state = server.state
        self._manager = slicer_app.view_manager
        for view_class, view_type in ((SliceView, ViewType.SLICE_VIEW), (ThreeDView, ViewType.THREE_D_VIEW)):
            self._manager.register_factory(_view_factory(server, view_class, view_type))
        self.planes: dict[str, Any] = {}
        for name, (orientation, color) in PLANES.items():
            definition = ViewLayoutDefinition.slice_view(orientation, label=name, color=color)
            self.planes[name] = self._manager.create_view(definition)
            self._bind_plane(name)
        self.three_d = self._manager.create_view(
            ViewLayoutDefinition.threed_view(name=THREE_D, background_color="#000000")
        )
        self._manager.set_current_view_ids([*PLANES, THREE_D])
        self.planes["sagittal"].set_visible_in_3d(True)

    def slice_node(self, plane: str) -> Any:
        """The plane's `vtkMRMLSliceNode`."""
        return self.planes[plane].get_view_node()

    def show(self, volume: Any | None) -> None:
        """Put a volume node into the three planes."""
        for view in self.planes.values():
            view.set_background_volume_id(volume.GetID() if volume else None)

    def fit_planes(self) -> None:
        """Show the whole CT in the three planes."""
        for view in self.planes.values():
            view.reset_view()

    def frame_three_d(self) -> None:
        """Look at what 3D shows from the front, the patient's left and above, so that body and arch are seen."""
        self.three_d.reset_view()
        camera = self.three_d.get_camera_node().GetCamera()
        camera.Azimuth(THREE_D_AZIMUTH_DEG)
        camera.Elevation(THREE_D_ELEVATION_DEG)
        camera.OrthogonalizeViewUp()
        camera.Dolly(THREE_D_CLOSER)
        self.three_d.renderer().ResetCameraClippingRange()
        self.three_d.schedule_render()

    def render(self) -> None:
        """Draw all four views soon."""
        for view in (*self.planes.values(), self.three_d):
            view.schedule_render()

    def close(self) -> None:
        """Free the render windows."""
        for view in (*self.planes.values(), self.three_d):
            view.finalize()

    def _bind_plane(self, plane: str) -> None:
        view = self.planes[plane]
        self._state[f"{plane}_offset"] = 0.0

        def show_position(_view: Any = None) -> None:
            low, high = view.get_slice_range()
            offset = view.get_slice_value()
            letters = edge_letters(view.get_view_node().GetSliceToRAS())
            self._state[f"{plane}_offset"] = offset
            self._state[f"{plane}_slice"] = {
                "minimum": low,
                "maximum": high,
                "step": view.get_slice_step(),
                "position": _position_text(view.get_view_node().GetSliceToRAS(), offset),
                **letters,
            }

        def on_slider(**state: Any) -> None:
            offset = state[f"{plane}_offset"]
            if isinstance(offset, (int, float)):
                view.set_slice_value(float(offset))

        self._state.change(f"{plane}_offset")(on_slider)
        view.modified.connect(show_position)
        show_position()


def _view_factory(server: Any, view_class: Any, view_type: Any) -> Any:
    """Views of one kind whose images are drawn here and sent to the page."""
    from trame_rca.encoders import RcaImageEncoder
    from trame_slicer.rca_view import RemoteViewFactory
    from trame_slicer.views import NoScheduleRendering

    def make_view(**arguments: Any) -> Any:
        # By default a view draws at every change while it is being made, some sixty times.
        return view_class(scheduled_render_strategy=NoScheduleRendering(), **arguments)

    return RemoteViewFactory(
        server,
        make_view,
        view_type,
        populate_view_ui_f=_nothing_over_the_image,
        # Without loss: JPEG would smear the mask's thin outline, and a reader should see the pixels as they are.
        rca_encoder=RcaImageEncoder.PNG,
        interactive_quality=STILL_QUALITY,
        blur_fps=30.0,
    )


def _position_text(slice_to_ras: Any, offset_mm: float) -> str:
    """Where the slice lies, as radiologists and Slicer write it: the side of the scanner's origin and millimetres."""
    normal = [slice_to_ras.GetElement(row, 2) for row in range(3)]
    side = patient_side(normal if offset_mm >= 0 else [-x for x in normal])
    return f"{side} {abs(offset_mm):.1f} mm"


def _nothing_over_the_image(*_: Any) -> None:
    """trame-slicer would put its own buttons over each view; the page has its own."""
