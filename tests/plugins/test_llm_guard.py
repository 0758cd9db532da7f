"""llm-guard: what passes to a model, what comes back, and what it costs."""

from __future__ import annotations

import gzip
import json
import re
import time
from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.plugins.llm_guard import LlmGuard
from gatewright.plugins.llm_guard.conversations import BadPromptError, Prompt, read_json, usage_of
from gatewright.plugins.llm_guard.personal import KINDS, Masks, Vault, restored
from gatewright.plugins.llm_guard.tokens import _bindings, counting
from tests.plugins.harness import Gateway, Outcome

PLUGINS = ["llm-guard"]
JSON = {"content-type": "application/json"}


def chat(text: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


def claude(text: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 500, **chat(text), **more}


def asked(
    gateway: Gateway, config: dict[str, Any], document: Any, path: str = "/v1/chat/completions", **more: Any
) -> Outcome:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return gateway.route(("llm-guard", config)).request(path, method="POST", body=body, **more)


def sent(outcome: Outcome) -> Any:
    assert outcome.status == 0, outcome
    assert outcome.upstream_body is not None
    return json.loads(outcome.upstream_body)


# --- form


@pytest.mark.parametrize(
    "document",
    [
        chat(),
        chat([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:..."}}]),
        chat(messages=[{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]}]),
        {"model": "m", "prompt": "once upon"},
        {"model": "m", "prompt": ["a", "b"]},
        {"model": "m", "input": "text"},
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
        {"model": "m", "input": [[1, 2, 3]]},
        {**chat(), "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]},
    ],
)  # fmt: skip
def test_the_known_forms_pass(document: dict[str, Any]) -> None:
    prompt = Prompt(read_json(json.dumps(document).encode()), max_messages=10, max_choices=1)
    assert prompt.tokens(len, 100) > 3


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        ({"model": "m"}, "one of `messages`"),
        ({"model": "m", "prompt": "a", "messages": []}, "one of `messages`"),
        (chat(messages=[]), "a list of 1 to"),
        (chat(messages="hi"), "a list of 1 to"),
        (chat(messages=[{"role": "user", "content": "x"}] * 11), "a list of 1 to 10"),
        (chat(messages=[{"role": "root", "content": "x"}]), "no known role"),
        (chat(messages=["hi"]), "no known role"),
        (chat(7), "is a text or a list"),
        (chat(["hi"]), "objects with a `type`"),
        ({"model": "m", "prompt": 7}, "`prompt` is"),
        ({"model": "m", "input": ["x"] * 11}, "more than 10 items"),
        (chat(stream="yes"), "true or false"),
        (chat(max_tokens=-1), "`max_tokens`"),
        (chat(max_completion_tokens=1.5), "`max_completion_tokens`"),
        (chat(n=2), "`n` is 1 at most"),
        ({"model": "m", "prompt": "x", "best_of": 20}, "`best_of` is 1"),
        (chat(model=["gpt"]), "`model` is a text"),
    ],
)
def test_other_forms_are_refused(document: Any, why: str) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(BadPromptError, match=why):
        _ = Prompt(read_json(body), max_messages=10, max_choices=1).model


def test_errors_have_the_apis_own_form(gateway: Gateway) -> None:
    outcome = asked(gateway, {}, chat(n=5))
    assert (outcome.status, outcome.headers["content-type"]) == (400, "application/json")
    assert outcome.json["error"] == {
        "message": "`n` is 1 at most", "type": "invalid_request_error", "param": "n", "code": "refused"
    }  # fmt: skip
    outcome = asked(gateway, {}, claude(n=5), "/v1/messages")
    assert outcome.json == {"type": "error", "error": {"type": "invalid_request_error", "message": "`n` is 1 at most"}}


def test_the_upstream_reads_what_was_checked(gateway: Gateway) -> None:
    twice = b'{"model": "dear", "model": "gpt-4o", "t": 0.10, "messages": [{"role": "user", "content": "hi"}]}'
    config = {"models": ["gpt-4o*"]}
    outcome = asked(gateway, config, twice)
    assert outcome.upstream_body == b'{"model":"gpt-4o","t":0.10,"messages":[{"role":"user","content":"hi"}]}'
    packed = asked(gateway, config, gzip.compress(twice), headers={"content-encoding": "gzip"})
    assert packed.upstream_body == outcome.upstream_body
    assert packed.upstream["content-encoding"] is None
    assert asked(gateway, config, b"no gzip", headers={"content-encoding": "gzip"}).status == 400
    bomb = gzip.compress(bytes(10_000_000))
    assert asked(gateway, config, bomb, headers={"content-encoding": "gzip"}).status == 400


@pytest.mark.parametrize(
    ("model", "status"),
    [("gpt-4o", 0), ("gpt-4o-mini", 0), ("gpt-4", 403), ("GPT-4o", 403), ("x-gpt-4o", 403), ("", 403)],
)
def test_models_that_may_be_asked(gateway: Gateway, model: str, status: int) -> None:
    assert asked(gateway, {"models": ["gpt-4o*"]}, chat(model=model)).status == status


@pytest.mark.parametrize(
    ("config", "document", "path", "limits"),
    [
        ({"max_answer_tokens": 100}, chat(), "/v1/chat/completions", {"max_completion_tokens": 100}),
        ({"max_answer_tokens": 100}, chat(max_tokens=50), "/v1/chat/completions", {"max_tokens": 50}),
        ({"max_answer_tokens": 100}, chat(max_tokens=5000), "/v1/chat/completions", {"max_tokens": 100}),
        ({"max_answer_tokens": 100}, claude(), "/v1/messages", {"max_tokens": 100}),
        ({"max_answer_tokens": 100}, {"model": "m", "input": "x"}, "/v1/responses", {"max_output_tokens": 100}),
        ({"max_answer_tokens": 100}, {"model": "m", "prompt": "x"}, "/v1/completions", {"max_tokens": 100}),
        ({}, chat(), "/v1/chat/completions", {}),
    ],
)
def test_answers_are_limited(
    gateway: Gateway, config: dict[str, Any], document: dict[str, Any], path: str, limits: dict[str, int]
) -> None:
    got = sent(asked(gateway, config, document, path))
    assert {name: value for name, value in got.items() if name.startswith("max_")} == limits


def test_prompts_are_limited(gateway: Gateway) -> None:
    config = {"max_prompt_tokens": 20, "tokenizer": "o200k_base"}
    assert asked(gateway, config, chat("one two three")).status == 0
    outcome = asked(gateway, config, chat("one two three " * 10))
    assert (outcome.status, "20 are allowed" in outcome.json["error"]["message"]) == (400, True)
    assert (
        asked(gateway, {"max_prompt_tokens": 500}, chat([{"type": "image_url", "image_url": {"url": "x"}}])).status
        == 400
    )
    assert asked(gateway, {"max_prompt_tokens": 500}, chat(tools=[{"description": "x" * 4000}])).status == 400
    assert asked(gateway, {"max_body": 100}, chat("x" * 100)).status == 400


@pytest.mark.parametrize(("stream", "status"), [("refuse", 400), ("off", 0), ("pass", 0)])
def test_streamed_answers(gateway: Gateway, stream: str, status: int) -> None:
    document = chat(stream=True, stream_options={"include_usage": True})
    outcome = asked(gateway, {"stream": stream, "max_answer": 1000}, document)
    assert outcome.status == status
    if stream == "off":
        assert "stream_options" not in sent(outcome)
    if not status:
        assert sent(outcome)["stream"] is (stream == "pass")
    route = gateway.route(("llm-guard", {"stream": stream, "max_answer": 1000}))
    answer = route.response(200, {"content-type": "text/event-stream"}, b"data: {}\n\n")
    assert answer.status == (0 if stream == "pass" else 502) or (stream == "pass" and answer.status == 200)


# --- tokens


def test_tokens_are_counted_by_length_or_vocabulary() -> None:
    assert [counting("length")(text) for text in ("", "a", "abcd", "abcde", "ü" * 4)] == [0, 1, 1, 2, 2]
    assert counting("o200k_base")("hello world, grüße 你好") == 7
    assert counting("cl100k_base")("hello world") == 2
    assert counting("o200k_base")("<|endoftext|>") > 1
    assert counting("length")("\ud800") == 1


def test_a_missing_vocabulary_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewright.plugins.llm_guard.tokens.find_spec", lambda name: None)
    _bindings.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'gatewright\[llm-tokens\]'"):
        counting("o200k_base")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, 15),
        ({"prompt_tokens": 10, "completion_tokens": 5}, 15),
        (
            {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 1},
            116,
        ),
        ({"prompt_tokens": 8, "total_tokens": 8}, 8),
        ({"total_tokens": "many"}, None),
        ({"total_tokens": -5}, None),
        (None, None),
        ([], None),
    ],
)
def test_what_an_answer_cost(usage: Any, tokens: int | None) -> None:
    assert usage_of({"usage": usage}) == tokens


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_a_budget_is_each_consumers_own(gateway: Gateway, window: str) -> None:
    config = {
        "budget": [{"tokens": 100, "period": 3600, "window": window}],
        "key": "{header:x-user}",
        "namespace": f"{gateway.kind}{window}{time.time()}",
    }
    route = gateway.route(("llm-guard", config))

    def ask(user: str, used: int | None, text: str = "x" * 40) -> Outcome:
        outcome = route.request(
            "/v1/chat/completions", method="POST", headers={"x-user": user}, body=json.dumps(chat(text)).encode()
        )
        if not outcome.status:
            answer = {
                "choices": [{"message": {"content": "yes" * 4}}],
                **({"usage": {"total_tokens": used}} if used else {}),
            }
            route.response(200, JSON, json.dumps(answer).encode(), request_headers={"x-user": user})
        return outcome

    assert ask("ada", 90).status == 0  # 16 for the prompt, 74 more with the answer
    outcome = ask("ada", 1)
    assert (outcome.status, outcome.json["error"]["code"]) == (429, "over_budget")
    assert 0 < int(outcome.headers["retry-after"]) <= 7200
    assert ask("bob", None).status == 0  # 16, and 3 or so that are counted here
    assert ask("bob", 17).status == 0
    assert ask("bob", 17).status == 0
    assert ask("bob", 500).status == 0  # an answer counts, be it more than there was
    assert ask("bob", 1).status == 429
    huge = ask("eve", 1, "x" * 1000)
    assert (huge.status, huge.headers.get("retry-after")) == (429, None)


