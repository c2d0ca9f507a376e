"""IDA as a graph of stages: model_k answers, the Aligner corrects (amplify), model_k+1 learns that (distil).

Systems carry the letters of the paper: A the upstream, B its answers corrected, C the model distilled from B-like
corrections, D = C corrected, E distilled from D-like corrections, and so on.
"""

from __future__ import annotations

import string

from aligner_core.profile import Profile
from aligner_core.recipe import Recipe
from aligner_core.stages import Artifact, Source, Stage, in_order
from aligner_core.tasks.train import MODEL
from ida.questions import QUESTIONS, RoundQuestions
from ida.recipe import IdaRecipe
from ida.replay import TAKEN, TakeCorrections
from w2s.pipeline import StageBuilder
from w2s.prepare import EVALUATION, QUERIES, STRONG, WEAK
from w2s.students import Students


def build(recipe: Recipe, profile: Profile) -> list[Stage]:
    """All stages of all rounds and seeds, round by round."""
    assert isinstance(recipe, IdaRecipe)
    return build_rounds(recipe, profile, recipe.rounds.count)


def build_rounds(recipe: IdaRecipe, profile: Profile, last: int) -> list[Stage]:
    """The stages of the rounds up to and with `last`; round 0 is the upstream's."""
    seeds = [SeedRounds(recipe, profile, seed) for seed in recipe.seeds]
    return in_order(stage for number in range(last + 1) for rounds in seeds for stage in rounds.scores(number))


def scores_name(number: int) -> str:
    """Of the stage that scores a round's texts by the evaluating scorer; the seed comes behind."""
    return f"scores-round{number}"


def training_scores_name(number: int) -> str:
    """The same by the training-time scorer, trained on W alone: trainings, filters and stop rules may look at it."""
    return f"round{number}-scores-by-w"


def letters(number: int) -> tuple[str, str]:
    """A round's model, and its answers corrected."""
    return string.ascii_uppercase[2 * number], string.ascii_uppercase[2 * number + 1]


