"""The trained model that comes with the package."""

import pytest
import torch

from commands import run as run_command
from conditional_detr.data.digits import make_digits
from conditional_detr.errors import SourceError
from conditional_detr.evaluation.coco import evaluate
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.recognise import SHIPPED, shipped

NAME, STARTS = "conditional-detr-tiny-digits", ["conditional-detr-tiny-objects", "conditional-detr-tiny-shapes"]


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Scenes of digits and of photographs that it has not learned from."""
    folder = tmp_path_factory.mktemp("unseen") / "data"
    make_digits(folder, train=1, valid=60, seed=99)
    return folder


def test_it_finds_digits_that_it_has_not_seen(unseen):
    assert evaluate(NAME, unseen, "valid").AP50 > 0.9


def test_it_is_small_whole_and_described():
    assert shipped() == [NAME, *STARTS]
    assert all(sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < 6e6 for name in shipped())
    model = load_model(NAME)
    assert model.class_names == [str(i) for i in range(10)]
    assert model.thresholds is not None
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_first_command_of_the_readme_answers(unseen, tmp_path, capsys):
    image = unseen / "valid" / "00001.png"
    code, out, err = run_command(capsys, "predict", NAME, image, "--output", tmp_path / "p")
    assert (code, err) == (0, "")
    assert "in 1 image, score thresholds" in out
    assert (tmp_path / "p" / "00001.jpg").is_file()


def test_a_name_that_is_nearly_its_own_is_answered_with_it():
    with pytest.raises(SourceError, match=NAME):
        load_model("conditional-detr-tiny-digit")
