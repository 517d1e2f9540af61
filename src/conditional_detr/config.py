"""Every setting and its default, written here once. Unknown keys are refused."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conditional_detr.errors import ConfigError, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LONGEST_PER_SHORTEST = 1333 / 800  # the paper's limits: shorter side 800, longer side at most 1333


Scale = Annotated[float, Field(ge=0.1, le=10)]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """A group of settings: immutable, and without room for a key that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """What the network is made of. The first value of each choice is the paper's."""

    backbone: str = Field("resnet50.tv_in1k", description="timm name of the backbone")
    backbone_stride: Literal[8, 16, 32] = Field(32, description="stride of the stage that is used, before any dilation")
    dilation: bool = Field(False, description="dilate that stage instead of striding it: half its stride (DC5)")
    finer: bool = Field(False, description="each cell also holds the four cells of the stage before it, at half the stride")
    exact_positions: bool = Field(False, description="cells lie where they are in the picture, also where it ends within one")
    num_classes: int = Field(91, ge=1, le=100_000)
    num_queries: int = Field(300, ge=1, le=100_000)
    hidden_dim: int = Field(256, ge=4, le=16_384)
    num_heads: int = Field(8, ge=1, le=1024)
    encoder_layers: int = Field(6, ge=0, le=100)
    decoder_layers: int = Field(6, ge=1, le=100)
    feedforward_dim: int = Field(2048, ge=1, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)
    cross_attention: Literal["conditional", "additive"] = "conditional"
    spatial_query: Literal["conditional", "intermediate", "point", "lambda", "content"] = "conditional"
    lambda_q: Literal["diagonal", "identity", "scalar", "block", "full"] = "diagonal"
    reference_points: Literal["predicted", "learned", "origin", "encoder"] = "predicted"
    box_offset: bool = True
    classification: Literal["focal", "softmax"] = "focal"
    spatial_init: Literal["xavier", "local"] = Field("xavier", description="where spatial attention starts")

    @model_validator(mode="after")
    def _widths_fit(self) -> "ModelConfig":
        if self.hidden_dim % self.num_heads or self.hidden_dim % 4:
            raise ValueError(
                f"hidden_dim must be divisible by num_heads and by 4, not {self.hidden_dim} with {self.num_heads} heads"
            )
        return self

    @property
    def stride(self) -> int:
        """Pixels a cell of the feature map."""
        return self.backbone_stride // 2 if self.dilation else self.backbone_stride


# A part that another choice makes meaningless is not built; the field then says this.
IDLE = {"spatial_query": "conditional", "lambda_q": "diagonal", "reference_points": "origin", "spatial_init": "xavier"}


def idle_fields(model: ModelConfig) -> dict[str, str]:
    """Fields that mean nothing beside the others, each with the choice that makes it so."""
    idle = {}
    if additive := model.cross_attention == "additive":
        idle["spatial_query"] = "cross_attention = 'additive'"
    if additive or model.spatial_query not in ("conditional", "intermediate"):
        idle["lambda_q"] = idle.get("spatial_query", f"spatial_query = {model.spatial_query!r}")
    if additive or model.spatial_query in ("lambda", "content"):  # nothing looks from the reference points
        idle["spatial_init"] = idle["lambda_q"]
        if not model.box_offset:
            idle["reference_points"] = f"{idle['lambda_q']} with box_offset = false"
    return idle


def check_parts(model: ModelConfig) -> None:
    """No field may ask for what another rules out.

    Raises
    ------
    ConfigError : names both
    """
    for field, cause in idle_fields(model).items():
        if getattr(model, field) != IDLE[field]:
            raise ConfigError(_conflict(model, field, cause))


def _conflict(model: ModelConfig, field: str, cause: str) -> str:
    return f"{field} = {getattr(model, field)!r} and {cause} exclude each other: nothing would be left for {field} to do"


class PreprocessorConfig(Settings):
    """How a picture becomes the network's input."""

    imgsz: int = Field(800, ge=16, le=8192, description="length of the shorter side after resizing, px")
    max_size: int = Field(0, ge=0, le=32_768, description="limit of the longer side, px; 0 = 1333/800 of imgsz")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    size_multiple: int = Field(1, ge=1, le=256, description="pictures are padded to multiples of it, px")

    @property
    def longest(self) -> int:
        """Limit of the longer side, px."""
        return self.max_size or round(self.imgsz * LONGEST_PER_SHORTEST)


