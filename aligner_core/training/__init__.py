"""Supervised training of language models and scorers."""
