"""The training run itself: settings, loop, several processes, what is kept, what is packed for Slicer."""
