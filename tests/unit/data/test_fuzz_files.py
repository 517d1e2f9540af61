"""Whatever an image or a checkpoint holds, only our own errors come out."""

import io
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conditional_detr.errors import CheckpointError, ImageError
from conditional_detr.images.decoding import decode
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from fuzzing import damaged, damages, fuzzed, odd_numbers
from models import small

IMAGE = np.random.default_rng(0).integers(0, 255, (14, 18, 3), dtype=np.uint8)
MODES = {"png": "RGBA", "gif": "P", "jpeg": "RGB", "webp": "RGB", "tiff": "CMYK", "bmp": "RGB", "ppm": "RGB"}


def encoded(kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    stream = io.BytesIO()
    image = Image.fromarray(IMAGE).convert(MODES[kind])
    image.save(stream, kind, **({"exif": exif} if kind in ("png", "jpeg", "webp") else {}))
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The same small model in the three formats, and as a file of each the bytes that it should have."""
    root = tmp_path_factory.mktemp("fuzz")
    resnet = small("conditional-detr-r50", 3, encoder_layers=1, decoder_layers=1, hidden_dim=32, backbone="resnet18.tv_in1k")
    save_model(small(num_classes=3, encoder_layers=1, decoder_layers=1, hidden_dim=32), root / "native")
    save_model(resnet, root / "huggingface", format="huggingface")
    save_model(resnet, root / "official", format="official")
    return root


def ours_alone(path: Path) -> None:
    with suppress(CheckpointError):
        load_model(path)


@fuzzed()
@given(kind=st.sampled_from(sorted(MODES)), faults=st.lists(damages, max_size=5))
def test_odd_images(tmp_path_factory, kind, faults):
    file = tmp_path_factory.getbasetemp() / "odd"
    file.write_bytes(damaged(encoded(kind), faults))
    with suppress(ImageError):
        rgb = decode(file)
        assert (rgb.dtype, rgb.ndim, rgb.shape[0]) == (torch.uint8, 3, 3)


def places(value: Any) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in rows for path in [(key,), *((key, *rest) for rest in places(inner))]]


@fuzzed(0.2)
@given(
    format=st.sampled_from(["native", "huggingface"]),
    share=st.floats(0, 1, exclude_max=True),
    new=odd_numbers,
    gone=st.booleans(),
)
def test_odd_descriptions(folder, format, share, new, gone):
    file = folder / format / "config.json"
    whole = file.read_bytes()
    content = json.loads(whole)
    every = places(content)
    *way, last = every[int(share * len(every))]
    inner = content
    for key in way:
        inner = inner[key]
    if gone:
        del inner[last]
    else:
        inner[last] = new
    try:
        file.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
        ours_alone(folder / format)
    finally:
        file.write_bytes(whole)


@fuzzed()
@given(
    share=st.floats(0, 1, exclude_max=True),
    key=st.sampled_from(["dtype", "shape", "data_offsets"]),
    new=st.one_of(odd_numbers, st.lists(odd_numbers, max_size=5)),
)
def test_weights_that_claim_odd_things_of_themselves(folder, share, key, new):
    file = folder / "native" / "model.safetensors"
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    names = sorted(set(header) - {"__metadata__"})
    header[names[int(share * len(names))]][key] = new
    text = json.dumps(header).encode(errors="surrogatepass")
    try:
        file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        ours_alone(folder / "native")
    finally:
        file.write_bytes(whole)


@fuzzed()
@given(
    file=st.sampled_from(
        [
            "native/model.safetensors",
            "native/config.json",
            "huggingface/config.json",
            "huggingface/preprocessor_config.json",
            "official/model.pth",
        ]
    ),
    faults=st.lists(damages, min_size=1, max_size=3),
    within=st.sampled_from([1.0, 0.01, 0.0001]),
)
def test_damaged_checkpoints(folder, file, faults, within):
    """Most of them at the beginning of the file, where it says what it is; the end of a .pth does too."""
    path = folder / file
    whole = path.read_bytes()
    size = int(within * len(whole)) if within < 1 and len(whole) > 10**6 else len(whole)
    new = (
        whole[:-size] + damaged(whole[-size:], faults)
        if path.suffix == ".pth"
        else damaged(whole[:size], faults) + whole[size:]
    )
    try:
        path.write_bytes(new)
        ours_alone(path.parent)
    finally:
        path.write_bytes(whole)
