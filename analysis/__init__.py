"""Figures, tables and reports from finished runs. Needs no torch."""
