"""Write a model card: what a model is, how to use it, how good it is, and what is not known about it."""

from typing import NamedTuple

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.schema import SIZES, ModelConfig
from conditional_detr.errors import plural
from conditional_detr.evaluation.pages import duration
from conditional_detr.inference.results import DEFAULT_CONF
from conditional_detr.sharing.card_results import NOT_RECORDED, data_section, limits_section, results_section, table
from conditional_detr.sharing.escaping import markdown
from conditional_detr.sharing.facts import Facts, Start, Training
from conditional_detr.sharing.front_matter import front_matter
from conditional_detr.sharing.licences import OTHER, UNKNOWN


class System(NamedTuple):
    """A published detector: its name, the page of its paper, the model name of its paper's R50, and its BibTeX entry."""

    name: str
    paper: str
    preset: str
    citation: str


CONDITIONAL = System(
    "Conditional DETR",
    "https://arxiv.org/abs/2108.06152",
    "conditional-detr-r50",
    """@inproceedings{meng2021conditional,
  title     = {Conditional {DETR} for Fast Training Convergence},
  author    = {Meng, Depu and Chen, Xiaokang and Fan, Zejia and Zeng, Gang and Li, Houqiang and Yuan, Yuhui and
               Sun, Lei and Wang, Jingdong},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages     = {3651--3660},
  year      = {2021}
}""",
)
OTHERS = {  # by cross-attention
    "additive": System(
        "DETR",
        "https://arxiv.org/abs/2005.12872",
        "detr-r50",
        """@inproceedings{carion2020end,
  title     = {End-to-End Object Detection with Transformers},
  author    = {Carion, Nicolas and Massa, Francisco and Synnaeve, Gabriel and Usunier, Nicolas and Kirillov, Alexander and
               Zagoruyko, Sergey},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2020}
}""",
    ),
    "deformable": System(
        "Deformable DETR",
        "https://arxiv.org/abs/2010.04159",
        "deformable-detr-ss-r50",
        """@inproceedings{zhu2021deformable,
  title     = {Deformable {DETR}: Deformable Transformers for End-to-End Object Detection},
  author    = {Zhu, Xizhou and Su, Weijie and Lu, Lewei and Li, Bin and Wang, Xiaogang and Dai, Jifeng},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021}
}""",
    ),
}
SHOWN_NAMES = 10  # classes named in the first sentence
SHOWN_ELSEWHERE = SIZES | {"backbone", "strides", "dilation", "spatial_init"}


def model_card(facts: Facts) -> str:
    """Write the `README.md` of a model on the Hub. It depends on the facts only.

    Texts of users, such as class names, are shown as they are. They can add neither Markdown nor HTML nor YAML.
    """
    sections = {
        "Use": _use(facts),
        "Model": _model(facts),
        "Data": data_section(facts),
        "Results": results_section(facts),
        "Limits": limits_section(facts),
        "Training": _training(facts.training),
        "Licence": _licence(facts),
        "Citation": f"The paper of this kind of model:\n\n```bibtex\n{_system(facts.model.config).citation}\n```",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{front_matter(facts)}\n# {markdown(facts.repo.split('/')[-1])}\n\n{_opening(facts)}\n\n{body}\n"


def _system(config: ModelConfig) -> System:
    return OTHERS.get(config.cross_attention, CONDITIONAL)


def _opening(facts: Facts) -> str:
    system, names = _system(facts.model.config), facts.model.class_names
    shown = ", ".join(markdown(name) for name in names[:SHOWN_NAMES])
    more = f", and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    trained = ", trained with conditional-detr" if facts.training else ""
    return (
        f"An object detector: [{system.name}]({system.paper}){trained}. It finds {plural(len(names), 'class')}: {shown}{more}."
    )


def _use(facts: Facts) -> str:
    text = f"""```sh
pip install conditional-detr
cdetr predict {facts.repo} image.jpg
```

```python
import conditional_detr as cdetr

detector = cdetr.Detector("{facts.repo}")
detections = detector("image.jpg")[0]  # supervision.Detections
```

"""
    if facts.format != "huggingface":
        return f"{text}The files have the format of conditional-detr. Other libraries do not read them."
    return f"""{text}The files have the format of transformers, which loads them too:

```python
from transformers import AutoImageProcessor, AutoModelForObjectDetection

processor = AutoImageProcessor.from_pretrained("{facts.repo}")
model = AutoModelForObjectDetection.from_pretrained("{facts.repo}")
```"""


def _model(facts: Facts) -> str:
    model, config, image = facts.model, facts.model.config, facts.model.preprocessor
    thresholds = (
        "one for each class, see below" if model.thresholds is not None else f"{DEFAULT_CONF:g} unless you give another"
    )
    overlap = (
        f"boxes of a class that overlap by an IoU above {model.nms_iou:g}: the best is kept"
        if model.nms_iou is not None
        else "none"
    )
    rows = {
        "network": f"`{config.backbone}` at stride {', '.join(map(str, config.strides))}, width {config.hidden_dim}, "
        f"{config.num_heads} heads, {config.encoder_layers} encoder and {config.decoder_layers} decoder layers, "
        f"{config.num_queries} queries",
        "differs from the paper": _changes(config),
        "parameters": f"{model.parameters / 1e6:.1f} million",
        "input": f"shorter side {image.imgsz} px, longer side at most {image.longest} px, aspect ratio kept",
        **({"tiles": f"larger images are cut into tiles of {image.tile} px"} if image.tile else {}),
        "score thresholds": thresholds,
        "suppression": overlap,
    }
    return table(("", ""), rows.items())


def _changes(config: ModelConfig) -> str:
    """The choices that differ from the model of the paper."""
    paper = PRESETS[_system(config).preset].model
    fields = [field for field in ModelConfig.model_fields if field not in SHOWN_ELSEWHERE]
    changed = [field for field in fields if getattr(config, field) != getattr(paper, field)]
    return ", ".join(f"`{field} = {str(getattr(config, field)).lower()}`" for field in changed) or "in nothing but sizes"


def _training(training: Training | None) -> str:
    if training is None:
        return f"The training was {NOT_RECORDED}."
    best = f"; the weights are those of epoch {training.best_epoch}" if training.best_epoch else ""
    rows = {
        "recipe": f"`{training.recipe}`",
        "length": f"{training.epochs} epochs in {duration(training.seconds)}{best}",
        **{name: markdown(text) for name, text in training.settings.items()},
        "initial weights": _start(training.start),
        "versions": markdown(training.versions, 200) if training.versions else NOT_RECORDED,
    }
    return table(("", ""), rows.items())


def _start(start: Start) -> str:
    if start.is_random:
        return "random"
    licence = f"`{start.licence}`" if start.licence else "not known here"
    return f"{markdown(start.name)} (licence: {licence})"


def _licence(facts: Facts) -> str:
    licence = facts.stated.licence
    if licence in (None, UNKNOWN):
        text = "The licence of the weights was not stated. Ask the owner of this repository before you use them."
    elif licence == OTHER:
        text = "The weights have another licence. The owner of this repository can tell you which."
    else:
        text = f"The licence of the weights is `{licence}`."
    start = facts.training.start if facts.training else None
    if start is not None and not start.is_random:
        own = f"the licence `{start.licence}`" if start.licence else "a licence that is not known here"
        text += f" The training started from {markdown(start.name)}, which have {own}."
    return f"{text} The code, conditional-detr, is Apache-2.0."
