import pytest
import yaml

import configs
from configs import Config, UserError

PUBLISHED = {  # ema, ngf, dataset, data_dir, channels, size, flip, batch, epochs: the table of the published files
    "dsm_mnist.yml": (False, 64, "MNIST", "data/mnist", 1, 28, False, 100, 1000),
    "dsm_cifar10.yml": (True, 128, "CIFAR10", "data/cifar10", 3, 32, True, 80, 200),
    "unet_mnist.yml": (False, 64, "MNIST", "data/mnist", 1, 28, False, 40, 1000),
    "unet_cifar10.yml": (True, 128, "CIFAR10", "data/cifar10", 3, 32, True, 40, 1000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name):
    c = configs.load(configs.find(name))
    values = (c.model.ema, c.model.ngf, c.data.dataset, c.data_dir, c.data.channels, c.data.image_size)
    assert (*values, c.data.random_flip, c.batch_size, c.max_epochs) == PUBLISHED[name]
    assert (c.loss, c.rank, c.lr, c.model.ema_rate, c.print_every, c.save_interval) == ("dsm", 50, 2e-4, 0.999, 50, 10)
    unused = {"lr_decay", "model.sigma_begin", "model.sigma_end", "model.num_classes", "model.batch_norm"}
    assert set(c.unused_keys()) == unused


@pytest.mark.parametrize("path", sorted(configs.loading.FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_every_file_is_valid(path):
    assert isinstance(configs.load(path), Config)


def test_find_takes_names_and_paths(tmp_path):
    assert configs.find("digits_dsm.yml").samefile(configs.find("digits_dsm"))
    (tmp_path / "mine.yml").write_text("lr: 1.0")
    assert configs.load(configs.find(str(tmp_path / "mine.yml"))).lr == 1


def test_overrides_and_flags_stand_above_the_file(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("lr: 0.1\nnoise: 0.3\nmodel: {ngf: 8}")
    c = configs.load(path, ["lr=2e-4", "model.ngf=16", "data.random_flip=true"], noise=0.7, seed=None)
    assert (c.lr, c.model.ngf, c.data.random_flip, c.noise, c.seed) == (2e-4, 16, True, 0.7, 1234)


def test_a_saved_configuration_is_read_back_equal(tmp_path):
    c = configs.load(configs.find("unet_cifar10.yml"), ["max_steps=7", "precision=bf16"], noise=0.25, runner="X")
    configs.save(c, tmp_path / "config.yml")
    assert configs.load(tmp_path / "config.yml") == c


def test_a_published_namespace_is_read_as_a_mapping(tmp_path):
    tag = "!!python/object:argparse.Namespace"
    (tmp_path / "a.yml").write_text(f"{tag}\nlr: 0.5\nmodel: {tag}\n  ngf: 8\n")
    c = configs.load(tmp_path / "a.yml")
    assert (c.lr, c.model.ngf) == (0.5, 8)


def test_other_objects_are_refused(tmp_path):
    (tmp_path / "a.yml").write_text("lr: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        configs.load(tmp_path / "a.yml")


def test_schema_describes_every_key_of_its_own():
    for name, field in Config.model_fields.items():
        assert field.description or name in {"loss", "max_epochs", "model", "data"} or field.json_schema_extra, name
    assert Config.model_validate(yaml.safe_load(yaml.safe_dump(Config().model_dump()))) == Config()
