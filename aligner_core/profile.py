"""Where an experiment runs: devices, precision, engine, parallelism, launcher, and stand-ins for large roles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from aligner_core.recipe import Count, Strict


class Device(Strict):
    """One accelerator, or the CPU cores of one machine taken as one device."""

    kind: Literal["cpu", "cuda"] = Field(description="what torch calls it")
    name: str = Field(description="for people")
    memory_gib: Annotated[float, Field(gt=0)] = Field(description="memory of one device")
    tflops: Annotated[float, Field(gt=0)] = Field(description="dense bf16 matrix rate of one device")
    bandwidth_gb_s: Annotated[float, Field(gt=0)] = Field(description="memory bandwidth of one device")
    count: Count = Field(1, description="devices per node")
    host_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="host memory of a node, for what zero.offload puts there; null = not checked"
    )


class Zero(Strict):
    """DeepSpeed's ZeRO: stage 0 trains without DeepSpeed where there is one process."""

    stage: Literal[0, 1, 2, 3] = Field(0, description="what is sharded: 1 optimizer, 2 and gradients, 3 and weights")
    offload: bool = Field(False, description="keep optimizer states in host memory")


class GenerationPlace(Strict):
    """How text is generated here."""

    engine: Literal["transformers", "vllm"] = Field("transformers", description="generation engine")
    batch: Count = Field(32, description="sequences decoded together")
    tensor_parallel: Count = Field(1, description="devices one copy of the model is spread over")
    copy_aware: Literal["auto", "on", "off"] = Field(
        "auto", description="draft corrections from their answers in greedy decoding; auto: as a probe finds fastest"
    )


class Endpoints(Strict):
    """How models behind an OpenAI-compatible URL are asked."""

    concurrency: Count = Field(32, description="requests under way at once")
    retries: Annotated[int, Field(ge=0)] = Field(6, description="tries after the first, each after a longer pause")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(300.0, description="longest wait for an answer")
    key_variables: dict[str, str] = Field(
        {"api.openai.com": "OPENAI_API_KEY"},
        description="host[:port] -> environment variable with its key; other hosts are sent none",
    )


class Launch(Strict):
    """How a distributed stage is started."""

    kind: Literal["local", "hostfile", "slurm"] = Field("local", description="torchrun, deepspeed hostfile, or srun")
    hostfile: str | None = Field(None, description="DeepSpeed hostfile, for kind: hostfile")


class Replacement(Strict):
    """Parts of the recipe that this place cannot carry, and what stands in for them."""

    roles: dict[str, Any] = Field({}, description="role -> model")
    data: dict[str, Any] = Field({}, description="keys of the recipe's data section")
    sections: dict[str, Any] = Field({}, description="other recipe sections, merged key by key")


class Rehearsal(Strict):
    """How a recipe is tried out on a machine that cannot carry its models: with stand-ins, as distributed as there."""

    replace: Replacement = Field(description="stand-ins for roles and data")
    processes: Count = Field(1, description="training processes, in place of the profile's")
    zero: Zero = Field(Zero(), description="sharding, in place of the profile's")


class Profile(Strict):
    """Where to run. Only replace, precision and the engine can change results; the rest is free to change."""

    name: str = Field(description="for manifests and messages")
    device: Device
    nodes: Count = Field(1, description="machines")
    processes: Count = Field(1, description="training processes over all nodes")
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype of weights and matrix products; the optimizer always keeps fp32 copies"
    )
    zero: Zero = Field(Zero(), description="sharding of training states")
    attention: str | None = Field(
        None,
        description="attention of trainings: flash_attention_2, a hub kernel (org/name), ...; null = the best here",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    micro_batch: Count | None = Field(None, description="records per process and pass; null = the largest that fits")
    generation: GenerationPlace = Field(GenerationPlace(), description="generation")
    endpoints: Endpoints = Field(Endpoints(), description="models that others serve")
    launch: Launch = Field(Launch(), description="launcher of distributed stages")
    checkpoint_minutes: Annotated[float, Field(gt=0)] = Field(10.0, description="training saves its state this often")
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="share of the matrix rate that training reaches here; for expected times only"
    )
    wandb: bool = Field(False, description="also log to Weights & Biases (offline where there is no network)")
    replace: Replacement = Field(Replacement(), description="stand-ins for roles and data")
    rehearsal: Rehearsal | None = Field(
        None, description="in force where a model of the recipe is too large for one device; null = that is an error"
    )

    def rehearsing(self) -> Profile:
        """The same place with its rehearsal in force."""
        assert self.rehearsal is not None
        changes = {key: getattr(self.rehearsal, key) for key in ("replace", "processes", "zero")}
        return self.model_copy(update={**changes, "rehearsal": None, "name": f"{self.name} (rehearsal)"})

    def for_one_process(self) -> Profile:
        """The same place for a stage that is not distributed."""
        return self.model_copy(update={"processes": 1, "nodes": 1, "zero": Zero()})

    @property
    def copies(self) -> int:
        """How many copies of a model generate side by side on one node."""
        parallel = self.generation.engine == "vllm"
        return max(1, self.device.count // self.generation.tensor_parallel) if parallel else 1

    @property
    def uses_deepspeed(self) -> bool:
        return self.processes > 1 or self.zero.stage > 0
