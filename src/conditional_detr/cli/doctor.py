"""`cdetr doctor`."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from conditional_detr.cli.parameters import DataFolder, option
from conditional_detr.cli.printing import print_json, print_next, print_table, print_text, track
from conditional_detr.errors import plural

if TYPE_CHECKING:
    from conditional_detr.data.findings import Finding
    from conditional_detr.doctor.examined import Examined

ERRORS_FOUND = 3  # exit code
SHOWN_PER_CODE = 10  # findings


def doctor(
    data: DataFolder,
    /,
    *,
    model: Annotated[
        str,
        option("Model", "Model name. Number and size of the objects are checked against its queries and feature map.", "NAME"),
    ] = "conditional-detr-tiny",
    imgsz: Annotated[
        int | None,
        option(
            "Model",
            "Length of the shorter side after resizing, px. Objects that are too small at this size are reported.",
            "PX",
            "the input size of the model",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        option("Output", "New folder for a clean copy in COCO format, with a log of every change.", "DIR", "no copy"),
    ] = None,
    report: Annotated[
        Path | None,
        option("Output", "HTML page with the findings, statistics of the objects and sample images.", "FILE", "no page"),
    ] = None,
    json_: Annotated[bool, option("Output", "Print the findings as JSON.", default="off")] = False,
) -> None:
    """Check a data set: images, boxes, classes and splits. Exits with 3 if there are errors, also after --fix."""
    from conditional_detr.config.messages import updated
    from conditional_detr.config.presets import preset
    from conditional_detr.doctor.clean_copy import LOG, check_is_new, write_copy
    from conditional_detr.doctor.examine import examine, is_ok
    from conditional_detr.factory.build import preprocessing_for

    if fix is not None:
        check_is_new(fix)
    chosen = preset(model)
    image = preprocessing_for(chosen.model, chosen.imgsz)
    if imgsz is not None:
        image = updated(image, {"imgsz": imgsz, "max_size": 0}, "doctor")
    splits, findings = examine(data, chosen.model, image, track)
    if fix is not None:
        counts = write_copy(splits, findings, fix)
    if json_:
        print_json({"ok": is_ok(findings), "findings": [f.to_dict() for f in findings]})
    else:
        _print_findings(findings)
        _print_splits(splits)
        _print_summary(findings, data, fixed=fix is not None)
    if fix is not None:
        summary = ", ".join(f"{name}: {images} images, {boxes} boxes" for name, (images, boxes) in counts.items())
        file = sys.stderr if json_ else sys.stdout
        print_text(f"Wrote a clean copy to {fix} ({summary}). All changes are listed in {fix / LOG}", file=file)
        if not json_:
            print_next("train on the clean copy", "cdetr", "train", "--data", fix)
    if report is not None:
        from conditional_detr.doctor.report import write_data_report

        write_data_report(splits, findings, chosen.model, image, report, f"Data set {data}")
        print_text(f"Wrote {report}", file=sys.stderr if json_ else sys.stdout)
    if not is_ok(findings):
        sys.exit(ERRORS_FOUND)


def _print_splits(splits: dict[str, "Examined"]) -> None:
    """A table of the splits, and the counts that training prints."""
    rows = [[name, split.source.format, str(split.summary.images), str(split.summary.boxes)] for name, split in splits.items()]
    print_table(["split", "format", "images", "boxes"], rows)
    for name, split in splits.items():
        print_text(f"{name}: {split.summary}")


def _print_findings(findings: list["Finding"]) -> None:
    """The findings in their order; of each code only the first ones."""
    shown = Counter[str]()
    for finding in findings:
        shown[finding.code] += 1
        if shown[finding.code] <= SHOWN_PER_CODE:
            _print_finding(finding)
    for code, count in shown.items():
        if count > SHOWN_PER_CODE:
            print_text(f"... and {count - SHOWN_PER_CODE} more of {code} (--json lists all)")


def _print_finding(finding: "Finding") -> None:
    from conditional_detr.data.findings import WARNING, where

    severity, style = ("warning", "yellow") if finding.severity == WARNING else ("error", "red")
    places = dict.fromkeys([finding.split or "the data set", where(finding)])
    print_text(f"{severity:<8} {finding.code:<22} {': '.join(places)}: {finding.message} (--fix: {finding.fix})", style)


def _print_summary(findings: list["Finding"], data: Path, fixed: bool) -> None:
    """How many errors and warnings there are, and what to do about them."""
    counts = Counter(finding.severity for finding in findings)
    found = [plural(counts[severity], severity) for severity in ("error", "warning") if counts[severity]]
    print_text(f"Found {' and '.join(found)}" if found else "No problems found", "bold")
    fixable = any(not finding.fix.startswith("nothing") for finding in findings)
    if fixable and not fixed:
        print_next("write a clean copy", "cdetr", "doctor", data, "--fix", f"{data.resolve().stem}-clean")
    elif not found:
        print_next("train a model", "cdetr", "train", "--data", data)
