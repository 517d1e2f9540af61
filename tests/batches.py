"""A batch that tests of training learn from."""

import torch


def batch() -> tuple[torch.Tensor, torch.Tensor, list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    is_padding = torch.zeros(4, 64, 64, dtype=torch.bool)
    is_padding[1, :, 32:] = True
    targets = [
        {
            "labels": torch.randint(3, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.3,
        }
        for n in (2, 0, 5, 1)
    ]
    return images, is_padding, targets
