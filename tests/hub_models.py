"""Model folders for the Hub of the tests, written by hand, and klmap's scripts run against it.

The models need not load: resolve and fetch look at names, configurations and headers alone.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub_server import Hub, Repository

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
COMMIT = "a" * 40
README = "---\nlicense: mit\nbase_model: org/base\n---\n# A model\n"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 256,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}
TENSORS = {"model.embed_tokens.weight": ("BF16", [100, 10]), "model.norm.weight": ("F32", [1])}
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4}

Tensors = Mapping[str, tuple[str, Sequence[int]]]


def safetensors(path: Path, tensors: Tensors = TENSORS) -> Path:
    """A safetensors file with random content, the same for the same name."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    content = random.Random(path.name).randbytes(end)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def shards(folder: Path, sizes: Sequence[int]) -> None:
    """The weights as several files with an index, of so many parameters each."""
    where = {}
    for number, size in enumerate(sizes, start=1):
        name = f"model-{number:05}-of-{len(sizes):05}.safetensors"
        safetensors(folder / name, {f"layer.{number}": ("BF16", [size])})
        where[f"layer.{number}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def model(
    folder: Path,
    tensors: Tensors | None = TENSORS,
    *,
    tokenizer: bool = True,
    readme: str | None = README,
    **config: Any,
) -> Path:
    """A model folder as the Hub holds them.

    Args:
        folder: where to; made if missing.
        tensors: dtype and shape of what ``model.safetensors`` holds; no such file without.
        tokenizer: whether it has one.
        readme: text of the model card.
        config: further keys of config.json; None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in (LLAMA | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    if tensors is not None:
        safetensors(folder / "model.safetensors", tensors)
    if tokenizer:
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "tokenizer_config.json").write_text("{}")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return folder


@dataclass
class Klmap:
    """klmap's scripts in processes that see one Hub and nothing else.

    Attributes:
        hub: the Hub.
        folder: where they run; the cache and the token of the account are in ``home`` there.
        variables: of the environment of every script.
        xet: whether they may use the chunk service.
    """

    hub: Hub
    folder: Path
    variables: Mapping[str, str]
    xet: bool = False

    @property
    def home(self) -> Path:
        """HF_HOME of the scripts."""
        return self.folder / "home"

    def start(self, script: str, *options: object, **variables: str) -> subprocess.Popen[str]:
        """Begin a script."""
        environment = self.hub.environment(self.home, self.xet)
        return subprocess.Popen(
            [PYTHON, str(ROOT / "scripts" / script), *map(str, options)],
            env=environment | dict(self.variables) | variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(
        self, script: str, *options: object, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; ``stdout`` is all that it said."""
        with self.start(script, *options, **variables) as process:
            try:
                said, _ = process.communicate(timeout=100)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                raise AssertionError(f"{script} hangs: {said}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def upload(self, id: str, folder: Path, **values: Any) -> Repository:
        """Put a folder on the Hub."""
        self.hub.repositories[id] = Repository(folder, COMMIT, **values)
        return self.hub.repositories[id]

    def fill_cache(self, id: str, *names: str) -> None:
        """Download files of a model as a user would have done before, without klmap."""
        code = (
            "import sys; from huggingface_hub import hf_hub_download\n"
            "for name in sys.argv[2:]: hf_hub_download(sys.argv[1], name)"
        )
        subprocess.run(
            [PYTHON, "-c", code, id, *names],
            env=self.hub.environment(self.home),
            check=True,
            capture_output=True,
            timeout=60,
        )
