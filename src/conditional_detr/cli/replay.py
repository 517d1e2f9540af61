"""`cdetr replay`."""

from pathlib import Path


def replay(record: Path, /, *, device: str = "auto") -> None:
    """Take a recorded step without a finite gradient once more, and tell where it went wrong.

    Parameters
    ----------
    record
        A folder below RUN/flight.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    from conditional_detr.training.artifacts.nonfinite_dump import replay as run_replay

    done = run_replay(record, device)
    for name, value in done.losses.items():
        print(f"{name:<16} {value:.6g}")
    print(f"{'first module':<16} {done.module or 'the output of every module is finite'}")
    some = ", ".join(done.parameters[:3]) + (", …" if len(done.parameters) > 3 else "")
    print(f"{'gradients':<16} {f'{len(done.parameters)} are not finite: {some}' if done.parameters else 'all are finite'}")
    print(f"{'largest weights':<16} " + ", ".join(f"{name} (norm {norm:.4g})" for name, norm in done.largest_norms))
    print(f"images: {record / 'images.jpg'}")
