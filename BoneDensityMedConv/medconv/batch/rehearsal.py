"""Faults on purpose, so that a batch's behaviour can be rehearsed and tested.

Only where MEDCONV_BATCH_REHEARSAL is set: it names a JSON file {case_id: fault}, and a fault is "segmentation_fault",
"exit", "hang", "no_memory" or "error".
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path

VARIABLE = "MEDCONV_BATCH_REHEARSAL"


def perform(case_id: str) -> None:
    """Fail as the file says for this case; as good as always, there is no file."""
    if not (named := os.environ.get(VARIABLE)):
        return
    fault = json.loads(Path(named).read_text("utf-8")).get(case_id)
    if fault == "segmentation_fault":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    elif fault == "exit":
        os._exit(7)
    elif fault == "hang":
        time.sleep(1e6)
    elif fault == "no_memory":
        raise MemoryError
    elif fault == "error":
        raise RuntimeError(f"rehearsed in process {os.getpid()}")
