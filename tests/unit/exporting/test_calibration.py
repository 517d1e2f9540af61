"""Calibration images of an int8 export, and lines of progress."""

import numpy as np
import pytest

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.exporting.quantisation import Calibration, images_for
from conditional_detr.exporting.verification import latencies_ms
from models import small


@pytest.mark.parametrize(("imgsz", "number"), [(64, 128), (160, 128), (320, 128), (800, 32), (1280, 12), (4000, 8)])
def test_fewer_large_images_are_used_for_calibration(imgsz, number):
    assert images_for(PreprocessorConfig(imgsz=imgsz)) == number


def test_calibration_images_are_evenly_spaced_and_reported(tmp_path):
    model, lines = small(), []
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 1280})
    images = [np.full((4, 4, 3), i, dtype=np.uint8) for i in range(34)]
    calibration = Calibration(model, [*images, tmp_path / "missing.jpg"], lines.append)
    assert [int(image[0, 0, 0]) for image in calibration.images] == [0, 3, 6, 9, 12, 15, 19, 22, 25, 28, 31]
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    calibration = Calibration(model, images[:3], lines.append)
    assert [batch["images"].shape for batch in calibration] == [(1, 3, 64, 64)] * 3
    assert lines == [f"quantising: calibration image {i} of 3" for i in (1, 2, 3)]


def test_slow_models_are_timed_on_three_images(monkeypatch):
    from conditional_detr.exporting import verification

    model, lines = small().eval(), []
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 32})
    images = [np.zeros((32, 32, 3), dtype=np.uint8)] * 5
    assert len(latencies_ms([model, model], images, lines.append)) == 2
    assert lines[-1] == "proof: latency, round 6 of 6"
    monkeypatch.setattr(verification, "TIMED_S", -1)
    latencies_ms([model], images, lines.append)
    assert lines[-1] == "proof: latency, round 4 of 6"
