"""From a YAML file and the command line's overrides to a checked `Config`, and back to a file."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError, reason_of
from configs.files import write_text
from configs.schema import Config

__all__ = ["find", "load", "save", "source_of", "sources"]

FOLDER = Path(__file__).parent


class _Loader(yaml.SafeLoader):
    """Reads the published program's saved configs too: its namespaces become plain mappings, never objects."""


def _namespace(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:python/object:argparse.Namespace", _namespace)


def find(name: str) -> Path:
    """The file meant by `--config NAME`: a path, or a file of the folder `configs/`, its `.yml` left out or not.

    Raises:
        UserError: where there is none; the message lists the files of `configs/`.
    """
    for path in (Path(name), FOLDER / name, FOLDER / f"{name}.yml"):
        if path.is_file():
            return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    known = ", ".join(sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yml")))
    raise UserError(f"--config {name}: no such file, here or in configs/, which has: {known}")


def load(path: Path | None, overrides: tuple[str, ...] | list[str] = (), **flags: Any) -> Config:
    """Reads and checks a configuration.

    Args:
        path: the YAML file; None for the defaults.
        overrides: texts `key.path=value`, applied in order, the values read as YAML.
        flags: top-level values that stand above the file's, where they are not None.

    Raises:
        UserError: where the file is unreadable, a key unknown or a value not allowed. One line that
            names the file or the flag, the key, the value and what is allowed.
    """
    try:
        values = None if path is None else yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or reason_of(error)
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a mapping of keys to values is expected, this is a {type(values).__name__}")

    for text in overrides:
        _override(values, text)
    values |= {key: value for key, value in flags.items() if value is not None}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, str(path or "defaults"), sources(overrides, flags))) from error


def save(config: Config, path: Path) -> None:
    """Writes the whole configuration, defaults included, as YAML.

    Raises:
        OSError: where it can't be written; what was there stays.
    """
    write_text(path, yaml.safe_dump(config.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True))


def sources(overrides: tuple[str, ...] | list[str], flags: dict[str, Any]) -> dict[str, str]:
    """What the command line gave, by the key that it sets, as it was written."""
    given = {text.partition("=")[0].strip(): f"--set {text}" for text in overrides}
    for key, value in flags.items():
        if value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
            given[key] = f"--{key} {shown}"
    return given


def source_of(key: str, given: dict[str, str]) -> str | None:
    """Which of `sources` sets a key, itself or with its whole section; None where none does."""
    while key not in given:
        if "." not in key:
            return None
        key = key.rpartition(".")[0]
    return given[key]


def _override(values: dict, text: str) -> None:
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not all(part.strip() for part in key.split(".")):
        raise UserError(f"--set {text}: write it as key=value or section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {text}: {section} is a single value, it holds no keys")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: {value} is not valid YAML") from error


def _known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, f"{prefix}{name}.")


def nearest(key: str) -> str:
    """The known key most like `key`, whichever section it is in."""
    known = list(_known_keys())
    last = key.rpartition(".")[2]
    same_name = [k for k in known if k.rpartition(".")[2] == last]
    return (same_name or difflib.get_close_matches(key, known, n=1, cutoff=0))[0]


def _explain(error: ValidationError, path: str, given: dict[str, str]) -> str:
    """The first problem in one line."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    whole = source_of(key, given) if key else None
    source = given.get(key, f"{whole or path}: {key}" if key else path)
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key{'' if source.endswith(key) else ' ' + key}; did you mean {nearest(key)}?"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":
        message = "a section with keys of its own is expected"
    shown = "" if not key or key in given else f": {problem['input']!r}"
    return f"{source}{shown}: {message[0].lower()}{message[1:]}"
