"""The YAML at the head of a model card, which the Hub reads.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

import re
from typing import Any

from conditional_detr.sharing.escaping import Quoted, to_yaml
from conditional_detr.sharing.facts import Facts
from conditional_detr.sharing.licences import UNKNOWN

TASK = "object-detection"
LIBRARIES = {"huggingface": "transformers", "native": "conditional-detr"}
TAGS = {"additive": "detr", "deformable": "deformable-detr"}  # by cross-attention; all others are Conditional DETR
HUB_DATA = re.compile(r"https://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)/?")
STATED_METRICS = ("AP", "AP50", "AP75")
DIGITS = 4


def front_matter(facts: Facts) -> str:
    """Write the head of a card, between lines of three hyphens."""
    content: dict[str, Any] = {
        "license": facts.stated.licence or UNKNOWN,
        "library_name": LIBRARIES[facts.format],
        "pipeline_tag": TASK,
        "tags": [TASK, TAGS.get(facts.model.config.cross_attention, "conditional-detr")],
    }
    if found := HUB_DATA.fullmatch(facts.stated.data_url or ""):
        content["datasets"] = [Quoted(found[1])]
    if facts.training is not None and facts.training.start.hub_id:
        content["base_model"] = Quoted(facts.training.start.hub_id)
    if results := _results(facts):
        content["model-index"] = [{"name": Quoted(facts.repo.split("/")[-1]), "results": [results]}]
    return f"---\n{to_yaml(content)}---\n"


def _results(facts: Facts) -> dict[str, Any] | None:
    """The metrics of a run as the Hub lists them; None if there are none."""
    metrics: list[dict[str, Any]] = []
    for name in STATED_METRICS:
        value = facts.results.figures.get(name) if facts.results else None
        if facts.results is None or value is None:
            continue
        bounds = facts.results.intervals.get(name)
        interval = f" (95 % interval {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        metrics.append({"type": name, "value": round(value, DIGITS), "name": f"{name}{interval}"})
    if not metrics:
        return None
    name = facts.data_name or "unnamed data set"
    kind = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"
    dataset = {"type": Quoted(kind), "name": Quoted(name), "split": "valid"}
    return {"task": {"type": TASK}, "dataset": dataset, "metrics": metrics}
