"""Weak labels, students, and their evaluation against floor and ceiling."""
