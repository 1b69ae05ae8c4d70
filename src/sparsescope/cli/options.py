"""The options of every command: one dataclass each, whose fields are flags and keys of `--config`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..study.members import AnyMethod
from .parse import option


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    json: bool = option("print the result as one JSON object on stdout, everything else on stderr", False)
    config: str | None = option("settings from a TOML file; flags win over it", None, metavar="FILE.toml")
    debug: bool = option("show the full traceback of an error", False)


@dataclass(frozen=True, kw_only=True)
class Long(Common):
    """What commands take that work for long."""

    resume: bool = option("go on with unfinished work in OUT.partial; does nothing where OUT is whole", False)


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Long):
    """`sparsescope study`."""

    out: str = option("directory of the run", metavar="RUN")
    config: str | None = option("recipe: a TOML file or a shipped one", "builtin:demo", metavar="FILE.toml")
    model: str | None = option("model directory, hub id, builtin:tiny or builtin:tiny-random", None, metavar="NAME")
    revision: str | None = option("branch, tag or commit of a hub model", None, metavar="REV")
    text: tuple[str, ...] | None = option("text file, directory, hub id, or builtin:docs", None, metavar="TEXT")
    site: tuple[str, ...] | None = option("which tensor to read, such as resid_post.2", None, metavar="SITE")
    tokens: int | None = option("tokens to harvest", None, metavar="N", least=1)
    context: int | None = option("tokens per context", None, metavar="N", least=1)
    activations: str | None = option("a store made before, in place of harvesting", None, metavar="DIR")
    dictionaries: tuple[str, ...] | None = option("dictionaries made before, in place of training", None, metavar="DIR")
    device: str | None = option("where the model runs: cpu, cuda, ...", None, metavar="NAME")
    seed: int | None = option(
        "seed of everything that is drawn at random (default: the recipe's)", None, metavar="N", least=0
    )


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Long):
    """`sparsescope demo`."""

    out: str = option("directory of the run", "runs/demo", metavar="RUN")
    seed: int | None = option(
        "seed of everything that is drawn at random (default: the recipe's)", None, metavar="N", least=0
    )


@dataclass(frozen=True, kw_only=True)
class HarvestOptions(Long):
    """`sparsescope harvest`."""

    model: str = option("model directory, hub id, builtin:tiny or builtin:tiny-random", metavar="NAME")
    text: tuple[str, ...] = option("text file, directory, hub id, or builtin:docs", metavar="TEXT")
    site: tuple[str, ...] = option("which tensor to read, such as resid_post.2", metavar="SITE")
    out: str = option("directory of the activations", metavar="DIR")
    tokens: int | None = option("tokens to read (default: the whole text)", None, metavar="N", least=1)
    context: int = option("tokens per context", 128, metavar="N", least=1)
    batch: int = option("contexts that the model reads at once", 32, metavar="N", least=1)
    dtype: Literal["float16", "bfloat16", "float32"] = option(
        "how activations are stored: float16, bfloat16 or float32", "float16", metavar="TYPE"
    )
    model_dtype: Literal["float16", "bfloat16", "float32"] = option("how the model computes", "float32", metavar="TYPE")
    bos: Literal["auto", "document", "context", "none"] = option(
        "begin-of-sequence tokens: auto, document, context or none", "auto", metavar="WHERE"
    )
    massive: Literal["keep", "drop"] = option(
        "keep or drop rows of over ten times the median norm", "keep", metavar="WHAT"
    )
    include_bos: bool = option("keep the rows of inserted BOS tokens", True)
    revision: str | None = option("branch, tag or commit of a hub model", None, metavar="REV")
    device: str | None = option("where the model runs: cpu, cuda, ...", None, metavar="NAME")
    seed: int = option("seed of the split, of generated text and of random weights", 0, metavar="N", least=0)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Long):
    """`sparsescope train`."""

    activations: str = option("the store to learn from", metavar="DIR")
    method: tuple[AnyMethod, ...] = option(
        "trained: tied_l1, untied_l1, p_anneal, gated, jumprelu, topk, batchtopk, matryoshka or transcoder; "
        "fitted: neurons, random, pca, ica or nmf",
        metavar="NAME",
    )
    out: str = option("directory of the dictionaries: DIR/0, DIR/1, ...", metavar="DIR")
    site: str | None = option("site of the store (default: its only one)", None, metavar="SITE")
    output_site: str | None = option("site that a transcoder reconstructs from --site", None, metavar="SITE")
    tokens: int | None = option("rows to train on; epochs repeat where the store has fewer", None, metavar="N", least=1)
    l1: tuple[float, ...] = option("weight of the L1 penalty", (), metavar="X")
    l0: tuple[float, ...] = option("weight of the L0 penalty of jumprelu", (), metavar="X")
    target_l0: tuple[float, ...] = option(
        "active latents per token to reach, in place of --l1 or --l0", (), metavar="X"
    )
    k: tuple[int, ...] = option(
        "active latents per token: of topk, batchtopk, matryoshka, transcoder, and of baselines in top-k form",
        (),
        metavar="K",
    )
    skip: bool = option("give a transcoder a linear path beside its latents", False)
    ratio: tuple[float, ...] = option("latents per dimension", (), metavar="X")
    n_latents: tuple[int, ...] = option("number of latents, in place of --ratio", (), metavar="N")
    member_seed: tuple[int, ...] = option("one dictionary for each such seed", (), metavar="N")
    batch: int = option("rows per step", 1024, metavar="N", least=1)
    lr: float | None = option("learning rate of Adam (default: from the width)", None, metavar="X")
    warmup: float = option("share of the steps over which the learning rate rises", 0.05, metavar="X")
    decay: float = option("share of the steps over which it falls to zero", 0.25, metavar="X")
    scale: bool = option("scale activations to unit mean square while training", True)
    precision: Literal["float32", "screened", "bf16"] = option(
        "of pre-activations: float32, screened (the same answers by cheaper products) or bf16", "float32", metavar="HOW"
    )
    device: str | None = option("where to train: cpu, cuda, ... (default: cpu)", None, metavar="NAME")
    kernels: Literal["auto", "compiled", "reference", "gpu"] = option(
        "who computes: auto, compiled, reference or gpu", "auto", metavar="WHO"
    )
    seed: int = option(
        "seed of initial weights, of the order of rows, and of what a baseline draws", 0, metavar="N", least=0
    )
    rows: int | None = option(
        "rows that a baseline is fitted on (default: the method's own)", None, metavar="N", least=1
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Common):
    """`sparsescope evaluate`."""

    dictionaries: tuple[str, ...] = option(
        "a dictionary, a directory of several, or a run", metavar="DIR", positional=True
    )
    activations: str = option("the store to measure on", metavar="DIR")
    model: str | None = option("the store's model, where it now lies elsewhere", None, metavar="NAME")
    split: Literal["validation", "test"] = option(
        "test, or validation while settings are being chosen", "test", metavar="SPLIT"
    )
    max_tokens: int | None = option("measure on so many tokens drawn at random", None, metavar="N", least=1)
    splice_tokens: int | None = option("run the model on so many of them", 16_384, metavar="N", least=1)
    splice: bool = option("measure the loss of the model with the reconstruction spliced in", True)
    elsewhere: bool = option("allow a store that the dictionaries were not made from: its text is other text", False)
    device: str | None = option("where the model runs: cpu, cuda, ...", None, metavar="NAME")
    out: str | None = option("also keep the numbers, as the artifact DIR", None, metavar="DIR")
    seed: int = option("seed of the bootstrap, and of the tokens that are drawn", 0, metavar="N", least=0)
    resume: bool = option("do nothing where --out already holds these numbers", False)


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Common):
    """`sparsescope report`."""

    seed: int = option("taken by every command; nothing here is drawn at random", 0, metavar="N", least=0)
    run: str = option("directory of the run", metavar="RUN", positional=True)
    out: str | None = option("directory for report.html and report.json (default: the run)", None, metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Common):
    """`sparsescope inspect`."""

    seed: int = option("taken by every command; nothing here is drawn at random", 0, metavar="N", least=0)
    path: str = option("any artifact: activations, dictionaries, an evaluation, a run", metavar="PATH", positional=True)
    verify: bool = option("compare every file with its checksum", True)
    out: str | None = option("also write what is printed with --json to the file DIR/inspect.json", None, metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Common):
    """`sparsescope bench`."""

    what: Literal["speed", "quality", "both"] = option(
        "speed (one step), quality (planted directions), or both", "both", metavar="WHAT"
    )
    quick: bool = option("leave out variations and most repeats: at most five minutes on two cores", False)
    n_latents: tuple[int, ...] = option("sizes of which a step is timed", (2048, 16384), metavar="N")
    d_in: int = option("width of the activations", 512, metavar="N", least=8)
    batch: int = option("rows per step", 4096, metavar="N", least=8)
    k: int = option("active latents per row", 32, metavar="K", least=1)
    rounds: int = option("samples of every contender", 5, metavar="N", least=1)
    library: tuple[str, ...] = option(
        "compare with this library alone: SAELens, dictionary_learning, sparsify or overcomplete", (), metavar="NAME"
    )
    seeds: int = option("planted worlds of each kind", 5, metavar="N", least=1)
    tokens: int = option("rows that planted dictionaries are trained on", 1_000_000, metavar="N", least=1)
    threads: int | None = option("threads of every process (default: all cores)", None, metavar="N", least=1)
    json_out: str | None = option("write every number to this file", None, metavar="FILE")
    out: str | None = option("write every number to the file DIR/bench.json", None, metavar="DIR")
    seed: int = option("of the first planted world; speed does not depend on it", 0, metavar="N", least=0)


def paths(names: tuple[str, ...] | None) -> tuple[Path, ...]:
    """Names as paths."""
    return tuple(Path(name) for name in names or ())
