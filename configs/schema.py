"""What a configuration may hold: every key with its type, bounds, default and meaning.

The keys of the four published files keep their names. Those that never had an effect are accepted, and
named once in the log.
"""

import importlib
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

__all__ = ["Config", "DataConfig", "ModelConfig"]

UNUSED: dict[str, Any] = {"unused": True}
HEADS = {"UnetDSMRunner": "none", "LowRankHybridRunner": "low_rank", "DoubleDiagonalHybridRunner": "diagonal"}
"""The second order of the runners that have one only; `SyntheticRunner` takes any."""


def _number(value: Any) -> Any:
    """YAML 1.1 reads `2e-4` as text and `true` is an int to Python: take the first, refuse the second."""
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


def _one_of(package: str, table: str) -> AfterValidator:
    """A value that is a name in a table of another package, which is looked up late: that package imports this one."""

    def check(name: str) -> str:
        known: Iterable[str] = getattr(importlib.import_module(package), table)
        if name not in known:
            raise ValueError(f"one of {', '.join(known)} is expected")
        return name

    return AfterValidator(check)


def _level(value: Any) -> float:
    """A noise level, in pydantic's words where it is none."""
    try:
        level = float(_number(value))
    except (TypeError, ValueError) as error:
        raise ValueError("input should be a valid number") from error
    if not math.isfinite(level):
        raise ValueError("input should be a finite number")
    if level <= 0:
        raise ValueError("input should be greater than 0")
    return level


def _noise(value: Any) -> float | tuple[float, float]:
    """One noise level, or the lowest and the highest of a range."""
    if not isinstance(value, list | tuple):
        return _level(value)
    levels = tuple(_level(one) for one in value)
    if len(levels) == 1:
        return levels[0]
    if len(levels) != 2 or not levels[0] < levels[1]:
        raise ValueError("one noise level, or the lowest and the highest of a range, is expected")
    return levels[0], levels[1]


def _values(value: Any) -> tuple[float, float]:
    """The numbers that stand for black and for white."""
    numbers = value if isinstance(value, list | tuple) else []
    given = [float(number) for number in numbers if type(number) in (int, float)]
    if len(given) != 2 or len(numbers) != 2 or not -math.inf < given[0] < given[1] < math.inf:
        raise ValueError("two numbers are expected, black and the larger one white, [low, high]")
    return given[0], given[1]


