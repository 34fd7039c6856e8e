"""The YAML files, and the schema that checks them."""

from configs.errors import UserError
from configs.loading import find, load, save
from configs.schema import Config, DataConfig, ModelConfig

__all__ = ["Config", "DataConfig", "ModelConfig", "UserError", "find", "load", "save"]
