"""Images (and later densities) to train on."""

from datasets.images import ImageData, batches, epoch_order, load, value_range

__all__ = ["ImageData", "batches", "epoch_order", "load", "value_range"]
