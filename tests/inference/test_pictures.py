"""Denoised pictures, in the scale in which they were given."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import inference
import models
from configs import Config, UserError


def digits(count: int) -> np.ndarray:
    return datasets.load(Config(), "test").images[:count, 0].numpy()


def test_denoise_answers_in_the_scale_it_was_asked_in(small_run, tmp_path):
    folder = small_run("LowRankHybridRunner")
    source = models.load(folder)
    images = digits(5)
    noisy = images / np.float32(255) + 0.5 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    floats = inference.denoise(folder, noisy)
    assert (floats.dtype, floats.shape) == (np.float32, noisy.shape)
    s1 = source.at(0.5).s1
    flat = torch.from_numpy(noisy).flatten(1)
    with torch.no_grad():
        np.testing.assert_allclose(floats.reshape(5, 64), flat + 0.25 * s1(flat), rtol=1e-5, atol=1e-6)
    assert ((floats - images / 255) ** 2).mean() < 0.9 * ((noisy - images / 255) ** 2).mean()

    bytes_ = inference.denoise(source, images)
    assert (bytes_.dtype, bytes_.shape) == (np.uint8, images.shape)
    tensor = inference.denoise(source, torch.from_numpy(images))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), bytes_)
    one = inference.denoise(source, noisy[0])
    assert one.shape == (8, 8)
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    np.testing.assert_array_equal(inference.denoise(source, tmp_path / "one.png")[0], bytes_[0])


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        inference.denoise(tmp_path, digits(1))
