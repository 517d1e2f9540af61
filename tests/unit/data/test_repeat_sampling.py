"""Repeat-factor sampling: factors, the images of an epoch, and when it is chosen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conditional_detr.data.index import Category, SplitIndex, load_split
from conditional_detr.data.loader import EpochBatches
from conditional_detr.data.repeat_sampling import drawn, epoch_size, image_fractions, repeat_factors
from conditional_detr.training.setup.auto_config import repeats


def index_of(classes: list[list[int]], names: int = 3) -> SplitIndex:
    """Images with objects of these class indices."""
    count, labels = len(classes), [label for each in classes for label in each]
    return SplitIndex(
        file=Path("x.json"),
        image_ids=np.arange(count),
        written_ids=list(range(count)),
        sizes_hw=np.full((count, 2), 9),
        paths=[f"{i}.png" for i in range(count)],
        first=np.cumsum([0, *map(len, classes)]),
        boxes_xyxy=np.zeros((len(labels), 4), np.float32),
        labels=np.array(labels, dtype=np.int64),
        categories=[Category(k, f"c{k}") for k in range(names)],
        report=[],
        findings=[],
        ground_truth_rows=np.zeros((0, 8)),
    )


def test_an_image_has_the_factor_of_its_rarest_class():
    index = index_of([[0, 0]] * 15 + [[0, 1]] * 4 + [[]])  # class 0 in 19 of 20 images, class 1 in 4, class 2 in none
    assert image_fractions(index).tolist() == [0.95, 0.2, 0]
    factors = repeat_factors(index, 0.8)
    assert factors.tolist() == pytest.approx([1.0] * 15 + [2.0] * 4 + [1.0])  # sqrt(0.8 / 0.2)
    assert repeat_factors(index, 0.1).tolist() == [1.0] * 20


def test_an_epoch_has_each_image_as_often_as_its_factor_says():
    factors = np.array([1.0, 2.5, 1.0, 3.25, 1.0])
    generator = torch.Generator().manual_seed(0)
    times = np.zeros(5)
    for _ in range(400):
        images = drawn(factors, generator)
        counts = np.bincount(images, minlength=5)
        assert len(images) == epoch_size(factors) == 9
        assert (np.abs(counts - factors * 9 / 8.75) < 1).all()  # rounded up or down
        times += counts / 400
    assert times.tolist() == pytest.approx(factors * 9 / 8.75, abs=0.1)
    assert drawn(factors, torch.Generator().manual_seed(1)) != sorted(drawn(factors, torch.Generator().manual_seed(1)))


def test_batches_are_drawn_with_the_factors_and_repeat_with_the_seed():
    factors = np.array([1.0] * 6 + [4.0, 4.0])
    batches = EpochBatches(8, 2, seed=0, factors=factors)
    assert len(batches) == 7
    images = [image for batch in batches for image, _ in batch]
    assert sorted(images) == sorted([*range(6), *[6] * 4, *[7] * 4])
    keys = [key for batch in batches for key in batch]
    assert keys == [key for batch in EpochBatches(8, 2, seed=0, factors=factors) for key in batch]
    assert len({seed for _, seed in keys}) == 14  # a repeated image is augmented differently
    batches.epoch = 1
    assert keys != [key for batch in batches for key in batch]


def test_without_factors_an_epoch_is_as_it_was():
    plain = [key for batch in EpochBatches(20, 3, seed=4) for key in batch]
    assert sorted(image for image, _ in plain)[:3] == sorted({image for image, _ in plain})[:3]
    assert len({image for image, _ in plain}) == 18


def test_it_is_chosen_where_a_class_is_rare_and_says_why():
    usual = index_of([[0]] * 60 + [[1]] * 40)
    assert repeats(usual) is None
    choice = repeats(index_of([[0]] * 98 + [[0, 1]] + [[2]]))
    assert (choice.setting, choice.value) == ("repeat_threshold", 0.1)
    assert choice.reason == (
        "'c1' is in 1.0 % of the images, and 1 other class in less than 5 %: they are shown up to 3.2 times per epoch"
    )
    assert repeats(index_of([[0]] * 4 + [[]] * 96, names=1)) is None  # one class alone is not rarer than others


def test_it_works_on_a_data_set(digits_folder, tmp_path):
    index = load_split(digits_folder, "train")
    content = json.loads((digits_folder / "train" / "_annotations.coco.json").read_text())
    fractions = image_fractions(index)
    for category, fraction in zip(index.categories, fractions, strict=True):
        images = {row["image_id"] for row in content["annotations"] if row["category_id"] == category.id}
        assert fraction == pytest.approx(len(images) / len(index))
