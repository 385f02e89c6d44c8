"""Feast's route for reads, /get-online-features, without what it takes beside the read itself.

Feast's own route validates a request by pydantic, asks the registry and writes the answer in threads, and goes through
FastAPI: together several times what the store takes. Here a request of the plain form is read and answered in the
event loop, by the store's own fast path and Feast's own conversion, so the bytes are the same. All else is left to
Feast's route, as if this one were not there: requests of any other form, those that the fast path does not take or that
are refused, and all of them where Feast is to ask for identities, to count, or to keep an audit log.
"""

import asyncio
import json
from functools import lru_cache
from typing import Any

from feast import FeatureService, FeatureStore
from feast.feature_server_utils import convert_response_to_dict
from feast.permissions.security_manager import get_security_manager
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from parity.edge.feast_internals import counts_reads, online_store_of
from parity.online.reading import Reads
from parity.online.requests import ServingRegistry, Unavailable

MOST_AT_ONCE = 1000
"""Values of an answer that is written in the event loop, which nobody else gets for these few milliseconds."""
NAMES_KEPT = 256
TAKES: dict[str, tuple[type, ...]] = {
    "entities": (dict,),
    "features": (list,),
    "feature_service": (str, type(None)),
    "full_feature_names": (bool,),
    "include_feature_view_version_metadata": (bool,),
}
"""What a request may have, and of which types."""
ROUTE = ("POST", "/get-online-features")
JSON = (b"content-type", b"application/json")


class QuickRoute:
    """An ASGI application: it answers `POST /get-online-features` where it can, and ``feast``, the real one, else."""

    def __init__(self, feast: Starlette, store: FeatureStore):
        self.feast, self._store, self._online = feast, store, online_store_of(store)
        self.open = isinstance(self._online, Reads) and get_security_manager() is None and not feast.user_middleware
        """Whether anything is answered here at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.open or scope["type"] != "http" or (scope["method"], scope["path"]) != ROUTE:
            await self.feast(scope, receive, send)
            return
        first = await receive()
        if first["type"] == "http.request" and not first.get("more_body") and self._is_plain(scope):
            answer = await self._answer(scope, first.get("body", b""))
            if answer is not None:
                await answer(scope, receive, send)
                return
        read = iter([first])

        async def again() -> Message:
            return next(read, None) or await receive()

        await self.feast(scope, again, send)

    def _is_plain(self, scope: Scope) -> bool:
        """Whether nothing but the read is to be done: a registry out of date is read in a thread of Feast's route."""
        types = [header for header in scope["headers"] if header[0] == JSON[0]]
        return types == [JSON] and self._store.registry.is_cache_valid() and not counts_reads()

    async def _answer(self, scope: Scope, body: bytes) -> Response | None:
        """The answer to a request with this body; None for what is to be left to Feast's route."""
        asked = _plain(body)
        if asked is None:
            return None
        try:
            return Response(await self._read(asked), media_type="application/json")
        except Unavailable as error:  # to ask again would take as long again
            return await self.feast.exception_handlers[Exception](Request(scope), error)
        except Exception:  # Feast's route says what it is
            return None

    async def _read(self, asked: dict[str, Any]) -> bytes:
        store, features = self._store, asked.get("features", [])
        if service := asked.get("feature_service"):
            features = _named(service)
        full_names = asked.get("full_feature_names", False)
        response = await self._online.read_quickly(
            store.config, features, asked["entities"], ServingRegistry(store.registry), store.project, full_names
        )
        if sum(len(vector.values) for vector in response.proto.results) > MOST_AT_ONCE:
            return await asyncio.to_thread(_written, response.proto)
        return _written(response.proto)


def _written(response: GetOnlineFeaturesResponse) -> bytes:
    """An answer as Feast's route writes it. Raises `ValueError` for what no JSON can hold."""
    content = convert_response_to_dict(response)
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@lru_cache(NAMES_KEPT)
def _named(service: str) -> FeatureService:
    """A service by its name alone. What is in it the store takes from the registry, at each request."""
    return FeatureService(name=service, features=[service])


def _plain(body: bytes) -> dict[str, Any] | None:
    """The request that a body holds, if Feast's validation would take it as it is, and change nothing about it."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if type(asked) is not dict or not asked.keys() <= TAKES.keys():
        return None
    if not all(type(value) in TAKES[name] for name, value in asked.items()) or "entities" not in asked:
        return None
    if asked.get("include_feature_view_version_metadata") or bool(asked.get("features")) == bool(
        asked.get("feature_service")
    ):
        return None
    if not all(type(values) is list for values in asked["entities"].values()):
        return None
    return asked if all(type(name) is str for name in asked.get("features", ())) else None
