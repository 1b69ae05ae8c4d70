"""What several tests share: a very small model, text to read, and a store, made once per session."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each on two cores would mostly wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SITE = "resid_post.1"
WORDS = "the cat dog house river stone gave took walked said to from with quiet old red Mary John Anne"


def write_documents(path: Path, count: int, words: int = 220, seed: int = 0) -> Path:
    """A `.jsonl` of `count` documents made of a few words."""
    source = random.Random(seed)
    rows = (" ".join(source.choices(WORDS.split(), k=words)) + "." for _ in range(count))
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def write_model(path: Path, texts: list[str], seed: int = 0) -> Path:
    """A GPT-NeoX of random weights, 3 layers of width 32, with a byte-level BPE trained on `texts`."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end, unk_token=end)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 20,000 tokens in 80 documents."""
    return write_documents(tmp_path_factory.mktemp("text") / "words.jsonl", 80)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A `transformers` directory: GPT-NeoX, 3 layers of width 32, context limit 128, random weights."""
    return write_model(tmp_path_factory.mktemp("model") / "neox", text_file.read_text().splitlines())


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """Like `tiny_model_dir`, with other weights."""
    return write_model(tmp_path_factory.mktemp("model") / "other", text_file.read_text().splitlines(), seed=1)


@pytest.fixture(scope="session")
def _store_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, text_file: Path) -> Path:
    import sparsescope as ss

    out = tmp_path_factory.mktemp("store") / "acts"
    model = ss.load_model(str(tiny_model_dir))
    ss.harvest(model, ss.load_text(text_file), [SITE], tokens=16_000, out=out, context=32, batch=16, seed=0)
    return out


@pytest.fixture
def small_store(_store_dir: Path, tmp_path: Path) -> Path:
    """A whole store of 16,000 activations at `resid_post.1`; a copy of one's own, free to be damaged."""
    return Path(shutil.copytree(_store_dir, tmp_path / "acts"))


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What is on stdout, which must be one JSON object and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `sparsescope ARGUMENTS` in this process, as a program would see it."""
    from sparsescope.cli import main

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def program() -> Callable[..., "subprocess.Popen[str]"]:
    """Start `sparsescope ARGUMENTS` as a process of its own, warnings being errors."""

    def start(*arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-W", "error", "-m", "sparsescope", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a directory, to see that nothing was touched."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
