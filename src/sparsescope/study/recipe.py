"""A recipe: everything a study does, in one TOML file.

    model = "builtin:tiny"        # a key at the top is the flag of `sparsescope study` of the same name
    text = "builtin:docs"         # one, or a list
    site = "resid_post.2"         # one, or a list
    tokens = 500_000              # tokens to harvest, all splits together; without it the whole text
    context = 128
    seed = 0

    [harvest]                     # optional: see `Harvest`
    dtype = "float16"

    [[train]]                     # any number: autoencoders trained together, on the same batches
    method = ["tied_l1", "topk"]
    target_l0 = [8, 16, 32]       # for tied_l1, untied_l1, p_anneal, gated (or l1 = [...]), jumprelu (or l0 = [...])
    k = [8, 16, 32]               # for topk, batchtopk, matryoshka, transcoder
    ratio = [2, 4]                # every sparsity at every ratio is one dictionary
    tokens = 2_000_000

    [[train]]
    name = "transcoder"           # each of several [[train]] has a name of its own
    method = "transcoder"         # always apart from other methods
    site = "mlp_in.2"             # what it reads, where that is not the recipe's only site
    output_site = "mlp_out.2"     # what it reconstructs; both are harvested
    k = 32
    ratio = 8
    tokens = 2_000_000

    [[fit]]                       # any number: baselines, each in full and, for every k, in top-k form
    method = ["pca", "random"]
    k = [8, 16, 32]

    [evaluate]                    # optional: see `Evaluate`
    split = "test"

    [report]                      # optional: see `Report`
    latents = 8

The tables are the dataclasses below, and a key which is none of their fields is refused.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError, suggest
from ..sites import Site
from .members import SCHEDULE, Fitted, Trained, check_output_site, check_schedule, fitted_methods, trained_methods
from .strict import check_least, read_table, read_toml

if TYPE_CHECKING:
    from ..dictionaries import FitMethod
    from ..training import Method

_SHIPPED = Path(__file__).parents[1] / "recipes"
Dtype = Literal["float16", "bfloat16", "float32"]
Precision = Literal["float32", "screened", "bf16"]
Kernels = Literal["auto", "compiled", "reference", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """`[harvest]`: the settings of `sparsescope.harvest`."""

    batch: int = 32
    dtype: Dtype = "float16"
    bos: Literal["auto", "document", "context", "none"] = "auto"
    massive: Literal["keep", "drop"] = "keep"
    include_bos: bool = True


@dataclass(frozen=True, kw_only=True)
class Train:
    """One `[[train]]`: the settings of `sparsescope.train`, and lists that multiply into its members.

    `name` is the directory below `dictionaries/`; without `lr` it follows from the width. Autoencoders
    are trained at every site of the recipe; a transcoder reads `site`, which may be left out where the
    recipe has one site beside `output_site`, and reconstructs `output_site`.
    """

    method: tuple[Trained, ...]
    tokens: int
    name: str = "sae"
    site: str | None = None
    output_site: str | None = None
    skip: bool = False
    l1: tuple[float, ...] = ()
    l0: tuple[float, ...] = ()
    target_l0: tuple[float, ...] = ()
    k: tuple[int, ...] = ()
    ratio: tuple[float, ...] = ()
    n_latents: tuple[int, ...] = ()
    member_seed: tuple[int, ...] = ()
    batch: int = 1024
    lr: float | None = None
    warmup: float = 0.05
    decay: float = 0.25
    scale: bool = True
    precision: Precision = "float32"
    device: str | None = None
    kernels: Kernels = "auto"

    def members(self) -> "list[Method]":
        """The methods this block trains. Raises `ConfigurationError`."""
        check_output_site(self.method, self.output_site)
        if self.site is not None and self.output_site is None:
            raise ConfigurationError(f"site is for transcoder, not for {', '.join(self.method)}: leave it out.")
        return trained_methods(
            self.method,
            skip=self.skip,
            l1=self.l1,
            l0=self.l0,
            target_l0=self.target_l0,
            k=self.k,
            ratio=self.ratio,
            n_latents=self.n_latents,
            member_seed=self.member_seed,
        )

    def schedule(self) -> dict[str, Any]:
        """What is said once to `train`, for all members."""
        return {key: getattr(self, key) for key in SCHEDULE}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One `[[fit]]`: baselines. `rows` limits the activations that are read (default: the method's own).

    `ratio` is for `random` alone: its number of directions per dimension.
    """

    method: tuple[Fitted, ...]
    k: tuple[int, ...] = ()
    ratio: tuple[float, ...] = ()
    rows: int | None = None

    def members(self) -> "list[FitMethod]":
        """The methods this block fits. Raises `ConfigurationError`."""
        return fitted_methods(self.method, k=self.k, ratio=self.ratio)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """`[evaluate]`: the settings of `sparsescope.evaluate`. `splice = false` leaves the model out."""

    split: Literal["validation", "test"] = "test"
    max_tokens: int | None = None
    splice_tokens: int | None = 16_384
    splice: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """`[report]`: how many latents of how many dictionaries are shown with the contexts that excite them."""

    latents: int = 8
    contexts: int = 5
    dictionaries: int = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole study. Read one with `read_recipe`; `to_dict` gives the resolved settings back."""

    model: str
    text: tuple[str, ...]
    site: tuple[str, ...]
    name: str = "study"
    revision: str | None = None
    model_dtype: Dtype = "float32"
    tokens: int | None = None
    context: int = 128
    seed: int = 0
    harvest: Harvest = field(default_factory=Harvest)
    train: tuple[Train, ...] = ()
    fit: tuple[Fit, ...] = ()
    evaluate: Evaluate = field(default_factory=Evaluate)
    report: Report = field(default_factory=Report)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, as JSON."""
        return dataclasses.asdict(self)

    def pair(self, block: Train) -> tuple[str, str]:
        """The input and output site of a block of transcoders. Raises `ConfigurationError` where that is open."""
        assert block.output_site is not None
        others = [site for site in self.site if site != block.output_site]
        if block.site is None and len(others) != 1:
            found = " or ".join(others) or "no other site of the recipe"
            raise ConfigurationError(
                f"a transcoder to {block.output_site} could read {found}: say which with its own site."
            )
        return block.site or others[0], block.output_site

    def all_sites(self) -> list[str]:
        """The recipe's sites, then what only its transcoders read or reconstruct."""
        pairs = [site for block in self.train if block.output_site is not None for site in self.pair(block)]
        return list(dict.fromkeys([*self.site, *pairs]))

    def check(self, where: str) -> None:
        """Refuse what can be known to be wrong before anything is loaded."""
        if not self.text or not self.site:
            raise ConfigurationError(f"{where}: text and site need at least one entry each.")
        self._check_numbers(where)
        blocks: list[tuple[str, Train | Fit]] = [(f"train[{i}]", block) for i, block in enumerate(self.train)]
        blocks += [(f"fit[{i}]", block) for i, block in enumerate(self.fit)]
        for table, block in blocks:
            try:
                block.members()
                if isinstance(block, Train):
                    check_schedule(block.schedule())
                    if block.output_site is not None:
                        self.pair(block)
                elif block.rows is not None:
                    check_least(block.rows, 1, "rows")
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {table}: {error}") from None
        for site in self.all_sites():
            Site.parse(site)
        names = [block.name for block in self.train]
        labels = [*names, *(method.label() for block in self.fit for method in block.members())]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigurationError(
                f"{where}: two parts of the run are called {twice[0]!r}: give every [[train]] a `name` of its own, "
                "and ask for every baseline once."
            )
        wrong = [name for name in names if Path(name).name != name or name.startswith(".")]
        if wrong:
            raise ConfigurationError(f"{where}: train.name = {wrong[0]!r} is no name of a directory.")

    def _check_numbers(self, where: str) -> None:
        tables = {"": self, "harvest.": self.harvest, "evaluate.": self.evaluate, "report.": self.report}
        for table, keys, least in _LEAST:
            for key in keys:
                if (value := getattr(tables[table], key)) is not None:
                    check_least(value, least, f"{where}: {table}{key}")


