"""`sparsescope rate`: serve the page on which people rate latents; and the tables of their agreement."""

import math
import webbrowser
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Common
from .parse import option

if TYPE_CHECKING:
    from rich.table import Table

    from ..features.ratings import Rating
    from ..interpret.agreement import Agreement
    from ..metrics.statistics import Estimate
    from .console import Console

PLANNED = 0.6  # the rank correlation for which the precision to expect is told


@dataclass(frozen=True, kw_only=True)
class RateOptions(Common):
    """`sparsescope rate`."""

    run: str = option("directory of the run, with contexts collected by 'explain'", metavar="RUN", positional=True)
    rater: str | None = option("who rates; without it the page asks, and several people can rate", None, metavar="NAME")
    latents: int = option("latents that each rater gets", 80, metavar="N", least=1)
    shared: int = option("of these, how many are the same for all raters", 40, metavar="N", least=0)
    dictionary: tuple[str, ...] = option("rate latents of this dictionary alone (default: of all)", (), metavar="NAME")
    explainer: str = option("whose explanations are offered for picking", "rules", metavar="NAME")
    merge: tuple[str, ...] = option("take in the ratings of a copy of this run, and serve nothing", (), metavar="RUN")
    port: int = option("port of 127.0.0.1 to listen at; 0 takes a free one", 8377, metavar="N", least=0)
    open: bool = option("open the page in the web browser", False)
    seed: int = option("of which latents are drawn, and in which order they come", 0, metavar="N", least=0)
    out: str | None = option("when done, also write all ratings to the file DIR/ratings.json", None, metavar="DIR")


def run_the_rating(options: RateOptions, console: "Console", command: str) -> None:
    """Serve the page until Ctrl-C, or take in ratings made elsewhere; then say who rated how much."""
    from ..artifact import write_json
    from ..explorer.rating.material import opened

    with opened(options.run, options.explainer) as (material, ratings):
        for other in options.merge:
            with opened(other) as (_, theirs):
                console.say(f"{ratings.take(theirs):,} new answers from {other}")
        if not options.merge:
            material.check_explainer()
            _serve(options, console)
        found = ratings.all()
    if options.out:
        write_json(Path(options.out) / "ratings.json", {"ratings": [asdict(each) for each in found]})
    counts = _counts(found)
    console.result({"run": options.run, "raters": counts}, rating_table(counts))


def _serve(options: RateOptions, console: "Console") -> None:
    from ..explorer.rating.material import opened
    from ..explorer.rating.serving import RatingServer
    from ..explorer.rating.session import RatingSession

    session = RatingSession(
        lambda: opened(options.run, options.explainer),
        latents=options.latents,
        shared=min(options.shared, options.latents),
        dictionaries=options.dictionary or None,
        seed=options.seed,
    )
    server = RatingServer(session, rater=options.rater, port=options.port)
    _announce(server, session, options, console)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.say("stopped: every answer is kept. Run the same command to go on.")
    finally:
        server.server_close()


def _announce(server: Any, session: Any, options: RateOptions, console: "Console") -> None:
    from ..interpret.agreement import FEWEST, expected_interval

    latents = min(options.latents, len(session.places))
    if latents > FEWEST:
        low, high = expected_interval(PLANNED, latents)
        console.say(
            f"{latents} latents for each rater. If a score and people correlate by {PLANNED}, so many latents give "
            f"an interval of about {low:.2f} to {high:.2f} from one rater.",
            style="dim",
        )
    console.say(f"rate at {server.url} (Ctrl-C stops; every answer is kept at once)")
    if options.open:
        webbrowser.open(server.url)


def _counts(found: "list[Rating]") -> dict[str, dict[str, int]]:
    """How many latents each rater graded, and of how many they found the intruder."""
    graded = Counter(each.rater for each in found if each.monosemanticity is not None)
    asked = Counter(each.rater for each in found if each.found is not None)
    right = Counter(each.rater for each in found if each.found)
    return {
        rater: {"rated": graded[rater], "intruders_asked": asked[rater], "intruders_found": right[rater]}
        for rater in sorted({each.rater for each in found})
    }


def rating_table(counts: dict[str, dict[str, int]]) -> "Table | str":
    """Raters, and how far they are."""
    from .console import table

    if not counts:
        return "nobody has rated yet"
    rows = [
        [_name(name), str(of["rated"]), f"{of['intruders_found']} of {of['intruders_asked']}"]
        for name, of in counts.items()
    ]
    return table(["rater", "latents rated", "intruders found"], rows)


def agreement_tables(grades: "Agreement", intruders: "Agreement", found: "Estimate") -> "list[Table | str]":
    """What `explain --agreement` shows: scores with people, people with people, and intruders found.

    `grades` is the agreement on monosemanticity, `intruders` that on whether the intruder was found.
    """
    from .console import table

    if not grades.rated:
        return ["nobody has rated latents of this run yet: sparsescope rate RUN"]
    scores = [
        [name, *_cells(estimate), *_cells(intruders.with_people[name])] for name, estimate in grades.with_people.items()
    ]
    people = [
        *([" and ".join(map(_name, pair)), *_cells(estimate)] for pair, estimate in grades.pairs.items()),
        *([f"{_name(rater)} and the mean of the others", *_cells(each)] for rater, each in grades.with_others.items()),
        *([["mean over pairs", *_cells(grades.between_people)]] if grades.pairs else []),
    ]
    share = _cells(found)
    return [
        table(["score", "ρ with grade (95%)", "latents", "ρ with intruder found (95%)", "latents"], scores),
        "",
        table(["people", "ρ of their grades (95%)", "latents"], people)
        if people
        else "no two people rated the same latents: nothing is known of how well people agree",
        f"\nintruders found: {share[0]} over {share[1]} latents (guessing finds 0.20)",
    ]


def _name(rater: str) -> str:
    """A name for the terminal. The page takes no other, but a database may come from anywhere."""
    return rater if rater.isprintable() else ascii(rater)


def _cells(estimate: "Estimate") -> list[str]:
    if not math.isfinite(estimate.value):
        return ["–", str(estimate.n)]
    return [f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]", str(estimate.n)]
