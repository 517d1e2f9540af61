"""What all tests share: shapes are checked while they run, nothing is fetched, few threads, the same random numbers."""

import json
import os
import shutil
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

# Shapes in the signatures of the arithmetic are checked in every test.
install_import_hook(["conditional_detr.model", "conditional_detr.training"], "beartype.beartype")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from conditional_detr.data.digits import make_digits  # noqa: E402
from conditional_detr.factory.build import DetectionModel  # noqa: E402
from models import perturbed, small  # noqa: E402

THREADS = 1


@pytest.fixture(autouse=True)
def _the_same_start() -> Iterator[None]:
    """A test sees the same random numbers and threads whatever ran before it. One thread: machines of tests are shared."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small digits set: 12 scenes to train on, 6 to validate on, 64 px."""
    folder = tmp_path_factory.mktemp("digits") / "data"
    make_digits(folder, train=12, valid=6, size=64, seed=3)
    return folder


@pytest.fixture
def wrongly_sized(digits_folder: Path, tmp_path: Path) -> Path:
    """The digits set with a wrong width in the JSON for the first image of each split."""
    shutil.copytree(digits_folder, tmp_path / "d")
    for file in (tmp_path / "d").glob("*/_annotations.coco.json"):
        content = json.loads(file.read_text())
        content["images"][0]["width"] = 99
        file.write_text(json.dumps(content))
    return tmp_path / "d"


@pytest.fixture
def small_model() -> DetectionModel:
    """`conditional-detr-tiny` with few parts and perturbed weights, in eval mode."""
    return perturbed(
        small(num_classes=3, num_queries=12, encoder_layers=1, decoder_layers=2, hidden_dim=32, feedforward_dim=48)
    )