_LEAST = (
    ("", ("tokens", "context"), 1),
    ("", ("seed",), 0),
    ("harvest.", ("batch",), 1),
    ("evaluate.", ("max_tokens", "splice_tokens"), 1),
    ("report.", ("latents", "dictionaries"), 0),
    ("report.", ("contexts",), 1),
)
"""Tables, keys of them, and the smallest number that they may be."""


def recipes() -> list[str]:
    """The recipes which ship with the package: 'builtin:demo', ..."""
    return sorted(f"builtin:{file.stem}" for file in _SHIPPED.glob("*.toml"))


def read_recipe(source: str | Path, **changes: Any) -> Recipe:
    """Read a recipe: the path of a TOML file, or the name of a shipped one such as 'builtin:demo'.

    `changes` take the place of keys at the top; None leaves a key as it is. Raises
    `ConfigurationError`, naming the file and the key, for anything that cannot be used.

    >>> read_recipe("builtin:demo", site=["resid_post.1"]).site
    ('resid_post.1',)
    """
    name = str(source)
    if name.startswith("builtin:"):
        if name not in recipes():
            raise ConfigurationError(
                f"unknown recipe {name!r}: expected one of {', '.join(recipes())}.{suggest(name, recipes())}"
            )
        source = _SHIPPED / f"{name.removeprefix('builtin:')}.toml"
    table = {"name": Path(source).stem, **read_toml(source), **_given(changes)}
    recipe = read_table(Recipe, table, name)
    recipe.check(name)
    return recipe


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with some keys at the top replaced; None leaves a key as it is. Raises `ConfigurationError`."""
    made = replace(recipe, **_given(changes))
    made.check(made.name)
    return made


def _given(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if value is not None}
