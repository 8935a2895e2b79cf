"""From a flat graph of operators to blocks.

Element-wise operators and those that only move elements join the block before them, as long as no more tensors
leave it for that; where they cannot (the tensor is also read elsewhere, or it is the network's input), they join
the one block that reads them; where that fails too, they are a block of their own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import fx
from torch.fx import Node

from pipeline.model import operators
from pipeline.model.graph import INPUT, OUTPUT, Block, TensorSpec
from pipeline.model.operators import CHANNEL_LOCAL, ELEMENTWISE, REARRANGING, is_constant, op, spec_of, tensor_inputs

_JOINS = ELEMENTWISE | REARRANGING


@dataclass
class Group:
    """The operators of a block to be."""

    main: Node
    """The operator that names the block and counts for its kind."""
    nodes: list[Node] = field(default_factory=list)
    kind: str = ""
    joins_reader: bool = False
    """Whether it may merge into the one block that reads it."""


def group(graph: fx.Graph) -> list[Group]:
    """Divide all operators into groups, in topological order of their main operators."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    owner: dict[Node, Group] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            _pending_input(node, owner)
        elif node.op == "call_function" and node not in owner:
            _start_group(node, owner)
    groups = _merge_into_readers(owner, position)
    for each in groups:
        each.nodes.sort(key=position.__getitem__)
    return sorted(groups, key=lambda each: position[each.main])


def _pending_input(node: Node, owner: dict[Node, Group]) -> None:
    """What is done to the input alone, such as normalisation, is one group that looks for its reader."""
    closure = _closure(node, _JOINS)
    if closure and len(_leaving([node, *closure])) == 1:
        _assign(Group(closure[0], closure, joins_reader=True), owner)


def _start_group(node: Node, owner: dict[Node, Group]) -> None:
    plain = _closure(node, _JOINS)
    # The longest run of joining operators that does not make more tensors leave.
    grown = next(
        ([node, *plain[:end]] for end in range(len(plain), 0, -1) if _fits_behind(node, [node, *plain[:end]])),
        [node, *_getitems(node)],
    )
    joins_reader = op(node) in _JOINS and len(_producers(grown)) < 2 and not _getitems(node)
    _assign(Group(node, grown, joins_reader=joins_reader), owner)
    rest = [each for each in _closure(node, _JOINS | CHANNEL_LOCAL) if each not in owner]
    if _is_response_norm(rest) and len(_leaving(rest)) == 1:
        _assign(Group(rest[0], rest, "lrn"), owner)


def _fits_behind(node: Node, grown: list[Node]) -> bool:
    """Whether the tensors that leave the grown group are one, or parts (a split) of one."""
    leaving = _leaving(grown)
    if any("spec" not in each.meta for each in leaving):
        return False  # a split leaves as its parts, not as the list of them
    if len(leaving) == 1 or op(node) in ("split", "split_with_sizes", "chunk", "unbind"):
        return True
    elements = sum(spec_of(each).numel for each in leaving)
    return node not in leaving and "spec" in node.meta and elements <= spec_of(node).numel


def _closure(root: Node, allowed: frozenset[str]) -> list[Node]:
    """Allowed operators that are computed from `root` and constants alone, in topological order."""
    inside, found = {root}, []
    current = root.next
    while current.op != "root":
        sources = tensor_inputs(current)
        if op(current) in allowed and sources and inside.issuperset(sources):
            inside.add(current)
            found.append(current)
        current = current.next
    return found


def _leaving(nodes: Iterable[Node]) -> list[Node]:
    """Nodes that are read outside of the set."""
    inside = set(nodes)
    return [node for node in inside if not inside.issuperset(node.users)]


def _getitems(node: Node) -> list[Node]:
    return [user for user in node.users if op(user) == "getitem"]


def _producers(nodes: list[Node]) -> set[Node]:
    inside = set(nodes)
    return {source for node in nodes for source in tensor_inputs(node) if source not in inside}


