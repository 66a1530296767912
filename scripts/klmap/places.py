"""Where in a file a configuration value stands, so that an error can name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from klmap.errors import ConfigError, InputError
from klmap.files import read_tsv

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Places:
    """The YAML files a configuration was read from, and the line of every key in them.

    Args:
        paths: the files, in the order in which they were merged; the last one wins.

    Raises:
        ConfigError: a file is missing or not YAML.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.default = self.paths[-1].name if self.paths else "config"
        self._nodes: list[tuple[Path, yaml.Node]] | None = None

    @property
    def nodes(self) -> list[tuple[Path, yaml.Node]]:
        """The parsed trees; made when the first message or merge needs them."""
        if self._nodes is None:
            self._nodes = [(path, _compose(path)) for path in self.paths]
        return self._nodes

    def merged(self) -> dict[str, Any]:
        """The content of the files, later files replacing top-level keys of earlier ones."""
        result: dict[str, Any] = {}
        for path, node in self.nodes:
            value = _Loader("").construct_document(node) if node is not None else {}
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: expected keys such as texts: and models:, found none")
            result.update(value)
        return result

    def duplicate_keys(self) -> list[str]:
        """Keys written twice in one mapping, of which YAML would silently drop the first."""
        problems = []
        for path in self.paths:
            for key, line in _duplicates(path):
                problems.append(f"{path.name}: {key}: this key stands here twice (line {line})")
        return problems

    def name(self, location: Sequence[Any], origins: Sequence[str]) -> str:
        """``config.yaml: models[3].dtype`` for ('models', 3, 'dtype')."""
        origin = self._origin(location, origins)
        if origin:
            rest = ".".join(str(part) for part in location[2:])
            return f"{origin}: {rest}" if rest else origin
        text = ""
        for part in location:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        file = self._find(location)[0]
        return f"{file}: {text}" if text else file

    def line(self, location: Sequence[Any], origins: Sequence[str]) -> str:
        """`` (line 12)``, or nothing where the line is not known."""
        if self._origin(location, origins):
            return ""
        number = self._find(location)[1]
        return f" (line {number})" if number else ""

    @staticmethod
    def _origin(location: Sequence[Any], origins: Sequence[str]) -> str:
        if len(location) > 1 and location[0] == "models" and isinstance(location[1], int):
            return origins[location[1]] if location[1] < len(origins) else ""
        return ""

    def _find(self, location: Sequence[Any]) -> tuple[str, int]:
        """File and line of the deepest part of the place that is written down."""
        best = (self.default, 0, -1)
        for path, root in self.nodes:
            node: yaml.Node | None = root
            line, depth = 0, 0
            for part in location:
                found = _child(node, part)
                if found is None:
                    break
                line, node = found
                depth += 1
            if depth >= best[2]:
                best = (path.name, line, depth)
        return best[0], best[1]


def shown(value: Any) -> str:
    """A value as it should read in a message: short, and never a whole data structure."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_model_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Models of a .yaml list or a .tsv sheet, each with its place (``file: line 7``).

    Raises:
        ConfigError: the file is missing, has another ending, or is not a list of models.
    """
    if path.suffix in (".yaml", ".yml"):
        node = _compose(path)
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigError(f"{path}: expected a list of models, one `- org/name` per line")
        values = _Loader("").construct_document(node)
        for child, value in zip(node.value, values, strict=True):
            yield f"{path}: line {child.start_mark.line + 1}", value
    elif path.suffix == ".tsv":
        try:
            rows = read_tsv(path)
        except InputError as error:
            raise ConfigError(str(error)) from None
        for number, row in enumerate(rows, start=2):
            yield f"{path}: line {number}", {key: cell for key, cell in row.items() if cell}
    else:
        raise ConfigError(f"{path}: model_files takes .yaml lists and .tsv sheets")


def _compose(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return yaml.compose(file, Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = re.sub(r"\s+", " ", str(error))
        raise ConfigError(f"{path}: not valid YAML: {text}") from None


def _child(node: yaml.Node | None, part: Any) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _duplicates(path: Path) -> Iterator[tuple[str, int]]:
    stack = [_compose(path)]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if key.value in seen:
                    yield key.value, key.start_mark.line + 1
                seen.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
