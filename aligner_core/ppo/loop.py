"""PPO's loop: rollouts, scores, advantages, updates; metrics and checkpoints after every iteration.

Everything random in an iteration follows from the seed, the iteration and the place of a rollout in it, so that a
resumed training goes on as the uninterrupted one would have.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from aligner_core.errors import Problem, UserError
from aligner_core.generation import digest_seed
from aligner_core.ppo.alarms import alarms
from aligner_core.ppo.experience import Experience, Sums, experience
from aligner_core.ppo.learners import Learner
from aligner_core.ppo.networks import Reference
from aligner_core.ppo.records import Records
from aligner_core.ppo.rollouts import Asked, Rollout, RolloutScorer, Sampler, in_micro_batches, scored
from aligner_core.ppo.schedule import cosine, own_share, repeated, warm_up
from aligner_core.ppo.update import accumulate_policy, accumulate_ptx, accumulate_value
from aligner_core.recipe.students import Ppo
from aligner_core.stage_context import StageContext
from aligner_core.training.examples import Example
from aligner_core.training.processes import added_up, count, from_main, gathered, rank

MODEL, STOPPED = "model", "stopped"


@dataclass(frozen=True)
class Parts:
    """What the loop joins. `export` writes the policy as a plain model folder; all processes must call it."""

    policy: Learner
    value: Learner
    reference: Reference
    sampler: Sampler
    scorer: RolloutScorer
    export: Callable[[Path], None]
    device: torch.device
    micro_batch: int


class Loop:
    """A training of `parts` on `questions`, with a cross-entropy on `labels` beside it."""

    def __init__(
        self,
        stage: StageContext,
        section: Ppo,
        parts: Parts,
        questions: Sequence[Asked],
        labels: Sequence[Example],
        seed: int,
    ) -> None:
        """
        Raises:
            UserError: if iterations or steps cannot be shared out evenly, or there is nothing to do a PTX term with.
        """
        self.parts, self.questions = parts, questions
        self._stage, self._section, self._labels, self._seed = stage, section, labels, seed
        _check(section, labels)
        self.iterations = section.iterations or max(1, round(section.epochs * len(questions) / section.prompts))
        per_pass = -(-section.prompts // section.global_batch)
        self._steps_each = per_pass * section.updates
        self._order = repeated(len(questions), self.iterations * section.prompts, seed)
        wanted = self.iterations * self._steps_each * section.global_batch
        self._label_order = repeated(len(labels), wanted, seed + 1) if self._mixes else []
        self._records = Records(stage)
        self._seconds: dict[str, float] = defaultdict(float)

    @property
    def _mixes(self) -> bool:
        return self._section.ptx > 0

    def run(self) -> None:
        """Train to the end from the newest checkpoint, and leave `model/`.

        Raises:
            UserError: if an alarm sounds; the policy as it was before is left in `stopped/`.
        """
        stage, parts = self._stage, self.parts
        history = self._records.resume(parts.policy, parts.value)
        saved = time.monotonic()
        with closing(parts.sampler):
            for iteration in range(len(history), self.iterations):
                stage.progress.begin("PPO", self.iterations, "iterations", iteration)
                history.append(self._iterate(iteration, history[0] if history else None))
                if from_main(time.monotonic() - saved > 60 * stage.profile.checkpoint_minutes):
                    self._records.save(len(history), parts.policy, parts.value)
                    saved = time.monotonic()
        stage.facts |= {
            "iterations": self.iterations,
            "score_first": _mean(history[:3], "score"),
            "score_last": _mean(history[-3:], "score"),
            "kl_last": _mean(history[-3:], "kl"),
            "tokens": sum(row["tokens"] for row in history),
            "cut": sum(gathered(parts.scorer.cut)),
            "seconds": {name: round(value, 1) for name, value in self._seconds.items()},
        }
        parts.export(stage.folder / MODEL)

    def _iterate(self, iteration: int, first: dict[str, float] | None) -> dict[str, float]:
        section, parts = self._section, self.parts
        began = time.monotonic()
        rollouts = self._rollouts(iteration)
        size = section.global_batch // count()
        minis = [
            in_micro_batches(rollouts[start : start + size], parts.micro_batch, parts.device)
            for start in range(0, len(rollouts), size)
        ]
        with self._timed("experience"):
            batches = [batch for mini in minis for batch in mini]
            found, seen = experience(batches, parts.policy, parts.value, parts.reference, section)
        row = {"iteration": iteration, **seen}
        self._stop_if_alarmed(row, first or row)
        with self._timed("update"):
            waiting = iter(found)
            row |= self._update(iteration, [[next(waiting) for _ in mini] for mini in minis])
        row["tokens"] += int(added_up(torch.tensor(sum(map(len, rollouts)), device=parts.device)))
        self._records.add(row, rollouts, time.monotonic() - began)
        return row

    def _rollouts(self, iteration: int) -> list[Rollout]:
        """This process's rollouts of an iteration, with their scores."""
        prompts = self._section.prompts
        places = own_share(range(iteration * prompts, (iteration + 1) * prompts), rank(), count())
        seeds = [digest_seed(self._seed, ["rollout", str(place)]) for place in places]
        with self._timed("rollouts"):
            rollouts = self.parts.sampler.sample([self.questions[self._order[place]] for place in places], seeds)
        with self._timed("scoring"):
            return scored(rollouts, self.parts.scorer)

    def _update(self, iteration: int, minis: Sequence[Sequence[Experience]]) -> dict[str, float]:
        """All optimizer steps of an iteration; returns the means of what was seen, and the mixed-in labels' tokens."""
        section, parts = self._section, self.parts
        steps = self.iterations * self._steps_each
        sums, ptx, norms, tokens = Sums(), [], [], 0
        for number, mini in enumerate(list(minis) * section.updates):
            step = iteration * self._steps_each + number
            sums.rollouts += sum(len(item.batch.rollouts) for item in mini)
            accumulate_policy(parts.policy, mini, section, sums)
            if self._mixes:
                chosen = self._labels_beside(step, sum(len(item.batch.rollouts) for item in mini) * count())
                ptx.append(self._ptx(chosen))
                tokens += sum(len(self._labels[index]) for index in chosen)
            rate = section.learning_rate * cosine(step, steps, section.lr_warmup)
            norm = parts.policy.step(rate)
            accumulate_value(parts.value, mini, section, sums)
            value_norm = parts.value.step(section.value_learning_rate * warm_up(step, steps, section.lr_warmup))
            norms.append((norm, value_norm))
        row = sums.means()
        if ptx:
            row["ptx_loss"] = float(added_up(torch.stack(ptx).mean()))
        policy_norm, value_norm = (sum(column) / len(norms) for column in zip(*norms, strict=True))
        row |= {"grad_norm": policy_norm, "value_grad_norm": value_norm, "learning_rate": rate, "tokens": tokens}
        return row

    def _labels_beside(self, step: int, rows: int) -> list[int]:
        """Beside each step, as many labels as rollouts."""
        start = step * self._section.global_batch
        return self._label_order[start : start + rows]

    def _ptx(self, chosen: Sequence[int]) -> torch.Tensor:
        own = [self._labels[index] for index in own_share(chosen, rank(), count())]
        tokens = sum(self._labels[index].supervised * self._labels[index].weight for index in chosen)
        parts = self.parts
        return accumulate_ptx(parts.policy, own, tokens, self._section.ptx, parts.micro_batch, parts.device)

    def _stop_if_alarmed(self, row: dict[str, float], first: dict[str, float]) -> None:
        problems = alarms(row, first, self._section)
        if not problems:
            return
        folder = self._stage.folder / STOPPED
        self.parts.export(folder)
        kept = f"the policy that wrote these rollouts is kept in {folder}"
        raise UserError([Problem(item.where, f"{item.what}; {kept}", item.fix) for item in problems])

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[part] += time.monotonic() - began


def _check(section: Ppo, labels: Sequence[Example]) -> None:
    problems = []
    for key, value in {"prompts": section.prompts, "global_batch": section.global_batch}.items():
        if value % count():
            what = f"{value} cannot be shared out over {count()} processes"
            problems.append(Problem(f"student.ppo.{key}", what, f"choose a multiple of {count()}"))
    if section.ptx > 0 and not labels:
        problems.append(Problem("student.ppo.ptx", "there are no weak labels to mix in", "set it to 0"))
    if problems:
        raise UserError(problems)


def _mean(rows: Sequence[dict[str, float]], name: str) -> float:
    return round(sum(row[name] for row in rows) / len(rows), 4)
