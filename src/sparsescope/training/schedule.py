"""What changes during training: the learning rate, and the penalty of members that were asked for an L0."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import Self

from ..errors import ConfigurationError
from .methods import JumpReLU, Method


@dataclass(frozen=True)
class Schedule:
    """How an ensemble is trained; the same for all members.

    `tokens` rows are read in steps of `batch` (rounded up to whole steps). The learning rate rises
    linearly to `lr` over the first `warmup` share of the steps, and falls linearly to zero over the
    last `decay` share. Raises `ConfigurationError` when a value cannot be used.

    >>> Schedule(tokens=1_000_000, batch=1024, lr=1e-3, warmup=0.05, decay=0.25).steps
    977
    """

    tokens: int
    batch: int
    lr: float
    warmup: float
    decay: float

    def __post_init__(self) -> None:
        for key, value in (("tokens", self.tokens), ("batch", self.batch)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{key} = {value!r}, expected a whole number of 1 or more.")
        if not (isinstance(self.lr, (int, float)) and math.isfinite(self.lr) and self.lr > 0):
            raise ConfigurationError(f"lr = {self.lr!r}, expected a number above 0.")
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ConfigurationError(
                f"warmup = {self.warmup!r}, decay = {self.decay!r}: expected shares of the run, together at most 1."
            )

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch)

    def pace(self, step: int) -> float:
        """The learning rate of step 0, 1, ... as a share of `lr`: above 0 and at most 1."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rising, falling)

    def settings(self) -> dict[str, Any]:
        return asdict(self)


WINDOW = 5
"""Steps over which the controller averages L0: enough to quieten it, and little delay in the loop."""
PROPORTIONAL = 0.7
"""Change of the logarithm of the weight per unit of log(L0 / target). Above about 1 the loop swings at high rates."""
RESET = 0.05
"""Share of the run in which a lasting error moves the logarithm by as much again."""
LIMIT = 1.0
"""An error beyond a factor e counts as a factor e, so that a wild beginning does not wind the weight up."""
FIRST = 0.1
"""Where the weight starts, as a share of what it is expected to become."""
NOTHING = 3.0
"""When the logarithm has fallen so far below where it began, what is left of the penalty changes nothing."""

SPRING = 1.0
"""For a penalty on L0 itself: what the weight gains per unit of log(L0 / target), as a share of the first guess."""

JUDGED = 200
"""Steps of a run below which the controller moves in leaps, and nothing can be said of what it could reach."""


@dataclass
class L0Controller:
    """Moves the weight of a penalty until a member's L0 is the one asked for: a PI controller on its logarithm.

    More penalty means fewer active latents, after a delay of some tens of steps. `steps` is the length of
    the run. The weight comes from below: a latent that too much of it shuts off has no gradient to return by.

    A penalty on L0 itself is given a `spring` besides, so that its weight is negative while L0 is well below the
    target: then it lowers thresholds, which reconstruction alone does too slowly. That is the slope of a
    penalty (L0 / target − 1)², as in Rajamanoharan et al. 2024, added to the one on L0.

    >>> controller = L0Controller(target=16, steps=1000, log_weight=-5.0)
    >>> controller.update(32.0)
    >>> controller.weight > math.exp(-5.0)
    True
    """

    target: float
    steps: int
    log_weight: float
    push: float = 0.0
    smoothed: float | None = None
    """Running average of log L0."""
    first: float | None = None
    """Where the logarithm began."""
    spring: float = 0.0
    """Weight per unit of log(L0 / target) that comes on top, of either sign."""

    @classmethod
    def begin(cls, method: Method, steps: int, d: int, mean_square: float) -> Self:
        """A controller for activations of width `d`, with a first guess at the weight.

        With `target` latents sharing a row of squared norm d · mean_square, a code is about
        c = sqrt(d · mean_square / target). l1 takes l1 · d / 2 off it, which ends at about a third. Leaving
        the code out costs c² / d, of which an L0 penalty ends at about a tenth.
        """
        target = method.target_l0
        assert target is not None
        code = math.sqrt(d * mean_square / target)
        guess = 0.1 * code**2 / d if isinstance(method, JumpReLU) else 0.6 * code / d
        first = math.log(FIRST * guess)
        spring = SPRING * guess if isinstance(method, JumpReLU) else 0.0
        return cls(target, steps, first, first=first, spring=spring)

    @property
    def weight(self) -> float:
        return math.exp(self.log_weight + self.push) + self.spring * self.push / PROPORTIONAL

    def short_without_penalty(self) -> float | None:
        """L0, where it is well below the target though hardly any penalty is left; else None."""
        if self.steps < JUDGED or self.smoothed is None or self.first is None:
            return None
        if self.log_weight > self.first - NOTHING:
            return None
        l0 = math.exp(self.smoothed)
        return l0 if l0 < 0.85 * self.target else None

    def update(self, l0: float) -> None:
        """Take in the L0 of one batch."""
        seen = math.log(max(l0, self.target * math.exp(-LIMIT - 1)))
        self.smoothed = seen if self.smoothed is None else self.smoothed + (seen - self.smoothed) / WINDOW
        error = min(max(self.smoothed - math.log(self.target), -LIMIT), LIMIT)
        self.log_weight += PROPORTIONAL / (RESET * self.steps) * error
        self.push = PROPORTIONAL * error
