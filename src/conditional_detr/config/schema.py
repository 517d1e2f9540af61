"""Settings of the model and the preprocessor. Unknown keys are errors."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LONGEST_PER_SHORTEST = 1333 / 800  # the paper's limits: shorter side 800, longer side at most 1333
Scale = Annotated[float, Field(ge=0.1, le=10)]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Base class of all settings. Instances are immutable; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """Architecture of the network. The first value of each choice is the paper's."""

    backbone: str = Field("resnet50.tv_in1k", description="Name of the backbone in timm.")
    strides: tuple[Literal[8, 16, 32, 64], ...] = Field(
        (32,),
        min_length=1,
        description="Stride in px of each level of the memory, finest level first. Each is a stage of the backbone; 64 is a "
        "strided convolution of the last one.",
    )
    dilation: bool = Field(False, description="Dilate the backbone's last stage, which halves its stride to 16 (DC5).")
    neck: Literal["last", "group_norm", "space_to_depth"] = Field(
        "last",
        description="last: a 1 x 1 convolution of the feature map of each level; group_norm: the same, then a group norm "
        "(Deformable DETR); space_to_depth, for one level: as last, but each cell also gets the 2 x 2 finer cells of the "
        "previous stage.",
    )
    half_cell_positions: bool = Field(
        False,
        description="The position of a cell is its centre, as in Deformable DETR. False = its lower right corner, as in DETR.",
    )
    pixel_aligned_positions: bool = Field(
        False,
        description="Compute the positions of cells from pixels, so that they are exact even if the image ends inside a cell. "
        "False = count whole cells, as in DETR.",
    )
    num_classes: int = Field(91, ge=1, le=100_000)
    num_queries: int = Field(300, ge=1, le=100_000)
    hidden_dim: int = Field(256, ge=4, le=16_384)
    num_heads: int = Field(8, ge=1, le=1024)
    encoder_layers: int = Field(6, ge=0, le=100)
    decoder_layers: int = Field(6, ge=1, le=100)
    feedforward_dim: int = Field(2048, ge=1, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)
    norm: Literal["post", "pre"] = Field(
        "post",
        description="post: layer norm after each attention and feed-forward, as in the paper; pre: before each, and after the "
        "last encoder layer (UP-DETR).",
    )
    decoder_norm: bool = Field(True, description="Layer norm between the decoder and the heads. Deformable DETR has none.")
    encoder_attention: Literal["dense", "deformable"] = "dense"
    cross_attention: Literal["conditional", "box_conditional", "additive", "deformable"] = Field(
        "conditional",
        description="box_conditional: as conditional, but from the second layer on heads also see how far each cell is from "
        "the sides of the box of the layer before; needs box_refinement.",
    )
    sampling_points: int = Field(
        4, ge=1, le=64, description="Number of places that deformable attention samples for each query, head and level."
    )
    learned_content: bool = Field(
        False, description="The decoder embedding starts as a learned parameter, as in Deformable DETR. False = as zeros."
    )
    spatial_query: Literal["conditional", "intermediate", "point", "lambda", "content"] = "conditional"
    lambda_q: Literal["diagonal", "identity", "scalar", "block", "full"] = "diagonal"
    reference_points: Literal["predicted", "linear", "learned", "origin", "encoder", "encoder_boxes"] = Field(
        "predicted",
        description="encoder_boxes: a box is predicted from each cell of the encoder's output, and queries start from the best "
        "ones; needs box_refinement.",
    )
    box_offset: bool = True
    box_refinement: bool = Field(
        False, description="Each decoder layer starts from the boxes of the layer before, with a box head of its own."
    )
    size_logit: float = Field(
        0.0,
        ge=-10,
        le=10,
        description="Initial logit of the width and height of boxes: 0 = half of the image. Not used if the "
        "references are boxes (reference_points = encoder_boxes, or encoder with several levels).",
    )
    classification: Literal["focal", "softmax"] = "focal"
    patches: int = Field(
        0, ge=0, le=1000, description="Number of patches per image in pre-training without labels (UP-DETR). 0 = a detector."
    )
    spatial_init: Literal["xavier", "local"] = Field("xavier", description="Initialisation of the spatial attention.")

    @model_validator(mode="after")
    def _widths_fit(self) -> "ModelConfig":
        if self.hidden_dim % self.num_heads or self.hidden_dim % 4:
            raise ValueError(
                f"hidden_dim must be divisible by num_heads and by 4, not {self.hidden_dim} with {self.num_heads} heads"
            )
        return self

    @model_validator(mode="after")
    def _strides_rise(self) -> "ModelConfig":
        if any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)) or self.strides == (64,):
            given = list(self.strides)
            raise ValueError(
                f"strides must double from level to level, the finest first, and 64 needs 32 before it, not {given}"
            )
        if self.dilation and self.strides != (16,):
            raise ValueError(f"dilation = true halves the last stage's stride: strides must be [16], not {list(self.strides)}")
        return self

    @property
    def finest_stride(self) -> int:
        """Stride of the finest level, px."""
        return self.strides[0]


# Fields that set a size or a rate. All others choose between variants of a module.
SIZES = {
    "num_classes", "num_queries", "hidden_dim", "num_heads", "encoder_layers", "decoder_layers", "feedforward_dim", "dropout",
    "sampling_points", "patches",
}  # fmt: skip


class PreprocessorConfig(Settings):
    """How an image is converted into the network's input."""

    imgsz: int = Field(800, ge=16, le=8192, description="Length of the shorter side after resizing, px.")
    max_size: int = Field(0, ge=0, le=32_768, description="Maximum length of the longer side, px; 0 = 1333/800 of imgsz.")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    size_multiple: int = Field(1, ge=1, le=256, description="Images are padded to multiples of this size, px.")
    tile: int = Field(
        0, ge=0, le=32_768, description="Side of the tiles that larger images are cut into, px of the image; 0 = whole images."
    )
    overlap: float = Field(0.2, ge=0, le=0.9, description="Overlap of neighbouring tiles, as a share of their side.")

    @property
    def longest(self) -> int:
        """Maximum length of the longer side, px."""
        return self.max_size or round(self.imgsz * LONGEST_PER_SHORTEST)
