"""The command line, called in this process."""

from conditional_detr.cli.app import main


def run(capsys, *tokens: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = 0
    try:
        main([str(token) for token in tokens])
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err
