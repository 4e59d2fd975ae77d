"""Training MedConv: cached crops, losses, the loop, evaluation. Needs torch, scipy, scikit-learn and matplotlib."""
