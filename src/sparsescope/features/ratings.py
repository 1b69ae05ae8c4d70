"""What people answered about latents, in a run's feature database.

One row per rater, latent and question, so that a session which is cut off anywhere can go on. A first
answer stands: a form that is sent twice changes nothing.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import StorageError

INTRUDER, MEANING = "intruder", "meaning"
"""The two questions about a latent, in the order they are asked."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
  dictionary TEXT NOT NULL, latent INTEGER NOT NULL, rater TEXT NOT NULL, question TEXT NOT NULL,
  answer TEXT NOT NULL, time TEXT NOT NULL,
  PRIMARY KEY (dictionary, latent, rater, question)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Rating:
    """All that one person said of one latent. `time` is that of the last answer (UTC, ISO 8601).

    `found` tells whether the intruder was found (None: not asked, because the latent has no silent
    context), `monosemanticity` is 1 to 5 (None: not reached yet), `meaning` what was written, `picked`
    whether the sentence that was picked is one about this latent (None: none was offered, or none picked).
    """

    dictionary: str
    latent: int
    rater: str
    time: str
    found: bool | None = None
    monosemanticity: int | None = None
    meaning: str = ""
    picked: bool | None = None


class Ratings:
    """The answers in a database, given a connection to it. Every answer is one transaction.

    >>> answers = Ratings(sqlite3.connect(":memory:"))
    >>> answers.put("sae", 7, "ann", MEANING, {"monosemanticity": 4}, "2030-01-01T12:00:00Z")
    True
    >>> [(each.latent, each.monosemanticity) for each in answers.all()]
    [(7, 4)]
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        with _writing(), connection:
            connection.execute(_TABLE)

    def put(
        self, dictionary: str, latent: int, rater: str, question: str, answer: Mapping[str, Any], time: str
    ) -> bool:
        """Keep an answer, if the question is not answered yet; whether it was kept. Raises `StorageError`."""
        row = (dictionary, latent, rater, question, json.dumps(answer, ensure_ascii=False), time)
        with _writing(), self._connection:
            done = self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
        return done.rowcount == 1

    def take(self, other: "Ratings") -> int:
        """Copy the answers in another database, of a copy of the same run; how many were new."""
        rows = other._connection.execute(
            "SELECT dictionary, latent, rater, question, answer, time FROM answers"
        ).fetchall()
        with _writing(), self._connection:
            done = self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
        return done.rowcount if rows else 0

    def answered(self, rater: str) -> set[tuple[str, int, str]]:
        """(dictionary, latent, question) of everything that this rater has answered."""
        found = self._connection.execute("SELECT dictionary, latent, question FROM answers WHERE rater = ?", (rater,))
        return {(str(name), int(latent), str(question)) for name, latent, question in found}

    def all(self) -> list[Rating]:
        """What every rater said, by rater, dictionary and latent."""
        rows = self._connection.execute(
            "SELECT rater, dictionary, latent, question, answer, time FROM answers ORDER BY rater, dictionary, latent"
        )
        joined: dict[tuple[str, str, int], dict[str, Any]] = {}
        for rater, dictionary, latent, question, answer, time in rows:
            fields = joined.setdefault((rater, dictionary, latent), {"time": ""})
            fields["time"] = max(fields["time"], time)
            fields |= _fields(question, json.loads(answer))
        return [
            Rating(dictionary=dictionary, latent=latent, rater=rater, **fields)
            for (rater, dictionary, latent), fields in joined.items()
        ]


def _fields(question: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    if question == INTRUDER:
        return {"found": answer["chosen"] == answer["odd"]}
    picked = answer.get("picked")
    return {
        "monosemanticity": answer["monosemanticity"],
        "meaning": answer.get("meaning", ""),
        "picked": None if picked is None else bool(picked["own"]),
    }


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"the rating could not be written ({error}): free some space, or end what else writes to the feature "
            "database, and answer again. Earlier answers are kept."
        ) from error
