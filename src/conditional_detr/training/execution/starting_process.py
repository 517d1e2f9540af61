"""A script that trains without `if __name__ == "__main__":`, where Python runs it again in each process that it starts."""

import multiprocessing

from conditional_detr.errors import RunError


def refuse_in_starting_process() -> None:
    """Refuse to train in a process that is only starting.

    Raises
    ------
    RunError : this process was started by another one with the method "spawn" or "forkserver" and is still running the
        other one's script
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(
            "train was called while this process was starting: Python runs the script again in each process that it starts. "
            'Put the call below `if __name__ == "__main__":`'
        )
