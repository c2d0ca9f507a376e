"""Imported once by the process that stages are forked from; see launch.py. Imports, and does nothing else."""

import aligner_core.scorer
import aligner_core.training.cost
import aligner_core.training.reward
import aligner_core.training.scorer
import aligner_core.training.supervised  # noqa: F401
