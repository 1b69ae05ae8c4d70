"""The client against a server that injects every fault: what is retried, what stops all, what is kept."""

import logging
import sqlite3
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fault_server import Asked, FaultServer, Say, Script, never_answering, text

from sparsescope.errors import ArtifactError, ClientError, ConfigurationError, StorageError
from sparsescope.interpret.llm import Client, Prices
from sparsescope.interpret.llm.backoff import retry_after
from sparsescope.interpret.llm.cache import Cache
from sparsescope.interpret.llm.client import Failed
from sparsescope.interpret.llm.request import Answer, Request, chat

KEY = "sk-very-secret-0123456789"


def question(number: int = 0) -> Request:
    return chat([{"role": "user", "content": f"Question {number}"}], max_tokens=10, temperature=0.0)


def fast(url: str | None, cache: Path | None = None, **settings: Any) -> Client:
    return Client(url, "a-model", cache, **{"first_wait": 0.01, "longest_wait": 0.5, "timeout": 10.0, **settings})


def texts(answers: list[Answer | Failed]) -> list[str | None]:
    assert not [answer for answer in answers if isinstance(answer, Failed)]
    return [answer.text for answer in answers if isinstance(answer, Answer)]


def repeat(asked: Asked) -> Say:
    return text(asked.body["messages"][0]["content"][::-1], prompt_tokens=3, completion_tokens=2)


def first(fault: Say, times: int = 2) -> Script:
    """A fault the first times that a request is sent, then the answer."""
    return lambda asked: fault if asked.times < times else repeat(asked)


def test_answers_come_in_order_and_each_request_is_sent_once(tmp_path: Path) -> None:
    with FaultServer(repeat) as server:
        client = fast(server.url, tmp_path / "answers.sqlite", concurrency=4)
        numbers = [3, 1, 2, 1, 3]
        assert texts(client.answer([question(n) for n in numbers])) == [f"{n} noitseuQ" for n in numbers]
        assert len(server.asked) == 3
        body = server.asked[0].body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("a-model", 0.0, 10)
        assert client.counts == {"sent": 3, "answered": 3, "input_tokens": 9, "output_tokens": 6}
    # The server is gone: another client has every answer all the same, and another model has none.
    again = fast(server.url, tmp_path / "answers.sqlite")
    assert texts(again.answer([question(n) for n in numbers])) == [f"{n} noitseuQ" for n in numbers]
    assert again.counts == {"cached": 3}
    with pytest.raises(ClientError, match="no server answers"):
        Client(server.url, "another", tmp_path / "answers.sqlite").answer([question(1)])


@pytest.mark.parametrize(
    "fault",
    [
        Say({"error": {"message": "slow down"}}, 429),
        Say("down", 500),
        Say(b"<html>bad gateway</html>", 502),
        Say("overloaded", 529),
        Say({"choices": [{"message": {"content": "half"}}]}, cut=True),
        Say(b'{"choices": [{"message": {"conte'),
        Say(b"\xff\xfe\x00"),
        Say(b"[" * 100_000),
        Say({"error": {"message": "upstream failed"}}),
        Say([]),
        Say({"choices": ["text"]}),
    ],
    ids=lambda say: f"{say.status} {str(say.body)[:24]}",
)
def test_what_passes_is_tried_again(fault: Say) -> None:
    with FaultServer(first(fault)) as server:
        client = fast(server.url)
        assert texts(client.answer([question()])) == ["0 noitseuQ"]
        assert client.counts["sent"] == 3


@pytest.mark.parametrize("fault", [Say(None, hang=60.0), Say(b"x" * 1000, slowly=0.1)], ids=["silent", "dripping"])
def test_a_server_that_hangs_is_left_at_the_deadline(fault: Say) -> None:
    with FaultServer(first(fault, 1)) as server:
        begin = time.monotonic()
        assert texts(fast(server.url, timeout=0.5).answer([question()])) == ["0 noitseuQ"]
        assert 0.5 < time.monotonic() - begin < 5.0


def test_a_storm_that_does_not_pass_is_a_failed_request_then_an_end(tmp_path: Path) -> None:
    """The requests that were answered stay answered, and the storm is over when the run is taken up again."""
    storm = [True]

    def script(asked: Asked) -> Say:
        number = int(asked.body["messages"][0]["content"].split()[-1])
        return Say("busy\x1b[31m", 500) if storm[0] and number % 2 else repeat(asked)

    with FaultServer(script) as server:
        client = fast(server.url, tmp_path / "answers.sqlite", tries=3, first_wait=0.001)
        answers = client.answer([question(n) for n in range(8)])
        assert [isinstance(answer, Failed) for answer in answers] == [False, True] * 4
        assert sum(client.failures.values()) == client.counts["failed"] == 4
        assert "\x1b" not in str(client.failures)
        with pytest.raises(ClientError, match=r"1\d requests .* in a row failed.* run the same command again"):
            client.answer([question(n) for n in range(1, 81, 2)])
        storm[0] = False
        before = len(server.asked)
        texts(fast(server.url, tmp_path / "answers.sqlite").answer([question(n) for n in range(8)]))
        assert len(server.asked) - before == 4


