"""Copies of an engine side by side are asked like one, and answer like one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.engines.copies import VISIBLE, EngineCopies
from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.generation import shard_rows
from aligner_core.profile import Profile
from aligner_core.templates import conversation

SAMPLING = Sampling(8)


class Echo(Engine):
    """Says the prompt, its seed and the devices that it sees, and counts; ends or refuses where it is asked to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mark = ""
        self._rows = 0
        if name == "refused":
            raise UserError(Problem("model", "is refused", "name another"))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        texts = [prompt.messages[-1].content for prompt in prompts]
        if "die" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        self._rows += len(texts)
        return [
            Completion(
                f"{text} {seed + place}{self._mark}",
                1,
                True,
                ids=(os.getpid(), *map(int, os.environ[VISIBLE].split(","))),
            )
            for place, text in enumerate(texts)
        ]

    @property
    def statistics(self) -> Mapping[str, Any]:
        return {"rows": self._rows}

    def refresh(self, folder: Path) -> None:
        self._mark = f" {folder}"

    def close(self) -> None: ...


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(conversation(text)) for text in texts]


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineCopies]:
    monkeypatch.setenv(VISIBLE, "7,6,5,4,3,2")
    engine = EngineCopies([partial(Echo, name) for name in "abc"], devices_each=2)
    yield engine
    engine.close()


def test_copies_answer_in_order_with_the_seeds_of_one_engine_on_devices_of_their_own(three: EngineCopies) -> None:
    for count in (10, 2, 0):
        found = three.generate(prompts(*map(str, range(count))), SAMPLING, seed=40)
        assert [item.text for item in found] == [f"{number} {40 + number}" for number in range(count)]
        devices = {item.ids[0]: item.ids[1:] for item in found}
        assert os.getpid() not in devices
        if count == 10:
            assert sorted(devices.values()) == [(3, 2), (5, 4), (7, 6)]
    assert sum(each["rows"] for each in three.statistics["copies"]) == 12


def test_new_weights_reach_every_copy(three: EngineCopies) -> None:
    three.refresh(Path("second"))
    assert all(item.text.endswith(" second") for item in three.generate(prompts("a", "b", "c"), SAMPLING, seed=0))


def test_a_copy_that_dies_is_an_error_and_no_silence(three: EngineCopies) -> None:
    with pytest.raises(RuntimeError, match="process ended"):
        three.generate(prompts("a", "die", "c"), SAMPLING, seed=0)


def test_what_a_user_can_mend_in_a_copy_is_told_as_such() -> None:
    with pytest.raises(UserError, match="is refused"):
        EngineCopies([partial(Echo, "fine"), partial(Echo, "refused")], devices_each=1)


def test_a_profile_has_as_many_copies_as_its_devices_hold_and_a_shard_fills_them() -> None:
    content = read_yaml(find_profile("a800x8"))
    sizes = []
    for parallel, copies in ((8, 1), (3, 2), (1, 8)):
        place = {"engine": "vllm", "batch": 4, "tensor_parallel": parallel}
        profile = Profile.model_validate({**content, "generation": place})
        assert profile.copies == copies
        sizes.append(shard_rows(profile))
    assert sizes == [32, 64, 256]
    assert Profile.model_validate({**content, "generation": {"engine": "transformers"}}).copies == 1
