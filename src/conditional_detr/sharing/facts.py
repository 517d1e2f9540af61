"""The facts that a model card states. A fact that is not known is None, and the card says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Statements:
    """What only the owner of a model can say about it.

    Attributes
    ----------
    licence : licence id of the weights on the Hub; None = not stated
    data_name, data_url, data_licence : name, page and licence id of the data set; None = not stated
    """

    licence: str | None = None
    data_name: str | None = None
    data_url: str | None = None
    data_licence: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The model.

    Attributes
    ----------
    config, preprocessor : configuration of the network and of the preprocessing
    parameters : number of parameters
    class_names : one name per class index
    thresholds, nms_iou : see `DetectionModel`
    """

    config: ModelConfig
    preprocessor: PreprocessorConfig
    parameters: int
    class_names: Sequence[str]
    thresholds: Sequence[float] | None = None
    nms_iou: float | None = None


@dataclass(frozen=True)
class SplitFacts:
    """Contents of a split.

    Attributes
    ----------
    images, objects : their numbers
    objects_by_class : number of objects by class index
    shorter_side_px, longer_side_px : smallest, median and largest, over the images
    """

    images: int
    objects: int
    objects_by_class: Sequence[int]
    shorter_side_px: tuple[int, int, int]
    longer_side_px: tuple[int, int, int]


@dataclass(frozen=True)
class Results:
    """Metrics on the validation split of a run. This split has chosen the epoch and the thresholds.

    Attributes
    ----------
    figures : COCO metrics by name, in [0, 1]; None = there are no such objects
    intervals : 95 % intervals by metric
    ap_by_class : AP by class index; None = there are no such objects
    """

    figures: Figures
    intervals: Mapping[str, tuple[float, float]]
    ap_by_class: Sequence[float | None]


@dataclass(frozen=True)
class Start:
    """Where the initial weights of a run come from.

    Attributes
    ----------
    name : name of the weights, or a description
    licence : licence id of these weights; None = not known
    hub_id : their Hub id; None if they are not from there
    is_random : whether all weights were random
    """

    name: str
    licence: str | None = None
    hub_id: str | None = None
    is_random: bool = False


@dataclass(frozen=True)
class Training:
    """A training run.

    Attributes
    ----------
    recipe : name of the recipe
    epochs, best_epoch : number of epochs, and the one with the highest AP; None = not known
    seconds : time of all epochs, with their evaluations
    settings : further settings by name, as text
    start : initial weights
    versions : versions of the packages; "" = not known
    """

    recipe: str
    epochs: int
    best_epoch: int | None
    seconds: float
    settings: Mapping[str, str]
    start: Start
    versions: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything that a card states.

    Attributes
    ----------
    repo : Hub id of the model
    format : "huggingface" or "native"
    model : the model
    stated : what the owner says
    data_name : name of the data set; None = not known
    splits : contents of "train" and "valid", as far as they are known
    results, training : None if the model does not come from a finished run
    """

    repo: str
    format: str
    model: ModelFacts
    stated: Statements = field(default_factory=Statements)
    data_name: str | None = None
    splits: Mapping[str, SplitFacts] = field(default_factory=dict)
    results: Results | None = None
    training: Training | None = None
