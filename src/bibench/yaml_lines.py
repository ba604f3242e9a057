"""Settings in YAML, read safely, and messages that name the line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from bibench import registry

__all__ = ["YamlError", "explain", "line_of", "parse"]


class YamlError(ValueError):
    """A text that isn't such a mapping; the message names file and line."""


def parse(text: str, where: str, keys: str) -> tuple[dict[Any, Any], yaml.Node]:
    """The mapping of a YAML text, and its nodes, which know their lines.

    Args:
        text: with plain values only; a tag that would make an object is refused.
        where: names it in messages.
        keys: names of the keys that it should have, for a message.

    Raises:
        YamlError: not valid YAML, not a mapping, or a key twice.

    >>> parse("a: 1\\na: 2", "settings.yaml", "a")
    Traceback (most recent call last):
    bibench.yaml_lines.YamlError: settings.yaml, line 2: 'a' is already given in line 1
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise YamlError(
            f"{where}{line}: not valid YAML: {' '.join(str(getattr(error, 'problem', None) or error).split())}"
        ) from error
    if not isinstance(content, dict) or root is None:
        raise YamlError(f"{where}: expected a mapping with the keys {keys}")
    _refuse_duplicates(root, where)
    return content, root


def line_of(root: yaml.Node, loc: Iterable[str | int]) -> int:
    """The line of the deepest part of a location that the file has.

    >>> line_of(parse("a: 1\\nb: {c: [2,\\n 3]}", "x", "a")[1], ("b", "c", 1))
    3
    """
    node, line = root, root.start_mark.line + 1
    for part in loc:
        child = _child(node, part)
        if child is not None:
            node, line = child
    return line


def explain(
    error: ValidationError,
    root: yaml.Node,
    where: str,
    known_keys: Callable[[Sequence[str | int]], Iterable[str]],
    prefix: tuple[str | int, ...] = (),
) -> str:
    """The first thing that is wrong, with its line.

    Args:
        error: what pydantic says.
        root, where: of the text.
        known_keys: the keys that can stand at a location: enough for a suggestion.
        prefix: location of what was validated.
    """
    first = error.errors()[0]
    loc = (*prefix, *first["loc"])
    key = ".".join(str(part) for part in loc)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = registry.did_you_mean(str(loc[-1]), known_keys(loc))
        return f"{where}, line {line_of(root, loc)}: unknown key '{key}'{near}"
    if first["type"] == "missing":
        return f"{where}, line {line_of(root, loc)}: '{key}' is missing"
    said = _IN_YAML.get(first["type"], first["msg"])
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of a whole recipe: it is long
        return f"{where}, line {line_of(root, loc)}: '{key}': {said.removeprefix('Value error, ')}"
    return f"{where}, line {line_of(root, loc)}: '{key}' is {first['input']!r}: {said}"


_IN_YAML = {
    "tuple_type": "expected a list, such as [a, b]",
    "dict_type": "expected a mapping, such as {key: value}",
    "dataclass_type": "expected a mapping, such as {key: value}",
    "model_type": "expected a mapping, such as {key: value}",
    "union_tag_not_found": "expected a 'name' in it, such as {name: adam, lr: 0.001}",
}
"""What pydantic says in Python's words, in YAML's."""


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _refuse_duplicates(node: yaml.Node, where: str, visited: set[yaml.Node] | None = None) -> None:
    visited = set() if visited is None else visited
    if node in visited:  # an alias, which can even be its own part
        return
    visited.add(node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise YamlError(f"{where}, line {line}: '{key.value}' is already given in line {seen[key.value]}")
            seen[key.value] = line
            _refuse_duplicates(value, where, visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, where, visited)
