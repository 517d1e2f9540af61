"""Mark the nodes of an OpenVINO graph that stay in float32 when the processor computes in 16 bits.

OpenVINO converts all other nodes to bfloat16. Three groups are marked:

- the heads, because rounding a coordinate moves the box by pixels
- the sines and cosines of the position embeddings and the nodes that they depend on, back to the input or to the projections
  of layers that are rounded anyway, because rounding an angle changes the position
- the places that deformable attention samples, from the projections that predict them

They also run in float32 under autocast in training.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conditional_detr.exporting.rounding import is_within

# Disables conversion from any type to any other type.
MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:dynamic"}


def nodes_in_float32(converted: Any, modules: dict[str, str], in_float32: Collection[str]) -> set[str]:
    """Names of the nodes of an `openvino.Model` that stay in float32.

    Parameters
    ----------
    converted : `openvino.Model`
    modules : module path of each node, see `modules_of`
    in_float32 : paths of modules that stay in float32, see `modules_in_float32`
    """
    nodes = converted.get_ops()
    sines = [node.output(0) for node in nodes if node.get_type_name() in ("Sin", "Cos")]
    grids = [node.input_value(1) for node in nodes if node.get_type_name() == "GridSample"]
    products = [node for node in nodes if node.get_type_name() == "MatMul" and node.get_friendly_name().startswith("linear")]
    heads = [node for node in products if is_within(modules.get(_operation(node), ""), in_float32)]
    rounded = {node.get_friendly_name() for node in products} - {node.get_friendly_name() for node in heads}
    angles = _with_ancestors(sines, lambda node: node.get_friendly_name() in rounded)
    places = _with_ancestors(grids, lambda node: node.get_type_name() == "MatMul")
    return {node.get_friendly_name() for node in (*angles, *places, *heads)}


def keep_in_float32(file: Path, names: set[str]) -> None:
    """Mark layers in a graph file. OpenVINO's Python API cannot mark the nodes themselves."""
    tree = ElementTree.parse(file)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names and layer.get("type") != "Const":
            notes = layer.find("rt_info")
            if notes is None:
                notes = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, notes)
            ElementTree.SubElement(notes, "attribute", MARK)
    tree.write(file, encoding="utf-8", xml_declaration=True)


def _operation(node: Any) -> str:
    """Name of the PyTorch node, for example linear_3 of linear_3/aten.linear.default/MatMul."""
    name: str = node.get_friendly_name()
    return name.split("/")[0]


def _with_ancestors(ports: Iterable[Any], ends_at: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the nodes of ports and all nodes that they depend on, each once.

    The search stops at integers, such as indices, and before nodes for which `ends_at` is true.
    """
    waiting, visited = list(ports), set()
    while waiting:
        port = waiting.pop()
        node = port.get_node()
        ends = node.get_friendly_name() in visited or ends_at(node)
        if ends or not port.get_element_type().is_real():
            continue
        visited.add(node.get_friendly_name())
        yield node
        waiting += [node.input_value(i) for i in range(node.get_input_size())]
