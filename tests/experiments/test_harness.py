import argparse

import pytest

import configs
from experiments import components, harness
from runners import distributed, run_folder

SETTINGS = {"runner": "UnetDSMRunner", "noise": 0.5}


def test_a_run_of_other_settings_is_not_taken(tmp_path):
    world = distributed.join("cpu")
    config = configs.load(configs.find("digits_dsm.yml"), ["max_steps=2", "save_interval=1000"], **SETTINGS)
    for _ in range(2):  # the second time it is there
        metrics = harness.trained(config, tmp_path / "run", world, measure=lambda scores: {"a": scores.sigma})
        assert metrics == {"a": 0.5}
    assert not (tmp_path / "run/metrics.json").exists()
    other = configs.load(configs.find("digits_dsm.yml"), ["max_steps=3", "model.ngf=8"], **SETTINGS)
    with pytest.raises(configs.UserError, match="a run with another max_steps, save_interval, model; name another"):
        harness.trained(other, tmp_path / "run", world)
    with pytest.raises(configs.UserError, match="measured on other points; name another"):
        harness.trained(config, tmp_path / "run", world, measure=lambda scores: {}, settings={"points": 3})


def test_a_trained_run_whose_measuring_failed_is_not_trained_again(tmp_path):
    world = distributed.join("cpu")
    config = configs.load(configs.find("digits_dsm.yml"), ["max_steps=2"], **SETTINGS)

    def fails(scores):
        raise configs.UserError("no time")

    with pytest.raises(configs.UserError, match="no time"):
        harness.trained(config, tmp_path / "run", world, measure=fails)
    assert run_folder.recorded_data(tmp_path / "run").keys() == {"train", "test"}
    trained_at = (tmp_path / "run/ckpt/checkpoint.pth").stat().st_mtime_ns
    assert harness.trained(config, tmp_path / "run", world, measure=lambda scores: {"a": 1}) == {"a": 1}
    assert (tmp_path / "run/ckpt/checkpoint.pth").stat().st_mtime_ns == trained_at
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_table_of_other_settings_is_not_gone_on_with(tmp_path):
    path, rows = tmp_path / "table.csv", [{"a": 1, "b": "x"}, {"a": 0.5, "b": None}]
    assert harness.rows_so_far(path, {"seed": 0}, ["a", "b"]) == []
    harness.save_table(path, rows, {"seed": 0, "model": "here"}, distributed.join("cpu").device)
    assert harness.rows_so_far(path, {"seed": 0}, ["a", "b"]) == rows
    with pytest.raises(configs.UserError, match="table.csv: made with another seed, model, more; move it away"):
        harness.rows_so_far(path, {"seed": 1, "model": "there", "more": 2}, ["a", "b"])
    whole = path.read_bytes()
    for damaged in (whole.replace(b"a,b", b"a"), whole + b"3,4,5\n", whole + b"3\n", whole + b"nan,y\n", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(configs.UserError, match="not a table of this experiment; move it away, or name another"):
            harness.rows_so_far(path, {"seed": 0}, ["a", "b"])
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (harness.whole_number, ["0", "-1", "1.5", "nan", "many", ""]),
        (harness.number_from_zero, ["-1", "0.5", "none"]),
        (harness.positive, ["0", "-0.1", "nan", "inf", "x"]),
        (harness.not_negative, ["-0.1", "nan", "inf", "x"]),
        (harness.seed_number, ["-1", "9223372036854775808", "x"]),
    ],
)
def test_numbers_of_the_command_line(kind, wrong):
    assert kind("3") == 3
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match="is expected"):
            kind(text)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    assert harness.folder(str(tmp_path / "new/folder")) == tmp_path / "new/folder"
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(argparse.ArgumentTypeError, match="file is a file; a folder is expected"):
            harness.folder(str(path))


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        harness.run(lambda: components.main(["--model", "nowhere"]))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_shared_arguments_take_several_values_where_their_default_is_a_list():
    parser = harness.argument_parser("experiments.none", "", noise=[0.1], seed=0, set=["a=1"])
    text = "--noise 0.5 1.0 --seed 3 --set b=2 --set c=3 --results elsewhere"
    args = parser.parse_args(text.split())
    assert (args.noise, args.seed, args.overrides, str(args.results)) == (
        [0.5, 1.0],
        3,
        ["a=1", "b=2", "c=3"],
        "elsewhere",
    )
    assert harness.argument_parser("experiments.none", "", noise=0.1).parse_args(["--noise", "0.5"]).noise == 0.5
    assert parser.parse_args([]).overrides == ["a=1"]


def test_table_has_mean_and_spread_over_seeds():
    rows = [{"name": name, "seed": seed, "error": seed + 1.0} for name in ("a", "long name") for seed in (0, 1, 2)]
    rows.append({"name": "b", "seed": 0, "error": 5.0})
    cells = harness.over_seeds(rows, "name")
    assert cells[0] == {"name": "a", "seed": [0, 1, 2], "error": [1.0, 2.0, 3.0]}
    lines = harness.table([*cells, {"name": "c", "error": None}], {"name": "{}", "error": "{:.2f}"}).splitlines()
    assert lines == [
        "name             error",
        "a          2.00 ± 1.00",
        "long name  2.00 ± 1.00",
        "b          5.00 ± 0.00",
        "c                    –",
    ]


def test_a_run_on_points_has_no_images(small_run):
    scores, config, data = harness.open_run(small_run("LowRankHybridRunner"))
    assert (scores.sigma, data.shape) == (config.noise, (1, 8, 8))
    with pytest.raises(configs.UserError, match="images are expected, not Synthetic"):
        harness.open_run(small_run("SyntheticRunner"))
