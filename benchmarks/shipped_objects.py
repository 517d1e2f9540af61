"""Train the bundled model `conditional-detr-tiny-objects` in stages, and store its weights in the package, as 16-bit floats.

The training images are photographs of many public data sets that label different classes, merged with drawn shapes. Each stage
uses larger images and starts from the stage before. A stage may be stopped and resumed. PHOTOGRAPHS is a COCO folder with the
images of the sets that NOTICE.md beside the weights lists; `labelled_category_ids` names the classes that each image labels.

    python benchmarks/shapes.py DIR/shapes --train 5000 --valid 100 --seed 1
    cdetr data merge PHOTOGRAPHS DIR/shapes DIR/merged
    python benchmarks/shipped_objects.py DIR/merged --work DIR --stage 160 --start conditional-detr-tiny-shapes
    python benchmarks/shipped_objects.py DIR/merged --work DIR --stage 256 --start DIR/160px
    python benchmarks/shipped_objects.py DIR/merged --work DIR --stage 320 --start DIR/256px
"""

import argparse
from pathlib import Path

from shipped_digits import ship

from conditional_detr import train

NAME = "conditional-detr-tiny-objects"
MINUTES = {160: 60.0, 256: 90.0, 320: 110.0}  # of training, by image size in px
QUERIES = {160: 60, 256: 100, 320: 100}  # at 160 px there are about 100 cells
MODEL = {"reference_points": "encoder_boxes", "box_refinement": True, "cross_attention": "box_conditional"}
RECIPE = {"batch": 8, "query_groups": 2, "scales": (0.6, 1.4), "progressive_resize_from": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the merged data set")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--stage", type=int, required=True, choices=MINUTES, help="image size in px")
    parser.add_argument("--start", required=True, help="model to start from: the run of the stage before")
    parser.add_argument("--minutes", type=float, help="training time in minutes (default: 60, 90 and 110)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) = all available")
    options = parser.parse_args()
    run = options.work / f"{options.stage}px"
    model, recipe = MODEL | {"num_queries": QUERIES[options.stage]}, RECIPE | {"init_from": options.start}
    train(
        options.data, output=run, minutes=options.minutes or MINUTES[options.stage], imgsz=options.stage,
        threads=options.threads, model_overrides=model, recipe_overrides=recipe, resume=True,
    )  # fmt: skip
    ship(run, NAME)


if __name__ == "__main__":
    main()
