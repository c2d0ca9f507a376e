"""From YAML files and `--set` to a checked recipe and profile, with every problem of both reported at once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from aligner_core.errors import Problem, UserError
from aligner_core.profile import Profile
from aligner_core.recipe import Data, Recipe, Role, Roles
from aligner_core.shapes import parameters, shape_of

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
TRAINING_BYTES = 16  # per parameter: mixed-precision Adam
PLACEHOLDER_ROLE = "embedded:tiny-random"
Model = TypeVar("Model", bound=BaseModel)


def load(
    kind: type[Recipe], recipe: str, profile: str, overrides: Sequence[str] = ()
) -> tuple[Recipe, Profile, list[Problem]]:
    """Read both files and apply the profile's replacements, then `--set` values.

    With problems, the returned recipe and profile are the nearest valid ones, so that a caller can look for further
    problems (what does not fit) and report all in one go.

    Raises:
        UserError: if a file is missing, is not YAML, or is too broken to go on.
    """
    recipe_path, profile_path = find_recipe(recipe), find_profile(profile)
    problems: list[Problem] = []
    profile_document = read_yaml(profile_path)
    checked_profile = _validate(Profile, profile_document, profile_path.name, problems)
    document = read_yaml(recipe_path)
    if checked_profile.rehearsal and _is_too_large(document, checked_profile):
        checked_profile = checked_profile.rehearsing()
    document = _replaced(document, checked_profile)
    for override in overrides:
        _set(document, override, problems)
    checked_recipe = _validate(kind, document, recipe_path.name, problems)
    return checked_recipe, checked_profile, problems


def load_profile(name: str) -> Profile:
    """A profile alone, for commands without a recipe.

    Raises:
        UserError: with every problem in it.
    """
    path = find_profile(name)
    problems: list[Problem] = []
    profile = _validate(Profile, read_yaml(path), path.name, problems)
    if problems:
        raise UserError(problems)
    return profile


def find_recipe(name: str) -> Path:
    """A path, or the name of a shipped recipe with or without `.yaml`."""
    return _find(name, SHIPPED, "recipe", "w2s recipes list")


def find_profile(name: str) -> Path:
    return _find(name, SHIPPED / "profiles", "profile", "a file, or one of the shipped profiles")


def shipped_recipes() -> list[Path]:
    return sorted(SHIPPED.glob("*.yaml"))


def _find(name: str, folder: Path, kind: str, fix: str) -> Path:
    for candidate in (Path(name), folder / name, folder / f"{name}.yaml", folder / Path(name).name):
        if candidate.is_file():
            return candidate
    known = [path.stem for path in sorted(folder.glob("*.yaml"))]
    raise UserError(Problem(name, f"no such {kind}", f"{fix}; shipped are: {', '.join(known)}"))


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(Problem(f"{path}:{line}", f"is not YAML: {error.problem}", "mend the syntax")) from error
    except yaml.YAMLError as error:
        raise UserError(Problem(str(path), f"is not YAML: {error}", "mend the file")) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), "is not UTF-8", "save the file as UTF-8")) from error
    if not isinstance(document, dict):
        raise UserError(Problem(str(path), "holds no mapping", "write keys and values; see w2s recipes copy"))
    return {str(key): _unshared(value) for key, value in document.items()}


def _unshared(value: Any) -> Any:
    """A copy in which an anchor's aliases are values of their own, so that changing one leaves the others alone."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _replaced(document: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """The recipe with the profile's stand-ins merged over it; what it does without gets none."""
    merged = copy.deepcopy(document)
    for section, owner, values in (("roles", Roles, profile.replace.roles), ("data", Data, profile.replace.data)):
        if values and isinstance(merged.get(section, {}), dict):
            target = merged.setdefault(section, {})
            _merge(target, _wanted(values, target, owner))
    _merge(merged, _wanted(profile.replace.sections, merged, Recipe))
    if isinstance(merged.get("upstreams"), dict) and "upstream" in profile.replace.roles:
        merged["upstreams"] = dict.fromkeys(merged["upstreams"], profile.replace.roles["upstream"])
    return merged


def _wanted(values: dict[str, Any], target: dict[str, Any], owner: type[BaseModel]) -> dict[str, Any]:
    """The values without those for keys that are null unless given, where they are not given."""
    optional = {key for key, field in owner.model_fields.items() if field.default is None}
    return {key: value for key, value in values.items() if key in target or key not in optional}


def _is_too_large(document: dict[str, Any], profile: Profile) -> bool:
    """Whether training some role's model, unsharded, needs more than a device has."""
    roles = document.get("roles")
    for name, value in roles.items() if isinstance(roles, dict) else ():
        try:
            count = parameters(shape_of(Role.model_validate(value), f"roles.{name}"))
        except (ValidationError, UserError):
            continue  # told of when the recipe is checked
        if TRAINING_BYTES * count > profile.device.memory_gib * 2**30:
            return True
    return False


