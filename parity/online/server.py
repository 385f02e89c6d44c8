"""Feast's feature server for a network: it answers reads, and lets nobody write.

    python -m parity.online.server --host 0.0.0.0 --port 6566 --workers 4

`feast serve` takes /push, /write-to-online-store and /materialize from whoever reaches it, and has no switch for that
but an identity provider. This is the same application behind a list of what it lets through, `ALLOWED`; all else is
403, also what a later Feast adds. Reads of the plain form are answered without Feast's route, to the same bytes
(parity/online/quick_route.py). The options are those of uvicorn. The repository is feature_repo, or what
FEAST_FS_YAML_FILE_PATH names.
"""

import gc
import os
import secrets
import sys
from pathlib import Path

import uvicorn
from click import ClickException
from feast import FeatureStore
from feast.feature_server import get_app
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parity.edge.configuration import configuration_file, read_configuration
from parity.edge.errors import UserError
from parity.online.quick_route import QuickRoute

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
ALLOWED = {("GET", "/health"), ("HEAD", "/health"), ("POST", "/get-online-features")}
LARGEST_BODY = 8 << 20
"""Bytes of a request. Ten thousand ids, as many as are answered at once, take a fiftieth of that."""


class ReadOnly:
    """An ASGI application that lets through to another one what is `ALLOWED`, to the letter."""

    def __init__(self, application: ASGIApp):
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
        elif scope["type"] == "http" and (scope["method"], scope["path"]) in ALLOWED:
            await self._bounded(scope, receive, send)
        elif scope["type"] == "http":
            reason = "this server only reads: " + ", ".join(" ".join(route) for route in sorted(ALLOWED))
            await JSONResponse({"detail": reason}, status_code=403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through in one piece, of no more than `LARGEST_BODY`; of a larger one no more is read."""
        message: Message = {"more_body": True}
        body = bytearray()
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
            if len(body) > LARGEST_BODY:
                reason = f"the request is larger than {LARGEST_BODY:,} bytes"
                await JSONResponse({"detail": reason}, status_code=413)(scope, receive, send)
                return
        if message["type"] == "http.request":
            message = {"type": "http.request", "body": bytes(body), "more_body": False}
        whole = iter([message])

        async def again() -> Message:
            return next(whole, None) or await receive()

        if scope["method"] == "HEAD":  # which Feast's route does not know
            scope = scope | {"method": "GET"}
        await self.application(scope, again, send)


def app() -> ReadOnly:
    """Make the application; a permission that the configuration asks for holds as in `feast serve`."""
    store = FeatureStore(repo_path=str(REPOSITORY), fs_yaml_file=configuration_file(REPOSITORY))
    auth = store.config.auth_config
    kind = str_to_auth_manager_type(auth.type)
    init_security_manager(auth_type=kind, fs=store)
    init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=auth)
    application = ReadOnly(QuickRoute(get_app(store), store))
    gc.collect()
    gc.freeze()  # what is imported stays, and need not be looked through again and again
    return application


def main() -> None:
    read_configuration(configuration_file(REPOSITORY))  # says in one line what is missing
    # Feast takes the features of a view from a set, so their order is that of a process; the workers shall have one.
    os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))
    try:
        uvicorn.main(["--factory", "parity.online.server:app", *sys.argv[1:]], standalone_mode=False)
    except ClickException as error:
        raise UserError(error.format_message()) from None
    except SystemExit:
        raise UserError("the server did not start; what it logged above says why.") from None
