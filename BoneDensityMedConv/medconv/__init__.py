"""MedConv: from a CT and its L1 mask to the WHO T-score class. Research use only.

The whole story is told on one page: `medconv.pipeline`.
"""

__version__ = "0.1.0"

RESEARCH_USE_ONLY = "Research use only. Not a medical device. Not to rule out low bone density."
