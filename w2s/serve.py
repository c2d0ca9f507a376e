"""`w2s serve`: a corrector in front of any model that speaks OpenAI's chat completions."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import click
from pydantic import ValidationError

from aligner_core.command import option_problems, profile_option
from aligner_core.configuration import load_profile
from aligner_core.errors import Problem, UserError
from aligner_core.model_ids import EndpointId
from aligner_core.profile import Profile
from w2s.correct import read_corrector

KEPT_SECONDS = 75  # longer than clients keep connections, so that they use none that is just closed
NEEDED = ("fastapi", "uvicorn")


@click.command()
@click.option("--upstream", required=True, metavar="URL",
              help="Base URL of the model whose answers are corrected, as http://HOST/v1.")  # fmt: skip
@click.option("--aligner", metavar="PATH_OR_URL",
              help="A trained Aligner: a folder, a hub id, embedded:NAME, or http://HOST/v1#NAME.")  # fmt: skip
@click.option("--template", help="How the Aligner is asked, where it does not say so itself (behind a URL).")
@click.option("--corrector", metavar="WHAT", help="Any other corrector instead, as w2s correct takes it.")
@click.option("--key-variable", metavar="NAME",
              help="Environment variable with the upstream's key; else as the profile says.")  # fmt: skip
@click.option("--fail", type=click.Choice(["open", "closed"]), default="closed", show_default=True,
              help="Where no correction can be made: hand the answer out as it is, or refuse with 503.")  # fmt: skip
@profile_option
@click.option("--generation", "preset", type=click.Choice(["greedy", "published"]), default="greedy",
              show_default=True, help="How corrections are decoded (docs/correctors.md).")  # fmt: skip
@click.option("--max-new-tokens", default=2048, show_default=True, help="Longest correction in tokens.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
@click.option("--max-requests", type=int, help="Requests under way or waiting; further ones are told 429.")
@click.option("--concurrency", type=int, help="Requests under way at the upstream, and at a corrector behind a URL.")
@click.option("--batch", type=int, help="Answers that an in-process corrector takes at once.")
@click.option("--upstream-seconds", type=float, help="Longest wait for the upstream's answer.")
@click.option("--correction-seconds", type=float, help="Longest wait for a correction.")
@click.option("--max-body-bytes", type=int, help="Longest request; longer ones are told 413.")
@click.option("--shutdown-seconds", default=30, show_default=True, help="How long requests may end after SIGTERM.")
@click.option("--switches/--no-switches", default=True, show_default=True,
              help="Whether a request may switch correction off or change its settings.")  # fmt: skip
@click.option("--original/--no-original", default=True, show_default=True,
              help="Whether the upstream's own answer stands in the metadata.")  # fmt: skip
def serve(
    upstream: str, aligner: str | None, template: str | None, corrector: str | None, key_variable: str | None,
    profile: str, preset: str, max_new_tokens: int, host: str, port: int, shutdown_seconds: int, **limits: Any,
) -> None:  # fmt: skip
    """Serve a model's answers, corrected, to any client of OpenAI's API."""
    _check_installed()
    import uvicorn

    from w2s.serving.app import create_app
    from w2s.serving.settings import ServeSettings

    try:
        settings = ServeSettings.model_validate({
            "upstream": upstream,
            "corrector": _corrector(aligner, template, corrector),
            "profile": _profile(profile, upstream, key_variable),
            "generation": {"preset": preset, "max_new_tokens": max_new_tokens},
            **{name: value for name, value in limits.items() if value is not None},
        })  # fmt: skip
    except ValidationError as error:
        raise UserError(option_problems(error, "see w2s serve --help")) from None
    app = create_app(settings)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    click.echo(f"http://{host}:{port}/v1 corrects {upstream}", err=True)
    uvicorn.run(
        app, host=host, port=port, access_log=False, timeout_keep_alive=KEPT_SECONDS,
        timeout_graceful_shutdown=shutdown_seconds,
    )  # fmt: skip


def _corrector(aligner: str | None, template: str | None, corrector: str | None) -> Any:
    if (aligner is None) == (corrector is None):
        raise UserError(Problem("--aligner", "name either an Aligner or a corrector", "e.g. --aligner ./aligner"))
    if corrector is not None:
        return read_corrector(corrector)
    return {"kind": "aligner", "model": {"model": aligner}, "template": template}


def _profile(name: str, upstream: str, key_variable: str | None) -> Profile:
    """The profile, with the variable of the upstream's key in it."""
    profile = load_profile(name)
    if key_variable is None:
        return profile
    variables = {**profile.endpoints.key_variables, EndpointId(upstream, "").host: key_variable}
    endpoints = profile.endpoints.model_copy(update={"key_variables": variables})
    return profile.model_copy(update={"endpoints": endpoints})


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(Problem("w2s serve", f"needs {' and '.join(missing)}", "pip install 'w2s[serve]'"))
