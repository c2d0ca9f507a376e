"""What every engine does, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aligner_core.files import digest
from aligner_core.model_ids import parse_endpoint
from aligner_core.recipe import Generation
from aligner_core.records import Turn

if TYPE_CHECKING:
    from aligner_core.stage_context import ModelLocation, StageContext


@dataclass(frozen=True)
class Sampling:
    """Decoding settings; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0

    @property
    def plain_greedy(self) -> bool:
        """The next token is the model's best one: what a draft can be checked against."""
        return (self.temperature, self.repetition_penalty, self.frequency_penalty) == (0, 1, 0)


@dataclass(frozen=True)
class Prompt:
    """A conversation that the model continues.

    `draft` is a text that the continuation may largely repeat, as a correction repeats its answer. An engine may use
    it to decode faster, never to decode anything else. `seed` gives a sampled continuation random numbers of its own,
    so that it does not depend on the prompts that it is decoded with.
    """

    messages: tuple[Turn, ...]
    draft: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """A continuation: its text without the end token, its length in tokens, and how it ended.

    `finished` is False where the length limit cut it. `error` says why there is none, where an engine failed on this
    prompt alone: a type, a colon and the reason. `prompt_tokens` is what a server says it read, 0 where none does.
    `ids` are the tokens that a local engine chose, with the end token where it was reached.
    """

    text: str
    tokens: int
    finished: bool
    error: str | None = None
    prompt_tokens: int = 0
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Room:
    """What an engine may take of each device where it shares them with others.

    Attributes:
        cache_bytes: for keys and values, beside the weights.
        longest: tokens of the longest prompt and continuation together.
    """

    cache_bytes: int
    longest: int


class Engine(Protocol):
    """Continues conversations, one completion per prompt, in order.

    The model's chat template is applied here and nowhere else. The same prompts in the same order with the same seed
    give the same completions, where the engine is deterministic.
    """

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Told of prompts that `generate` will get, while it still decodes others; may tokenise them ahead."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]: ...

    @property
    def statistics(self) -> Mapping[str, Any]:
        """What the manifest should say about the decoding so far: speed, acceptance, copy rate."""
        return {}

    def refresh(self, folder: Path) -> None:
        """Take the weights of a safetensors folder with the same architecture; what comes next is decoded with them.

        Raises:
            UserError: if the model is behind an endpoint.
        """

    def close(self) -> None: ...


def sampling_of(generation: Generation, correcting: bool = False) -> Sampling:
    """The recipe's preset: for `published` the paper's Table 19 for answers and Table 9 for corrections.

    The frequency penalty of the latter punishes copying: a token costs the more, the more often it was written.
    """
    if generation.preset == "greedy":
        return Sampling(generation.max_new_tokens)
    if correcting:
        return Sampling(generation.max_new_tokens, temperature=0.3, top_k=10, top_p=0.95, frequency_penalty=1.2)
    return Sampling(generation.max_new_tokens, temperature=0.5, top_k=10, top_p=0.95, repetition_penalty=1.1)


def open_engine(
    stage: StageContext, model: ModelLocation, frame: str | None = None, drafts: bool = True, room: Room | None = None
) -> Engine:
    """The engine that the profile names, with the model loaded.

    A model behind an endpoint is asked there. The endpoint frames conversations itself: it has to be started with a
    checkpoint that carries the right frame, as those trained here do.

    Args:
        frame: replaces the model's chat template.
        drafts: whether prompts will bring drafts; without, vLLM is not prepared for them and can schedule ahead.
        room: what vLLM may take; without, it takes nearly all of each device.
    """
    profile = stage.profile
    if parse_endpoint(model.folder):
        from aligner_core.engines.openai_engine import OpenAIEngine

        return OpenAIEngine(model.folder, profile.endpoints)
    if not drafts:
        place = profile.generation.model_copy(update={"copy_aware": "off"})
        profile = profile.model_copy(update={"generation": place})
    memory = stage.folder / f"copy_aware-{digest([model.folder, frame])[:8]}.json"
    if profile.generation.engine == "vllm":
        from aligner_core.engines.copies import EngineCopies
        from aligner_core.engines.vllm_engine import VllmEngine

        if profile.copies == 1:
            return VllmEngine(model, profile, frame, memory, room)
        memories = [memory.with_stem(f"{memory.stem}-{number}") for number in range(profile.copies)]
        opens = [partial(VllmEngine, model, profile, frame, item, room) for item in memories]
        return EngineCopies(opens, profile.generation.tensor_parallel)
    from aligner_core.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, profile, frame, memory)


class EngineSlot:
    """Room for one open engine: asking for another one closes it, so that two models are never in memory at once.

    What an engine has to say of its decoding goes into the stage's facts when it is closed.
    """

    def __init__(self, stage: StageContext, drafts: bool = True) -> None:
        self._stage = stage
        self._drafts = drafts
        self._engine: Engine | None = None
        self._holds: tuple[ModelLocation, str | None] | None = None

    def open(self, model: ModelLocation, frame: str | None = None) -> Engine:
        if self._engine is None or self._holds != (model, frame):
            self.close()
            self._stage.progress.pause(f"loading {Path(model.folder).name}")
            self._engine = open_engine(self._stage, model, frame, self._drafts)
            self._holds = (model, frame)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            if statistics := dict(self._engine.statistics):
                self._stage.facts.setdefault("decoding", []).append(statistics)
            self._engine.close()
        self._engine = None
