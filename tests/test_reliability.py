"""What docs/reliability.md promises of every line of the program, and that the tests it names are there."""

import ast
import re
from collections.abc import Iterator

import yaml

from configs import loading
from tests.conftest import ROOT

PACKAGES = ("configs", "linalg", "models", "losses", "datasets", "inference", "evaluation", "runners", "experiments",
            "benchmarks")  # fmt: skip
PAGE = ROOT / "docs/reliability.md"

LOADERS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
SAFE_YAML = {"SafeLoader", "_Loader"}
CODE = {"eval", "exec", "compile", "__import__"}
CODE_FROM_FILES = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}


def name_of(node: ast.expr | None) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def unsafe(node: ast.AST) -> bool:
    """Whether a call or an import may run what a file says."""
    if isinstance(node, ast.Import):
        return not CODE_FROM_FILES.isdisjoint(alias.name.partition(".")[0] for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in CODE_FROM_FILES
    if not isinstance(node, ast.Call):
        return False
    name, given = name_of(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    if name in LOADERS:
        option, safe = LOADERS[name]
        value = given.get(option)
        return not (isinstance(value, ast.Constant) and value.value is safe)
    if name in ("yaml.load", "yaml.load_all"):
        return name_of(given.get("Loader")).rpartition(".")[2] not in SAFE_YAML
    return name in CODE or (name.startswith("yaml.") and ("unsafe" in name or "full" in name))


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in [ROOT / "main.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def test_no_line_runs_what_a_file_says():
    """Checkpoints are read with `weights_only`, arrays without pickles, YAML with a safe loader; no text is run."""
    found = [f"{path}:{node.lineno}" for path, tree in sources() for node in ast.walk(tree) if unsafe(node)]
    assert found == []
    assert issubclass(loading._Loader, yaml.SafeLoader)


def test_a_line_that_did_would_be_found():
    for line in ("torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)"):
        assert any(map(unsafe, ast.walk(ast.parse(line)))), line
    for line in ("yaml.load(t, Loader=yaml.Loader)", "yaml.load(t, yaml.Loader)", "yaml.unsafe_load(t)", "eval(t)",
                 "import pickle", "from pickle import load"):  # fmt: skip
        assert any(map(unsafe, ast.walk(ast.parse(line)))), line
    for line in ("torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "model.eval()"):
        assert not any(map(unsafe, ast.walk(ast.parse(line)))), line


BINARY = {"'rb'", "'wb'", "'ab'"}
OURS = {"os.open", "Image.open", "write_text", "configs.write_text"}  # no text, or in UTF-8
TEXT_FILES = {"open", "fdopen", "read_text", "write_text", "NamedTemporaryFile", "FileHandler"}


def in_the_locale(node: ast.AST) -> bool:
    """Whether a call reads or writes text in the encoding of the user's locale."""
    if not isinstance(node, ast.Call):
        return False
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if "encoding" in given:
        return False
    name = ast.unparse(node.func)
    if name.startswith("subprocess."):
        return given.get("text") == "True"
    modes = [*map(ast.unparse, node.args), given.get("mode", "")]
    return name.rpartition(".")[2] in TEXT_FILES and name not in OURS and BINARY.isdisjoint(modes)


def test_no_text_is_in_the_encoding_of_the_locale():
    """What is written in one locale is read in another."""
    found = [f"{path}:{node.lineno}" for path, tree in sources() for node in ast.walk(tree) if in_the_locale(node)]
    assert found == []
    for line in (
        "path.open()",
        "open(path, 'w')",
        "p.read_text()",
        "subprocess.run(a, text=True)",
        "os.fdopen(1, 'w')",
    ):
        assert any(map(in_the_locale, ast.walk(ast.parse(line)))), line
    for line in ("path.open('rb')", "open(p, 'w', encoding='utf-8')", "Image.open(p)", "os.open(p, f)"):
        assert not any(map(in_the_locale, ast.walk(ast.parse(line)))), line


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+)(?:::(\w+))?)?`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 30
    for file, *names in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert {name for name in names if name} <= defined, (file, names)