class Preset(Settings):
    """A model name's network, the size it is made for and the recipe that it is trained with."""

    model: ModelConfig
    imgsz: int
    recipe: Literal["paper", "fast"]


# The baseline: DETR as a row of choices.
DETR_CHOICES = {
    "cross_attention": "additive",
    "reference_points": "origin",
    "box_offset": False,
    "classification": "softmax",
    "num_queries": 100,
}
TINY = ModelConfig(
    backbone="tf_efficientnet_lite0.in1k",
    backbone_stride=16,
    num_queries=100,
    hidden_dim=128,
    encoder_layers=2,
    decoder_layers=3,
    feedforward_dim=512,
    dropout=0.0,
    spatial_init="local",
)


def _paper(backbone: str, dilation: bool = False) -> Preset:
    return Preset(model=ModelConfig(backbone=backbone, dilation=dilation), imgsz=800, recipe="paper")


_SYSTEMS = {
    "tiny": Preset(model=TINY, imgsz=320, recipe="fast"),
    "r18": _paper("resnet18.tv_in1k"),
    "r50": _paper("resnet50.tv_in1k"),
    "r101": _paper("resnet101.tv_in1k"),
    "dc5-r50": _paper("resnet50.tv_in1k", dilation=True),
    "dc5-r101": _paper("resnet101.tv_in1k", dilation=True),
}


class RecipeConfig(Settings):
    """How a model is trained. The defaults are the paper's."""

    epochs: int = Field(50, ge=1, le=100_000)
    batch: int = Field(16, ge=1, le=65_536, description="pictures an optimisation step, over all processes")
    accumulate: int = Field(1, ge=1, le=65_536, description="parts that a batch is worked through in")
    gradient_checkpointing: bool = Field(False, description="compute activations twice instead of keeping them: less memory")
    lr: float = Field(1e-4, gt=0, le=10)
    lr_backbone: float = Field(1e-5, ge=0, le=10, description="learning rate of the backbone; 0 freezes it")
    weight_decay: float = Field(1e-4, ge=0, le=1)
    clip: float = Field(0.1, ge=0, description="largest norm of the gradient; 0 = unlimited")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises linearly")
    patience: int = Field(
        0, ge=0, description="stop after so many epochs without a better AP, not while pictures grow; 0 = never"
    )
    schedule: Literal["step", "cosine"] = "step"
    drop_at: float = Field(0.8, gt=0, le=1, description="share of the epochs after which `step` drops to a tenth")
    dense_weight: float = Field(0.0, ge=0, description="weight of a helper loss on the memory's cells; 0 = none")
    groups: int = Field(1, ge=1, le=100, description="groups of queries that learn beside each other; inference has the first")
    aligned: bool = Field(False, description="sigmoid scores of matched queries learn how well their box fits, instead of 1")
    average: float = Field(0.0, ge=0, lt=1, description="share of the steps so far that weights are averaged over; 0 = none")
    start: str = Field("", description="trained model that a new one takes its weights from; empty = none")
    freeze: int = Field(0, ge=0, le=100, description="stages of the backbone that stay as they are, the first ones")
    minutes: float = Field(0.0, ge=0, le=100_000, description="the run ends after so long, whatever `epochs`; 0 = by epochs")
    grow_from: float = Field(1.0, ge=0.1, le=1, description="share of their size that pictures begin a run with; 1 = all of it")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    vflip: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    transpose: float = Field(0.0, ge=0, le=1, description="probability that rows become columns: with flips, any quarter turn")
    scales: tuple[Scale, Scale] = Field((0.6, 1.0), description="range of the shorter side, in imgsz")
    crop: float = Field(0.5, ge=0, le=1, description="probability of a random crop before resizing")
    color: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast and saturation jitter")

    @model_validator(mode="after")
    def _scales_rise(self) -> "RecipeConfig":
        if self.scales[0] > self.scales[1]:
            raise ValueError(f"scales must be a range from small to large, not {list(self.scales)}")
        return self


