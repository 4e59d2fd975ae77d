"""The local web server: this machine only, one clear line with the address, a clean end on Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medconv.types import MissingRequirement, UsageError

if TYPE_CHECKING:
    from BoneDensityMedConvLib.browser_panel.app import BrowserPanel

LOCAL_HOSTS = ("127.0.0.1", "localhost")
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
# The page may load nothing from anywhere but this server. Vue compiles its templates in the browser and trame's start
# page holds a script of its own, hence the two "unsafe" words; all of that text comes from this process.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' ws://127.0.0.1:* "
    "ws://localhost:*; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve_until_stopped(make_panel: Callable[[], BrowserPanel], *, host: str, port: int, open_browser: bool) -> int:
    """Make the panel and serve it until Ctrl-C or a termination signal.

    Raises MissingRequirement without trame-slicer, UsageError for a port in use or a host other than this machine.
    """
    if host not in LOCAL_HOSTS:
        raise UsageError(
            "panel_host",
            f"The panel can't be served at '{host}': whoever reaches it could read this user's images.",
            "Leave --host out, or reach a distant machine through an SSH tunnel.",
        )
    _require_free_port(port)
    _require_trame_slicer()
    # wslink writes this to standard output without a line end, which would spoil the line with the address.
    os.environ["WSLINK_READY_MSG"] = ""
    with contextlib.suppress(KeyboardInterrupt):  # Windows has no signal handlers on the loop
        asyncio.run(_serve(make_panel, host, port, open_browser))
    return 0


async def _serve(make_panel: Callable[[], BrowserPanel], host: str, port: int, open_browser: bool) -> None:
    panel = make_panel()
    try:
        _announce_when_ready(panel.server, open_browser)
        _guard(panel.server)
        with _stop_on_signals(panel.server):
            await _start(panel.server, port)
    except OSError as error:
        if error.errno not in PORT_ERRORS:
            raise
        raise _port_in_use(port, error) from error
    finally:
        panel.close()


def _start(server: Any, port: int) -> Awaitable[None]:
    # trame would read this program's own command line, where `--host` could move the server off this machine.
    parse = server.cli.parse_known_args
    server.cli.parse_known_args = lambda *_: parse([])
    options: dict[str, Any] = {"open_browser": False, "show_connection_info": False, "timeout": 0, "thread": True}
    return server.start(host="127.0.0.1", port=port, exec_mode="coroutine", **options)


def _announce_when_ready(server: Any, open_browser: bool) -> None:
    def announce(**_: Any) -> None:
        url = f"http://127.0.0.1:{server.port}/"
        print(f"Panel: {url}", flush=True)
        if open_browser:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, url)

    server.controller.on_server_ready.add(announce)


@contextlib.contextmanager
def _stop_on_signals(server: Any) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if not stopping:
            stopping.append(loop.create_task(server.stop()))

    signals = [s for name in ("SIGINT", "SIGTERM", "SIGHUP") if (s := getattr(signal, name, None))]
    handled = []
    for number in signals:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, stop)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _guard(server: Any) -> None:
    """Refuse requests that another web site makes in the user's browser, by their Host and Origin headers."""
    from aiohttp import web

    @web.middleware
    async def local_only(request: web.Request, handler: Callable[..., Awaitable[Any]]) -> Any:
        if not is_local_request(request.headers.get("Host", ""), request.headers.get("Origin"), server.port):
            raise web.HTTPForbidden(text="This panel answers only to this machine's own pages.")
        return await handler(request)

    async def where_to_connect(_: web.Request) -> web.Response:
        # trame's page asks this first; without an answer it tries the same address after an error in its console.
        return web.json_response({"sessionURL": "ws://USE_HOST/ws"})

    def bind(wslink_server: Any) -> None:
        wslink_server.app.middlewares.append(local_only)
        wslink_server.app.router.add_post("/paraview/", where_to_connect)

    for name, value in PAGE_HEADERS.items():
        server.http_headers.set_header(name, value)
    server.controller.on_server_bind.add(bind)


def is_local_request(host: str, origin: str | None, port: int) -> bool:
    """True if both headers name this server; a browser always sends Origin when it opens a WebSocket."""
    own = {f"{name}:{port}" for name in LOCAL_HOSTS}
    if host not in own:
        return False
    return origin is None or (urlsplit(origin).scheme == "http" and urlsplit(origin).netloc in own)


def _require_free_port(port: int) -> None:
    """Say at once that a port is taken, before seconds go into making the panel."""
    with socket.socket() as probe:
        # As the server itself does: a port whose last connections are still being closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix"))
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise _port_in_use(port, error) from error


def _port_in_use(port: int, error: OSError) -> UsageError:
    return UsageError(
        "port_in_use",
        f"Port {port} can't be used: {error.strerror or error}.",
        "Choose another with --port, or leave it out and a free one is taken.",
    )


def _require_trame_slicer() -> None:
    try:
        import slicer  # noqa: F401
        import trame_slicer  # noqa: F401
    except ImportError as error:
        raise MissingRequirement(
            "browser_panel_missing",
            f"The browser panel needs trame-slicer, which is not installed ({error}).",
            'Install it with: pip install "bonedensity-medconv[browser]"',
        ) from error
