"""Seed random number generators, and save and restore their state."""

import torch


def random_state_of(device: torch.device) -> list[torch.Tensor]:
    """Return the state of the generators that `seed_generators` seeds."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    """Restore a state that `random_state_of` returned."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.get_device_module(device).set_rng_state(state[1], device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of one device.

    `torch.manual_seed` would seed all GPUs. Until they are initialised, it also stores a stack trace on every call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
