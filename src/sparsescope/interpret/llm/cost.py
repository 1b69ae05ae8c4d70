"""What requests will cost, said before the first is sent."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .request import Request

_PART = re.compile(r"[^\W\d_]+|\d+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, read and written, in any currency."""

    input: float
    output: float


@dataclass(frozen=True)
class Cost:
    """Requests still to be sent and those answered before; tokens, estimated from the text; price if prices are known.

    `output_tokens`, and so `price`, is what the requests allow at most, without retries.

    >>> print(Cost(2, 1, 1000, 100, 0.25) + Cost(1, 0, 500, 50, 0.125))
    3 requests (1 answered before): about 1,500 tokens in, at most 150 out, at most 0.38
    """

    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    price: float | None = None

    def __add__(self, other: "Cost") -> "Cost":
        price = None if self.price is None or other.price is None else self.price + other.price
        return Cost(
            self.requests + other.requests,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            price,
        )

    def __str__(self) -> str:
        price = "" if self.price is None else f", at most {self.price:,.2f}"
        return (
            f"{self.requests:,} requests ({self.cached:,} answered before): about {self.input_tokens:,} tokens in, "
            f"at most {self.output_tokens:,} out{price}"
        )


def cost_of(requests: Iterable[Request], cached: int, prices: Prices | None) -> Cost:
    """The cost of sending these requests, each once."""
    count, given, taken = 0, 0, 0
    for request in requests:
        count += 1
        given += count_tokens(request.prompt)
        taken += int(request.body["max_tokens"])
    price = None if prices is None else (given * prices.input + taken * prices.output) / 1e6
    return Cost(count, cached, given, taken, price)


def count_tokens(text: str) -> int:
    """About how many tokens a text has, whose tokenizer is not known: on the high side for English.

    A word counts one for each 5 letters begun, a number one for each 2 digits, white space nothing where a
    single space leads a word, every other character one, and one more where it takes three bytes or more.

    >>> count_tokens("The cat sat on the mat."), count_tokens("internationally 1234")
    (7, 5)
    """
    count = 0
    for part in _PART.findall(text):
        if part.isalpha():
            count += -(-len(part.encode()) // 5)
        elif part.isdigit():
            count += -(-len(part) // 2)
        elif part != " ":
            count += 1 if part.isspace() or len(part.encode()) < 3 else 2
    return count
