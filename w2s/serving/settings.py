"""What a server is made from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from aligner_core.model_ids import EndpointId
from aligner_core.profile import Profile
from aligner_core.recipe import Corrector, Count, Generation, Strict

Seconds = Annotated[float, Field(gt=0)]


def _base_url(url: str) -> str:
    host = EndpointId(url, "").host
    if not url.startswith(("http://", "https://")) or not host:
        raise ValueError("must be http(s)://HOST/v1")
    if "@" in host:
        raise ValueError("must hold no password; name a variable for the key instead")
    return url.rstrip("/")


class ServeSettings(Strict):
    """Everything but keys, which stay in the environment."""

    upstream: Annotated[str, AfterValidator(_base_url)] = Field(
        description="base URL of the upstream, up to and without /chat/completions"
    )
    corrector: Corrector = Field(description="what corrects its answers")
    profile: Profile = Field(description="where in-process models run, and the variables of keys")
    generation: Generation = Field(description="how corrections are decoded")
    fail: Literal["open", "closed"] = Field(
        "closed", description="an answer that could not be corrected: hand it out as it is, or refuse with an error"
    )
    switches: bool = Field(True, description="whether a request may switch correction off, or change its settings")
    original: bool = Field(True, description="whether the upstream's answer stands in the metadata")
    max_rounds: Count = Field(4, description="most rounds of correction that a request may ask for")
    max_requests: Count = Field(256, description="requests under way or waiting; further ones are told 429")
    concurrency: Count = Field(64, description="requests under way at the upstream; so many corrections at a URL")
    batch: Count = Field(16, description="answers that an in-process corrector takes at once")
    collect_seconds: Annotated[float, Field(ge=0)] = Field(0.01, description="how long a batch waits for more answers")
    upstream_seconds: Seconds = Field(300.0, description="longest wait for the upstream's whole answer")
    correction_seconds: Seconds = Field(300.0, description="longest wait for a correction, queue included")
    body_seconds: Seconds = Field(30.0, description="longest wait for a request's body")
    keepalive_seconds: Seconds = Field(15.0, description="a stream without news gets a comment this often")
    max_body_bytes: Count = Field(4 * 2**20, description="longest request; longer ones are told 413")
    max_answer_bytes: Count = Field(16 * 2**20, description="longest answer that is taken from the upstream")
