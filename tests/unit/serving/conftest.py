"""A small detector and a server for it."""

import pytest

from conditional_detr.inference.detector import Detector
from conditional_detr.serving.limits import Limits
from models import perturbed, small
from servers import serving


@pytest.fixture(scope="session")
def detector() -> Detector:
    few = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
    model = perturbed(small("conditional-detr-tiny", 3, class_names=["<b>a</b>", "b", "c"], **few))
    model.category_ids = [5, 7, 9]
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    return Detector(model, device="cpu")


@pytest.fixture(scope="module")
def client(detector):
    with serving(detector, Limits(upload_bytes=200_000, pixels=100_000, images=3, queue=8, seconds=20)) as made:
        yield made
