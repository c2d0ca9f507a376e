"""A trained Aligner, asked in the form it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aligner_core.correctors.protocol import Bench, Case, Revision
from aligner_core.engines.protocol import Prompt
from aligner_core.errors import Problem, UserError
from aligner_core.model_ids import parse_endpoint
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import CorrectionTemplate, correction_template, stored_template


class Aligner:
    """One generation per case. The keep token, where the Aligner was taught one, returns the answer itself."""

    def __init__(self, model: ModelLocation, template: str | None = None) -> None:
        """`template` names how it is asked, for a model that does not say so itself."""
        self.model = model
        self.template = _template(model, template)

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        prompts = [None if case is None else self.prompt(case) for case in cases]
        completions = bench.ask("correction", self.model, prompts, self.template.frame)
        return [
            None
            if case is None or item is None
            else Revision(self.template.correction(case.answer, item.text), item.tokens, item.finished, item.error)
            for case, item in zip(cases, completions, strict=True)
        ]

    def prompt(self, case: Case) -> Prompt:
        template = self.template
        if case.wish:
            template = replace(template, instruction=f"{template.instruction} {case.wish}".strip())
        return Prompt(template.messages(case.question, case.answer, case.history), draft=case.answer)


def _template(model: ModelLocation, name: str | None) -> CorrectionTemplate:
    if name:
        return correction_template(name)
    if parse_endpoint(model.folder):
        what, fix = (
            "does not tell how its model is asked",
            "name the template: {kind: aligner, model: ..., template: ...}",
        )
        raise UserError(Problem(model.folder, what, fix))
    return stored_template(model)
