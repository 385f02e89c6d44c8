"""Feast's feature server for a network: it answers reads, and lets nobody write.

    python -m parity.read_only_server --host 0.0.0.0 --port 6566 --workers 4

`feast serve` takes /push, /write-to-online-store and /materialize from whoever reaches it, and has no switch for that
but an identity provider. This is the same application behind a list of what it lets through, `ALLOWED`; all else is
403, also what a later Feast adds. The options are those of uvicorn. The repository is feature_repo, or what
FEAST_FS_YAML_FILE_PATH names.
"""

import sys
from pathlib import Path

import uvicorn
from feast import FeatureStore
from feast.feature_server import get_app
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from parity.command import run
from parity.configuration import configuration_file, read_configuration

REPOSITORY = Path(__file__).resolve().parent.parent / "feature_repo"
ALLOWED = {("GET", "/health"), ("POST", "/get-online-features")}


class ReadOnly:
    """An ASGI application that lets through to another one what is `ALLOWED`, to the letter."""

    def __init__(self, application: ASGIApp):
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and (scope["method"], scope["path"]) in ALLOWED):
            await self.application(scope, receive, send)
        elif scope["type"] == "http":
            reason = "this server only reads: " + ", ".join(" ".join(route) for route in sorted(ALLOWED))
            await JSONResponse({"detail": reason}, status_code=403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def app() -> ReadOnly:
    """Make the application; a permission that the configuration asks for holds as in `feast serve`."""
    store = FeatureStore(repo_path=str(REPOSITORY), fs_yaml_file=configuration_file(REPOSITORY))
    auth = store.config.auth_config
    kind = str_to_auth_manager_type(auth.type)
    init_security_manager(auth_type=kind, fs=store)
    init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=auth)
    return ReadOnly(get_app(store))


def main() -> None:
    read_configuration(configuration_file(REPOSITORY))  # says in one line what is missing
    uvicorn.main(["--factory", "parity.read_only_server:app", *sys.argv[1:]], standalone_mode=False)


if __name__ == "__main__":
    run(main)
