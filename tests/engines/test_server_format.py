"""What stands in requests, replies and settings: no server."""

import json
import time
from email.utils import formatdate
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from windvane.config import load_config, to_yaml
from windvane.config.settings import Settings
from windvane.engines import chat_api
from windvane.engines.chat_api import Dialect, Unreadable, read_replies
from windvane.engines.http_client import retry_after
from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.request_key import conversation_key, request_key
from windvane.engines.server_settings import ServerSettings
from windvane.errors import ConfigError
from windvane.types import Message, Sampling

ASKED = ChatRequest((Message(role="user", content="x" * 40),), Sampling(32, 0.7))
URL = "http://127.0.0.1:8000/v1"


def read(*messages: Any, finish: Any = "stop", usage: Any = None, samples: int = 1) -> list[Reply]:
    choices = [{"message": message, "finish_reason": finish} for message in messages]
    return read_replies(json.dumps({"choices": choices, "usage": usage}).encode(), ASKED, samples)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Yes"}, "Yes"),
        ({"content": "<think>hm</think>\n\nYes"}, "Yes"),
        ({"content": "hm</think>Yes"}, "Yes"),
        ({"content": "<think>hm"}, ""),
        ({"content": None, "reasoning_content": "hm"}, ""),
        ({"content": None, "refusal": "No"}, "No"),
        ({"content": [{"type": "text", "text": "Y"}, {"type": "text", "text": "es"}, {"type": "image"}]}, "Yes"),
        ({"content": "half \ud83d pair"}, "half \ufffd pair"),
        ({"content": "whole \ud83d\ude00"}, "whole 😀"),
    ],
)
def test_the_text_of_a_reply(message: dict[str, Any], text: str) -> None:
    (reply,) = read(message)
    assert reply.text == text
    assert Reply.from_json(reply.to_json()) == reply


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), (None, "stop"), ("eos_token", "stop"), ("max_tokens", "length"),
     ("content_filter", "content_filter")],
)  # fmt: skip
def test_the_finish_of_a_reply(reason: str | None, finish: str) -> None:
    assert read({"content": "Yes"}, finish=reason)[0].finish == finish


def test_usage_is_read_divided_and_estimated_where_it_is_missing() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 10}
    replies = read({"content": "aaa"}, {"content": "a" * 11}, usage=usage, samples=2)
    assert [(r.prompt_tokens, r.completion_tokens, r.estimated) for r in replies] == [(12, 2, False), (0, 8, False)]
    for missing in (None, {}, {"prompt_tokens": None, "completion_tokens": True}):
        (reply,) = read({"content": "a" * 8}, usage=missing)
        assert (reply.prompt_tokens, reply.completion_tokens, reply.estimated) == (10, 2, True)


@given(st.integers(0, 10**6), st.lists(st.text(), min_size=1, max_size=9))
def test_the_parts_of_a_usage_add_up(total: int, texts: list[str]) -> None:
    parts = chat_api._divided(total, texts)
    assert sum(parts) == total
    assert min(parts) >= 0


def test_more_choices_than_asked_for_are_left() -> None:
    assert [reply.text for reply in read({"content": "a"}, {"content": "b"}, samples=1)] == ["a"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b'{"choices": [', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"error": {"message": "overloaded"}}', "an error: overloaded"),
        (b'{"choices": [{}]}', "no message"),
        (b'{"choices": ["a"]}', "no message"),
        (b'{"choices": [{"message": {"content": 3}}]}', "no text"),
    ],
)
def test_a_body_that_is_no_completion_is_said_so(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read_replies(body, ASKED, 1)


@pytest.mark.parametrize(
    ("complaint", "left"),
    [
        ("Use 'max_completion_tokens' instead.", Dialect(limit="max_completion_tokens")),
        ("unexpected field: seed", Dialect(seed=False)),
        ("json_schema is not supported", Dialect(schema=False)),
        ("only one choice", Dialect(many=False)),
    ],
)
def test_what_a_complaint_names_is_left_out_first(complaint: str, left: Dialect) -> None:
    body = {"response_format": {}, "n": 2, "seed": 0, "max_tokens": 8}
    assert chat_api.plainer(Dialect(), body, complaint) == left
    assert chat_api.plainer(left, {"messages": []}, complaint) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "2"}, 2), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
     ({"retry-after": "-3"}, 0), ({"retry-after": "inf"}, None), ({"retry-after": "soon"}, None), ({}, None)],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    assert 8 <= (retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) or 0) <= 10


