"""The command line: one function a verb. Heavy imports wait until a verb needs them."""

import sys
from collections.abc import Callable

from cyclopts import App, CycloptsError

from conditional_detr.cli.bench import bench
from conditional_detr.cli.compare import compare
from conditional_detr.cli.data_convert import convert
from conditional_detr.cli.data_digits import digits
from conditional_detr.cli.demo import demo
from conditional_detr.cli.doctor import doctor
from conditional_detr.cli.eval import evaluate
from conditional_detr.cli.explain import explain
from conditional_detr.cli.export import export
from conditional_detr.cli.info import info
from conditional_detr.cli.parsing import normalised, parse_error
from conditional_detr.cli.predict import predict
from conditional_detr.cli.replay import replay
from conditional_detr.cli.train import train
from conditional_detr.errors import ConditionalDETRError

app = App(
    name="cdetr",
    help="Conditional DETR: train, evaluate, predict, explain, export. `cdetr VERB --help` tells a verb's options.",
    help_format="plaintext",
    version_flags=["--version"],
)
VERBS: dict[tuple[str, ...], Callable[..., None]] = {
    ("demo",): demo,
    ("data", "digits"): digits,
    ("data", "convert"): convert,
    ("doctor",): doctor,
    ("train",): train,
    ("eval",): evaluate,
    ("predict",): predict,
    ("explain",): explain,
    ("compare",): compare,
    ("export",): export,
    ("bench",): bench,
    ("info",): info,
    ("replay",): replay,
}
data_app = App(name="data", help="Make and convert data sets.")
app.command(data_app)
for path, verb in VERBS.items():
    (data_app if path[0] == "data" else app).command(verb, name=path[-1])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the input is wrong (one message on stderr), 1 a fault of ours."""
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        app(normalised(tokens, VERBS), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_refuse(parse_error(error)))
    except ConditionalDETRError as error:
        sys.exit(_refuse(str(error)))
    except (RuntimeError, MemoryError) as error:
        from conditional_detr.device.choose import is_out_of_memory

        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        sys.exit(_refuse("there is not enough memory for this: give a smaller --batch or --imgsz, or smaller images"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _refuse(message: str) -> int:
    print(f"cdetr: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
