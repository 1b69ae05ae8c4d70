"""A prepared run of any size with known truth, made without a model: what the explorer is tried on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError
from ..features.cards import (
    mark_prepared,
    put_cards,
    put_matches,
    put_overview,
    put_simulations,
    put_vocabulary,
)
from ..features.database import FeatureDatabase
from ..features.fragments import LENGTH, Fragments
from ..text import Tokens
from .explored_files import DICTIONARIES, SITE, write_files
from .explored_latents import Block
from .explored_world import FEWEST, Vocabulary, World

_BLOCK = 1_000  # latents made at a time
Progress = Callable[[str, int, int], None]


def world_of(latents: int, *, seed: int = 0, hostile: bool = False) -> World:
    """The truth behind `make_run` with the same arguments.

    >>> world = world_of(60)
    >>> world.vocabulary.texts[int(world.favourites(0, 0)[0][0])]
    ')'
    """
    vocabulary = Vocabulary(int(np.clip(latents // 20, FEWEST, 5_000)), hostile)
    return World(vocabulary, int(np.clip(latents // 50, 40, 2_000)), seed)


def make_run(
    path: str | Path,
    *,
    latents: int = 100_000,
    dictionaries: int = 2,
    seed: int = 0,
    hostile: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make the directory of a run with `dictionaries` of `latents` latents each, ready to be explored.

    Everything in its features.sqlite follows from `world_of` with the same arguments: latent i of the first
    dictionary fires on token i of the vocabulary most. With `hostile`, tokens, explanations and names hold
    every text that a page could trip over. There is no model and there are no activations: live parts and
    `explain` have nothing to work on. 60 latents take half a second, 100,000 a few minutes.

    Raises `ConfigurationError` for a directory that is there, or numbers that cannot be meant.
    """
    path = Path(path)
    if latents < 1 or not 1 <= dictionaries <= len(DICTIONARIES):
        raise ConfigurationError(
            f"{dictionaries} dictionaries of {latents} latents were asked for: expected 1 to {len(DICTIONARIES)} of "
            "at least one."
        )
    if path.exists():
        raise ConfigurationError(f"{path} is there already: choose another directory, or delete it.")
    path.mkdir(parents=True)
    world = world_of(latents, seed=seed, hostile=hostile)
    names = [name + (" <script>alert(4)</script>\u202e" if hostile else "") for name, _, _ in DICTIONARIES]
    with FeatureDatabase.create(path / "features.sqlite") as database:
        database.connection.execute("PRAGMA synchronous = OFF")  # what is cut off is made again from nothing
        fragments = fragments_of(world)
        with database.transaction():
            database.put_corpus(fragments, world.vocabulary)
            put_vocabulary(database, world.vocabulary.texts)
        numbers = [
            _put_dictionary(database, world, fragments, place, names[place], latents, progress)
            for place in range(dictionaries)
        ]
        with database.transaction():
            for place in range(1, dictionaries):
                put_matches(database, numbers[0], numbers[place], planted_pairs(latents, place))
        write_files(path, database, names[:dictionaries], latents, hostile)
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def planted_pairs(latents: int, place: int) -> list[tuple[int, int, float]]:
    """How latents of the first dictionary are matched with those of the one at `place`: nine in ten of them."""
    return [
        (latent, (latent + place) % latents, round(1 - (latent % 97) / 100, 2))
        for latent in range(latents)
        if latent % 10
    ]


def _put_dictionary(
    database: FeatureDatabase,
    world: World,
    fragments: Fragments,
    place: int,
    name: str,
    latents: int,
    progress: Progress | None,
) -> int:
    """All of one dictionary, in one transaction; its number in the database."""
    _, method, kind = DICTIONARIES[place]
    with database.transaction():
        number = database.put_dictionary(name, method, SITE, {"kind": kind})
        for begin in range(0, latents, _BLOCK):
            block = Block(world, fragments, place, range(begin, min(begin + _BLOCK, latents)), latents)
            database.put_latents(number, block.gathered(name, method), block.statistics(), keep=True)
            database.put_explanations(number, "rules", block.explanations())
            for score, values in block.scores().items():
                database.put_scores(number, "rules", score, values)
            for slot in ("top", "active"):
                put_simulations(database, number, slot, block.simulations(slot))
            put_cards(database, number, block.cards(number), block.details(), keep=True)
            if progress:
                progress(name, block.latents.stop, latents)
        put_overview(database, number)
        mark_prepared(database, number, {"made by": "bench.explored_run"})
    return number


def fragments_of(world: World) -> Fragments:
    """The text of the world as the feature database takes it."""
    real = world.ids >= 0
    ids = torch.from_numpy(np.where(real, world.ids, 0))
    document = np.repeat(np.arange(len(world.ids)) // 3, LENGTH).reshape(real.shape)
    plain: Any = torch.zeros(real.shape, dtype=torch.long)
    tokens = Tokens(
        ids=ids,
        document=torch.from_numpy(np.where(real, document, -1)),
        source=plain,
        start=plain,
        end=plain,
        bos=plain.bool(),
        split=torch.full((len(real),), 2),
    )
    return Fragments(
        tokens=tokens,
        split="test",
        ids=ids.numpy().astype(np.int32),
        real=real,
        known=real,
        context=np.arange(len(real)),
        start=np.zeros(len(real), np.int64),
        length=world.lengths.astype(np.int64),
        document=document[:, 0],
        coverage=1.0,
    )
