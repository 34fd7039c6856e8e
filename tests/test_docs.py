"""The pages for users: every block of Python on them runs, every command line is one, every link leads somewhere."""

import re
import shlex

import matplotlib.pyplot
import pytest
import torch

import configs
import main
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RUN = {"README.md", "uncertainty.md", "samplers.md", "likelihood.md", "measurements.md", "own_denoiser.md"}
CODE = re.compile(r"```.*?```|`[^`]*`", flags=re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")


def denoise(x, sigma):
    """What `from_denoiser` may be given: the mean of each pixel's neighbours, more of it the noisier they are."""
    share = sigma**2 / (sigma**2 + 0.01)
    return (1 - share) * x + share * torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in RUN], ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore:.* lie below:RuntimeWarning")
def test_blocks_of_python_run(page, tmp_path, monkeypatch):
    """One after the other, from the project's folder, but for what they write."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    photo = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    names = {"denoise": denoise, "noisy": photo}  # of docs/own_denoiser.md
    for block in blocks:
        exec(block, names)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_commands_are_understood(page, monkeypatch):
    """Those of `main.py`: flags, configurations, overrides; and the checkpoints that they name are there.
    (CONTRIBUTING.md names an objective and a density that its reader is to write.)"""
    monkeypatch.chdir(ROOT)
    shell = "".join(re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[1:2] != ["main.py"] or "RUNNER" in words:
            continue
        args = main.parse(words[2:])
        if args.config is not None:
            flags = {"noise": args.noise, "rank": args.rank, "runner": args.runner}
            configs.load(configs.find(args.config), args.overrides, **flags)
        for path in re.findall(r"checkpoints/\w+", line):
            assert (ROOT / path).is_dir(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("`", page.read_text(encoding="utf-8"))):
        path, _, section = link.partition("#")
        if path.startswith("http"):
            continue
        target = page if not path else page.parent / path
        assert target.exists(), link
        if section:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert section in anchors, link


def test_every_picture_and_table_that_a_page_names_is_there():
    for page in PAGES:
        for name in re.findall(r"`(results/[\w./]+\.(?:csv|png))`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
