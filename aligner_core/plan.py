"""What a run will do and need, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner_core.errors import Problem
from aligner_core.estimates import Estimate, estimate, fits
from aligner_core.launch import launch_command
from aligner_core.profile import Profile
from aligner_core.stages import Stage, is_finished


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    stage: Stage
    done: bool
    estimate: Estimate
    command: list[str]


def make_plan(run: Path, stages: Sequence[Stage], profile: Profile) -> list[PlannedStage]:
    """Every stage with what it needs and whether it is already done."""
    planned = []
    for stage in stages:
        place = stage.place(profile)
        command = launch_command(Path("FOLDER"), place)
        planned.append(PlannedStage(stage, is_finished(run, stage), estimate(stage.work, place), command))
    return planned


def misfits(plan: Sequence[PlannedStage], profile: Profile) -> list[Problem]:
    """Stages that cannot fit on the profile's devices, each with the knob to turn."""
    problems = [
        Problem(
            f"profile {profile.name}: stage {planned.stage.name}",
            _need(planned.estimate, profile),
            planned.estimate.too_large,
        )
        for planned in plan
        if planned.estimate.too_large
    ]
    return problems + _inconsistent(plan, profile)


def _need(estimate: Estimate, profile: Profile) -> str:
    device = profile.device
    if not fits(estimate.memory_gib, profile) or device.host_memory_gib is None:
        return f"needs {estimate.memory_gib:,.0f} GiB on each {device.name} of {device.memory_gib:,.0f} GiB"
    return f"offloads {estimate.host_gib:,.0f} GiB to each node's host memory of {device.host_memory_gib:,.0f} GiB"


def _inconsistent(plan: Sequence[PlannedStage], profile: Profile) -> list[Problem]:
    where = f"profile {profile.name}"
    problems = []
    if profile.processes % profile.nodes:
        problems.append(Problem(f"{where}: processes", f"{profile.processes} do not divide over {profile.nodes} nodes",
                                "make processes a multiple of nodes"))  # fmt: skip
    if profile.nodes > 1 and profile.launch.kind == "local":
        problems.append(Problem(f"{where}: launch.kind", f"local starts processes on one node, not on {profile.nodes}",
                                "set launch: {kind: slurm}, or hostfile with a DeepSpeed hostfile"))  # fmt: skip
    devices = profile.device.count * profile.nodes
    if profile.device.kind == "cuda" and profile.processes > devices:
        problems.append(Problem(f"{where}: processes", f"{profile.processes} processes for {devices} devices",
                                f"set processes: {devices}"))  # fmt: skip
    for planned in plan:
        batch = getattr(planned.stage.work, "global_batch", None)
        if batch and planned.stage.task.distributed and batch % profile.processes:
            problems.append(Problem(f"{where}: processes",
                                    f"global batch {batch} of {planned.stage.name} is no multiple of "
                                    f"{profile.processes} processes", "change global_batch or processes"))  # fmt: skip
            break
    return problems


def render(plan: Sequence[PlannedStage], profile: Profile, notes: Sequence[str] = ()) -> str:
    """The plan as a table for people."""
    head = (
        f"{'stage':<26}{'state':<7}{'procs':>5}{'GiB/device':>11}{'micro':>6}{'tokens':>12}{'FLOPs':>10}"
        f"{'disk GiB':>10}{'time':>9}"
    )
    lines = [*notes, "", head, "-" * len(head)]
    for planned in plan:
        need = planned.estimate
        lines.append(
            f"{planned.stage.name:<26}{'done' if planned.done else 'to do':<7}{need.processes:>5}"
            f"{need.memory_gib:>11.1f}{need.micro_batch or '':>6}{need.tokens:>12,}{need.flops:>10.1e}"
            f"{need.disk_gib:>10.2f}{_duration(0 if planned.done else need.seconds):>9}"
        )
    left = [planned.estimate for planned in plan if not planned.done]
    lines += ["-" * len(head), f"left to do: {len(left)} of {len(plan)} stages, "
              f"{sum(item.tokens for item in left):,} tokens, {sum(item.flops for item in left):.1e} FLOPs, "
              f"{sum(item.disk_gib for item in left):.1f} GiB of disk, "
              f"about {_duration(sum(item.seconds for item in left))}",
              f"most memory on one device: {max(item.estimate.memory_gib for item in plan):.1f} "
              f"of {profile.device.memory_gib:.0f} GiB ({profile.device.name})"]  # fmt: skip
    commands = dict.fromkeys(" ".join(planned.command) for planned in plan)
    return "\n".join([*lines, "commands (FOLDER = the stage's folder):", *(f"  {line}" for line in commands)])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
