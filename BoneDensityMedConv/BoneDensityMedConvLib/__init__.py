"""Everything that knows MRML: runs in Slicer and on slicer-core alike. Qt and trame stay in the panels."""
