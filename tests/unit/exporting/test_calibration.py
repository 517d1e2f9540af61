"""Which images calibrate an export to 8 bits, and what is told meanwhile."""

import numpy as np
import pytest

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.exporting.quantisation import Calibration, images_for
from conditional_detr.exporting.verification import latencies_ms
from models import small


@pytest.mark.parametrize(("imgsz", "number"), [(64, 128), (160, 128), (320, 128), (800, 32), (1280, 12), (4000, 8)])
def test_large_images_calibrate_in_smaller_numbers(imgsz, number):
    assert images_for(PreprocessorConfig(imgsz=imgsz)) == number


def test_calibration_images_are_spread_over_the_set_and_counted_aloud(tmp_path):
    model, told = small(), []
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 1280})
    images = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(34)]
    calibration = Calibration(model, [*images, tmp_path / "missing.jpg"], told.append)
    assert [int(image[0, 0, 0]) for image in calibration.images] == [0, 3, 6, 9, 12, 15, 19, 22, 25, 28, 31]
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    calibration = Calibration(model, images[:3], told.append)
    assert [batch["images"].shape for batch in calibration] == [(1, 3, 64, 64)] * 3
    assert told == [f"quantising: calibration image {i} of 3" for i in (1, 2, 3)]


def test_slow_models_are_timed_on_three_images(monkeypatch):
    from conditional_detr.exporting import verification

    model, told = small().eval(), []
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 32})
    images = [np.zeros((32, 32, 3), dtype=np.uint8)] * 5
    assert len(latencies_ms([model, model], images, told.append)) == 2
    assert told[-1] == "proof: latency, round 6 of 6"
    monkeypatch.setattr(verification, "TIMED_S", -1)
    latencies_ms([model], images, told.append)
    assert told[-1] == "proof: latency, round 4 of 6"
