"""Every notebook runs from top to bottom with small settings, and is kept with the outputs of a longer run."""

import logging
import sys

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output
from traitlets.config import Config

from tests.conftest import ROOT

SMALL = {
    "any_denoiser": "size, region, iterations, probes = 32, (4, 4, 8, 8), 2, 2",
    "diffusion_with_covariance": "levels, shown, answers, sent = 3, 3, 2, 4",
    "mnist_uncertainty": "shown, tested, compared = 2, 40, 2",
    "cifar10_uncertainty": "shown, tested, probes = 2, 40, (1, 4)",
    "ozaki_sampling": 'steps, chains, compared, grid, share, image_steps = 40, 8, ("normal_2",), [1.0], 0.01, 2',
    "synthetic_scores": 'densities, steps, size = ("gaussians",), 10, 1000',
}


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


class Shell(InteractiveShell):
    """IPython as a kernel has it, in this process: torch is imported once, and a warning is an error."""

    def enable_gui(self, gui=None):
        """Figures are inline: there is no window."""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell in the notebooks folder of a project without data, where they show the digits. What a notebook changes of
    the process is undone."""
    (tmp_path / "notebooks").mkdir()
    for part in ("checkpoints", "configs", "main.py"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr("datasets.images.PROJECT", tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    select_figure_formats(shell, {"png"})
    yield shell
    Shell.clear_instance()


def test_there_is_a_test_for_each():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_runs_from_top_to_bottom(name, shell):
    shown = []
    for cell in code_cells(name):
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        result.raise_error()
        assert captured.stderr == ""
        shown += [output.data for output in captured.outputs]
        if result.result is not None:
            shown.append(shell.display_formatter.format(result.result)[0])
        if "parameters" in cell.metadata.get("tags", ()):
            shell.run_cell(SMALL[name]).raise_error()
    assert sum("image/png" in data for data in shown) >= 2


@pytest.mark.parametrize("name", SMALL)
def test_has_its_small_settings_among_its_parameters(name):
    (parameters,) = (cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", ()))
    own, small = {}, {}
    exec(parameters.source, own)
    exec(SMALL[name], small)
    assert set(small) <= set(own)


@pytest.mark.parametrize("name", SMALL)
def test_is_kept_with_its_outputs(name):
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 2
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
