"""With another package `datasets` on the path, such as Hugging Face's: ours is taken, or one line says why not."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def script(tmp_path):
    """Runs code as a script in a folder of its own, another `datasets` before this program on the path."""
    (tmp_path / "site/datasets").mkdir(parents=True)
    (tmp_path / "site/datasets/__init__.py").write_text("def load_dataset(name): return name\n")
    (tmp_path / "work").mkdir()

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
        (tmp_path / "work/script.py").write_text(code)
        call = [sys.executable, *(arguments or ["script.py"])]
        return subprocess.run(call, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)

    return run


def test_a_script_in_another_folder(script):
    done = script(
        "import models, datasets, datasets.synthetic, evaluation\nprint(datasets.DENSITIES['rings'](2).shape)"
    )
    assert (done.returncode, done.stdout) == (0, "(2,)\n"), done.stderr


def test_theirs_imported_first_is_said_in_one_line(script):
    done = script("import datasets\nimport configs")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the package datasets is Hugging Face's here (")
    assert last.endswith(f"import models before it, or put {ROOT} first on PYTHONPATH")


def test_a_module_of_ones_own_of_such_a_name(script, tmp_path):
    (tmp_path / "work/models.py").write_text("mine = 1\n")
    done = script("import models\nimport configs")
    assert done.stderr.splitlines()[-1].startswith("ImportError: the package models is another one here (")


def test_the_command_line(script):
    done = script("", ROOT / "main.py", "--runner", "UnetDSMRunner", "--config", "digits_dsm.yml", "--set", "noise=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "main.py: --set noise=-1: input should be greater than 0\n"
