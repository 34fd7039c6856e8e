"""The YAML files, and the schema that checks them."""

from configs.changes import differences, load_trained
from configs.errors import UserError, reason_of
from configs.files import replacing, write_text
from configs.loading import find, load, save
from configs.neighbours import take_ours
from configs.schema import Config, DataConfig, ModelConfig

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "UserError",
    "differences",
    "find",
    "load",
    "load_trained",
    "reason_of",
    "replacing",
    "save",
    "write_text",
]

take_ours()