def test_the_waits_double_and_the_server_may_ask_for_more() -> None:
    arrivals: list[float] = []

    def script(asked: Asked) -> Say:
        arrivals.append(time.monotonic())
        if asked.times == 3:
            return Say("wait", 429, {"Retry-After": "1"})
        return Say("busy", 503) if asked.times < 3 else repeat(asked)

    with FaultServer(script) as server:
        texts(fast(server.url, first_wait=0.1, longest_wait=5.0).answer([question()]))
    gaps = [after - before for before, after in pairwise(arrivals)]
    for gap, longest in zip(gaps[:3], (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= gap < longest + 0.3
    assert gaps[3] >= 1.0


def test_one_request_to_wait_is_meant_for_all() -> None:
    arrivals: list[tuple[float, int]] = []

    def script(asked: Asked) -> Say:
        arrivals.append((time.monotonic(), asked.number))
        return Say("wait", 429, {"Retry-After": "0.6"}) if asked.number == 0 else repeat(asked)

    with FaultServer(script) as server:
        client = fast(server.url, concurrency=1, longest_wait=2.0)
        texts(client.answer([question(n) for n in range(3)]))
    assert all(moment - arrivals[0][0] >= 0.6 for moment, number in arrivals if number)


def test_a_server_that_wants_to_be_left_alone_for_long_is() -> None:
    with FaultServer(lambda asked: Say("tomorrow", 429, {"Retry-After": "86400"})) as server:
        answer = fast(server.url).answer([question()])[0]
        assert isinstance(answer, Failed)
        assert "86,400 seconds" in answer.why
        assert len(server.asked) == 1


def test_retry_after_is_a_number_or_a_date() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(100, abs=2)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert [retry_after({"retry-after": text}) for text in ("1.5", "-3", "nan", "", "12 apples")] == [1.5, *[None] * 4]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Say({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401), r"refuses access .*MY_KEY.*valid key"),
        (Say("forbidden", 403), "refuses access"),
        (Say("pay", 402), "wants to be paid"),
        (Say({"error": {"code": "insufficient_quota", "message": KEY}}, 429), "wants to be paid"),
        (Say({"error": {"message": "no such model"}}, 404), r"no model 'a-model'.*no such model"),
        (Say("", 308, {"Location": "http://127.0.0.1:9/steal"}), "has moved"),
    ],
    ids=["401", "403", "402", "quota", "404", "308"],
)
def test_what_no_retry_can_mend_stops_at_once(
    fault: Say, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FaultServer(lambda asked: fault) as server, caplog.at_level(logging.DEBUG):
        client = fast(server.url, key_variable="MY_KEY", concurrency=2)
        with pytest.raises(ClientError, match=message) as caught:
            client.answer([question(n) for n in range(50)])
        assert len(server.asked) <= 4
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text} {client.failures}"
    assert caught.value.exit_code == 1


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FaultServer(lambda asked: Say("who?", 401)) as server:
        with pytest.raises(ClientError, match=r"OPENAI_API_KEY is not set"):
            fast(server.url).answer([question()])
        assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("key", ["two words", "line\nend: header", "schlüssel"])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with FaultServer(repeat) as server:
        with pytest.raises(ClientError, match="OPENAI_API_KEY") as caught:
            fast(server.url).answer([question()])
        assert key not in str(caught.value)
        assert not server.asked


def test_the_key_is_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultServer(repeat) as server:
        fast(server.url, tmp_path / "answers.sqlite").answer([question()])
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
        assert fast(server.url, tmp_path / "answers.sqlite").cost([question()]).requests == 0
    assert not [file for file in tmp_path.iterdir() if KEY.encode() in file.read_bytes()]


