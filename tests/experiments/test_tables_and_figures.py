"""Every experiment at its smallest: what it writes and what it says, not how good the numbers are."""

import csv
import importlib
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import configs
import datasets
import experiments.all
import linalg
import models
from configs import UserError
from experiments import accuracy, mixing, publish, regimes, second_order, uncertainty
from models import Scores
from runners import distributed

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "checkpoints/digits")
SMALLEST = {
    "accuracy": "--data normal --methods 'jacobian of dsm' d2sm_vr --budget 8 --points 50 --noise 0.1 --seeds 0 "
    "--lrs 0.001",
    "regimes": "--regimes 'all fresh' '5,000 points' --budget 384 --seeds 0",
    "cost": "--data digits --minutes 0.002 --images 20",
    "variance": "--steps 20",
    "objectives": "--noise 0.5 --seeds 0 --methods jacobian centered --set max_steps=10 --set model.ngf=8",
    "uncertainty": f"--data digits --images 20 --digits {DIGITS}",
    "second_order": "--data digits --minutes 0.002 --images 20 --only begun 'both targets, 3' 'subspace iteration'",
    "likelihood": f"--models {DIGITS} --images 3 --slow 2 --bounded 2",
    "reverse": f"--model {DIGITS} --images 2 --points 50 --samples 4 --steps 2 3 --whole 2",
    "measurements": f"--models {DIGITS} --images 2 --samples 2 --points 50 --mixtures 1 --calls 3",
    "third_order": "--data gaussians --noise 0.4 --objectives centered jacobian --steps 5 --points 50",
    "skewness": f"--model {DIGITS}_third --images 8",
    "mixing": f"--targets normal_2 images --images {DIGITS} --share 0.05 --chains 4 --grid 0.5 "
    "--longest 2 --image-noise 0.5 --image-grid 0.5",
    "ellipses": "--steps 20 --densities gaussians",
    "diagonals": "--data digits --noise 0.5 --steps 10",
    "components": f"--model {DIGITS} --images 3 --components 2",
    "trajectories": f"--model {DIGITS} --images 3 --steps 5 --shown 1 3",
}
WRITES = {
    "accuracy": {"accuracy.csv", "accuracy.png"},
    "regimes": {"regimes.csv", "regimes.png"},
    "cost": {"cost_digits.csv", "cost_digits.png"},
    "variance": {"variance.csv", "variance.png"},
    "objectives": {"objectives_digits.csv"},
    "uncertainty": {"uncertainty.csv"},
    "second_order": {"second_order_digits.csv"},
    "likelihood": {"likelihood_digits.csv", "likelihood_digits.png"},
    "reverse": {"reverse.csv", "reverse.png"},
    "measurements": {
        *("measurements_mixtures_near.csv", "measurements_mixtures_apart.csv"),
        *("measurements_digits.csv", "measurements_digits.png"),
    },
    "third_order": {"third_order.csv"},
    "skewness": {"skewness.csv", "skewness.png", "skewness_walks.png"},
    "mixing": {"mixing.csv", "mixing.png"},
    "ellipses": {"ellipses.png"},
    "diagonals": {"diagonals.csv", "diagonals_digits.png"},
    "components": {"components.png", "components_refined.png", "walks.png"},
    "trajectories": {"trajectories.png", "trajectories_images.png"},
}


