"""The command line `ida`: plan, run, status and lineage of iterated distillation and amplification."""

from __future__ import annotations

import click

from aligner_core.command import ErrorGroup, add_experiment_commands
from aligner_core.lineage_command import add_lineage_command
from ida.pipeline import build
from ida.progress import rounds_of
from ida.recipe import IdaRecipe


@click.group(cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Iterated distillation and amplification: rounds of correcting a model's answers and learning from that."""


add_experiment_commands(main, build, IdaRecipe, rounds_of)
add_lineage_command(main, build, IdaRecipe)
