"""The state of the random number generators."""

import torch


def random_state_of(device: torch.device) -> list[torch.Tensor]:
    """The state of the generators that `seed_generators` seeds."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    """Put them back into a state that they had."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.get_device_module(device).set_rng_state(state[1], device)


def seed_generators(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, for the processor and one device: that one keeps a stack trace a call for GPUs still asleep."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
