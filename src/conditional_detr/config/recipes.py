"""Training recipes: the settings of optimisation, losses and augmentation."""

from typing import Literal

from pydantic import Field, model_validator

from conditional_detr.config.schema import Scale, Settings


class RecipeOptions(Settings):
    """Settings of a recipe that are options of `train`. The defaults are the paper's."""

    epochs: int = Field(
        50,
        ge=1,
        le=100_000,
        description="Number of passes over the training images.",
        json_schema_extra={"group": "Schedule", "metavar": "N"},
    )
    minutes: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="Length of the run in minutes, instead of in epochs. Evaluations and the report are included. "
        "0: the length is given in epochs.",
        json_schema_extra={"group": "Schedule", "metavar": "MINUTES"},
    )
    batch: int = Field(
        16,
        ge=1,
        le=65_536,
        description="Batch size: images per optimisation step, over all processes.",
        json_schema_extra={"group": "Training", "metavar": "N"},
    )
    lr: float = Field(
        1e-4,
        gt=0,
        le=10,
        description="Learning rate. The backbone's learning rate changes in proportion.",
        json_schema_extra={"group": "Training", "metavar": "RATE"},
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this number of epochs without a better AP. Some runs train on smaller images at first; "
        "those epochs do not count. 0: never.",
        json_schema_extra={"group": "Schedule", "metavar": "N"},
    )
    freeze: int = Field(
        0,
        ge=0,
        le=100,
        description="Number of leading backbone stages to freeze. The stem counts as part of the first stage. Both are "
        "always frozen in a ResNet, as in the paper.",
        json_schema_extra={"group": "Model", "metavar": "N"},
    )


class RecipeConfig(RecipeOptions):
    """All training settings. The defaults are the paper's."""

    grad_accum_steps: int = Field(1, ge=1, le=65_536, description="Number of parts that a batch is split into.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass instead of storing them. This saves memory."
    )
    lr_backbone: float = Field(1e-5, ge=0, le=10, description="Learning rate of the backbone; 0 freezes it.")
    weight_decay: float = Field(1e-4, ge=0, le=1)
    clip_max_norm: float = Field(0.1, ge=0, description="Maximum gradient norm; larger gradients are clipped. 0 = no clipping.")
    warmup_steps: int = Field(0, ge=0, description="Number of steps over which the learning rate rises linearly.")
    schedule: Literal["step", "cosine"] = "step"
    lr_drop_at: float = Field(
        0.8, gt=0, le=1, description="Fraction of the run after which the schedule `step` drops the learning rate to a tenth."
    )
    dense_aux_weight: float = Field(
        0.0, ge=0, description="Weight of an auxiliary classification loss on the cells of the encoder's output; 0 = none."
    )
    query_groups: int = Field(
        1, ge=1, le=100, description="Number of query groups during training (Group DETR). Inference uses the first group."
    )
    class_loss: Literal["model", "ia_bce"] = Field(
        "model",
        description="model: the class loss that belongs to the model's classification; ia_bce: the target score of a matched "
        "query depends on how well its box fits, instead of being 1.",
    )
    weight_average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the steps so far that the moving average of the weights covers; 0 = no average.",
    )
    init_from: str = Field("", description="Trained model whose weights initialise a new model; empty = none.")
    progressive_resize_from: float = Field(
        1.0, ge=0.1, le=1, description="Image size at the start of the run, as a fraction of the full size; 1 = full size."
    )
    repeat_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Images of rare classes are repeated: those of a class in a fraction f of the images are shown "
        "sqrt(repeat_threshold / f) times per epoch (LVIS), at least once; 0 = each image once.",
    )
    hflip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    vflip: float = Field(0.0, ge=0, le=1, description="Probability of a vertical flip.")
    transpose: float = Field(
        0.0, ge=0, le=1, description="Probability of swapping rows and columns. Combined with flips, gives any quarter turn."
    )
    scales: tuple[Scale, Scale] = Field(
        (0.6, 1.0), description="Range of the shorter side after resizing, as a multiple of imgsz."
    )
    tile: int = Field(
        0,
        ge=0,
        le=32_768,
        description="Train on windows of about this size, px of the image, as well as on whole images, and predict in "
        "overlapping tiles of this size; 0 = whole images only.",
    )
    crop: float = Field(0.5, ge=0, le=1, description="Probability of a random crop before resizing.")
    color_jitter: float = Field(0.0, ge=0, le=1, description="Strength of the brightness, contrast and saturation jitter.")

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
