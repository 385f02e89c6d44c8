"""Serve the model over HTTP: asked for a customer, read the features online, and answer the score that they give.

    python examples/cdnow/serve.py [-c REPO] [--service NAME] [--model FILE] [--present INSTANT] [--host HOST]
        [--port PORT]

    curl 'localhost:8000/predict?customer_id=00042'
    curl localhost:8000/predict -d '{"customer_ids": ["00042", "00043"]}'
    curl localhost:8000/health

It starts only where features are declared, applied and computed as they were when the model was trained. It looks again
every two seconds: once somebody has applied others it answers 503 and names what has changed, until that is put back.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import asyncio
import hashlib
import json
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split

import uvicorn
from cdnow import KEY, PRESENT, REPOSITORY, model_of
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from feast import FeatureService, FeatureStore, Field
from feast.errors import FeastError
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from model import SERVICE, inputs_of, matrix, scores
from redis import RedisError
from starlette.requests import ClientDisconnect

from parity.compare.answers import typed_values
from parity.compare.equal import Coerced
from parity.definition.checks import Declared, FeatureTable
from parity.edge.command import argument_parser, instant, of_chosen, run, whole_number
from parity.edge.errors import UserError
from parity.edge.signals import ending_by
from parity.model.applied import require_served
from parity.model.contract import Contract
from parity.model.file import load
from parity.online.side import online_store_of
from parity.repository import in_force, opened

logger = logging.getLogger("cdnow.serve")

MOST_IDS, LONGEST_ID, LARGEST_BODY = 1000, 100, 1 << 20
"""Customers of one request, during which all others wait; characters of an id; bytes of a body."""
LOOK_SECONDS = 2
"""How often the server looks whether the definitions are still those of the model."""
SECONDS_TO_FINISH = 5

OK, UNKNOWN, EXPIRED, OUTDATED = "ok", "unknown", "expired", "outdated"
"""What becomes of a customer: there are features; there are none; they are older than the ttl; or the row online is
past its horizon, so that nobody knows what holds until it is materialized again. Only the first has a score."""

_as_of: ContextVar[datetime] = ContextVar("as_of")
"""The instant of the request that is being answered, at which features are read and derived alike."""


def main() -> None:
    args = arguments()
    with opened_as_trained(args) as (store, scorer, tables), listening(args.host, args.port) as listener:
        server = Server(store, scorer, tables, ticking(args.present))
        serve(server.application(f"http://{args.host}:{listener.getsockname()[1]}"), listener)


@contextmanager
def opened_as_trained(
    args: argparse.Namespace,
) -> Iterator[tuple[FeatureStore, "Scorer", tuple[FeatureTable, ...]]]:
    """Open the repository with the model and its tables. Raises `UserError` where they are not those of training."""
    scorer, tables = trained(args.model, args.service, in_force(args.repository))
    with opened(args.repository, []) as store:
        require_served(store, scorer.contract, tables)  # ahead of what `opened` says, as it names the feature
    with opened(args.repository, tables) as store:
        yield store, scorer, tables


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    port = "the port to listen on; 0 for any that is free (default: 8000)"
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, help=port)
    return with_model(parser.parse_args())


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What serving and its proof are both asked by."""
    service = f"the FeatureService that the model was trained on (default: {SERVICE})"
    parser.add_argument("--service", default=SERVICE, metavar="NAME", help=service)
    parser.add_argument("--model", type=Path, metavar="FILE", help="(default: REPO/data/SERVICE.model)")
    present = f"what to take for the present, ISO 8601 (default: {PRESENT.isoformat()}, after the last purchase)"
    parser.add_argument("--present", type=instant, default=PRESENT, metavar="INSTANT", help=present)


def with_model(args: argparse.Namespace) -> argparse.Namespace:
    args.model = args.model or model_of(args.repository, args.service)
    return args


# The model


@dataclass(frozen=True)
class Scorer:
    """A model, with what is needed to ask it."""

    model: Any
    contract: Contract
    service: FeatureService
    fields: Mapping[str, Sequence[Field]]
    """The features of each view of the service."""
    ttls: Mapping[str, timedelta | None]
    """That of each view."""
    id: str
    """The beginning of the SHA-256 of the model's file."""

    def scores(self, values: Mapping[str, Sequence], instants: Sequence[datetime]) -> list[float | None]:
        """The score of each row: of its features, in columns, as of its instant. None where a feature is missing."""
        found = scores(self.model, matrix(values, instants, self.contract.inputs))
        return [None if math.isnan(score) else score for score in found.tolist()]


