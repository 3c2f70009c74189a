"""The YAML that recipes are written in: PyYAML's safe subset, read and written by the same rules.

Differences from YAML 1.1: 1e-3 is a number and 2:4 is text (both as in YAML 1.2), a key may stand once in a section,
keys are text, and there are no aliases.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+$")
"""Numbers such as 1e-3, which YAML 1.1 takes for text."""


_SEXAGESIMAL = re.compile(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$")
"""Text such as 2:4, which YAML 1.1 takes for two minutes and four seconds."""


class Loader(yaml.SafeLoader):
    """Reads a recipe. Aliases are refused because a few lines of them unfold into more values than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose any node but an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} has no place in a recipe; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are text and differ."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key_node.tag == _MERGE:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one section", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes values so that `Loader` reads the same ones: text that looks like 1e-3 gets its quotes."""


_MERGE = "tag:yaml.org,2002:merge"
for _kind in (Loader, Dumper):
    # The tables are the class's own from here on: PyYAML's safe classes stay as they are.
    _kind.yaml_implicit_resolvers = {first: list(rules) for first, rules in _kind.yaml_implicit_resolvers.items()}
    for _first in "-+0123456789":
        _rules = _kind.yaml_implicit_resolvers.setdefault(_first, [])
        _rules.insert(0, ("tag:yaml.org,2002:str", _SEXAGESIMAL))
        _rules.append(("tag:yaml.org,2002:float", _EXPONENT))