def test_without_a_server_it_ends_at_once() -> None:
    with never_answering() as url, pytest.raises(ClientError, match=r"no server answers at .*start one"):
        fast(url).answer([question(n) for n in range(20)])
    with pytest.raises(ClientError, match="no endpoint was given"):
        fast(None)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "https://host/v1?key=1",
        "http://host:port",
        "http://[::1/v1",
        "http://a b/v1",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a URL"):
        fast(url)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        fast(f"https://user:{KEY}@host/v1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"tries": 0}, {"timeout": 0}, {"longest_wait": 0.001}])
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected a model's name, at least one"):
        fast("http://localhost:1/v1", **settings)


def test_no_more_requests_at_once_than_allowed() -> None:
    def script(asked: Asked) -> Say:
        time.sleep(0.02)
        return repeat(asked)

    with FaultServer(script) as server:
        fast(server.url, concurrency=3).answer([question(n) for n in range(15)])
        assert server.most_at_once == 3


def test_a_proxy_is_used_where_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FaultServer(repeat) as server:
        monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret%21@").removesuffix("/v1"))
        assert texts(fast("http://far-away.invalid:81/v1").answer([question()])) == ["0 noitseuQ"]
        assert server.asked[0].path == "http://far-away.invalid:81/v1/chat/completions"
        assert server.asked[0].headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0IQ=="
        assert server.asked[0].headers["Host"] == "far-away.invalid:81"


@pytest.mark.parametrize(
    ("complaint", "setting"),
    [
        ({"error": {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}}, "max_tokens"),
        ({"error": {"message": "temperature does not support 0. Only the default (1)"}}, "temperature"),
        ({"detail": "Unexpected fields in the request: {'seed'}"}, "seed"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"]}]}, "response_format"),
    ],
)
def test_a_setting_that_the_server_does_not_know_is_left_out_from_then_on(complaint: Any, setting: str) -> None:
    def script(asked: Asked) -> Say:
        return Say(complaint, 422) if setting in asked.body else repeat(asked)

    schema: dict[str, Any] = {"type": "object"}
    asked_for = [
        chat([{"role": "user", "content": str(n)}], max_tokens=5, temperature=0.0, schema=schema) for n in range(4)
    ]
    with FaultServer(script) as server:
        client = fast(server.url, concurrency=1)
        assert texts(client.answer(asked_for)) == ["0", "1", "2", "3"]
        assert len(server.asked) == 5
        assert ("max_completion_tokens" in server.asked[-1].body) == (setting == "max_tokens")


def test_a_prompt_that_is_too_long_is_a_failure_of_its_own() -> None:
    """It mentions max_tokens, but that is not what is wrong: nothing is left out of the others."""
    said = {"error": {"message": "maximum context length is 5 tokens; reduce max_tokens", "code": "too_long"}}

    def script(asked: Asked) -> Say:
        return Say(said, 400) if "1" in asked.body["messages"][0]["content"] else repeat(asked)

    with FaultServer(script) as server:
        answers = fast(server.url).answer([question(n) for n in range(3)])
        assert [isinstance(answer, Failed) for answer in answers] == [False, True, False]
        assert len(server.asked) == 3
        assert all("max_tokens" in asked.body for asked in server.asked)


def test_the_cost_is_known_before_and_counts_what_is_answered(tmp_path: Path) -> None:
    requests = [question(n) for n in (1, 2, 3, 3)]
    with FaultServer(repeat) as server:
        client = fast(server.url, tmp_path / "answers.sqlite", prices=Prices(2.0, 10.0))
        cost = client.cost(requests)
        assert not server.asked
        assert (cost.requests, cost.cached, cost.output_tokens) == (3, 0, 30)
        assert cost.price == pytest.approx((cost.input_tokens * 2 + 300) / 1e6)
        client.answer(requests[:1])
        assert len(server.asked) == 1
        assert client.cost(requests).cached == 1
        client.answer(requests)
        assert (client.cost(requests).requests, client.cost(requests).price) == (0, 0.0)
    assert fast(server.url).cost(requests).price is None


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    with FaultServer(repeat) as server:
        client = fast(server.url, progress=lambda *step: told.append(step))
        client.answer([question(n) for n in range(3)], "explanations")
    assert told[0] == ("explanations", 0, 3)
    assert told[-1] == ("explanations", 3, 3)


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    text_file, other, newer = tmp_path / "text", tmp_path / "other.sqlite", tmp_path / "newer.sqlite"
    text_file.write_text("not a database, but longer than its header would be, so that it is read as one" * 5)
    for path, command in ((other, "CREATE TABLE things (a)"), (newer, "PRAGMA user_version = 9")):
        with sqlite3.connect(path) as base:
            base.execute(command)
        base.close()
    for path in (text_file, other, newer):
        before = path.read_bytes()
        with pytest.raises(ArtifactError, match=path.name):
            Cache(path)
        assert path.read_bytes() == before
    with pytest.raises(StorageError, match="cannot open"):
        Cache(text_file / "below")
