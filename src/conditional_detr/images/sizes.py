"""Sizes of images after resizing and padding."""

from conditional_detr.config.schema import PreprocessorConfig


def resized_hw(size_hw: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Height and width, px, after resizing the shorter side to `shortest` while limiting the longer side to `longest`.

    The aspect ratio is kept. Fractions are truncated as in the code of DETR, so that the sizes are equal.
    """
    height, width = size_hw
    short, long = min(size_hw), max(size_hw)
    if long / short * shortest > longest:
        shortest = max(1, round(longest * short / long))
    other = min(max(1, int(shortest * long / short)), max(longest, 1))
    return (shortest, other) if height <= width else (other, shortest)


def input_hw(original_hw: tuple[int, int], config: PreprocessorConfig) -> tuple[int, int]:
    """Height and width, px, to which an image is resized."""
    return resized_hw(original_hw, config.imgsz, config.longest)


def padded_hw(size_hw: tuple[int, int], config: PreprocessorConfig) -> tuple[int, int]:
    """Height and width, px, of a resized image after padding, if it is alone in a batch."""
    m = config.size_multiple
    return -(-size_hw[0] // m) * m, -(-size_hw[1] // m) * m
