"""The test bed itself: the tokenizer counts as driftkit does; the server takes text, chats and priorities."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import tiny_model
from driftkit.estimation.tokenizers import load
from vllm_server import VllmServer

TEXT = "Sums: 12345 + 678.\n\n  Grüße aus 北京, naïve 🙂 tests"


def asked(server: VllmServer, path: str, **body: Any) -> dict[str, Any]:
    data = json.dumps({"model": server.model, "max_tokens": 4, "ignore_eos": True, **body}).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_its_tokenizer_gives_the_text_back(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) == load(str(model)).count(TEXT)
    assert tokenizer.eos_token_id == tiny_model.END_ID


def test_the_server_takes_text_ids_and_chats(server: VllmServer, model: Path) -> None:
    usage = asked(server, "/v1/completions", prompt=TEXT, priority=3)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (load(str(model)).count(TEXT), 4)
    usage = asked(server, "/v1/completions", prompt=list(range(100, 140)))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (40, 4)
    chat = asked(server, "/v1/chat/completions", messages=[{"role": "user", "content": TEXT}])
    assert chat["choices"][0]["finish_reason"] == "length"