@pytest.mark.parametrize("name", SMALLEST)
def test_experiment_writes_its_results(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(second_order, "DENOISER_STEPS", 5)
    importlib.import_module(f"experiments.{name}").main([*shlex.split(SMALLEST[name]), "--results", "tables"])
    assert {path.name for path in Path("tables").iterdir()} == WRITES[name]
    assert "written:" in capsys.readouterr().out
    for path in Path("tables").glob("*.csv"):
        lines = path.read_text().splitlines()
        comments = [line for line in lines if line.startswith("#")]
        assert {"# machine", "# versions"} <= {line.partition(":")[0] for line in comments}
        assert len(list(csv.DictReader(lines[len(comments) :]))) >= 1


def test_all_runs_each_with_quick_results_apart(monkeypatch):
    called = []
    for name in experiments.all.FULL:
        module = importlib.import_module(name if "." in name else f"experiments.{name}")
        monkeypatch.setattr(module, "main", lambda call, name=name: called.append((name, call)))
    monkeypatch.setattr(experiments.all, "NEEDED", {"digits_low_rank.yml": {"accuracy"}})
    experiments.all.main([])
    full = [(name, call) for name, calls in experiments.all.FULL.items() for call in calls]
    assert called == [(name, [*call, "--results", "results"]) for name, call in full]
    called.clear()
    experiments.all.main(["--quick", "--only", "variance"])
    assert called == [("variance", [*experiments.all.QUICK["variance"][0], "--results", "results/quick"])]
    benchmarks = {"benchmarks.losses", "benchmarks.training", "benchmarks.evaluation"}
    assert set(experiments.all.QUICK) == set(experiments.all.FULL) == set(SMALLEST) | benchmarks


def test_accuracy_of_the_exact_score_is_perfect_and_of_nothing_is_one():
    config = accuracy.settings("normal", "centered", 0.1, 1e-3, 0, 10, [])
    exact = datasets.DENSITIES["normal"](100).at(0.1)
    first_order, nothing = Scores(0.1, exact.s1), Scores(0.1, lambda x: 0 * exact.s1(x))
    for scores in (exact, first_order):
        assert accuracy.error(scores, config, 500, 0, diagonal=False)["relative_error"] < 1e-6
    assert accuracy.error(nothing, config, 500, 0, diagonal=True)["relative_error"] == pytest.approx(1)


def test_every_method_has_the_same_evaluations():
    steps = {m: accuracy.settings("normal", m, 0.1, 1e-3, 0, 1200, []).max_steps for m in accuracy.METHODS}
    assert {steps[m] * accuracy.evaluations(m) for m in steps} == {1200}


def test_regimes_are_compared_at_equal_evaluations():
    world = distributed.World(torch.device("cpu"))
    for method in regimes.COMPARED:
        rows = list(regimes.curve("scales 0.5 to 1", method, 0, 768, world))
        assert [row["evaluations"] for row in rows] == [384, 768]
        assert [row["steps"] * accuracy.evaluations(method) for row in rows] == [384, 768]
    density = datasets.DENSITIES["wide_logistics"](50)
    exact = [density.s2(x.double(), 0.1).diagonal(dim1=1, dim2=2) for x in density.sample(2000).split(500)]
    truth = torch.cat(exact)
    size = float(truth.square().sum(1).mean())
    assert rows[0]["size"] == pytest.approx(size, rel=0.02)
    assert rows[0]["constant"] == pytest.approx(float(truth.var(0, correction=0).sum()) / size, rel=0.05)
    assert rows[0]["constant"] < rows[0]["linear"] < 1


def test_ratios_of_regimes():
    def row(method, evaluations, seed, error):
        return {"regime": "SiLU", "method": method, "seed": seed, "evaluations": evaluations, "steps": 1,
                "error": error, "relative_error": error, "size": 1.0, "linear": 0.6, "constant": 0.5}  # fmt: skip

    jacobian = [row("jacobian of dsm_vr", *at) for at in ((384, 0, 0.5), (384, 1, 0.3), (768, 0, 0.8))]
    ours = [row("d2sm_vr", *at) for at in ((384, 0, 0.2), (768, 0, 0.1))]
    found = {cell["evaluations"]: cell["ratio"] for cell in regimes.ratios([*jacobian, *ours])}
    assert found == pytest.approx({384: 0.4, 768: 0.125, None: 0.2})  # over seed 0, which both have


def test_best_step_size_must_be_unbiased_enough():
    rows = [
        {"step_size": 1.0, "ess_per_step": 0.1, "bias": 0.05},
        {"step_size": 2.0, "ess_per_step": 0.9, "bias": 0.5},
        {"step_size": 3.0, "ess_per_step": None, "bias": None},
    ]
    assert mixing.best(rows)["step_size"] == 1.0
    assert mixing.best(rows[1:]) is None


def test_ozaki_mixes_an_ill_conditioned_normal_in_a_step():
    rows = mixing.mixing_of(mixing.TARGETS["normal_50"](), [0.5, 1e4], chains=8, share=0.05)
    langevin, ozaki = (row for row in rows if row["best"])
    assert (langevin["sampler"], ozaki["sampler"]) == ("langevin", "ozaki")
    assert ozaki["ess_per_step"] > 0.5
    assert ozaki["ess_per_step"] > 20 * langevin["ess_per_step"]


def test_chains_at_the_best_step_size_go_on_until_they_have_mixed():
    """Langevin's chains on a normal of condition 100 need more than forty steps; Ozaki's do not, nor do those of any
    other step size go on."""
    rows = mixing.mixing_of(mixing.TARGETS["normal_2"](), [0.3, 1.0], chains=8, share=0.02, longest=64)
    langevin, ozaki = (row for row in rows if row["best"])
    assert 40 < langevin["steps"] <= 64 * 40
    assert langevin["r_hat"] <= mixing.MIXED or langevin["steps"] == 64 * 40
    assert {row["steps"] for row in rows if not row["best"]} <= {40, None}


def test_comparison_counts_calls_and_captures_most_with_the_best_directions():
    rows = {row["method"]: row for row in uncertainty.compare(Path(DIGITS), 40, torch.device("cpu"), sigma=0.5)}
    assert rows["ours"]["calls"] == 1
    assert rows["ours, refined twice"]["calls"] == 11
    assert rows["Jacobian of s1"]["calls"] == 64
    assert 0.3 < rows["ours"]["captured_5"] < 1
    assert rows["subspace iteration"]["captured_5"] == pytest.approx(rows["Jacobian of s1"]["captured_5"], abs=0.05)
    assert rows["Hutchinson, 64 products"]["calls"] == 64
    assert rows["ours, variances alone"]["trace_ratio"] == pytest.approx(rows["ours"]["trace_ratio"])
    assert rows["ours, variances alone"]["log_score"] > rows["best isotropic"]["log_score"]
    assert {name for name, row in rows.items() if row["log_score"] is None} == {
        "ours, refined once", "ours, refined twice", "Jacobian of s1", "subspace iteration"
    }  # fmt: skip


def test_variances_by_probes_are_positive():
    """Of a linear score, whose posterior covariance is `uuᵀ` and nearly nothing beside it: where u is small the
    estimates are noise. Those below a tenth of their mean are raised to that."""
    u, sigma = torch.tensor([0.3] * 10 + [0.01] * 30), 0.5
    covariance = torch.outer(u, u) + 1e-5 * torch.eye(40)
    scores = Scores(sigma, lambda x: x @ (covariance / sigma**4 - torch.eye(40) / sigma**2))
    answer = uncertainty.by_probes(scores, torch.zeros(2, 40), torch.Generator().manual_seed(1))
    exact = linalg.Dense(covariance.expand(2, -1, -1))
    estimates, _ = linalg.hutchinson_diagonal(exact, 64, torch.Generator().manual_seed(1))
    expected = torch.maximum(estimates, 0.1 * estimates.mean(1, keepdim=True))
    torch.testing.assert_close(answer.covariance.diagonal(), expected, rtol=0, atol=1e-6)
    assert answer.non_positive.tolist() == (estimates <= 0).sum(1).tolist()
    assert (answer.non_positive > 5).all()


def test_a_variant_that_the_table_has_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = dict.fromkeys(second_order.FIELDS) | {"noise": 0.5, "minutes": 0.1, "seed": 0}
    calls = []
    monkeypatch.setattr(second_order, "row_of", lambda name, *rest: calls.append(name) or row | {"variant": name})
    call = ["--minutes", "0.1", "--only"]
    second_order.main([*call, "begun", "nppc"])
    second_order.main([*call, "begun", "fresh", "nppc"])
    second_order.main(["--minutes", "0.2", "--only", "begun"])
    assert calls == ["begun", "nppc", "fresh", "begun"]


def test_every_variant_is_a_configuration():
    for variant in second_order.VARIANTS.values():
        configs.load(configs.find("mnist.yml"), list(variant.changes), runner="LowRankHybridRunner")


def test_published_checkpoint_is_small_and_the_same(tmp_path):
    path = publish.publish(Path(DIGITS), tmp_path / "again")
    ours, theirs = models.load(tmp_path / "again").network, models.load(DIGITS).network
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert path.stat().st_size < 8 * 2**20
    shutil.copytree(DIGITS, tmp_path / "untested", ignore=shutil.ignore_patterns("metrics.json"))
    with pytest.raises(UserError, match="--test"):
        publish.publish(tmp_path / "untested", tmp_path / "nowhere")
