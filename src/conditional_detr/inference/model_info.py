"""Describe a model: architecture, size and cost."""

from pathlib import Path

from conditional_detr.config.model_costs import COSTS, LANDSCAPE
from conditional_detr.config.parts import unused_fields
from conditional_detr.config.presets import preset
from conditional_detr.config.schema import SIZES, ModelConfig, PreprocessorConfig
from conditional_detr.images.sizes import input_hw
from conditional_detr.weights.exported import PROOF, Exported, read_exported, read_proof
from conditional_detr.weights.recognise import find_checkpoint, is_export

# Fields of a model's configuration that are shown in other lines or not at all.
ELSEWHERE = SIZES | {"backbone", "strides", "dilation", "spatial_init"}


def describe(source: str | Path) -> dict[str, str]:
    """Describe a model source. Returns a dict of line title → text."""
    path = find_checkpoint(source)
    if path is not None and is_export(path):
        return describe_export(source, read_exported(path))
    if path is None:
        chosen = preset(str(source))
        config, image, cost = chosen.model, PreprocessorConfig(imgsz=chosen.imgsz), COSTS[str(source)]
        classes, origin = str(config.num_classes), "model name; the classes come from the training data"
    else:  # needs PyTorch, which takes long to load
        from conditional_detr.inference.model_cost import cost_of
        from conditional_detr.weights.discovery import read_checkpoint, with_new_class_head

        checkpoint = read_checkpoint(path)
        model = checkpoint.build()
        classes, origin = _some_names(model.class_names), f"{checkpoint.kind} {path}"
        image = model.preprocessor
        if model.config.patches:
            classes, origin = "none yet: `cdetr train --model` makes a detector of it", f"pre-training, {origin}"
            model = with_new_class_head(model, model.config.num_classes)
            model.preprocessor = image
        config, cost = model.config, cost_of(model)
    choices = [field for field in ModelConfig.model_fields if field not in ELSEWHERE | unused_fields(config).keys()]
    height, width = input_hw(LANDSCAPE, image)
    return {
        "source": str(source),
        "kind": origin,
        "network": f"{config.backbone} at stride {', '.join(map(str, config.strides))}, width {config.hidden_dim}, "
        f"{config.num_heads} heads, {config.encoder_layers} encoder and {config.decoder_layers} decoder layers",
        "choices": ", ".join(f"{field} {str(getattr(config, field)).lower()}" for field in choices),
        "queries": str(config.num_queries),
        "classes": classes,
        "input": _input(image),
        "parameters": f"{cost.trainable:,} trainable, {cost.frozen:,} frozen",
        "compute": f"{cost.multiply_adds / 1e9:.1f} G multiply-adds for an image of {width} x {height} px",
    }


def describe_export(source: str | Path, export: Exported) -> dict[str, str]:
    """Describe an exported folder, including the result in its `proof.json`."""
    proof = read_proof(export.graph.parent)
    verdict = {True: "passed", False: "NOT passed", None: "no AP was compared"}.get(proof.get("passed"), "damaged")
    ap = proof.get("AP") or {}
    if ap.get("exported") is not None:
        verdict += f", AP {ap['original']:.4f} → {ap['exported']:.4f} on {proof['images']} images of {proof['data']}"
    return {
        "source": str(source),
        "kind": f"export to {export.format} in {export.precision}, {export.graph}",
        "proof": verdict if proof else f"{PROOF} is missing",
        "queries": str(export.config.num_queries),
        "classes": _some_names(export.class_names),
        "input": _input(export.preprocessor),
    }


def _some_names(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:12])}" + (f", … ({len(names) - 12} more)" if len(names) > 12 else "")


def _input(image: PreprocessorConfig) -> str:
    return f"shorter side {image.imgsz} px, longer side at most {image.longest} px"
