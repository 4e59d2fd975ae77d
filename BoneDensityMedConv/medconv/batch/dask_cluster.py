"""A Dask cluster: the connection to it, and which of its workers can do a batch's work."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medconv import __version__
from medconv.batch import dask_case
from medconv.packages import how_to_install
from medconv.types import MissingRequirement, UsageError

ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.%]+\]|[^:/\[\]\s]+):[0-9]{1,5}")


CONNECT_WITHIN_S = 10.0


def check_there(address: str, within_s: float = CONNECT_WITHIN_S) -> None:
    """Raises UsageError, MissingRequirement unless a scheduler answers."""
    with quiet():
        connect(address, within_s).close(timeout=2)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Dask's own log lines off: a scheduler that is gone is said once, in our own words."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def connect(address: str, within_s: float) -> Any:
    """A client of the scheduler at that address. Raises UsageError, MissingRequirement."""
    if not ADDRESS.fullmatch(address):
        raise UsageError(
            "scheduler_address",
            f"'{address}' is no address of a Dask scheduler.",
            "Give --scheduler tcp://HOST:PORT (or tls://HOST:PORT), as 'dask scheduler' prints it.",
        )
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingRequirement(
            "dask_missing",
            f"--scheduler needs Dask ({error}).",
            how_to_install("batch"),
        ) from error
    security = _security(address)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared here, for what matters
            return Client(address, timeout=within_s, security=security, set_as_default=False, name="medconv-batch")
    except (OSError, TimeoutError, ValueError) as error:
        raise MissingRequirement(
            "scheduler_missing",
            f"No Dask scheduler answers at {address} within {within_s:g} s.",
            "Start one with 'dask scheduler', or check the address, the firewall, and tcp or tls.",
        ) from error


def _security(address: str) -> Any:
    """Dask's own configuration of encryption. Raises UsageError where it does not fit the address.

    A client that finds that out itself would wait for half a minute and print where in Dask it was.
    """
    from distributed.security import Security

    try:
        security = Security()
        known = security.get_connection_args("client")
    except (OSError, TypeError, ValueError) as error:
        raise _other_encryption(f"Dask's certificates can't be read ({type(error).__name__}).") from error
    if address.startswith("tls") and not known.get("ssl_context"):
        raise _other_encryption("tls:// needs certificates, and Dask's configuration names none.")
    if address.startswith("tcp") and known.get("require_encryption"):
        raise _other_encryption("Dask's configuration requires encryption, and tcp:// has none.")
    return security


def _other_encryption(message: str) -> UsageError:
    return UsageError(
        "scheduler_encryption", message, "See distributed.comm.tls in Dask's configuration (docs/cluster.md)."
    )


def unfit(client: Any, workers: Iterable[str], settings: dict[str, Any], out: Path, batch: str) -> dict[str, str]:
    """Worker → why it can't take part, of those that can't."""
    landmarks = list(_landmarks(Path(path) for path in (*settings["inputs"], settings["masks"]) if path))
    asked = list(workers)
    if not asked:
        return {}
    versions = client.get_versions()["workers"]
    problems = {who: why for who in asked if (why := _other_python(versions.get(who)))}
    able = [who for who in asked if who not in problems]
    told = client.run(_version_by_value(), workers=able, on_error="return") if able else {}
    problems |= {who: f"has medconv {v}, here {__version__}" for who, v in told.items() if v != __version__}
    able = [who for who in able if who not in problems]
    told = {}
    if able:
        arguments = (settings, str(out), batch, landmarks)
        told = client.run(dask_case.probe, *arguments, workers=able, on_error="return")
    for who, answer in told.items():
        if isinstance(answer, Exception):
            problems[who] = f"does not answer ({type(answer).__name__})"
        elif answer["problems"]:
            problems[who] = f"({answer['host']}) " + ", ".join(answer["problems"])
    return problems


def _landmarks(given: Iterable[Path]) -> Iterator[str]:
    """Paths, and of a folder the first file in it: a drive that is not mounted is an empty folder."""
    for path in given:
        yield str(path)
        for folder, _, files in os.walk(path):
            if files:
                yield os.path.join(folder, min(files))  # noqa: PTH118 - a name may hold bytes that are no text
                break


def _other_python(versions: Any) -> str:
    """Why a worker's Python doesn't do, or ""."""
    here = platform.python_version()
    found = ".".join(versions["host"]["python"].split(".")[:3]) if versions else "none that answers"
    return "" if found.split(".")[:2] == here.split(".")[:2] else f"has Python {found}, here {here}"


def _version_by_value() -> Any:
    """A function that travels as code: one of medconv's own can't be read where medconv is not installed."""

    def version() -> str:
        try:
            from medconv import __version__ as found
        except ImportError:
            return "none"
        return found

    return version