class RoundBuilder(StageBuilder):
    """Stages of one round: its questions, and the Aligner that corrects its model's answers.

    Args:
        number: of the round.
        aligner_records: what its Aligner is trained on instead of W; None = the first round's Aligner.
    """

    def __init__(
        self,
        recipe: IdaRecipe,
        profile: Profile,
        number: int,
        aligner_records: Artifact | None = None,
    ) -> None:
        super().__init__(recipe, profile, f"round{number}-" if aligner_records else "")
        self._records = aligner_records
        self._number = number
        self._rounds = recipe.rounds

    def part(self, name: str) -> Artifact:
        return self._questions() if name == QUESTIONS else super().part(name)

    def rows_of(self, part: str) -> int:
        if part != QUESTIONS:
            return super().rows_of(part)
        rows = self.sizes.strong + self.sizes.queries
        return -(-rows // self._rounds.count) if self._rounds.questions == "fresh" else rows

    def aligner_records(self) -> Artifact:
        return self._records or super().aligner_records()

    def _questions(self) -> Artifact:
        fresh = self._rounds.questions == "fresh"
        if not fresh and not self.recipe.data.queries:
            return super().part(STRONG)
        task = RoundQuestions(share=self._number if fresh else 1, of=self._rounds.count if fresh else 1)
        inputs: dict[str, Artifact | Source] = {"questions": super().part(STRONG)}
        if self.recipe.data.queries:
            inputs["questions_queries"] = super().part(QUERIES)
        name = f"round{self._number}-questions" if fresh else "questions"
        return Stage(name, task, inputs).output(QUESTIONS)


class SeedRounds:
    """The rounds of one seed. Model 0 is the upstream; each round makes the next."""

    def __init__(self, recipe: IdaRecipe, profile: Profile, seed: int) -> None:
        self._recipe = recipe
        self._profile = profile
        self._seed = seed
        self._rounds = recipe.rounds
        self._base = StageBuilder(recipe, profile)
        self._models: list[Stage | None] = [None]
        self._corrections: list[Artifact] = []

    def scores(self, number: int) -> list[Stage]:
        """A round's model and its corrected answers on the held-out questions, scored by either scorer."""
        amplifier = self._amplifier(number + 1)
        answers = self._answers(amplifier, number, EVALUATION, "eval")
        name, rows = f"round{number}-aligned-eval-s{self._seed}", amplifier.rows_of(EVALUATION)
        corrected = amplifier.correct(name, answers, rows, self._seed)
        systems = dict(zip(letters(number), (answers, corrected), strict=True))
        name, selector = training_scores_name(number), self._base.scorers.selector()
        return [
            self._base.scores(systems, self._seed, name, scorer=selector),
            self._base.scores(systems, self._seed, scores_name(number)),
        ]

    def _model(self, number: int) -> Stage | None:
        """The model after so many rounds; None for the upstream."""
        while len(self._models) <= number:
            self._models.append(self._distil(len(self._models)))
        return self._models[number]

    def _distil(self, number: int) -> Stage:
        """The next model: trained on the corrections of the current one's answers."""
        before = self._model(number - 1)
        start = before.output(MODEL) if before and self._rounds.start == "previous" else self._base.upstream
        builder = self._amplifier(number)
        corrections = self._corrections_for(number)
        students = Students(builder, f"round{number}-student", self._seed, start, self._expected(number))
        labels = students.labels(f"round{number}-weak-labels-s{self._seed}", corrections)
        assert self._recipe.student is not None, "the recipe's validation sees to it"
        (method,) = self._recipe.student.methods
        return students.train(method, labels, builder.part(QUESTIONS))

    def _corrections_for(self, number: int) -> dict[str, Artifact]:
        """All that a round's model learns, by inputs' names: this round's corrections, and what is learnt again."""
        amplifier, rounds = self._amplifier(number), self._rounds
        answers = self._answers(amplifier, number - 1, QUESTIONS, "labels")
        rows = amplifier.rows_of(QUESTIONS)
        own = amplifier.correct(f"round{number}-corrections-s{self._seed}", answers, rows, self._seed)
        found = {"corrections": own}
        for draw in range(1, rounds.samples):
            name = f"round{number}-corrections-{draw + 1}-s{self._seed}"
            found[f"corrections-{draw + 1}"] = amplifier.correct(name, answers, rows, self._seed, draw=draw)
        for earlier, corrections in enumerate(self._corrections if rounds.replay else (), 1):
            name = f"round{number}-replay-{earlier}-s{self._seed}"
            found[f"corrections-round{earlier}"] = self._take(name, corrections, rounds.replay)
        if rounds.replay_ground_truth:
            name = f"round{number}-ground-truth-s{self._seed}"
            found["corrections-truth"] = self._take(name, self._base.part(WEAK), rounds.replay_ground_truth)
        self._corrections.append(own)
        return found

    def _expected(self, number: int) -> int:
        """How many labels a round learns, for planning."""
        rounds, rows = self._rounds, self._amplifier(number).rows_of(QUESTIONS)
        again = rounds.replay_ground_truth * self._base.sizes.weak
        return round(rows * (rounds.samples + rounds.replay * (number - 1)) + again)

    def _take(self, name: str, corrections: Artifact, share: float) -> Artifact:
        task = TakeCorrections(share=share, seed=self._seed)
        return Stage(name, task, {"records": corrections}).output(TAKEN)

    def _answers(self, builder: RoundBuilder, number: int, part: str, what: str) -> Artifact:
        """Answers of the model after round `number`."""
        model = self._model(number)
        if model is None:
            return builder.upstream_answers(what, part, self._seed)
        return builder.answer(f"round{number}-{what}-s{self._seed}", model, part, self._seed)

    def _amplifier(self, number: int) -> RoundBuilder:
        """What corrects in round `number`: the answers of the model before it."""
        plain = RoundBuilder(self._recipe, self._profile, number)
        if self._rounds.aligner == "fixed" or number == 1:
            return plain
        # An answer to W keeps its record's ground-truth correction: a Q-A-C record about the current model.
        records = self._answers(plain, number - 1, WEAK, "weak-answers")
        return RoundBuilder(self._recipe, self._profile, number, records)
