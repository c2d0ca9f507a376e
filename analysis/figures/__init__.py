"""Figures: each function takes a data frame and returns a matplotlib Figure; `style.save` writes PNG and SVG."""
