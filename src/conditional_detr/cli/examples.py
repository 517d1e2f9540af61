"""Examples at the end of each verb's help. A test parses every one of them."""

EXAMPLES: dict[tuple[str, ...], list[str]] = {
    (): [
        "cdetr train --data cells --minutes 20 --output runs/cells",
        "cdetr eval runs/cells --data cells --split test",
        "cdetr predict runs/cells new-images/",
    ],
    ("train",): [
        "cdetr train --data cells --minutes 20 --output runs/cells",
        "cdetr train --data coco --model conditional-detr-r50 --epochs 50",
        "cdetr train --data cells --model runs/old --epochs 10 --output runs/new",
        "cdetr train --data cells --set model.lambda_q=block --set weight_decay=0.01",
        "cdetr train --resume --output runs/cells",
    ],
    ("pretrain",): [
        "cdetr pretrain --data photos --minutes 30 --output runs/pre",
        "cdetr pretrain --data photos --model conditional-detr-tiny --epochs 20 --output runs/pre",
        "cdetr pretrain --resume --output runs/pre",
    ],
    ("eval",): [
        "cdetr eval runs/cells --data cells --split test",
        "cdetr eval microsoft/conditional-detr-resnet-50 --data coco --output coco-r50",
    ],
    ("predict",): [
        "cdetr predict runs/cells new-images/",
        "cdetr predict runs/cells a.jpg 'b/*.png' --conf 0.5 --output found",
        "cdetr predict conditional-detr-tiny-digits docs/images/scene.png",
    ],
    ("export",): [
        "cdetr export runs/cells cells-openvino --data cells",
        "cdetr export runs/cells cells-int8 --precision int8 --data cells",
        "cdetr export runs/cells cells-onnx --format onnx --precision fp32",
    ],
    ("serve",): [
        "cdetr serve runs/cells",
        "cdetr serve cells-openvino --port 9000 --batch 4",
        "CDETR_TOKEN=secret cdetr serve cells-openvino --host 0.0.0.0",
    ],
    ("push",): [
        "cdetr push runs/cells me/cells --licence cc-by-4.0 --dry-run",
        "cdetr push hub me/cells",
        "cdetr push runs/cells me/cells --licence apache-2.0 --private",
    ],
    ("bench",): [
        "cdetr bench runs/cells cells-openvino cells-int8",
        "cdetr bench runs/cells --images new-images/ --threads 1",
    ],
    ("explain",): [
        "cdetr explain runs/cells image.jpg",
        "cdetr explain runs/cells image.jpg --conf 0.6 --output attention",
    ],
    ("compare",): ["cdetr compare runs/a runs/b runs/c", "cdetr compare runs/a runs/b --ap 0.3 --ap 0.5 --output a-and-b"],
    ("info",): ["cdetr info runs/cells", "cdetr info conditional-detr-tiny-digits"],
    ("doctor",): ["cdetr doctor cells", "cdetr doctor cells --fix cells-clean", "cdetr doctor cells --json"],
    ("data",): [
        "cdetr data convert yolo-folder coco-folder",
        "cdetr data split export cells --valid 0.2",
        "cdetr data merge cats dogs animals",
        "cdetr data digits digits --train 1500 --valid 300",
    ],
    ("data", "convert"): ["cdetr data convert yolo-folder coco-folder"],
    ("data", "split"): [
        "cdetr data split export cells --valid 0.2",
        "cdetr data split export cells --valid 0.2 --test 0.1 --seed 1",
    ],
    ("data", "merge"): ["cdetr data merge cats dogs animals"],
    ("data", "digits"): ["cdetr data digits digits --train 1500 --valid 300 --size 128"],
    ("demo",): ["cdetr demo", "cdetr demo --output my-demo"],
    ("replay",): ["cdetr replay runs/cells/flight/epoch-3-step-41-rank-0"],
}


def examples(path: tuple[str, ...]) -> str | None:
    """The examples of a verb as a block of text; None if it has none."""
    lines = EXAMPLES.get(path)
    return "\n  ".join(["Examples:", *lines]) if lines else None