RECIPES = {
    "paper": RecipeConfig(),
    "fast": RecipeConfig(
        batch=2,
        lr=4e-4,
        lr_backbone=2e-4,
        warmup_steps=100,
        schedule="cosine",
        dense_weight=4.0,
        groups=3,
        aligned=True,
        freeze=2,
        grow_from=0.5,
        scales=(0.8, 1.2),
        color=0.2,
    ),
}


class RunConfig(Settings):
    """All that a run was told and resolved to: `config.toml` of a run folder."""

    data: str
    model: str
    output: str
    recipe: Literal["paper", "fast"] = "paper"
    imgsz: int = Field(800, ge=16, le=8192)
    device: str = "auto"
    amp: Literal["auto", "bf16", "off"] = "auto"
    workers: int = Field(0, ge=0, le=256)
    threads: int = Field(0, ge=0, le=4096, description="processor threads; 0 = as many as the process may use")
    seed: int = Field(42, ge=0, lt=2**32)
    pretrained_backbone: bool = True
    strict: bool = Field(False, description="stop at whatever is wrong with the data instead of leaving it out")
    max_bad: float = Field(0.25, ge=0, le=1, description="share of a split's pictures that may be unusable")
    model_overrides: dict[str, Any] = Field(default_factory=dict, description="fields of the model's configuration")
    training: RecipeConfig = RecipeConfig()


SettingsType = TypeVar("SettingsType", bound=Settings)


def build(kind: type[SettingsType], values: dict[str, Any], origin: str) -> SettingsType:
    """Settings from values; what is wrong with them is said in our words.

    Raises
    ------
    ConfigError : names the key, what must hold, what came, and `origin`: where the values are from
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(kind, problem, origin) for problem in error.errors())) from None


def updated(settings: SettingsType, values: dict[str, Any], origin: str) -> SettingsType:
    """The same settings with some values changed, and checked again."""
    return build(type(settings), settings.model_dump() | values, origin)


# What must hold, in our words, by pydantic's name for what went wrong.
WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "a number"),
    **dict.fromkeys(("string_type", "string_unicode"), "a text"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, as in [0.5, 1.0]"),
    **dict.fromkeys(("dict_type", "model_type"), "a table of settings"),
}


def _sentence(kind: type[Settings], problem: Any, origin: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    came = problem.get("input")
    if problem["type"] == "extra_forbidden":
        return f"{origin}: there is no setting {name!r}. {did_you_mean(path[-1], _fields_at(kind, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{origin}: the setting {name!r} is missing"
    what = WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not path:
        return f"{origin}: {what}"
    shown = repr(came)
    return f"{origin}: {name} must be {what}, not {shown if len(shown) < 80 else shown[:77] + '...'}"


def _fields_at(kind: type[Settings], path: list[str]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        kind = annotation
    return list(kind.model_fields)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def to_toml(settings: Settings) -> str:
    """The settings as a TOML text."""
    return tomli_w.dumps(settings.model_dump(mode="json"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def with_overrides(model: ModelConfig, overrides: dict[str, Any], origin: str) -> ModelConfig:
    """The same model with some fields changed.

    What these changes make meaningless falls away with them; what is asked for although it is meaningless is an error.
    """
    changed = updated(model, overrides, origin)
    idle = idle_fields(changed)
    for field in idle:
        if field in overrides and getattr(changed, field) != "origin":  # which says that there is no point, and is true
            raise ConfigError(f"{origin}: {_conflict(changed, field, idle[field])}")
    return changed.model_copy(update={field: IDLE[field] for field in idle})


PRESETS = {f"conditional-detr-{size}": chosen for size, chosen in _SYSTEMS.items()} | {
    f"detr-{size}": chosen.model_copy(update={"model": with_overrides(chosen.model, DETR_CHOICES, size)})
    for size, chosen in _SYSTEMS.items()
}


def recipe_of(model: ModelConfig) -> Literal["paper", "fast"]:
    """The recipe of the model name with the same backbone; the paper's where there is none."""
    return next((p.recipe for p in PRESETS.values() if p.model.backbone == model.backbone), "paper")


def preset(name: str) -> Preset:
    """The preset of a model name; an unknown name is answered with the nearest."""
    if name not in PRESETS:
        raise ConfigError(f"{name!r} is not a model name. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
