"""`cdetr data digits`."""

from pathlib import Path


def digits(folder: Path, /, *, train: int = 1500, valid: int = 300, size: int = 128, seed: int = 0) -> None:
    """Make the digits set: scenes of handwritten digits over photographs, as COCO folders.

    Parameters
    ----------
    folder
        Is made, with train/ and valid/ in it.
    train, valid
        Number of scenes.
    size
        Height and width of a scene, px.
    seed
        Same seed, same scenes.
    """
    from conditional_detr.data.digits import make_digits

    make_digits(folder, train, valid, size, seed)
    print(f"{train} + {valid} scenes of {size} x {size} px in {folder}")
