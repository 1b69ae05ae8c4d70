"""What a study makes to be compared with: see `tables.Controls` for what is asked, `contents` for reading it.

RUN/controls/
  random-model/activations/, random-model/dictionaries/NAME/     of the model with its weights drawn anew
  frozen-decoder/dictionaries/NAME/                              on the run's own activations
  second-corpus/activations/                                     of the studied model on another text
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..activations import ActivationStore, harvest, load_store
from ..errors import ConfigurationError
from ..models import LanguageModel
from ..text import Text, load_text
from ..training import train
from .directory import ACTIVATIONS, CONTROLS, DICTIONARIES, FROZEN_DECODER, RANDOM_MODEL, SECOND_CORPUS
from .estimate import Cost, harvest_cost, training_cost
from .recipe import Recipe
from .tables import Train
from .twin import random_twin

Progress = Callable[[str, int, int], None]


def load_other_text(recipe: Recipe, text: Text) -> Text | None:
    """The second corpus of a recipe, if it asks for one.

    What is generated is drawn from the next seed: `builtin:docs` holds stories too, and those of `builtin:stories`
    of the same seed would be the very same. Raises `ConfigurationError` when it is `text` under another name.
    """
    names = recipe.controls.text
    if not names:
        return None
    other = load_text(list(names), seed=recipe.seed + 1)
    if other.fingerprint == text.fingerprint:
        raise ConfigurationError(
            f"controls.text ({other.name}) has the same content as text ({text.name}): give a second corpus."
        )
    return other


@dataclass(frozen=True)
class ControlWork:
    """The controls of a study whose inputs are open: `text` is what is studied, `other` the second corpus."""

    recipe: Recipe
    model: LanguageModel
    text: Text | None
    other: Text | None

    @property
    def reads(self) -> bool:
        """Whether there is anything to harvest."""
        return self.recipe.controls.model is not None or self.other is not None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.recipe.controls.model is not None or self.recipe.controls.frozen_decoder

    def inputs(self) -> dict[str, str]:
        """Fingerprints by role, for the run's manifest."""
        return {} if self.other is None else {f"{CONTROLS}/text": self.other.fingerprint}

    def harvest(self, folder: Path, progress: Progress | None) -> None:
        """The stores: of the random model at the recipe's sites, of the second corpus wherever something reads."""
        asked = self.recipe.controls
        if asked.model is not None:
            assert self.text is not None
            twin = random_twin(self.model, self.recipe.seed)
            self._read(
                twin, self.text, list(self.recipe.site), asked.tokens, folder / CONTROLS / RANDOM_MODEL, progress
            )
        if self.other is not None:
            out = folder / CONTROLS / SECOND_CORPUS
            self._read(self.model, self.other, self.recipe.all_sites(), asked.text_tokens, out, progress)

    def _read(
        self,
        model: LanguageModel,
        text: Text,
        sites: list[str],
        tokens: int | None,
        out: Path,
        progress: Progress | None,
    ) -> None:
        recipe = self.recipe
        harvest(
            model,
            text,
            sites,
            tokens=self._tokens(tokens),
            context=recipe.context,
            seed=recipe.seed,
            out=out / ACTIVATIONS,
            resume=True,
            progress=progress,
            **asdict(recipe.harvest),
        )

    def _tokens(self, asked: int | None) -> int | None:
        """As many as are asked for, and no more than the run itself reads."""
        known = [count for count in (asked, self.recipe.tokens) if count is not None]
        return min(known, default=None)

    def train(self, folder: Path, store: ActivationStore, progress: Progress | None) -> None:
        """The autoencoders; `store` is the run's own."""
        home = folder / CONTROLS
        if self.recipe.controls.model is not None:
            drawn = load_store(home / RANDOM_MODEL / ACTIVATIONS)
            self._train(drawn, self._block(), home / RANDOM_MODEL, progress)
        if self.recipe.controls.frozen_decoder:
            self._train(store, self._frozen_block(), home / FROZEN_DECODER, progress)

    def _train(self, store: ActivationStore, block: Train, home: Path, progress: Progress | None) -> None:
        for site, suffix in self.recipe.sites_and_suffixes():
            out = home / DICTIONARIES / f"{block.name}{suffix}"
            settings = {**block.schedule(), "seed": self.recipe.seed, "resume": True, "progress": progress}
            train(store, site, block.members(), out=out, **settings)

    def _block(self) -> Train:
        return self.recipe.controls.block(self.recipe.train)

    def _frozen_block(self) -> Train:
        return self.recipe.controls.frozen_block(self.recipe.train)

    def cost(self) -> Cost:
        """What the controls will take, from measuring a slice of the harvest and of the training."""
        recipe, asked = self.recipe, self.recipe.controls
        total = Cost(0, 0, 0)
        reading = [(list(recipe.site), asked.tokens)] if asked.model is not None else []
        reading += [(recipe.all_sites(), asked.text_tokens)] if self.other is not None else []
        for sites, tokens in reading:
            given = recipe.context, recipe.harvest.batch, recipe.harvest.dtype
            total = total.then(harvest_cost(self.model, sites, self._tokens(tokens), *given))
        blocks = [self._block()] if asked.model is not None else []
        blocks += [self._frozen_block()] if asked.frozen_decoder else []
        for block in blocks:
            for site in recipe.site:
                width = self.model.width(site)
                total = total.then(training_cost(width, block.members(), block.tokens, block.batch))
        return total
