"""How a model is trained."""

from typing import Literal

from pydantic import Field, model_validator

from conditional_detr.config.schema import Scale, Settings


class RecipeOptions(Settings):
    """Settings of a recipe that are options of `train`. The defaults are the paper's."""

    epochs: int = Field(50, ge=1, le=100_000, description="Number of times that every image is seen.")
    minutes: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="Length of the run in minutes, instead of --epochs; evaluations and the report are included. "
        "0 = by epochs.",
    )
    batch: int = Field(16, ge=1, le=65_536, description="Batch size: images an optimisation step, over all processes.")
    lr: float = Field(1e-4, gt=0, le=10, description="Learning rate; the backbone's moves in proportion.")
    patience: int = Field(
        0, ge=0, description="Number of epochs without a better AP, at full image size, after which the run stops; 0 = never."
    )
    freeze: int = Field(
        0, ge=0, le=100, description="Number of leading backbone stages to freeze; the stem belongs to the first."
    )


class RecipeConfig(RecipeOptions):
    """How a model is trained. The defaults are the paper's."""

    grad_accum_steps: int = Field(1, ge=1, le=65_536, description="parts that a batch is worked through in")
    gradient_checkpointing: bool = Field(False, description="compute activations twice instead of keeping them: less memory")
    lr_backbone: float = Field(1e-5, ge=0, le=10, description="learning rate of the backbone; 0 freezes it")
    weight_decay: float = Field(1e-4, ge=0, le=1)
    clip_max_norm: float = Field(0.1, ge=0, description="largest norm of the gradient; 0 = unlimited")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises linearly")
    schedule: Literal["step", "cosine"] = "step"
    lr_drop_at: float = Field(0.8, gt=0, le=1, description="share of the epochs after which `step` drops to a tenth")
    dense_aux_weight: float = Field(0.0, ge=0, description="weight of an auxiliary loss on the memory's cells; 0 = none")
    query_groups: int = Field(
        1, ge=1, le=100, description="groups of queries that learn beside each other; inference has the first"
    )
    class_loss: Literal["model", "ia_bce"] = Field(
        "model",
        description="model: that of the model's classification; ia_bce: matched queries learn how well their box fits, not 1",
    )
    weight_average: float = Field(
        0.0, ge=0, lt=1, description="share of the steps so far that weights are averaged over; 0 = none"
    )
    init_from: str = Field("", description="trained model that a new one takes its weights from; empty = none")
    progressive_resize_from: float = Field(
        1.0, ge=0.1, le=1, description="share of their size that images begin a run with; 1 = all of it"
    )
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    vflip: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    transpose: float = Field(0.0, ge=0, le=1, description="probability that rows become columns: with flips, any quarter turn")
    scales: tuple[Scale, Scale] = Field((0.6, 1.0), description="range of the shorter side, in imgsz")
    crop: float = Field(0.5, ge=0, le=1, description="probability of a random crop before resizing")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength of brightness, contrast and saturation jitter")

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
        dense_aux_weight=4.0,
        query_groups=3,
        class_loss="ia_bce",
        freeze=2,
        progressive_resize_from=0.5,
        scales=(0.8, 1.2),
        color_jitter=0.2,
    ),
}
