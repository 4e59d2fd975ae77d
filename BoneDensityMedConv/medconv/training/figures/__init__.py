"""How good a network is: choices on validation, figures with intervals, reports."""
