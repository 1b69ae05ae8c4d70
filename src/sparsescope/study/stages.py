"""Running a study: harvest, train, fit, evaluate, report, each leaving an artifact in the run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..activations import ActivationStore, harvest, load_store
from ..artifact import Artifact, drafting, start, write_json
from ..metrics import evaluate_all
from ..models import LanguageModel, load_model
from ..text import Text, load_text
from ..training import train
from .controls import ControlWork, load_other_text
from .cost import Stages
from .directory import ACTIVATIONS, DICTIONARIES, EVALUATION, KIND, bring, load_dictionaries, open_run, seal
from .estimate import ANY_TOKENS, Cost, evaluation_cost, harvest_cost, training_cost
from .making import fit_all
from .pieces import Pieces
from .presentation import CONTEXTS, NUMBERS, facts_of, make_report, shown_contexts
from .recipe import Recipe, changed, read_recipe
from .tables import Train

Progress = Callable[[str, int, int], None]


def run_study(
    recipe: str | Path | Recipe,
    *,
    out: str | Path,
    activations: str | Path | None = None,
    dictionaries: Sequence[str | Path] = (),
    device: str | None = None,
    command: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    foretell: Callable[[Cost], None] | None = None,
    **changes: Any,
) -> Artifact:
    """Run all stages of a recipe into the directory `out`, and write its report there.

    `recipe` is the path of a TOML file, the name of a shipped one ("builtin:demo"), or a `Recipe`;
    `changes` take the place of its keys at the top (`model="builtin:tiny-random"`). `activations` and
    `dictionaries` are pieces made before: the store takes the place of harvesting, the dictionaries
    that of training and fitting. `command` is what the report names as the way to make it again.

    An interrupted study leaves `OUT.partial`; with `resume` it goes on where it stopped, and stages
    which are whole are not done again. `foretell` is called before work that starts afresh, with what it will cost.

    Raises `ConfigurationError`, `SiteError`, `ModelError` or `ArtifactError` before any work for a
    request that cannot be met; `StorageError` and `NumericalError` as the stages do.

        run = run_study("builtin:demo", out="runs/demo")
    """
    study = _prepare(recipe, activations, dictionaries, device, changes)
    pieces = study.pieces.inputs()
    settings = {**study.recipe.to_dict(), "pieces": sorted(pieces)}
    draft = start(out, KIND, settings, study.recipe.seed, study.inputs(), resume)
    if draft.done:
        return open_run(draft.out)
    with drafting(draft):
        if foretell and not draft.resumed:
            foretell(study.cost())
        store = study.run(draft.path, progress)
        facts = facts_of(study.recipe, study.model, store, command)
        make_report(draft.path, facts)
        return seal(draft, run=facts)


def _prepare(
    recipe: str | Path | Recipe,
    activations: str | Path | None,
    dictionaries: Sequence[str | Path],
    device: str | None,
    changes: dict[str, Any],
) -> "Study":
    """Open everything a study needs, and refuse what is missing, damaged or does not fit."""
    asked = changed(recipe, **changes) if isinstance(recipe, Recipe) else read_recipe(recipe, **changes)
    pieces = Pieces.open(activations, dictionaries)
    settled = pieces.settle(asked, changes)
    seed = settled.seed if pieces.store is None else pieces.store.seed
    model = load_model(settled.model, revision=settled.revision, dtype=settled.model_dtype, device=device, seed=seed)
    for site in settled.all_sites():
        model.check(site)
        if pieces.store is not None:
            pieces.store.width(site)  # a site that it lacks is refused here
    if pieces.store is not None:
        pieces.store.check_model(model)
        return Study(settled, pieces, model, None, ControlWork(settled, model, None, None))
    text = load_text(list(settled.text), seed=settled.seed)
    return Study(settled, pieces, model, text, ControlWork(settled, model, text, load_other_text(settled, text)))


@dataclass(frozen=True)
class Study:
    """A study whose inputs are open and checked. `text` is None where a store is given."""

    recipe: Recipe
    pieces: Pieces
    model: LanguageModel
    text: Text | None
    controls: ControlWork

    def inputs(self) -> dict[str, str]:
        """Fingerprints by role, for the run's manifest."""
        found = {"model": self.model.fingerprint, **self.pieces.inputs(), **self.controls.inputs()}
        return found if self.text is None else {**found, "text": self.text.fingerprint}

    def cost(self) -> Cost:
        """What the stages will take, from measuring a slice of the harvest and of the training."""
        recipe = self.recipe
        total = Cost(0, 0, 0)
        if self.text is not None:
            harvest = recipe.harvest
            sites = recipe.all_sites()
            total = harvest_cost(self.model, sites, recipe.tokens, recipe.context, harvest.batch, harvest.dtype)
        for block, site, _ in self._training():
            width = self.model.width(site if isinstance(site, str) else site[0])
            total = total.then(training_cost(width, block.members(), block.tokens, block.batch))
        total = total.then(self.controls.cost())
        evaluate = recipe.evaluate
        if evaluate.splice:
            held_out = (recipe.tokens or ANY_TOKENS) // 10  # one document in ten is a test document
            tokens = min(evaluate.splice_tokens or held_out, held_out)
            trained = sum(len(block.members()) for block, _, _ in self._training())
            fitted = len(recipe.site) * sum(len(block.members()) for block in recipe.fit)
            count = trained + fitted + len(self.pieces.dictionaries)
            total = total.then(evaluation_cost(self.model, count, tokens, recipe.context))
        return total

    def run(self, folder: Path, progress: Progress | None) -> ActivationStore:
        """All stages up to the evaluation, each skipped where it is whole."""
        stages = Stages(folder)
        with stages.measured("harvest"):
            store = self._harvest(folder / ACTIVATIONS, progress)
        if self.controls.reads:
            with stages.measured("harvest controls"):
                self.controls.harvest(folder, progress)
        with stages.measured("train"):
            self._train(folder / DICTIONARIES, store, progress)
        with stages.measured("fit"):
            self._fit(folder / DICTIONARIES, store, progress)
        if self.controls.trains:
            with stages.measured("train controls"):
                self.controls.train(folder, store, progress)
        with stages.measured("evaluate"):
            self._evaluate(folder, store, progress)
        return store

    def _harvest(self, out: Path, progress: Progress | None) -> ActivationStore:
        if self.text is None:
            assert self.pieces.store is not None
            bring(self.pieces.store.path, out)
            return load_store(out)
        recipe = self.recipe
        return harvest(
            self.model,
            self.text,
            recipe.all_sites(),
            tokens=recipe.tokens,
            context=recipe.context,
            seed=recipe.seed,
            out=out,
            resume=True,
            progress=progress,
            **asdict(recipe.harvest),
        )

    def _train(self, out: Path, store: ActivationStore, progress: Progress | None) -> None:
        for path in self.pieces.dictionaries:
            bring(path, out / path.resolve().name)
        for block, site, name in self._training():
            train(
                store,
                site,
                block.members(),
                seed=self.recipe.seed,
                out=out / name,
                resume=True,
                progress=progress,
                **block.schedule(),
            )

    def _fit(self, out: Path, store: ActivationStore, progress: Progress | None) -> None:
        for site, suffix in self.recipe.sites_and_suffixes():
            for block in self.recipe.fit:
                methods = block.members()
                outs = [out / f"{method.label()}{suffix}" for method in methods]
                fit_all(store, site, methods, outs, seed=self.recipe.seed, rows=block.rows, progress=progress)

    def _evaluate(self, folder: Path, store: ActivationStore, progress: Progress | None) -> None:
        paths = list(self._dictionaries(folder / DICTIONARIES))
        dictionaries = load_dictionaries(paths)
        settings = asdict(self.recipe.evaluate)
        config = {**settings, "dictionaries": [path.name for path in paths], "report": asdict(self.recipe.report)}
        inputs = {"activations": store.fingerprint, "model": self.model.fingerprint}
        draft = start(folder / EVALUATION, "evaluation", config, self.recipe.seed, inputs, resume=True)
        if draft.done:
            return
        with drafting(draft):
            model = self.model if settings.pop("splice") else None
            found = evaluate_all(dictionaries, store, model=model, seed=self.recipe.seed, progress=progress, **settings)
            entries = [each.to_dict() for each in found]
            for entry in entries:
                entry["path"] = Path(entry["path"]).relative_to(folder).as_posix()
            write_json(draft.path / NUMBERS, {"dictionaries": entries})
            shown = shown_contexts(self.recipe, dictionaries, entries, store, self.model, progress)
            write_json(draft.path / CONTEXTS, shown)
            draft.finish()

    def _dictionaries(self, folder: Path) -> Iterator[Path]:
        """The directories of dictionaries, in the order of the recipe."""
        for path in self.pieces.dictionaries:
            yield folder / path.resolve().name
        trained = list(self._training())
        for site, suffix in self.recipe.sites_and_suffixes():
            yield from (folder / name for _, at, name in trained if at == site)
            yield from (folder / f"{method.label()}{suffix}" for block in self.recipe.fit for method in block.members())
        yield from (folder / name for _, at, name in trained if not isinstance(at, str))

    def _training(self) -> Iterator[tuple[Train, str | tuple[str, str], str]]:
        """Each block of what is trained, the site or pair of sites it is trained at, and its directory."""
        for site, suffix in self.recipe.sites_and_suffixes():
            for block in self.recipe.train:
                if block.output_site is None:
                    yield block, site, f"{block.name}{suffix}"
        for block in self.recipe.train:
            if block.output_site is not None:
                yield block, self.recipe.pair(block), block.name
