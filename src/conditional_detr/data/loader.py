"""Batches for training: any batch of any epoch is a pure function of the seed, however many workers make it."""

import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from conditional_detr.boxes import xyxy_to_cxcywh
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import SplitIndex
from conditional_detr.device.seeding import seed_generators
from conditional_detr.errors import ConditionalDETRError, ConfigError, DataError, RunError
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor

Target = dict[str, Tensor]
Batch = tuple[Tensor, Tensor | None, list[Target]]
MOST_TRIES = 100  # images drawn for one that cannot be used


class Unusable(NamedTuple):
    """An image that cannot be used, by its place in the index, and why."""

    position: int
    reason: str


class Item(NamedTuple):
    """An image, its target, and those before it that could not be used."""

    image: Tensor
    target: Target
    unusable: list[Unusable]


class TrainingImages(Dataset[Item | ConditionalDETRError]):
    """Augmented images and their targets. An item is asked for by (index, seed of its augmentation).

    An image that cannot be used is replaced by another one, drawn by its seed, so a batch is as large as ever in every
    process.
    An error is returned, not raised: an exception would leave a worker process as a wall of text.
    """

    def __init__(self, index: SplitIndex, augmentation: Augmentation, preprocessor: Preprocessor) -> None:
        self.index, self.augmentation, self.preprocessor = index, augmentation, preprocessor

    def __getitem__(self, key: tuple[int, int]) -> Item | ConditionalDETRError:
        first, seed = key
        unusable: list[Unusable] = []
        position, generator = first, torch.Generator().manual_seed(seed)
        for _ in range(MOST_TRIES):
            try:
                return Item(*self._load(position, seed), unusable)
            except ConditionalDETRError as error:
                unusable.append(Unusable(position, str(error)))
            position = int(torch.randint(len(self.index), (), generator=generator))
        return DataError(f"of {MOST_TRIES} training images not one can be used, e.g. {unusable[0].reason}")

    def _load(self, i: int, seed: int) -> tuple[Tensor, Target]:
        rgb = decode(self.index.paths[i])
        self.index.check_size(i, (rgb.shape[-2], rgb.shape[-1]))
        boxes, labels = (torch.from_numpy(array) for array in self.index.objects(i))
        with torch.random.fork_rng(devices=[]):
            seed_generators(seed, rgb.device)
            rgb, boxes, labels = self.augmentation(rgb, boxes, labels)
        height, width = rgb.shape[-2:]
        target = {"labels": labels, "boxes": xyxy_to_cxcywh(boxes) / torch.tensor([width, height, width, height])}
        return self.preprocessor.normalise(rgb), target


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch, shuffled by (seed, epoch), from any position on.

    The last batch is left out where it is not full, unless it is the only one.

    Attributes
    ----------
    epoch, position : set before iterating; `position` batches are passed over
    """

    def __init__(self, images: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch % world:
            raise ConfigError(f"--batch must be divisible by the number of processes, {world}, not {batch}")
        if images < world:
            raise DataError(f"{images} training images are too few for {world} processes")
        self.images, self.batch, self.seed, self.rank, self.world = images, batch, seed, rank, world
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(1, self.images // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.images, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.images,), generator=generator).tolist()
        keys = list(zip(order, seeds, strict=True))
        for i in range(self.position, len(self)):
            yield keys[i * self.batch : (i + 1) * self.batch][self.rank :: self.world]


class Collate:
    """A list of items → a batch, and what could not be used on the way; or the first item's error."""

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


def training_batches(
    dataset: TrainingImages, batches: EpochBatches, workers: int, on_unusable: Callable[[Unusable], None]
) -> Iterator[Batch]:
    """The batches of an epoch, made by so many processes (0 = this one).

    Parameters
    ----------
    on_unusable : is told of each image that cannot be used, as often as it is met

    Raises
    ------
    DataError : hardly any image can be used
    RunError : a process that makes them is gone
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=Collate(dataset.preprocessor),
        worker_init_fn=_leave_signals,
        generator=torch.Generator(),  # of its own: the loader draws a seed for each pass, and dropout must not notice
        pin_memory=torch.cuda.is_available(),
    )
    made = iter(loader)
    while True:
        try:
            found = next(made, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            text = "a process that loads images is gone: perhaps the system killed it for want of memory; give fewer --workers"
            raise RunError(text) from None
        if found is None:
            return
        if isinstance(found, ConditionalDETRError):
            raise found
        batch, unusable = found
        for each in unusable:
            on_unusable(each)
        yield batch


def _leave_signals(worker: int) -> None:
    """Both reach every process of a group; only the main one answers them, and the workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
