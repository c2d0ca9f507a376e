"""Pairwise judging: rubrics, verdicts, agreement, and a cache of what was asked."""