def _image_size(value: Any) -> int | tuple[int, int]:
    """Height and width, or one number for both."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if len(numbers) not in (1, 2) or any(type(number) is not int or number < 4 for number in numbers):
        raise ValueError("a whole number of pixels from 4 on is expected, or a pair of them, [H, W]")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]


ImageSize = Annotated[int | tuple[int, int], PlainValidator(_image_size)]
Values = Annotated[tuple[float, float], PlainValidator(_values)]
Noise = Annotated[float | tuple[float, float], PlainValidator(_noise)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=1)]
Decay = Annotated[Number, Field(ge=0, lt=1)]

Dataset = Annotated[StrictStr, _one_of("datasets", "DATASETS")]
Density = Annotated[StrictStr, _one_of("datasets", "DENSITIES")]
Network = Annotated[StrictStr, _one_of("models", "NETWORK_NAMES")]
Loss = Annotated[StrictStr, _one_of("losses", "OBJECTIVE_NAMES")]


def unused(default: Any) -> Any:
    """A published key without effect."""
    return Field(default, json_schema_extra=UNUSED, description="Accepted; has no effect.")


THIRD_ORDER_LEVELS = (1e-3, 300.0)  # beyond, powers of σ up to the twelfth leave single precision


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class UNetConfig(Section):
    """The section `model.unet`: the arguments of `models.UNet`."""

    widths: Annotated[list[Count], Field(min_length=1)] = Field([32, 64, 96], description="Channels at each level.")
    blocks: Count = Field(1, description="Residual blocks a level, on each way.")
    attention: Annotated[StrictInt, Field(ge=0)] = Field(1, description="How many of the coarsest levels have it.")
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="Within the residual blocks.")
    positions: StrictBool = Field(True, description="A learned map at the start; fixes the size of the images.")
    level_bypass: StrictBool = Field(True, description="A way round the last norm for an image's level.")
    norm: Literal["group", "none"] = Field(
        "group", description="none: scale and shift alone; with attention: 0 and the two above false it is local."
    )


class ModelConfig(Section):
    """The section `model`."""

    network: Network = Field(
        "refinenet", description="mlp, mlp_softplus: for points of a density and images of a few pixels."
    )
    ngf: Annotated[StrictInt, Field(ge=2)] = Field(64, description="Width of the network.")
    trunk: Literal["separate", "shared"] = Field(
        "separate", description="A network for each of s1, α and β, as published, or one for all of them."
    )
    covariance: Literal["free", "positive"] = Field(
        "free", description="What the second-order head gives: s2, as published, or the posterior covariance."
    )
    head: Literal["none", "diagonal", "low_rank"] = Field(
        "low_rank", description="The second order; none: s1 alone. Only SyntheticRunner has a choice."
    )
    order: Literal[2, 3] = Field(
        2, description="3: s3 too, by a network of its own; 2: s1, and s2 where there is a head."
    )
    third_rank: Count | None = Field(None, description="Columns of s3, where it has any; by default those of s2, rank.")
    unet: UNetConfig = Field(default_factory=UNetConfig, description="Of network: unet, which takes a range of σ.")
    taper: dict[Annotated[float, BeforeValidator(_number), Field(gt=0)], Count] | None = Field(
        None, description="Columns of the factor by the range in pixels of their taper, .inf for none; network: unet."
    )
    taper_learned: StrictBool = Field(False, description="The finite ranges of taper are where learned ones begin.")
    orthogonal: StrictBool = Field(False, description="Columns without tapers are made orthogonal; for loss: nppc.")
    denoiser: StrictStr | None = Field(
        None,
        description="Run folder of a trained s1 of the same network: the second order is trained on it, frozen, or on "
        "a trunk: shared that begins from it; with order: 3 of a trained s1 and s2, on which, frozen, s3 is trained. "
        "Or a denoiser from elsewhere: ffdnet, ffdnet:FILE, ddpm:FILE, diffusers:FOLDER, module:function.",
    )
    denoiser_sha256: StrictStr | None = Field(
        None, description="Of the weights of a denoiser from elsewhere; kept when a run begins, compared ever after."
    )
    second_order: Literal["begun", "fresh", "features"] = Field(
        "begun",
        description="Of network: unet on separate trunks: a network begun from the weights of denoiser, one of fresh "
        "weights (so with a denoiser from elsewhere), or a small one on the denoiser's features.",
    )
    covariance_positions: StrictBool = Field(True, description="false: no position map in the second order's network.")
    ema: StrictBool = Field(False, description="Keep an exponential moving average of the weights.")
    ema_rate: Annotated[Number, Field(ge=0, lt=1)] = Field(0.999, description="Its decay a step.")
    ema_ramp: StrictBool = Field(False, description="Decay (1 + i)/(10 + i) at update i, as long as that is less.")
    sigma_begin: Number = unused(1)
    sigma_end: Number = unused(0.01)
    num_classes: StrictInt = unused(1)
    batch_norm: StrictBool = unused(False)

    @property
    def frozen(self) -> bool:
        """Whether s1 is that of another run and not trained."""
        return self.denoiser is not None and (self.trunk == "separate" or self.order == 3)

    @property
    def lower_orders_frozen(self) -> bool:
        """Whether s1 and s2 are those of another run and s3 alone is trained."""
        return self.order == 3 and self.denoiser is not None and not self.external

    @property
    def external(self) -> bool:
        """Whether `denoiser` is one from elsewhere, not a run of this program."""
        known: bool = importlib.import_module("models").is_external(self.denoiser)  # which imports this module
        return known


class DataConfig(Section):
    """The section `data`."""

    dataset: Dataset = "Digits"
    image_size: ImageSize = Field(8, description="Height and width: one number where they are equal, or [H, W].")
    channels: Literal[1, 3] = 1
    values: Values | None = Field(
        None,
        description="Black and white, in the units of the data. By default those of an external model.denoiser, else "
        "[0, 1] for one channel and [-1, 1] for three.",
    )
    crop: Count | None = Field(
        None, description="Random crops of image_size from each file in an epoch, in place of resizing it; ImageFolder."
    )
    mean: Number | None = Field(None, description="Of all training values; measured where a network needs it.")
    std: Positive | None = Field(None, description="Their standard deviation, likewise.")
    random_flip: StrictBool = Field(False, description="Mirror each training image with probability 1/2.")
    density: Density = Field("two_moons", description="Which one, where dataset is Synthetic.")
    dimension: Annotated[StrictInt, Field(ge=2)] = Field(2, description="D, but of densities of the plane.")
    size: Annotated[StrictInt, Field(ge=1, le=10**9)] = Field(
        100_000, description="Points of Synthetic in an epoch, and in the test set."
    )
    points: Count | None = Field(
        None, description="Of Synthetic: train on so many points, always the same; by default on fresh ones."
    )
    workers: Annotated[StrictInt, Field(ge=0)] = Field(2, description="Processes that decode folders of images.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a point: `(C, H, W)`, or `(D,)` of Synthetic."""
        if self.dataset == "Synthetic":
            return (self.dimension,)
        height, width = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2
        return (self.channels, height, width)


