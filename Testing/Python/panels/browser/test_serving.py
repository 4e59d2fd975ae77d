"""The local server: for this machine only, with a clear start, a clear end and no process left behind."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from panel_process import COMMAND, PanelProcess, run_apart, wait_until_ended


def get(port: int, host_header: str, origin: str | None = None) -> int:
    """Status of the page's address under that Host (and Origin) header."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/index.html", skip_host=True)
    connection.putheader("Host", host_header)
    if origin:
        connection.putheader("Origin", origin)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


async def websocket_status(port: int, origin: str) -> int:
    """101 if a page of that origin may open the panel's WebSocket, else the status of the refusal."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"ws://127.0.0.1:{port}/ws", headers={"Origin": origin}):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


def listening_addresses(port: int) -> set[str]:
    """Local addresses on which this machine listens at that port, from /proc."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, hex_port = local.split(":")
            if state == "0A" and int(hex_port, 16) == port:
                found.add(address)
    return found


def test_pages_of_other_sites_get_no_answer(scripted_panel):
    port = scripted_panel.port
    assert get(port, f"127.0.0.1:{port}") == 200
    assert get(port, f"localhost:{port}", f"http://localhost:{port}") == 200
    assert get(port, f"rebound.example:{port}") == 403
    assert get(port, f"127.0.0.1:{port}", "http://elsewhere.example") == 403
    assert run_apart(websocket_status(port, f"http://127.0.0.1:{port}")) == 101
    assert run_apart(websocket_status(port, "http://elsewhere.example")) == 403


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "panel", "--no-open", "--port", str(port)],
            env=PanelProcess.environment({}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert f"Port {port} can't be used" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.browser
def test_the_server_is_on_this_machine_only_and_ctrl_c_ends_it_with_its_worker(
    open_panel, phantom_files, random_weights
):
    ct, mask = map(str, phantom_files)
    code = (
        "import sys; from pathlib import Path; from BoneDensityMedConvLib.browser_panel import run_browser_panel;"
        f"sys.exit(run_browser_panel(Path({ct!r}), Path({mask!r}), 31, open_browser=False))"
    )
    # trame has options of its own; none of them may be taken from this program's command line.
    foreign = ["--host", "0.0.0.0", "--port", "1", "--server"]
    panel = PanelProcess(["-c", code, *foreign], environment={"MEDCONV_WEIGHTS_DIR": str(random_weights)})
    try:
        assert listening_addresses(panel.port) == {"0100007F"}  # 127.0.0.1, least significant byte first
        page = open_panel(panel)
        page.wait_for_text("case-name", "ct.nii.gz · L1")
        page.click("analyse")
        page.control("result").wait_for(timeout=60_000)
        workers = panel.descendants()
        assert workers, "the analysis ran in no process of its own"
        assert panel.interrupt() == 0
        page.wait_for_text("ended", "The panel has ended.")
        wait_until_ended(workers)
        assert panel.lines == [f"Panel: {panel.url}"]
        assert not any("Traceback" in line for line in panel.errors)
    finally:
        panel.close()
