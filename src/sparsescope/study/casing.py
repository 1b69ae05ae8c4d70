"""Case studies over a run: one latent of one of its dictionaries, looked at from all sides; or a search for one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..causal.cases.activity import Activity, activity
from ..causal.cases.finding import Candidate, find_latents, token_ids
from ..causal.cases.histogram import histogram
from ..causal.cases.logit_lens import logit_lens
from ..causal.cases.minimal_contexts import minimal_contexts
from ..causal.cases.output_effect import output_effect
from ..causal.cases.tree import Limits, Tree, check_chain, grow_tree
from ..causal.cases.windows import strong_windows
from ..causal.interventions.places import check_latents
from ..dictionaries import Dictionary
from ..errors import ConfigurationError, suggest
from ..features.coding import site_of
from ..features.fragments import pieces
from ..models import LanguageModel
from ..report.contexts import top_contexts
from ..sites import Site
from .contents import Contents, load_run_model, read_run

Progress = Callable[[str, int, int], None]
WINDOWS, MINIMAL, SHOWN = 40, 6, 6
_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """What a case study looks at: `windows` for the output effect, whether to grow a `tree`, through which `sites`
    (default: those of the target's kind that the run has a dictionary at), and its limits."""

    windows: int = WINDOWS
    tree: bool = False
    sites: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    seed: int = 0


def study_latent(
    run: str | Path,
    name: str,
    latent: int,
    settings: CaseSettings | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Everything about one latent, as JSON: what `report.case_page` draws.

    `name` is the name of a dictionary of the run, or a site at which it has only one. Raises `ConfigurationError`
    for an unknown dictionary or latent, for one that is never active on held-out text, and for a tree in a
    run whose dictionaries are all at one site.

        found = study_latent("runs/demo", "topk-k_16-x4", 7)
    """
    settings = settings or CaseSettings()
    contents = read_run(run)
    name, dictionary = named(contents, name)
    site = site_of(dictionary, None)
    check_latents(dictionary, [latent])
    chain = chain_of(contents, name, settings.sites) if settings.tree else {}
    model = load_run_model(contents.run)
    store, tokens = contents.store, contents.store.contexts("test")
    found = activity(dictionary, store, [latent], tokens=tokens, progress=progress)[latent]
    length, seed = settings.limits.length, settings.seed
    windows = strong_windows(model, dictionary, store, found, settings.windows, tokens=tokens, length=length, seed=seed)
    spread = np.linspace(0, len(windows) - 1, min(MINIMAL, len(windows))).round().astype(int)
    tree = None
    if settings.tree:
        tree = grow_tree(model, chain, store, latent, limits=settings.limits, seed=seed, progress=progress)
    effect = output_effect(model, dictionary, latent, windows, seed=seed)
    least = minimal_contexts(model, dictionary, latent, windows.take(np.unique(spread)))
    case = {
        **_facts(contents, model, name, dictionary, found, len(windows)),
        "contexts": _contexts(contents, dictionary, model, latent, progress),
        "histogram": histogram(found).to_dict(),
        "output_effect": effect.to_dict(),
        "logit_lens": _lens(model, dictionary, site, latent),
        "minimal_contexts": [each.to_dict() for each in least],
        "tree": None if tree is None else _told(tree, chain, contents),
    }
    return _with_texts(case, model)


def look_for(run: str | Path, name: str, token: str, *, wanted: int = 8, progress: Progress | None = None) -> Any:
    """The latents of a dictionary that go best with a token: (name of the dictionary, candidates)."""
    contents = read_run(run)
    name, dictionary = named(contents, name)
    model = load_run_model(contents.run)
    ids = token_ids(model.tokenizer, model.vocabulary, token)
    found: list[Candidate] = find_latents(dictionary, contents.store, ids, wanted=wanted, progress=progress)
    return name, found


def named(contents: Contents, name: str) -> tuple[str, Dictionary]:
    """The dictionary of that name, or the only one at the site of that name.

    Raises `ConfigurationError` when there is none, or several, or when it has two sites.
    """
    at = {key: each.provenance.site for key, each in contents.dictionaries.items()}
    matching = [name] if name in at else [key for key, site in at.items() if site == name]
    if len(matching) > 1:
        raise ConfigurationError(
            f"{contents.path} has several dictionaries at {name}: name one of {', '.join(matching)}."
        )
    if not matching:
        hint = suggest(name, [*at, *(site for site in at.values() if site)])
        raise ConfigurationError(
            f"{contents.path} has no dictionary {name!r}.{hint} Name one of {', '.join(at)}, or a site that has a "
            "single one."
        )
    dictionary = contents.dictionaries[matching[0]]
    if dictionary.two_sites:
        raise ConfigurationError(
            f"{matching[0]} reads one site and writes another: a case study ablates a latent where it is read. "
            "Choose a dictionary of one site."
        )
    return matching[0], dictionary


def chain_of(contents: Contents, name: str, sites: Sequence[str] = ()) -> dict[str, Dictionary]:
    """The dictionaries of a tree by site, target last: at `sites`, or at the sites of the target's kind.

    Where a site has several dictionaries, the one whose method and size are those of the target is taken.
    """
    target = contents.dictionaries[name]
    last = site_of(target, None)
    held = {str(each.provenance.site) for each in contents.dictionaries.values() if not each.two_sites}
    for site in sites:
        if site not in held:
            raise ConfigurationError(
                f"{contents.path} has no dictionary at {site}.{suggest(site, held)} It has some at "
                f"{', '.join(sorted(held))}."
            )
    quantity = Site.parse(last).quantity
    alike = [site for site in held if Site.parse(site).quantity == quantity and quantity != "module"]
    before = [site for site in sites if site != last]
    if not sites:
        before = [site for site in alike if Site.parse(site).precedes(Site.parse(last)) and site != last]
        before.sort(key=lambda site: Site.parse(site).layer or 0)
    check_chain([*before, last])
    return {**{site: _like(contents, target, site) for site in before}, last: target}


def _like(contents: Contents, target: Dictionary, site: str) -> Dictionary:
    """The dictionary at a site that resembles the target most: by name, method, sparsity and size."""
    there = [each for each in contents.dictionaries.values() if each.provenance.site == site and not each.two_sites]

    def difference(each: Dictionary) -> tuple[bool, bool, bool, int]:
        one, other = each.provenance, target.provenance
        sparsity = (one.k, one.l1, one.target_l0) != (other.k, other.l1, other.target_l0)
        return one.name != other.name, each.method != target.method, sparsity, abs(each.n_latents - target.n_latents)

    return min(there, key=difference)


def _facts(
    contents: Contents, model: LanguageModel, name: str, dictionary: Dictionary, found: Activity, windows: int
) -> dict[str, Any]:
    return {
        "run": str(contents.path),
        "model": model.name,
        "dictionary": {
            "name": name,
            "method": dictionary.method,
            "site": dictionary.provenance.site,
            "n_latents": dictionary.n_latents,
        },
        "latent": found.latent,
        "split": "test",
        "activations": found.rows,
        "active": len(found),
        "density": found.density,
        "maximum": found.maximum,
        "windows": windows,
        "tokens": [list(pair) for pair in found.top_tokens(8)],
    }


def _contexts(
    contents: Contents, dictionary: Dictionary, model: LanguageModel, latent: int, progress: Progress | None
) -> list[dict[str, Any]]:
    found = top_contexts(
        dictionary,
        contents.store,
        model.tokenizer,
        latents=[latent],
        contexts=SHOWN,
        max_tokens=None,
        progress=progress,
    )
    return found["latents"][0]["contexts"]


def _lens(model: LanguageModel, dictionary: Dictionary, site: str, latent: int) -> dict[str, Any] | None:
    """The logit lens, where the latent writes to the residual stream and the model has a head."""
    matrix = model.unembedding()
    if matrix is None or Site.parse(site).quantity not in _STREAM or matrix.shape[0] != dictionary.d_out:
        return None
    return logit_lens(dictionary.directions[latent], matrix).to_dict()


def _told(tree: Tree, chain: Mapping[str, Dictionary], contents: Contents) -> dict[str, Any]:
    """A tree with the names of its dictionaries."""
    names = {id(each): key for key, each in contents.dictionaries.items()}
    return {**tree.to_dict(), "dictionaries": {site: names[id(each)] for site, each in chain.items()}}


def _with_texts(case: dict[str, Any], model: LanguageModel) -> dict[str, Any]:
    """The case with the text of every token id in it, under "texts", and of every minimal context, token by token."""
    ids = {number for number, _ in case["tokens"]} | set(case["histogram"]["tokens"])
    effect, lens, tree = case["output_effect"], case["logit_lens"], case["tree"]
    ids |= {each["token"] for each in effect["lowered"] + effect["raised"]}
    ids |= {number for number, _ in (lens["lowered"] + lens["raised"] if lens else [])}
    ids |= {number for node in (tree["nodes"] if tree else []) for number, _ in node["tokens"]}
    texts = {str(number): pieces(model.tokenizer, [number])[0] for number in sorted(ids)}
    least = [{**each, "texts": pieces(model.tokenizer, each["ids"])} for each in case["minimal_contexts"]]
    return {**case, "minimal_contexts": least, "texts": texts}
