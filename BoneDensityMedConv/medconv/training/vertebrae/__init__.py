"""The demonstration network that names vertebrae."""
