"""The command line: one function per verb. A verb imports heavy modules only when it runs."""

import sys
from collections.abc import Callable

from cyclopts import App, CycloptsError

from conditional_detr.cli.bench import bench
from conditional_detr.cli.compare import compare
from conditional_detr.cli.data_convert import convert
from conditional_detr.cli.data_digits import digits
from conditional_detr.cli.data_merge import merge
from conditional_detr.cli.data_split import split
from conditional_detr.cli.demo import demo
from conditional_detr.cli.doctor import doctor
from conditional_detr.cli.eval import evaluate
from conditional_detr.cli.examples import examples
from conditional_detr.cli.explain import explain
from conditional_detr.cli.export import export
from conditional_detr.cli.info import info
from conditional_detr.cli.parsing import normalised, parse_error
from conditional_detr.cli.predict import predict
from conditional_detr.cli.pretrain import pretrain
from conditional_detr.cli.printing import print_text
from conditional_detr.cli.push import push
from conditional_detr.cli.replay import replay
from conditional_detr.cli.serve import serve
from conditional_detr.cli.train import train
from conditional_detr.device.threads import prepare_threads
from conditional_detr.errors import ConditionalDETRError
from conditional_detr.storage.streams import steady_output

VERBS: dict[tuple[str, ...], Callable[..., None]] = {  # in the order of work
    ("train",): train,
    ("pretrain",): pretrain,
    ("eval",): evaluate,
    ("predict",): predict,
    ("export",): export,
    ("doctor",): doctor,
    ("data", "convert"): convert,
    ("data", "split"): split,
    ("data", "merge"): merge,
    ("data", "digits"): digits,
    ("compare",): compare,
    ("explain",): explain,
    ("serve",): serve,
    ("push",): push,
    ("bench",): bench,
    ("info",): info,
    ("replay",): replay,
    ("demo",): demo,
}
# The parser does not require --data of `train`, because --resume and --config can replace it. It calls all folders alike.
USAGE = {
    ("train",): "Usage: cdetr train --data DIR [OPTIONS]",
    ("pretrain",): "Usage: cdetr pretrain --data DIR [OPTIONS]",
    ("data", "merge"): "Usage: cdetr data merge A B [C...] OUT",
}
EXIT_CODES = (
    "Exit codes: 0 done, 1 bug in this library, 2 wrong input or failed check, 3 errors found by doctor, 130 interrupted."
)
app = App(
    name="cdetr",
    help="Train, evaluate, predict and export with Conditional DETR. `cdetr COMMAND --help` shows the options of a command.",
    help_format="plaintext",
    help_epilogue=f"{examples(())}\n\n{EXIT_CODES}",
    version_flags=["--version"],
)
data_app = App(
    name="data",
    help="Convert, split and merge data sets, and make one to try things with.",
    help_epilogue=examples(("data",)),
    sort_key=[path[0] for path in VERBS].index("data"),
)
for place, (path, verb) in enumerate(VERBS.items()):
    if path[0] == "data" and "data" not in app:
        app.command(data_app)
    parent = data_app if path[0] == "data" else app
    parent.command(verb, name=path[-1], sort_key=place, usage=USAGE.get(path), help_epilogue=examples(path))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input (one message on stderr), 1 a bug in this library."""
    prepare_threads()
    with steady_output():
        try:
            app(normalised(sys.argv[1:] if arguments is None else arguments, VERBS), exit_on_error=False, print_error=False)
        except CycloptsError as error:
            sys.exit(_refuse(parse_error(error)))
        except ConditionalDETRError as error:
            sys.exit(_refuse(str(error)))
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not _is_out_of_memory(error):
                raise
            sys.exit(_refuse("not enough memory: use a smaller --batch, a smaller --imgsz or smaller images"))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)


def _is_out_of_memory(error: RuntimeError) -> bool:
    if "torch" not in sys.modules:
        return False
    from conditional_detr.device.choose import is_out_of_memory

    return is_out_of_memory(error)


def _refuse(message: str) -> int:
    print_text(f"cdetr: {message}", "red", sys.stderr)
    return 2


if __name__ == "__main__":
    main()
