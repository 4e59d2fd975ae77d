"""Who is in a cohort, and their crops: from a folder of CTs and a sheet of labels to what a network reads."""