def test_a_redis_that_is_gone(gateway: Gateway) -> None:
    config = {"budget": [{"tokens": 100, "period": 60}], "redis": {"servers": ["127.0.0.1:1"], "timeout": 0.2}}
    outcome = asked(gateway, config, chat())
    assert (outcome.status, outcome.headers["retry-after"]) == (503, "1")
    assert asked(gateway, {**config, "fail_open": True}, chat()).status == 0


# --- personal data


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ada.l+x@mail.example.org, please", "write to <EMAIL_1>, please"),
        ("a@b and @b.de", "a@b and @b.de"),
        ("a@x.de b@x.de a@x.de", "<EMAIL_1> <EMAIL_2> <EMAIL_1>"),
        ("card 4111 1111 1111 1111.", "card <CARD_1>."),
        ("card 4111-1111-1111-1112", "card 4111-1111-1111-1112"),
        ("0000 0000 0000 0000", "0000 0000 0000 0000"),
        ("IBAN DE89 3704 0044 0532 0130 00!", "IBAN <IBAN_1>!"),
        ("GB82WEST12345698765432", "<IBAN_1>"),
        ("DE89370400440532013001", "DE89370400440532013001"),
        ("SSN 123-45-6789, not 000-12-3456", "SSN <SSN_1>, not 000-12-3456"),
        ("call +49 (30) 1234-5678 now", "call <PHONE_1> now"),
        ("030/1234567", "<PHONE_1>"),
        ("in 2024-01-02 12:30:45, 1.2.3, 3.14159265358979", "in 2024-01-02 12:30:45, 1.2.3, 3.14159265358979"),
        ("from 192.0.2.1 and 2001:db8::1 by std::string ::", "from <IP_1> and <IP_2> by std::string ::"),
        ("300.1.1.1", "300.1.1.1"),
        ("AKIAIOSFODNN7EXAMPLE", "<SECRET_1>"),
        ("key sk-proj-abcdefghijklmnopqrstuvwx", "key <SECRET_1>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", "<SECRET_1>\nMII"),
        ("case TCK-12345", "case <TICKET_1>"),
    ],
)
def test_what_has_a_form_is_found(text: str, masked: str) -> None:
    masks = Masks(KINDS, {"TICKET": r"\bTCK-\d{5}\b"})
    vault: Vault = {}
    assert masks.mask(text, vault) == masked
    assert bool(masks.find(text)) is (masked != text)
    assert restored(masked, vault) == text
    assert masks.mask(masked, vault) == masked