class Config(Section):
    """A whole configuration, as it is saved in a run folder."""

    runner: StrictStr | None = Field(None, description="Set by --runner.")
    noise: Noise = Field(0.5, description="σ in the units of the data, or a range [low, high]; --noise.")
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = Field(1234, description="--seed.")
    rank: Count = Field(50, description="Columns of the low-rank factor; --rank.")
    comment: StrictStr = Field("", description="Any text to find the run by; --comment.")

    loss: Loss = Field("dsm", description="The objective; the _vr ones and jacobian reduce the variance at small σ.")
    batch_size: Count = Field(100, description="Images a step, over all processes together.")
    lr: Positive = Field(2e-4, description="Adam's learning rate.")
    warmup_steps: Annotated[StrictInt, Field(ge=0)] = Field(0, description="Over which lr rises from zero.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: falls to 1 % at the end.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Of Adam's averages.")
    weight_decay: Annotated[Number, Field(ge=0)] = Field(0.0, description="Decoupled, as in AdamW.")
    max_epochs: Count = 1000
    max_steps: Count | None = Field(None, description="Stop after so many steps, whatever max_epochs says.")
    clip_grad: Positive | None = Field(None, description="Clip the gradient's norm to this; off by default.")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32", description="bf16: the network under autocast; auto: where that is measured to be faster at the start."
    )
    channels_last: StrictBool = Field(False, description="Memory format of the convolutions; try it on a GPU.")
    compile: StrictBool = Field(False, description="torch.compile the network; a minute at the start.")
    print_every: Count = Field(50, description="Steps between two lines of the log.")
    save_interval: Count = Field(10, description="Epochs between two numbered checkpoints and previews.")
    checkpoint_epochs: Count = Field(1, description="Epochs between two checkpoints; more where epochs are short.")
    checkpoint_minutes: Annotated[Number, Field(ge=0)] = Field(10, description="Minutes between checkpoints.")

    dataset: Dataset | None = Field(None, description="Says data.dataset again.")
    data_dir: StrictStr = Field("data", description="Where the data set lies, or is downloaded to.")
    channel: StrictInt | None = Field(None, description="Says data.channels again.")
    img: StrictInt | None = Field(None, description="Says data.image_size again.")
    lr_decay: Number = unused(0.999995)

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)

    @property
    def sigmas(self) -> tuple[float, float]:
        """The lowest and the highest noise level; equal where there is one."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        head = HEADS.get(self.runner or "")
        if head is not None and head != self.model.head:
            self.model = self.model.model_copy(update={"head": head})
        twice = {"dataset": "dataset", "channel": "channels", "img": "image_size"}
        for key, inner in twice.items():
            value, meant = getattr(self, key), getattr(self.data, inner)
            if value is not None and value != meant:
                raise ValueError(
                    f"{key} is {value} and data.{inner} is {meant}; they name the same thing: make them equal"
                )
        if self.data.crop is not None and self.data.dataset != "ImageFolder":
            raise ValueError(f"data.crop is given and data.dataset is {self.data.dataset}; only ImageFolder has crops")
        if self.data.points is not None and self.data.dataset != "Synthetic":
            raise ValueError(f"data.points is given and data.dataset is {self.data.dataset}; Synthetic is expected")
        if self.data.points is not None and self.data.points > self.data.size:
            raise ValueError(f"data.points is {self.data.points} and data.size {self.data.size}; at most that is seen")
        if self.data.dataset == "Synthetic" and self.data.random_flip:
            raise ValueError("data.random_flip is true and data.dataset is Synthetic; only images can be mirrored")
        if isinstance(self.noise, tuple) and self.model.network != "unet" and not self.model.external:
            raise ValueError(f"noise is a range and model.network is {self.model.network}; unet takes a range")
        if self.lr_schedule == "cosine" and self.max_steps is None:
            raise ValueError("lr_schedule is cosine and max_steps is not given; say how long the training is")
        self._check_denoiser()
        if self.model.order == 3 and self.model.head == "none":
            raise ValueError(
                "model.order is 3 and there is no second order; a runner or model.head with s2 is expected"
            )
        low, high = self.sigmas
        if self.model.order == 3 and not (THIRD_ORDER_LEVELS[0] <= low and high <= THIRD_ORDER_LEVELS[1]):
            allowed = f"from {THIRD_ORDER_LEVELS[0]:g} to {THIRD_ORDER_LEVELS[1]:g}"
            raise ValueError(f"noise is {self.noise} and model.order is 3; levels {allowed} are expected")
        if self.model.third_rank is not None and (self.model.order == 2 or self.model.head != "low_rank"):
            given = f"model.order is {self.model.order} and the head {self.model.head}"
            raise ValueError(f"model.third_rank is given, {given}; order: 3 and a head with columns are expected")
        if self.model.taper is not None and (columns := sum(self.model.taper.values())) != self.rank:
            raise ValueError(f"model.taper has {columns} columns and rank is {self.rank}; make them equal")
        if self.model.taper_learned and self.model.taper is None:
            raise ValueError("model.taper_learned is true and model.taper is not given; say where the ranges begin")
        if self.model.orthogonal and self.model.taper is not None:
            raise ValueError("model.orthogonal is true and model.taper is given; tapered columns cannot be orthogonal")
        if self.loss == "nppc" and not (self.model.orthogonal and self.model.network == "unet"):
            raise ValueError("loss is nppc; model.network: unet and model.orthogonal: true are expected")
        if self.model.second_order == "features" and self.model.trunk == "shared":
            raise ValueError("model.second_order is features and model.trunk is shared; separate is expected")
        return self

    def _check_denoiser(self) -> None:
        model = self.model
        if model.denoiser is None:
            return
        if model.network != "unet" and not (model.external and model.head == "none"):
            raise ValueError(f"model.denoiser is given and model.network is {model.network}; unet is expected")
        if not model.external:
            return
        if model.trunk == "shared":
            raise ValueError(f"model.denoiser is {model.denoiser} and model.trunk is shared; separate is expected")
        if model.second_order != "fresh" and "second_order" in model.model_fields_set:
            raise ValueError(
                f"model.denoiser is {model.denoiser} and model.second_order is {model.second_order}; fresh is expected"
            )
        self.model = model.model_copy(update={"second_order": "fresh"})

    def unused_keys(self) -> list[str]:
        """The keys that were given and have no effect."""
        return [
            prefix + name
            for prefix, section in (("", self), ("model.", self.model), ("data.", self.data))
            for name, field in type(section).model_fields.items()
            if name in section.model_fields_set and field.json_schema_extra == UNUSED
        ]
