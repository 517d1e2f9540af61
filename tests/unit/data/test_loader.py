import re
import shutil
import threading

import pytest
import torch

from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import load_split
from conditional_detr.data.loader import EpochBatches, TrainingImages, Unusable, in_background, training_batches
from conditional_detr.errors import DataError
from conditional_detr.images.preprocessing import Preprocessor


def training_images(folder) -> TrainingImages:
    return TrainingImages(
        load_split(folder, "train"), Augmentation(RECIPES["paper"], 64), Preprocessor(PreprocessorConfig(imgsz=64))
    )


def refuse(unusable: Unusable) -> None:
    raise AssertionError(unusable)


def test_batches_are_the_same_however_many_workers_make_them_and_without_room_in_shared_memory(digits_folder, monkeypatch):
    def without_room(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    results = []
    for workers, has_room in ((0, True), (1, True), (1, False)):
        if not has_room:
            monkeypatch.setattr(torch.Tensor, "share_memory_", without_room)  # the loader process is forked and inherits it
        batches = EpochBatches(12, batch=5, seed=7)
        batches.epoch = 3
        results.append(list(training_batches(training_images(digits_folder), batches, workers, refuse)))
    for (a, mask_a, targets_a), *others in zip(*results, strict=True):
        for b, mask_b, targets_b in others:
            assert a.equal(b)
            assert (mask_a is None and mask_b is None) or mask_a.equal(mask_b)
            assert all(x[key].equal(y[key]) for x, y in zip(targets_a, targets_b, strict=True) for key in ("boxes", "labels"))


def test_an_epoch_can_be_entered_at_any_position():
    batches = EpochBatches(20, batch=3, seed=1)
    batches.epoch = 2
    whole = list(batches)
    batches.position = 4
    assert list(batches) == whole[4:]
    assert len(batches) == len(whole) == 6


def test_epochs_differ_and_each_image_comes_at_most_once():
    batches = EpochBatches(20, batch=4, seed=1)
    first = list(batches)
    batches.epoch = 1
    assert list(batches) != first
    assert sorted(i for batch in first for i, _ in batch) == list(range(20))


def test_fewer_images_than_a_batch_make_one_batch():
    assert [len(batch) for batch in EpochBatches(3, batch=8, seed=0)] == [3]


def test_processes_share_a_batch_between_them():
    whole = list(EpochBatches(12, batch=6, seed=5))
    parts = [list(EpochBatches(12, batch=6, seed=5, rank=rank, world=2)) for rank in range(2)]
    for i, batch in enumerate(whole):
        assert sorted(batch) == sorted(parts[0][i] + parts[1][i])


def test_targets_are_relative_boxes_of_the_augmented_image(digits_folder):
    images, _, targets = next(
        iter(training_batches(training_images(digits_folder), EpochBatches(12, batch=12, seed=0), 0, refuse))
    )
    assert images.dtype == torch.float32
    for target in targets:
        corners = torch.cat(
            [target["boxes"][:, :2] - target["boxes"][:, 2:] / 2, target["boxes"][:, :2] + target["boxes"][:, 2:] / 2],
            1,
        )
        assert (corners >= -1e-5).all()
        assert (corners <= 1 + 1e-5).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_and_another_one_takes_its_place(digits_folder, tmp_path, workers: int):
    shutil.copytree(digits_folder, tmp_path / "d")
    (tmp_path / "d" / "train" / "00004.png").write_bytes(b"broken")
    reported: list[Unusable] = []
    batches = list(
        training_batches(training_images(tmp_path / "d"), EpochBatches(12, batch=4, seed=0), workers, reported.append)
    )
    assert [len(images) for images, _, _ in batches] == [4, 4, 4]
    (bad,) = reported
    assert "00004.png cannot be read as an image" in bad.reason
    assert training_images(tmp_path / "d").index.paths[bad.position].endswith("00004.png")
    dataset = training_images(tmp_path / "d")
    others = [dataset[(i, 5)].image for i in range(12) if i != bad.position]
    chosen = {next(i for i, image in enumerate(others) if image.equal(dataset[(bad.position, 5)].image)) for _ in range(3)}
    assert len(chosen) == 1  # by the seed alone
    assert {unusable.position for unusable in dataset[(bad.position, 5)].unusable} == {bad.position}


def test_many_corrupt_images_in_a_row_are_no_reason_to_stop(digits_folder, tmp_path):
    """As when one folder of many is damaged; what takes their place is spread over the others."""
    shutil.copytree(digits_folder, tmp_path / "d")
    for i in range(1, 10):
        (tmp_path / "d" / "train" / f"{i:05d}.png").write_bytes(b"broken")
    dataset = training_images(tmp_path / "d")
    good = [dataset[(i, 7)].target["boxes"] for i in (9, 10, 11)]
    taken = [dataset[(0, seed)].image for seed in range(40)]
    assert len({image.sum().item() for image in taken}) > 3
    assert all(len(boxes) for boxes in good)


def test_an_image_of_another_size_than_its_json_says_is_left_out(wrongly_sized):
    reported: list[Unusable] = []
    list(training_batches(training_images(wrongly_sized), EpochBatches(12, batch=4, seed=0), 0, reported.append))
    assert len(reported) == 1
    assert re.search(r"00001.png is 64 x 64 px after EXIF rotation, but .* says 99 x 64", reported[0].reason)


def test_a_data_set_of_broken_images_is_refused(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    for file in (tmp_path / "d" / "train").glob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of 100 training images tried can be used, e.g. .*png cannot be read"):
        list(training_batches(training_images(tmp_path / "d"), EpochBatches(12, batch=4, seed=0), 0, lambda _: None))


@pytest.mark.parametrize("ahead", [True, False])
def test_the_next_batch_is_loaded_while_the_caller_works_only_if_asked(ahead: bool):
    started = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(started):
            event.set()
            yield number, torch.get_num_threads(), threading.current_thread()

    found = []
    for number, threads, thread in in_background(items(), ahead):
        assert threads == 1
        assert thread is not threading.current_thread()
        following = started[number + 1 : number + 2]
        assert all(event.wait(10 if ahead else 0.05) == ahead for event in following)
        found.append(number)
    assert found == [0, 1, 2]


def test_an_error_in_the_background_reaches_the_caller():
    def items():
        yield 1
        raise DataError("no image can be used")

    found = in_background(items(), True)
    assert next(found) == 1
    with pytest.raises(DataError, match="no image can be used"):
        next(found)
