"""Opens a page in headless Chromium and tells what came of it."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
REQUIRED = bool(os.environ.get("LMO_TRANSFER_REQUIRE_BROWSER"))
"""Whether a machine without Chromium fails the tests, as in continuous integration."""
DESKTOP, PHONE = (1280, 900), (390, 844)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=3000"),
)


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    """What the page logged, errors included."""
    requests: list[str]
    """Addresses that were asked of a network."""


def visit(page: Path, size: tuple[int, int], folder: Path) -> Seen:
    """Open a page and return its document after its scripts have run."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    done = subprocess.run(
        [CHROMIUM, *_FLAGS, f"--window-size={size[0]},{size[1]}", f"--log-net-log={log}",
         f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.resolve().as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = json.loads(log.read_text("utf-8"))["events"]
    # What the browser wants for itself has no origin.
    asked = [e["params"] for e in events if "initiator" in e.get("params", {})]
    urls = {p.get("url", "") for p in asked if p["initiator"] != "not an origin"}
    return Seen(done.stdout, console, sorted(u for u in urls if u.startswith(("http", "ws"))))
