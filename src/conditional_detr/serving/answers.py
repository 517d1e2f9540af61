"""What the server answers, as pydantic models: they are also the schema in `/openapi.json`."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from conditional_detr.inference.batching import Model


class FoundObject(BaseModel):
    """A detection."""

    category_id: int = Field(description="id of the class in the data set")
    category_name: str
    bbox: tuple[float, float, float, float] = Field(description="x and y of the upper left corner, width and height, px")
    score: float = Field(description="in [0, 1]")


class ImageResult(BaseModel):
    """The detections of an image, highest score first."""

    file_name: str = Field(description="as sent")
    width: int = Field(description="px, after rotation by EXIF data")
    height: int
    detections: list[FoundObject]


FOUND: dict[str, Any] = {"category_id": 1, "category_name": "RBC", "bbox": [12.5, 30.0, 98.2, 101.7], "score": 0.93}
IMAGE: dict[str, Any] = {"file_name": "cells.jpg", "width": 640, "height": 480, "detections": [FOUND]}
MODEL: dict[str, Any] = {
    "name": "cells",
    "summary": "13.8 M parameters",
    "class_names": ["RBC", "WBC"],
    "category_ids": [1, 2],
    "thresholds": [0.41, 0.37],
    "explains": True,
}
MAPS: dict[str, Any] = {
    "layers": 1,
    "heads": 1,
    "rows": 2,
    "columns": 3,
    "cell_width": 213.3,
    "cell_height": 240.0,
    "spatial": "AAD/QAAA",
    "content": "/wAAAAAA",
    "combined": "AAD/IAAA",
}
EXPLAINED: dict[str, Any] = IMAGE | {"detections": [FOUND | {"reference_point": [61.6, 80.8], "maps": MAPS}]}


class Predictions(BaseModel):
    """The images of a request, in the order of the form."""

    model_config = ConfigDict(json_schema_extra={"example": {"images": [IMAGE]}})

    images: list[ImageResult]


class Health(BaseModel):
    """State of the server."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ready"}})

    status: str


class Problem(BaseModel):
    """Why a request was not answered."""

    model_config = ConfigDict(json_schema_extra={"example": {"detail": "cells.jpg is an empty file"}})

    detail: str


class ModelInfo(BaseModel):
    """The model behind the server."""

    model_config = ConfigDict(json_schema_extra={"example": MODEL})

    name: str = Field(description="name of the checkpoint or export, without its path")
    summary: str = Field(description="size, or format and engine")
    class_names: list[str]
    category_ids: list[int]
    thresholds: list[float] | None = Field(description="score threshold of each class; null: 0.3 for all")
    explains: bool = Field(description="whether POST /explain answers: checkpoints do, exports do not")


class Maps(BaseModel):
    """Attention maps of a detection. Each map [layer, head, row, column] is in rows of cells from the upper left corner."""

    layers: int
    heads: int
    rows: int
    columns: int
    cell_width: float = Field(description="px of the image")
    cell_height: float
    spatial: str | None = Field(
        description="base64 of uint8, scaled so that the largest value of each map is 255; null: has none"
    )
    content: str | None
    combined: str


class ExplainedObject(FoundObject):
    """A detection with the attention that led to it."""

    reference_point: tuple[float, float] | None = Field(description="x, y, px; null: the model has none")
    maps: Maps


class Explanations(BaseModel):
    """The detections of an image with their attention."""

    model_config = ConfigDict(json_schema_extra={"example": EXPLAINED})

    file_name: str
    width: int
    height: int
    detections: list[ExplainedObject]


def info_of(model: Model, name: str, conf: float | None) -> ModelInfo:
    """Describe a model without its path. `conf` replaces its thresholds."""
    return ModelInfo(
        name=name,
        summary=model.summary,
        class_names=model.class_names,
        category_ids=model.category_ids,
        thresholds=model.thresholds if conf is None else [conf] * len(model.class_names),
        explains=not model.takes_arrays,
    )
