"""The paper's tables and figures, run on a cohort and shown beside what was published."""
