"""Packages of others that go by the names of this program's: Hugging Face's `datasets` above all."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["take_ours"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "models", "losses", "linalg", "inference", "evaluation", "runners", "experiments", "benchmarks")


class _OursFirst(MetaPathFinder):
    """Finds this program's `datasets`, whatever comes before it on the path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "datasets":
            return None
        place = ROOT / fullname
        return importlib.util.spec_from_file_location(
            fullname, place / "__init__.py", submodule_search_locations=[str(place)]
        )


def take_ours() -> None:
    """Makes sure that the packages imported from here on are this program's.

    Raises:
        ImportError: where another one of such a name has been imported before; the message says which and what to do.
    """
    for name in PACKAGES:
        if name in sys.modules and not _is_ours(sys.modules[name].__file__):
            whose = "Hugging Face's" if hasattr(sys.modules[name], "load_dataset") else "another one"
            raise ImportError(
                f"the package {name} is {whose} here ({sys.modules[name].__file__}), and a process can hold only one "
                f"of that name: import models before it, or put {ROOT} first on PYTHONPATH"
            )
    if "datasets" not in sys.modules:
        found = importlib.util.find_spec("datasets")
        if found is None or not _is_ours(found.origin):
            sys.meta_path.insert(0, _OursFirst())


def _is_ours(file: str | None) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(ROOT)