def _merge(target: dict[str, Any], values: dict[str, Any]) -> None:
    """Put values over the target's, key by key; a section that the target switched off (null) stays off."""
    for key, value in values.items():
        if isinstance(value, dict) and key in target and target[key] is None:
            continue
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _set(document: dict[str, Any], override: str, problems: list[Problem]) -> None:
    """Apply one `a.b.c=value`; the value is read as YAML, so numbers, lists and null mean what they look like."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        problems.append(Problem(f"--set {override}", "is not key=value", "write --set student.training.epochs=2"))
        return
    target = document
    *parents, last = path.strip().split(".")
    for key in parents:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(Problem(f"--set {path}", f'"{text}" is not a YAML value', "quote it"))


def _validate(kind: type[Model], document: dict[str, Any], file: str, problems: list[Problem]) -> Model:
    """Validate; on errors record all of them and return the nearest valid value."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems += [_explain(kind, detail, file) for detail in error.errors()]
        try:
            return kind.model_validate(_repaired(document, error))
        except ValidationError:
            raise UserError(problems) from error


def _repaired(document: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """The document without its faulty values; a role that is missing or faulty becomes the tiny one."""
    repaired = copy.deepcopy(document)
    for detail in error.errors():
        location = [part for part in detail["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        if not location:  # keys that do not go together: none of them is the faulty one
            continue
        if location[0] == "roles" and len(location) >= 2 and detail["type"] != "extra_forbidden":
            repaired.setdefault("roles", {})[location[1]] = PLACEHOLDER_ROLE
            continue
        if detail["type"] == "missing":
            _put(repaired, location, "missing")
        else:
            _remove(repaired, location)
    return repaired


def _put(document: Any, location: Sequence[Any], value: Any) -> None:
    for key in location[:-1]:
        document = document[key]
    document[location[-1]] = value


def _remove(document: Any, location: Sequence[Any]) -> None:
    for key in location[:-1]:
        if not isinstance(document, dict) or key not in document:
            return
        if not isinstance(document[key], dict):
            document.pop(key)
            return
        document = document[key]
    if isinstance(document, dict):
        document.pop(location[-1], None)


def _explain(kind: type[BaseModel], detail: Any, file: str) -> Problem:
    location = [str(part) for part in detail["loc"]]
    message = detail["msg"].removeprefix("Value error, ")
    if not location:  # keys that do not go together
        return Problem(file, message, "see docs/recipe.md")
    where = f"{file}: {'.'.join(location)}"
    owner = _model_at(kind, location[:-1])
    known = list(owner.model_fields) if owner else []
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], known, 1)
        fix = f'did you mean "{near[0]}"?' if near else "remove it"
        return Problem(where, "unknown key", f"{fix} known keys here: {', '.join(known)}")
    description = owner.model_fields[location[-1]].description if owner and location[-1] in known else None
    if detail["type"] == "missing":
        return Problem(where, "is required and missing", f"add it: {description or location[-1]}")
    shown = "" if isinstance(detail["input"], dict | list) else f" (got {detail['input']!r})"
    return Problem(where, message + shown, description or "see docs/recipe.md")


def _model_at(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The model class that a key path leads into, through optional fields, lists and the kinds of a union."""
    options: list[type[BaseModel]] = [kind]
    for key in location:
        of_kind = [option for option in options if key in _kinds(option)]
        if of_kind or key.isdecimal():  # a kind, or an element of a list
            options = of_kind or options
            continue
        field = options[0].model_fields.get(key)
        options = _models_in(field.annotation) if field else []
        if not options:
            return None
    return options[0]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for option in get_args(annotation) for model in _models_in(option)]


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model class that a field holds: itself, optionally, or in a list."""
    return next(iter(_models_in(annotation)), None)
