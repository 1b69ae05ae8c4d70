"""What the pages may ask of the model: JSON in, JSON out, one request at a time.

    GET  /api/status                                                    where the loading stands
    POST /api/load     {}                                               load the model, if nobody did
    POST /api/read     {dictionary, text}                               tokens, active latents, predictions
    POST /api/effects  {dictionary, text, position?, where?}   what each latent active there does
    POST /api/change   {dictionary, text, edits: [{latent, kind, value?, positions}]}   predictions before and after
    POST /api/steer    {dictionary, latent, text, amount, new_tokens, temperature?}     plain, pushed, control
    POST /api/example  {text, dictionary?, limit?}                      the latents most active on a text

What cannot be meant is answered with 400 and {"error": why}, an unknown dictionary with 404, and a model that is
not (or cannot be) loaded with 409, {"error": why, "status": ...}.
"""

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ...errors import SparsescopeError
from ..explored import Explored
from ..query import NotThere
from . import telling
from .asking import LARGEST_VALUE, MOST_EDITS, MOST_NEW_TOKENS, Fields
from .lab import Lab, NotReady, Status

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from ...features.browsing import Shelf
    from .changing import Edit

LARGEST_BODY = 64 * 1024
"""Bytes of a request."""
FOUND = 50
"""Latents that are given for an example text."""
Answer = Callable[[Lab, Explored, Fields], telling.JSON]


def routes(lab: Lab, explored: Explored) -> "list[Route]":
    """The addresses below /api, for a Starlette application."""
    import anyio
    from starlette.routing import Route

    # One request is worked on, and the others wait without a thread of their own.
    turn = anyio.CapacityLimiter(1)

    def asked(answer: Answer) -> "Callable[[Request], Awaitable[Response]]":
        async def respond(request: "Request") -> "Response":
            body = await _body(request)
            if body is None:
                return _json(413, {"error": f"a request may have {LARGEST_BODY:,} bytes: send a shorter text."})
            return _json(*await anyio.to_thread.run_sync(_answered, answer, lab, explored, body, limiter=turn))

        return respond

    async def status(request: "Request") -> "Response":
        return _json(200, telling.told_status(lab.status()))

    async def load(request: "Request") -> "Response":
        return _json(200, telling.told_status(lab.begin()))

    posts: dict[str, Answer] = {
        "read": answer_read,
        "effects": answer_effects,
        "change": answer_change,
        "steer": answer_steer,
        "example": answer_example,
    }
    return [
        Route("/api/status", status, methods=["GET"]),
        Route("/api/load", load, methods=["POST"]),
        *(Route(f"/api/{name}", asked(answer), methods=["POST"]) for name, answer in posts.items()),
    ]


def answer_read(lab: Lab, explored: Explored, fields: Fields) -> telling.JSON:
    """Tokens of a text with the latents active at each."""
    shelf, text = _shelf(explored, fields), fields.text("text")
    fields.end()
    with lab.using() as loaded:
        from .reading import read

        found = read(loaded, shelf.name, text)
    told = telling.told_reading(found, explored.browser(), shelf.id)
    return {"dictionary": explored.slug(shelf.id), **told}


def answer_effects(lab: Lab, explored: Explored, fields: Fields) -> telling.JSON:
    """What ablating each latent active at a position does to the next token."""
    shelf, text = _shelf(explored, fields), fields.text("text")
    position = fields.whole("position", -(2**31)) if fields.has("position") else -1
    everywhere = not fields.has("where") or fields.choice("where", ("everywhere", "here")) == "everywhere"
    fields.end()
    with lab.using() as loaded:
        from .effects import effects

        return telling.told_effects(effects(loaded, shelf.name, text, position, everywhere=everywhere))


def answer_change(lab: Lab, explored: Explored, fields: Fields) -> telling.JSON:
    """What is expected after each token, before and after some edits."""
    shelf, text = _shelf(explored, fields), fields.text("text")
    asked = fields.objects("edits", MOST_EDITS)
    fields.end()
    with lab.using() as loaded:
        from .changing import change

        return telling.told_change(*change(loaded, shelf.name, text, [_edit(each) for each in asked]))


def answer_steer(lab: Lab, explored: Explored, fields: Fields) -> telling.JSON:
    """What is written after a text, plainly and with a latent pushed."""
    shelf, text = _shelf(explored, fields), fields.text("text")
    latent, amount = fields.whole("latent"), fields.number("amount")
    new_tokens = fields.whole("new_tokens", 1, MOST_NEW_TOKENS)
    temperature = fields.number("temperature", 0.0, 10.0) if fields.has("temperature") else 0.0
    fields.end()
    with lab.using() as loaded:
        from .changing import steer

        found = steer(loaded, shelf.name, latent, text, amount, new_tokens, temperature=temperature)
    return telling.told_steered(found)


def answer_example(lab: Lab, explored: Explored, fields: Fields) -> telling.JSON:
    """The latents most active on a text, of one dictionary or of all that belong to the model."""
    text = fields.text("text")
    asked = [_shelf(explored, fields)] if fields.has("dictionary") else None
    limit = fields.whole("limit", 1, 1_000) if fields.has("limit") else FOUND
    fields.end()
    with lab.using() as loaded:
        from .reading import most_active

        every = [
            shelf for shelf in explored.shelves() if shelf.kind == "dictionary" and shelf.name in loaded.dictionaries
        ]
        shelves = every if asked is None else asked
        found = most_active(loaded, [shelf.name for shelf in shelves], text)
    numbers = {shelf.name: (shelf.id, explored.slug(shelf.id)) for shelf in shelves}
    return {"latents": telling.told_most(found, numbers, explored.browser(), limit)}


def _shelf(explored: Explored, fields: Fields) -> "Shelf":
    return explored.by_slug(fields.text("dictionary", 200))


def _edit(fields: Fields) -> "Edit":
    from .changing import Edit

    latent, kind = fields.whole("latent"), fields.choice("kind", ("ablate", "scale", "set", "add"))
    value = (
        0.0 if kind == "ablate" and not fields.has("value") else fields.number("value", -LARGEST_VALUE, LARGEST_VALUE)
    )
    position = fields.place("positions") if fields.has("positions") else None
    fields.end()
    return Edit(latent, kind, value, position)  # type: ignore[arg-type]


def _answered(answer: Answer, lab: Lab, explored: Explored, body: bytes) -> tuple[int, telling.JSON]:
    """Status and JSON of one request."""
    began = time.perf_counter()
    try:
        found = answer(lab, explored, Fields(body))
    except NotReady as refusal:
        return 409, {"error": not_ready(refusal.status), "status": telling.told_status(refusal.status)}
    except NotThere as refusal:
        return 404, {"error": str(refusal)}
    except SparsescopeError as refusal:
        return 400, {"error": str(refusal)}
    except sqlite3.Error as error:
        return 409, {"error": f"The feature database could not be read ({error}): reload the page."}
    return 200, {**found, "seconds": time.perf_counter() - began}


def not_ready(status: Status) -> str:
    """Why there is no model, in words."""
    if status.state == "failed":
        return f"The model could not be loaded: {status.reason}"
    if status.state == "loading":
        return f"The model is being loaded, for {status.seconds:.0f} s so far: wait, then ask again."
    return "The model is not loaded: ask for it first, with a POST to /api/load."


async def _body(request: "Request") -> bytes | None:
    """The body, None for one that is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def _json(status: int, value: telling.JSON) -> "Response":
    from starlette.responses import Response

    # Everything beyond ASCII is escaped: half a character cannot break the answer.
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("ascii"), status, media_type="application/json")
