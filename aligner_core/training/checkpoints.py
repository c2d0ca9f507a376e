"""Checkpoints that an interrupted training goes on from. One counts when it is marked as whole, which is done last."""

from __future__ import annotations

import shutil
from pathlib import Path

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_json
from aligner_core.profile import Profile
from aligner_core.training.processes import rank, wait

WHOLE = "whole.json"


def keep_only(folder: Path, done: int, profile: Profile) -> None:
    """Mark `folder`, the state after so many steps, as whole, and take away the others beside it.

    All processes must call it, when they have written their parts.
    """
    wait()
    if rank() == 0:
        write_json(folder / WHOLE, {"done": done, **_layout(profile)})
        for other in folder.parent.iterdir():
            if other.is_dir() and other != folder:
                (other / WHOLE).unlink(missing_ok=True)  # first, so that what is half removed does not count
                shutil.rmtree(other)


def newest(folder: Path, profile: Profile) -> tuple[Path, int] | None:
    """The newest whole checkpoint in `folder`, and how many steps were done.

    Raises:
        UserError: if other processes wrote it than would read it.
    """
    whole = {path.parent: read_json(path) for path in folder.glob(f"*/{WHOLE}")}
    if not whole:
        return None
    found = max(whole, key=lambda path: int(whole[path]["done"]))
    before, now = ({key: told[key] for key in _layout(profile)} for told in (whole[found], _layout(profile)))
    if before != now:
        what = f"was written under {_told(before)}, and cannot be read under {_told(now)}"
        fix = f"go on under those, or remove {folder}, and the training begins anew"
        raise UserError(Problem(str(found), what, fix))
    return found, int(whole[found]["done"])


def _layout(profile: Profile) -> dict[str, int]:
    """What the files of a checkpoint depend on."""
    return {"processes": profile.processes, "zero.stage": profile.zero.stage}


def _told(layout: dict[str, int]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in layout.items())
