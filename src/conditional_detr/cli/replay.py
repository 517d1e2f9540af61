"""`cdetr replay`."""

from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import Device, argument
from conditional_detr.cli.printing import print_facts, print_text


def replay(
    record: Annotated[Path, argument("Folder of a recorded step: RUN/flight/STEP.")],
    /,
    *,
    device: Device = "auto",
) -> None:
    """Repeat a recorded training step whose gradient was not finite, and show where it failed."""
    from conditional_detr.pretraining.objective import objective_of
    from conditional_detr.training.artifacts.nonfinite_dump import replay as run_replay

    done = run_replay(record, device, objective_of)
    some = ", ".join(done.parameters[:3]) + (", …" if len(done.parameters) > 3 else "")
    print_facts(
        {
            **{name: f"{value:.6g}" for name, value in done.losses.items()},
            "first module": done.module or "none: the outputs of all modules are finite",
            "gradients": f"not finite in {len(done.parameters)} parameters: {some}" if done.parameters else "all finite",
            "largest weights": ", ".join(f"{name} (norm {norm:.4g})" for name, norm in done.largest_norms),
        }
    )
    print_text(f"The images of the step, with their boxes: {record / 'images.jpg'}")