def _is_response_norm(closure: list[Node]) -> bool:
    names = {op(node) for node in closure}
    return "avg_pool3d" in names and "pow" in names and "div" in names


def _assign(new: Group, owner: dict[Node, Group]) -> None:
    for node in new.nodes:
        owner[node] = new


def _merge_into_readers(owner: dict[Node, Group], position: dict[Node, int]) -> list[Group]:
    groups = list({id(each): each for each in owner.values()}.values())
    kept = []
    for each in sorted(groups, key=lambda g: position[g.main], reverse=True):
        readers = {id(owner[user]): owner[user] if user in owner else None for n in each.nodes for user in n.users
                   if user not in each.nodes and user in owner}  # fmt: skip
        is_output = any(user.op == "output" for node in each.nodes for user in node.users)
        reader = next(iter(readers.values()), None)
        if each.joins_reader and len(readers) == 1 and not is_output and reader is not None:
            reader.nodes.extend(each.nodes)
            for node in each.nodes:
                owner[node] = reader
        else:
            kept.append(each)
    return kept


def blocks_of(groups: list[Group], prefix: str) -> tuple[Block, ...]:
    """Name the groups and describe them; renames their output nodes after the blocks.

    Args:
        groups: in topological order.
        prefix: leading module path to leave out of names.
    """
    names: set[str] = {INPUT, OUTPUT}
    blocks = []
    for index, each in enumerate(groups):
        name = _unique(_wish(each, prefix), names)
        outgoing = [node for node in each.nodes if node in set(_leaving(each.nodes))]
        for node in outgoing:
            _rename(node, name)
        blocks.append(
            Block(
                index=index,
                name=name,
                kind=each.kind or operators.kind_of(each.main),
                operators=(),
                inputs=(),
                outputs=tuple(node.name for node in outgoing),
                flops=sum(operators.flops(node) for node in each.nodes),
                weight_bytes=_weight_bytes(each.nodes),
                attributes=operators.attributes(each.main),
            )
        )
    # Inputs and operators are named once every node has its last name.
    return tuple(
        replace(
            block,
            operators=tuple(node.name for node in each.nodes),
            inputs=_inputs(each.nodes),
        )
        for block, each in zip(blocks, groups, strict=True)
    )


def _inputs(nodes: list[Node]) -> tuple[str, ...]:
    inside = set(nodes)
    sources = itertools.chain.from_iterable(tensor_inputs(node) for node in nodes)
    return tuple(dict.fromkeys(source.name for source in sources if source not in inside))


def _wish(each: Group, prefix: str) -> str:
    kind = each.kind or operators.kind_of(each.main)
    weights = [source for source in each.main.all_input_nodes if is_constant(source)]
    path = str(each.main.meta.get("path", "")) or next((str(n.meta["path"]) for n in weights if n.meta["path"]), "")
    path = re.sub(r"[^\w.\-]", "_", path.removeprefix(prefix) if path.startswith(prefix) else path)
    if path in ("", prefix.rstrip(".")):
        return kind
    if each.main.meta.get("own_module") and path not in (INPUT, OUTPUT) and not each.kind:
        return path
    return path if weights and path not in (INPUT, OUTPUT) and not each.kind else f"{path}.{kind}"


def _unique(wish: str, taken: set[str]) -> str:
    name = next(n for n in itertools.chain([wish], (f"{wish}_{i}" for i in itertools.count(2))) if n not in taken)
    taken.add(name)
    return name


def _rename(node: Node, block: str) -> None:
    """Name a tensor after its block, as a Python identifier (the generated code uses it)."""
    node._rename(re.sub(r"\W", "_", block))
    if "spec" in node.meta:
        spec: TensorSpec = spec_of(node)
        node.meta["spec"] = replace(spec, name=node.name)


def _weight_bytes(nodes: list[Node]) -> int:
    weights = {source for node in nodes for source in node.all_input_nodes if is_constant(source)}
    return sum(spec_of(weight).nbytes for weight in weights)