def test_finding_takes_no_longer_than_the_text_is_long() -> None:
    masks = Masks(KINDS, {})
    repeated = ("1 ", "a@", "a.", "DE89 ", "0 1 ", "::", "+1(", "sk-", "1.1.", "-----BEGIN ", "@a.", "1-")
    hostile = [each * (100_000 // len(each)) for each in repeated]
    hostile += ["a@a." + "a-" * 50_000, "eyJ" + "a" * 100_000, "eyJ" + "a." * 50_000]
    for text in hostile:
        began = time.process_time()
        masks.mask(text, {})
        assert time.process_time() - began < 3, text[:10]


PROMPT = chat(
    [{"type": "text", "text": "I am ada@x.de"}],
    system="and bob@x.de",
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "mail", "arguments": '{"to": "ada@x.de"}'}}
PROMPT["messages"].append({"role": "assistant", "content": None, "tool_calls": [CALL]})
PROMPT["messages"].append(
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "eve@x.de"}]}],
    }
)


def test_prompts_are_masked_wherever_text_is(gateway: Gateway) -> None:
    outcome = asked(gateway, {"personal": {"prompts": "mask"}}, PROMPT)
    text = json.dumps(sent(outcome))
    assert "@x.de" not in text
    assert text.count("<EMAIL_1>") == 2
    assert sent(outcome)["messages"][1]["tool_calls"][0]["function"]["name"] == "mail"
    assert json.loads(sent(outcome)["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"to": "<EMAIL_1>"}


def test_prompts_with_personal_data_are_refused(gateway: Gateway) -> None:
    outcome = asked(gateway, {"personal": {"prompts": "refuse"}}, PROMPT)
    assert (outcome.status, b"@x.de" in outcome.body) == (400, False)
    assert asked(gateway, {"personal": {"prompts": "refuse", "kinds": ["card"]}}, PROMPT).status == 0


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        [{"type": "document", "source": {"type": "base64", "data": "AAAA"}}],
        [{"type": "input_file", "file_data": "AAAA"}],
    ],
)
def test_what_cannot_be_looked_into(gateway: Gateway, content: Any) -> None:
    assert asked(gateway, {"personal": {"prompts": "mask"}}, chat(content)).status == 400
    assert asked(gateway, {"personal": {"prompts": "mask", "opaque": "pass"}}, chat(content)).status == 0
    assert asked(gateway, {}, chat(content)).status == 0
    text = chat([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ada@x.de"}}])
    assert "<EMAIL_1>" in str(sent(asked(gateway, {"personal": {"prompts": "mask"}}, text)))
    tokens = {"model": "m", "input": [[1, 2, 3]]}
    assert asked(gateway, {"personal": {"prompts": "mask"}}, tokens).status == 400


OPENAI = {"id": "c", "object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "{}"}}]}
ANTHROPIC = {"id": "m", "type": "message", "content": [{"type": "text", "text": "{}"}], "usage": {"input_tokens": 1}}


@pytest.mark.parametrize("form", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_answers_are_masked_and_what_was_masked_is_put_back(gateway: Gateway, form: Any) -> None:
    config = {"personal": {"prompts": "mask", "restore": True, "answers": "mask"}}
    route = gateway.route(("llm-guard", config))
    outcome = route.request("/v1/messages", method="POST", body=json.dumps(claude("I am ada@x.de")).encode())
    assert "<EMAIL_1>" in json.dumps(sent(outcome))
    answer = json.dumps(form).replace("{}", "Hello <EMAIL_1>, meet eve@x.de and <EMAIL_7>").encode()
    headers = {**JSON, "content-encoding": "gzip", "etag": "x"}
    outcome = route.response(200, headers, gzip.compress(answer))
    text = "Hello ada@x.de, meet <EMAIL_2> and <EMAIL_7>"
    assert outcome.body == json.dumps(form, separators=(",", ":")).replace("{}", text).encode()
    assert outcome.headers.get("content-encoding") in (None, "")


@pytest.mark.parametrize(
    ("config", "headers", "body"),
    [
        ({"personal": {"answers": "refuse"}}, JSON, b'{"choices": [{"text": "eve@x.de"}]}'),
        ({"personal": {"answers": "refuse"}}, {"content-type": "text/html"}, b"<p>eve@x.de"),
        ({"personal": {"answers": "mask"}}, JSON, b"no JSON eve@x.de"),
        ({"personal": {"answers": "mask"}}, {**JSON, "content-encoding": "zstd"}, b"eve@x.de"),
        ({"max_answer": 10}, JSON, b'{"choices": "eve@x.de"}'),
        ({"max_answer": 10}, {**JSON, "content-encoding": "gzip"}, gzip.compress(bytes(1000), mtime=0)),
    ],
)
def test_answers_that_are_not_shown(gateway: Gateway, config: Any, headers: dict[str, str], body: bytes) -> None:
    outcome = gateway.route(("llm-guard", config)).response(200, headers, body, method="POST", path="/v1/completions")
    assert (outcome.status, outcome.json["error"]["code"]) == (502, "bad_answer")
    assert b"eve" not in outcome.body


def test_other_answers_stay_as_they_are(gateway: Gateway) -> None:
    route = gateway.route(("llm-guard", {"personal": {"answers": "mask"}}))
    assert route.response(200, JSON, b'{ "choices": [] }').body in (b"", b'{ "choices": [] }')
    masked = route.response(500, {"content-type": "text/plain"}, b"eve@x.de is down")
    assert masked.body == b"<EMAIL_1> is down"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"personal": {"kinds": ["name"]}}, "no kind 'name'"),
        ({"personal": {"patterns": {"x": "a"}}}, "isn't in capitals"),
        ({"personal": {"patterns": {"X": "("}}}, "no regular expression"),
        ({"personal": {"patterns": {"X": "a*"}}}, "finds nothing at all"),
        ({"personal": {"restore": True}}, "needs `prompts: mask`"),
        ({"stream": "pass", "personal": {"answers": "mask"}}, "goes not with"),
        ({"stream": "pass", "personal": {"prompts": "mask", "restore": True}}, "goes not with"),
        ({"key": "{nobody}"}, "nobody"),
        ({"budget": [{"tokens": 0, "period": 1}]}, ">= 1"),
        ({"budget": [{"tokens": 10_000_000, "period": 1}]}, "can't be counted"),
        ({"tokenizer": "gpt2"}, "gpt2"),
    ],
)
def test_configurations_that_mean_nothing(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        LlmGuard(config)


# --- what hides


HIDDEN = {
    "full width": "".join(chr(0xFEE0 + ord(letter)) for letter in "ada@example.org"),
    "mathematical letters": "\U0001d41a\U0001d41d\U0001d41a@example.org",
    "a space that nobody sees": "ada@exam\u200bple.org",
    "a soft hyphen": "a\u00adda@example.org",
    "tags": "ada@example.org".replace("x", "x\U000e0041"),
    "arabic digits": "card " + "".join(chr(0x0630 + ord(digit)) for digit in "4111111111111111"),
    "other dashes": "4111\u20111111\u20111111\u20111111",
    "spaces of its own": "4111\u00a01111\u00a01111\u00a01111",
    "a variation selector": "4111111111111111".replace("41", "4\ufe0f1"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_only_looks_different_is_found(name: str) -> None:
    masks, vault = Masks(KINDS, {}), Vault()
    text = f"grüße: {HIDDEN[name]}, ok"
    assert masks.find(text)
    masked = masks.mask(text, vault)
    assert re.fullmatch(r"grüße: (card )?<(EMAIL|CARD)_1>, ok", masked)
    assert restored(masked, vault) == text


def test_text_in_other_scripts_stays_as_it_is() -> None:
    masks, vault = Masks(KINDS, {}), Vault()
    for text in (
        "\ufb01n \u2013 \u4f60\u597d\uff0c\u4e16\u754c\uff1a\uff11\uff12\uff13",
        "Ünïcödé \u200d \U0001f468\u200d\U0001f469",
        "\u0645\u0631\u062d\u0628\u0627 \u0661\u0662\u0663",
    ):
        assert masks.mask(text, vault) == text
        assert not masks.find(text)
    assert not vault


CARD = 4111111111111111


@pytest.mark.parametrize(
    "document",
    [
        chat(messages=[{"role": "user", "name": "123-45-6789", "content": "hi"}]),
        chat([{"type": "tool_use", "id": "t", "name": "pay", "input": {"card": CARD}}]),
        chat([{"type": "tool_use", "id": "t", "name": "pay", "input": {"amounts": [1.5, CARD]}}]),
        chat([{"type": "tool_use", "id": "t", "name": "pay", "input": {"ada@example.org": 1}}]),
        chat(user="ada@example.org"),
        chat(metadata={"user_id": "ada@example.org"}),
        chat(prediction={"type": "content", "content": "ada@example.org"}),
        chat(documents=[{"title": "a", "snippet": "ada@example.org"}]),
        chat(anything=[[{"at": {"all": "ada@example.org"}}]]),
    ],
)
def test_nothing_passes_because_it_stands_in_an_unusual_place(gateway: Gateway, document: Any) -> None:
    refusing = asked(gateway, {"personal": {"prompts": "refuse"}}, document)
    assert refusing.status == 400
    assert "personal data" in refusing.json["error"]["message"]
    masked = json.dumps(sent(asked(gateway, {"personal": {"prompts": "mask"}}, document)))
    assert "ada@" not in masked and str(CARD) not in masked and "6789" not in masked
    assert "_1>" in masked


def test_settings_stay_what_they_are(gateway: Gateway) -> None:
    document = chat(seed=CARD, stop=["ada@example.org"], logit_bias={"50256": -100}, tools=[{"type": "function"}])
    assert sent(asked(gateway, {"personal": {"prompts": "mask"}}, document)) == document


def test_what_stands_in_an_unusual_place_counts(gateway: Gateway) -> None:
    config = {"max_prompt_tokens": 100}
    assert asked(gateway, config, chat(documents=["x" * 4000])).status == 400
    assert asked(gateway, config, chat(documents=["x"])).status == 0
