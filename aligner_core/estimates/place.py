"""What a profile's devices can hold and do, and what an estimate says."""

from __future__ import annotations

from dataclasses import dataclass

from aligner_core.profile import Profile

GIB = 2**30
BASE_GIB = 1.0  # Python, torch and the libraries
USABLE = 0.92  # of a device's memory; the rest is lost to fragments
START_SECONDS = 8.0  # process start and imports
LOAD_BYTES_PER_SECOND = 2e9


@dataclass(frozen=True)
class Estimate:
    """`memory_gib` is per device (for the CPU: the whole machine), `host_gib` what is kept in a node's host memory
    because of offload, `seconds` the wall time."""

    processes: int
    memory_gib: float
    tokens: int
    flops: float
    disk_gib: float
    seconds: float
    micro_batch: int | None = None
    too_large: str | None = None  # which knob to turn
    host_gib: float = 0.0


def fits(memory_gib: float, profile: Profile, host_gib: float = 0.0) -> bool:
    """On a device, and what is offloaded in a node's host memory where the profile knows how large that is."""
    device = profile.device
    in_host = device.host_memory_gib is None or host_gib <= USABLE * device.host_memory_gib
    return memory_gib <= USABLE * device.memory_gib and in_host


def bytes_per_value(profile: Profile) -> int:
    return 2 if profile.precision == "bfloat16" else 4


def devices(profile: Profile) -> int:
    """Devices at work: the cores of a CPU are one."""
    return 1 if profile.device.kind == "cpu" else profile.processes


def matrix_rate(profile: Profile) -> float:
    """Operations per second that one device reaches."""
    return profile.device.tflops * 1e12 * profile.utilisation


def offloads(profile: Profile) -> bool:
    """Memory of a CPU is the host's already."""
    return profile.zero.offload and profile.device.kind == "cuda"


def sharded(amount: float, stage: int, profile: Profile) -> float:
    """One process's part of what ZeRO shards from `stage` on."""
    return amount / (profile.processes if profile.zero.stage >= stage else 1)
