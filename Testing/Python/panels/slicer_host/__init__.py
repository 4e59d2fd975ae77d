"""Slicer's window side on PySide6, without Slicer: stricter than PythonQt, judged by real interfaces (data/)."""