def trained(path: Path, service: str, declarations: Declared) -> tuple[Scorer, tuple[FeatureTable, ...]]:
    """Read the model, and find the tables that it needs. Raises `UserError` if it was trained on other definitions."""
    model, contract = load(path, declarations, service)
    contract.require_inputs(inputs_of(feature.name for feature in contract.features))
    [found] = [one for one in declarations.services if one.name == service]
    fields = {projection.name: projection.features for projection in found.feature_view_projections}
    tables = declarations.of(service=service).tables
    ttls = {table.name: table.view.ttl or None for table in tables}
    scorer = Scorer(model, contract, found, fields, ttls, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
    return scorer, tables


def renewal(at: datetime) -> str:
    """What to do about customers who are outdated at an instant."""
    end = at.isoformat(timespec="seconds")
    return of_chosen(f"what is online is not known as far as {end}. Run: python materialize_to_online.py --end {end}")


# What is answered


class Another(Exception):
    """What is online is not what the model takes."""


@dataclass(frozen=True)
class Served:
    """What the online store answered of some customers: their features in columns, and what becomes of each."""

    values: Mapping[str, Sequence]
    statuses: Sequence[str]

    @classmethod
    def of(cls, response: OnlineResponse, scorer: Scorer, at: datetime) -> "Served":
        """What was answered ``at`` an instant. Raises `Another` for a value of another type than its feature's."""
        proto = response.proto
        vectors = dict(zip(proto.metadata.feature_names.val, proto.results, strict=True))
        values = {}
        for view, of_view in scorer.fields.items():
            for field in of_view:
                values[field.name] = typed_values(vectors[field.name].values, str(field.dtype))
                for value in values[field.name]:
                    if isinstance(value, Coerced):
                        raise Another(f"{view}:{field.name} is {value.kind} online, and {field.dtype} in the model")
        by_view = [
            ([vectors[field.name] for field in of_view], scorer.ttls[view]) for view, of_view in scorer.fields.items()
        ]
        return cls(values, [_status(by_view, place, at) for place in range(len(proto.results[0].statuses))])


def _status(by_view: Sequence[tuple[Sequence, timedelta | None]], place: int, at: datetime) -> str:
    """What becomes of the customer at a ``place``, by the feature vectors of each view and its ttl. A row that is not
    served though it is no older than the ttl is past its horizon."""
    found = set()
    for vectors, ttl in by_view:
        statuses = {vector.statuses[place] for vector in vectors}
        if FieldStatus.OUTSIDE_MAX_AGE in statuses:
            event = vectors[0].event_timestamps[place].ToDatetime(at.tzinfo)
            found.add(EXPIRED if ttl and at - event > ttl else OUTDATED)
        elif statuses == {FieldStatus.NOT_FOUND}:
            found.add(UNKNOWN)
    return next((status for status in (OUTDATED, EXPIRED, UNKNOWN) if status in found), OK)


class Server:
    """The answers to requests, for as long as the features are those of the model."""

    def __init__(
        self, store: FeatureStore, scorer: Scorer, tables: Sequence[FeatureTable], clock: Callable[[], datetime]
    ):
        self._store, self._scorer, self._tables, self._clock = store, scorer, tables, clock
        self._refusal: str | None = None
        """Why nothing is answered at the moment."""
        self._seen: str | None = None
        """What was seen at the last look: a refusal, or none."""
        self._outdated = False
        """Whether somebody was asked for who is past the horizon, which is said once."""
        self._unseen: str | None = None
        """Why it can't be seen at the moment whether the definitions have changed."""
        online_store_of(store).now = lambda: _as_of.get(None) or clock()

    def application(self, address: str) -> FastAPI:
        @asynccontextmanager
        async def living(_: FastAPI) -> AsyncIterator[None]:
            looking = asyncio.create_task(self._keep_looking())
            model = f"model {self._scorer.id} of {self._scorer.service.name}"
            print(f"Serving {model} at {address}, as of {self._clock().isoformat()}", flush=True)
            yield
            looking.cancel()

        application = FastAPI(openapi_url=None, lifespan=living)
        application.add_api_route("/predict", self.predict_one, methods=["GET"])
        application.add_api_route("/predict", self.predict_several, methods=["POST"])
        application.add_api_route("/health", self.health, methods=["GET", "HEAD"])
        application.add_exception_handler(FeastError, _unavailable)
        application.add_exception_handler(Another, _unavailable)
        return application

    async def predict_one(self, request: Request) -> Response:
        """The prediction for the customer of ``?customer_id=``."""
        ids = request.query_params.getlist(KEY)
        if len(ids) != 1:
            raise HTTPException(422, f"ask for one customer, as in /predict?{KEY}=00042; POST takes several.")
        [prediction], about = await self._predicted(ids)
        return _json(prediction | about)

    async def predict_several(self, request: Request) -> Response:
        """The predictions for the customers of a body such as ``{"customer_ids": ["00042"]}``, in their order."""
        predictions, about = await self._predicted(await _ids(request))
        return _json({"predictions": predictions} | about)

    async def _predicted(self, ids: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Read, and predict: for each customer, and what is true of all of them."""
        for id in ids:
            if fault := _fault(id):
                raise HTTPException(422, f"{KEY} {id!a:.80} {fault}")
        if self._refusal:
            raise HTTPException(503, self._refusal)
        as_of, scorer = self._clock(), self._scorer
        _as_of.set(as_of)
        response = await self._store.get_online_features_async(scorer.service, {KEY: ids})
        served = Served.of(response, scorer, as_of)
        scored = scorer.scores(served.values, [as_of] * len(ids))
        rows = zip(ids, served.statuses, scored, zip(*served.values.values(), strict=True), strict=True)
        predictions = [
            {KEY: id, "status": status, "score": score, "features": dict(zip(served.values, row, strict=True))}
            for id, status, score, row in rows
        ]
        about = {"service": scorer.service.name, "model": scorer.id, "as_of": as_of.isoformat()}
        if OUTDATED in served.statuses:
            about["detail"] = renewal(as_of)
            if not self._outdated:
                logger.warning("customers are outdated: %s", about["detail"])
        self._outdated = self._outdated or OUTDATED in served.statuses
        return predictions, about

    def health(self) -> Response:
        """Whether requests would be answered: 200, or 503 and why not."""
        about = {"service": self._scorer.service.name, "model": self._scorer.id, "as_of": self._clock().isoformat()}
        refusal = self._refusal
        try:
            online_store_of(self._store).ping(self._store.config)
        except (RedisError, OSError):
            refusal = refusal or "the online store does not answer"
        if refusal:
            return _json({"status": "unavailable", "detail": refusal} | about, 503)
        return _json({"status": "ok"} | about)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        """Hold what is applied and computed now against what the model was trained on; where that can't be seen, as of
        a registry that is out of reach for a while, what was seen last still holds.

        What is seen counts once it was seen twice, as `feast apply` writes one definition after another."""
        before, last, unseen = self._refusal, self._seen, None
        try:
            require_served(self._store, self._scorer.contract, self._tables)
            self._seen = None
        except UserError as error:
            self._seen = of_chosen(str(error))
        except Exception as error:  # of as many kinds as there are registries
            unseen = f"{type(error).__name__}: {error!s:.200}"
        if self._seen == last:
            self._refusal = self._seen
        if self._refusal != before:
            logger.warning("not serving: %s", self._refusal) if self._refusal else logger.warning("serving again")
        if unseen != self._unseen and unseen:
            logger.warning("whether the definitions have changed can't be seen: %s", unseen)
        self._unseen = unseen


def _fault(id: Any) -> str | None:
    """Why something can't be the id of a customer; None if it can. An id that nobody has is not at fault."""
    if not isinstance(id, str):
        return "is no text, such as '00042'."
    if not id:
        return "is empty."
    if len(id) > LONGEST_ID:
        return f"has {len(id):,} characters, more than {LONGEST_ID}."
    if id != id.strip() or not id.isprintable() or "\N{REPLACEMENT CHARACTER}" in id:
        return "holds spaces around it, or what can't be read."
    return None


async def _ids(request: Request) -> list:
    """The ids of a request's body, of which no more is read than it may be long."""
    body = bytearray()
    with suppress(ClientDisconnect):
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, f"the body is larger than {LARGEST_BODY:,} bytes.")
    try:
        ids = json.loads(bytes(body))[f"{KEY}s"]
        if not isinstance(ids, list) or not ids:
            raise TypeError
    except (ValueError, TypeError, LookupError, RecursionError):
        raise HTTPException(422, f'the body is not of this form: {{"{KEY}s": ["00042", "00043"]}}') from None
    if len(ids) > MOST_IDS:
        raise HTTPException(422, f"the request asks for {len(ids):,} customers, more than {MOST_IDS:,} at once.")
    return ids


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    """An answer in which a float is written so that reading it gives the same bits."""
    return Response(json.dumps(content), status, media_type="application/json")


def _unavailable(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=503)


# The process


def ticking(present: datetime) -> Callable[[], datetime]:
    """A clock that shows ``present`` now, and goes on from there."""
    begin = time.monotonic_ns()
    return lambda: present + timedelta(microseconds=(time.monotonic_ns() - begin) // 1000)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at this address. Raises `UserError` if there can't be any."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = f"nothing can listen at {host}, port {port}: {error.strerror}"
        raise UserError(f"{reason}. Choose another by --host and --port.") from None
    with listener:
        yield listener


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    def capture_signals(self) -> Any:
        return nullcontext()


def serve(application: FastAPI, listener: socket.socket) -> None:
    """Answer requests until a signal asks for an end; those that are being answered then are finished."""
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=SECONDS_TO_FINISH
    )
    server = _Uvicorn(config)
    with ending_by(lambda: setattr(server, "should_exit", True)):
        server.run(sockets=[listener])


if __name__ == "__main__":
    run(main)
