"""Batches for training. Each batch depends only on the seed, the epoch and its position, not on the number of workers."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from conditional_detr.boxes import xyxy_to_cxcywh
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.loader_processes import POLL_SECONDS, from_processes, prepare_process, sendable
from conditional_detr.data.repeat_sampling import drawn, epoch_size
from conditional_detr.device.draws import Draws
from conditional_detr.errors import ConditionalDETRError, ConfigError, DataError, plural
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor

T = TypeVar("T")
Target = dict[str, Tensor]
Batch = tuple[Tensor, Tensor | None, list[Target]]
MAX_TRIES = 100  # images tried for one item of a batch before loading fails


class Unusable(NamedTuple):
    """An image that cannot be used: its position in the index, and the reason."""

    position: int
    reason: str


class Item(NamedTuple):
    """An image, its target, and the unusable images that it replaces."""

    image: Tensor
    target: Target
    unusable: list[Unusable]


class TrainingImages(Dataset[Item | ConditionalDETRError]):
    """Augmented images and their targets, indexed by (position of the image, seed of its augmentation).

    An image that cannot be used is replaced by a random one, drawn with the seed of the item, so batches keep their size.
    Errors are returned, not raised, because PyTorch would print the whole traceback of an exception from a worker process.

    Attributes
    ----------
    draws_alone : whether no random number comes from torch's global generator, so that images can be loaded during a step
    """

    draws_alone = True

    def __init__(self, index: SplitIndex, augmentation: Augmentation, preprocessor: Preprocessor) -> None:
        self.index, self.augmentation, self.preprocessor = index, augmentation, preprocessor

    def __getitem__(self, key: tuple[int, int]) -> Item | ConditionalDETRError:
        first, seed = key
        unusable: list[Unusable] = []
        position, generator = first, torch.Generator().manual_seed(seed)
        for _ in range(MAX_TRIES):
            try:
                return Item(*self._load(position, seed), unusable)
            except ConditionalDETRError as error:
                unusable.append(Unusable(position, str(error)))
            position = int(torch.randint(len(self.index), (), generator=generator))
        return DataError(f"none of {MAX_TRIES} training images tried can be used, e.g. {unusable[0].reason}")

    def _load(self, i: int, seed: int) -> tuple[Tensor, Target]:
        rgb = decode(self.index.paths[i])
        self.index.check_size(i, (rgb.shape[-2], rgb.shape[-1]))
        boxes, labels = (torch.from_numpy(array) for array in self.index.objects(i))
        rgb, boxes, labels = self.augmentation(rgb, boxes, labels, Draws.seeded(seed))
        height, width = rgb.shape[-2:]
        target = {"labels": labels, "boxes": xyxy_to_cxcywh(boxes) / torch.tensor([width, height, width, height])}
        if self.index.labelled is not None:
            target["labelled_classes"] = torch.from_numpy(self.index.labelled[i].copy())
        return self.preprocessor.normalise(rgb), target


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch, in an order that depends on the seed and the epoch.

    An incomplete last batch is dropped, unless it is the only one.

    Parameters
    ----------
    images : number of images
    batch : batch size, over all processes
    seed : seed of the run
    rank, world : index of this process, and number of processes
    factors : [I], how often each image is in an epoch, see `repeat_factors`; None = once

    Attributes
    ----------
    epoch : set before iterating
    position : set before iterating; number of batches to skip at the start of the epoch
    """

    def __init__(
        self, images: int, batch: int, seed: int, rank: int = 0, world: int = 1, factors: np.ndarray | None = None
    ) -> None:
        if batch % world:
            raise ConfigError(f"--batch must be divisible by the number of processes ({world}), not {batch}")
        if images < world:
            raise DataError(
                f"the training split must have at least one image per process: {plural(images, 'image')} for {world} processes"
            )
        self.images = images if factors is None else epoch_size(factors)
        self.factors, self.batch, self.seed, self.rank, self.world = factors, batch, seed, rank, world
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Number of batches in a complete epoch."""
        return max(1, self.images // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.factors is None:
            order = torch.randperm(self.images, generator=generator).tolist()
        else:
            order = drawn(self.factors, generator)
        seeds = torch.randint(2**62, (self.images,), generator=generator).tolist()
        keys = list(zip(order, seeds, strict=True))
        for i in range(self.position, len(self)):
            yield keys[i * self.batch : (i + 1) * self.batch][self.rank :: self.world]


class Collate:
    """Collate items into a batch and a list of the images that could not be used. If an item is an error, return the error."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor

    def __call__(self, items: list[Item | ConditionalDETRError]) -> tuple[Batch, list[Unusable]] | ConditionalDETRError:
        good = []
        for item in items:
            if isinstance(item, ConditionalDETRError):
                return item
            good.append(item)
        images, padding_mask = self.preprocessor.collate([item.image for item in good])
        return (images, padding_mask, [item.target for item in good]), [each for item in good for each in item.unusable]


class CollateToSend(Collate):
    """Collate in a loader process.

    Targets are sent as arrays, because each tensor in shared memory takes a file descriptor of the main process.
    """

    def __call__(self, items: list[Item | ConditionalDETRError]) -> Any:
        made = super().__call__(items)
        if isinstance(made, ConditionalDETRError):
            return made
        (images, padding_mask, targets), unusable = made
        arrays = [{key: value.numpy() for key, value in target.items()} for target in targets]
        return (sendable(images), None if padding_mask is None else sendable(padding_mask), arrays), unusable


def in_background(items: Iterable[T], ahead: bool) -> Iterator[T]:
    """Make items in a thread that uses one thread of PyTorch, and the next item while the caller works, if `ahead`.

    Images are small, so more threads would mostly wait for each other, for long if another program keeps the cores busy.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(next, remaining, None)
        while (item := coming.result()) is not None:
            if ahead:
                coming = pool.submit(next, remaining, None)
            yield item
            if not ahead:
                coming = pool.submit(next, remaining, None)


def training_batches(
    dataset: TrainingImages,
    batches: EpochBatches,
    workers: int,
    on_unusable: Callable[[Unusable], None],
    while_waiting: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Batch]:
    """Load the batches of an epoch.

    Parameters
    ----------
    workers : number of processes that load images; 0 = load in this process
    on_unusable : called for each image that cannot be used, each time it is drawn
    while_waiting : see `from_processes`

    Raises
    ------
    DataError : too many images in a row cannot be used
    RunError : a worker process could not be started, ended unexpectedly or does not answer
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=(CollateToSend if workers else Collate)(dataset.preprocessor),
        worker_init_fn=prepare_process,
        generator=torch.Generator(),  # a separate one: the loader draws a seed in each epoch, which must not change dropout
        pin_memory=torch.cuda.is_available(),
        timeout=POLL_SECONDS if workers else 0,
    )
    for found in from_processes(loader, while_waiting) if workers else in_background(loader, dataset.draws_alone):
        if isinstance(found, ConditionalDETRError):
            raise found
        (images, padding_mask, targets), unusable = found
        for each in unusable:
            on_unusable(each)
        yield (
            torch.as_tensor(images),
            None if padding_mask is None else torch.as_tensor(padding_mask),
            [{key: torch.as_tensor(value) for key, value in target.items()} for target in targets],
        )
