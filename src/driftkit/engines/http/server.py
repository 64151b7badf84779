"""What a server says of itself before anything is sent to it."""

from __future__ import annotations

import http.client
import ssl
from typing import NamedTuple

import orjson

from driftkit.engines.http.answer import refusal_of, told
from driftkit.engines.http.connection import Origin, reason, tls_of
from driftkit.errors import DriftkitError

PATIENCE_S = 10.0
NO_LIST = (404, 405, 501)
MOST_BYTES = 1 << 20


class Served(NamedTuple):
    """A model as a server lists it."""

    name: str
    max_model_len: int | None


def models(
    origin: Origin, api_key: str | None, *, verify: bool, patience_s: float = PATIENCE_S
) -> list[Served] | None:
    """The models of `GET /models`; None where there is no such list. DriftkitError where no server is."""
    tls = tls_of(origin, verify=verify)
    connection = (
        http.client.HTTPConnection(origin.host, origin.port, timeout=patience_s)
        if tls is None
        else http.client.HTTPSConnection(origin.host, origin.port, timeout=patience_s, context=tls)
    )
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        connection.request("GET", f"{origin.path}/models", headers=headers)
        response = connection.getresponse()
        body = response.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        untrusted = isinstance(error, ssl.SSLCertVerificationError)
        hint = "--insecure does without" if untrusted else "is the server up?"
        raise DriftkitError(f"{origin.url}: {told(reason(error), api_key)}", hint=hint) from None
    finally:
        connection.close()
    if response.status in NO_LIST:
        return None
    if response.status != 200:
        said = told(refusal_of(body), api_key)
        asks_for_key = response.status in (401, 403)
        raise DriftkitError(
            f"{origin.url}/models: HTTP {response.status}: {said}",
            hint="the key comes from DRIFTKIT_API_KEY or --api-key-file" if asks_for_key else None,
        )
    try:
        listed = orjson.loads(body)["data"]
        return [Served(str(one["id"]), _length(one.get("max_model_len"))) for one in listed]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        hint = "--model NAME needs no list"
        raise DriftkitError(f"{origin.url}/models: not a list of models", hint=hint) from None


def _length(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
