"""Every notebook runs from top to bottom with small settings, and is kept with the outputs of a longer run."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

SMALL = {
    "mnist_uncertainty": "shown, tested, compared = 3, 40, 2",
    "cifar10_uncertainty": "shown, tested, probes = 3, 40, (1, 4)",
    "ozaki_sampling": "steps, chains, share, image_steps = 200, 8, 0.02, 2",
    "synthetic_scores": 'densities, steps = ("two_moons",), 30',
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_there_is_a_test_for_each():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    notebook = read(name)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[name]))
    for part in ("checkpoints", "configs", "main.py"):  # without data they show the digits
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", ())
    ]
    assert len(figures) >= 2


@pytest.mark.parametrize("name", SMALL)
def test_is_kept_with_its_outputs(name):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 2
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
