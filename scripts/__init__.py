"""What run.py does: environment, system packages, tests, demonstration. Standard library only."""