def test_equal_requests_have_equal_keys_and_others_have_not() -> None:
    key = request_key("a", ASKED)
    same = ASKED._replace(sampling=Sampling(32, temperature=0.7, top_p=1))
    assert request_key("a", same) == key
    schemas = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert len({request_key("a", ASKED._replace(schema=schema)) for schema in schemas}) == 1
    others = [
        request_key("b", ASKED),
        request_key("a", ASKED._replace(sample=1)),
        request_key("a", ASKED._replace(sampling=Sampling(33, 0.7))),
        request_key("a", ASKED._replace(schema={})),
        request_key("a", ASKED._replace(messages=(Message(role="system", content="x" * 40),))),
        request_key("a", ASKED._replace(messages=ASKED.messages * 2)),
    ]
    assert len({key, *others}) == 7
    assert conversation_key(ASKED) == conversation_key(ASKED._replace(sample=5))


class Rules(Settings):
    type: Literal["rules"] = "rules"


class Config(Settings):
    judge: Annotated[ServerSettings | Rules, Field(discriminator="type")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base_url": URL}, "judge.model is missing"),
        ({"model": "m"}, "base_url .where it is., or command"),
        ({"model": "m", "base_url": "127.0.0.1:8000"}, "is no address such as"),
        ({"model": "m", "base_url": "http://host:99999/v1"}, "is no address such as"),
        ({"model": "m", "base_url": []}, "an empty list"),
        ({"model": "m", "base_url": [URL, URL]}, "twice"),
        ({"model": "m", "base_url": "http://127.0.0.1:{port}/v1"}, "there is none"),
        ({"model": "m", "command": ["vllm", "serve"]}, "must stand in command"),
        ({"model": "m", "command": ["x", "{port}"], "base_url": URL}, "must stand in command"),
        ({"model": "m", "command": ["x"], "base_url": [URL, URL + "/"]}, "lists 2 addresses"),
        ({"model": "m", "base_url": URL, "concurrency": 0}, "at least 1"),
        ({"model": "m", "base_url": URL, "extra_body": {"n": 3}}, "n cannot stand there"),
        ({"model": "m", "base_url": URL, "leave_out": ["messages"]}, "leave_out"),
        ({"model": "m", "base_url": URL, "api_key": "x"}, "did you mean judge.api_key_env"),
        ({"model": "m", "base_url": URL, "retries": -1}, "at least 0"),
    ],
)
def test_wrong_settings_are_said(given: dict[str, Any], said: str, tmp_path: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"judge": {"type": "server"} | given}), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(Config, file)


@pytest.mark.parametrize(
    "given",
    [
        {"api_key_env": "sk-SECRET"},
        {"api_key_env": "hf_SECRETx"},
        {"base_url": "https://user:SECRET@host/v1"},
        {"base_url": "https://host/v1?key=SECRET"},
        {"command": ["vllm", "serve", "{port}", "--api-key", "SECRET"], "base_url": None},
        {"command": ["vllm", "serve", "{port}", "--api-key=SECRET"], "base_url": None},
        {"command": ["vllm", "serve", "{port}", "--api_key", "SECRET"], "base_url": None},
        {"command": ["llama-server", "--port", "{port}", "-hft", "SECRET"], "base_url": None},
        {"command": ["env", "HF_TOKEN=SECRET", "vllm", "serve", "{port}"], "base_url": None},
        {"command": ["sh", "-c", "VLLM_API_KEY=SECRET vllm serve --port {port}"], "base_url": None},
    ],
)
def test_a_key_in_a_configuration_is_refused_and_not_repeated(given: dict[str, Any], tmp_path: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"judge": {"type": "server", "model": "m", "base_url": URL} | given}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(Config, file)
    assert "SECRET" not in str(caught.value)
    assert "environment variable" in str(caught.value)


def test_what_only_looks_like_a_key_may_stand_in_a_command() -> None:
    words = ["serve", "--max-num-batched-tokens=4096", "--api-key-file", "keys.txt", "MAX_TOKENS=5", "--port", "{port}"]
    assert list(ServerSettings(model="m", command=tuple(words)).command) == words


def test_settings_survive_their_file(tmp_path: Any) -> None:
    config = Config(judge=ServerSettings(model="m", base_url=(URL,), extra_body={"top_k": 3}, leave_out=("seed",)))
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(Config, file) == config


def test_the_name_of_an_engine_is_its_model_and_what_changes_its_replies() -> None:
    plain = ServerSettings(model="m", base_url=URL)
    assert plain.reply_name == "server:m"
    moved = ServerSettings(model="m", base_url=("http://a:1/v1", "http://b:1/v1"), concurrency=3, retries=1)
    assert moved.reply_name == plain.reply_name
    warm = ServerSettings(model="m", base_url=URL, extra_body={"top_k": 3})
    served = ServerSettings(model="m", command=("serve", "{port}"))
    assert len({plain.reply_name, warm.reply_name, served.reply_name}) == 3


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerSettings(model="m", base_url=URL).model = "n"  # type: ignore[misc]
