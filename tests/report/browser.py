"""A headless Chromium that tests drive: its own protocol over a pipe, so that no further package is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--hide-scrollbars", "--remote-debugging-pipe")  # fmt: skip
LONGEST = 60
"""Seconds that anything may take."""


class Browser:
    """One tab. `errors` are console errors and exceptions, `requests` the addresses that were asked for."""

    def __init__(self, folder: Path, *flags: str) -> None:
        assert CHROMIUM
        theirs, self.writer = os.pipe()
        self.reader, ours = os.pipe()

        def places() -> None:  # the protocol's pipes are 3 and 4
            os.dup2(theirs, 13)
            os.dup2(ours, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'user'}", "about:blank"]
        self.process = subprocess.Popen(
            command, preexec_fn=places, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(ours)
        self.rest, self.number, self.session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.downloads = folder / "downloads"
        (page,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self._noted(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            piece = os.read(self.reader, 1 << 20)
            assert piece, "the browser has ended"
            self.rest += piece
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def _noted(self, event: dict[str, Any]) -> None:
        kind, told = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:600])
        elif (kind == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning")) or (
            kind == "Log.entryAdded" and told["entry"]["level"] == "error"
        ):
            self.errors.append(json.dumps(told)[:600])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def js(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + LONGEST
        while not (value := self.js(script)):
            assert time.monotonic() < end, f"not within {LONGEST} s: {script}"
            time.sleep(0.05)
        return value

    def open(self, path: Path, width: int = 1366, height: int = 768, fragment: str = "") -> None:
        """A page of the disk, drawn."""
        self.sized(width, height)
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=path.as_uri() + fragment)
        self.until("document.documentElement?.dataset.ready")
        self.settled()

    def settled(self) -> None:
        """Wait until the page has drawn what it was asked for."""
        self.js("new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 60))")

    def sized(self, width: int, height: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def theme(self, name: str) -> None:
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def click(self, selector: str) -> None:
        """A click with the mouse on the middle of the first such element in sight."""
        box = self.js(f"""(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})]
            .find(e => e.getClientRects().length); e.scrollIntoView({{block: "center"}});
            const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
        self.settled()

    def key(self, name: str) -> None:
        code = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Enter": 13, " ": 32, "Tab": 9}[name]
        text = {"Enter": "\r", " ": " "}.get(name, "")
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        for one in (down, {"type": "keyUp"}):
            self("Input.dispatchKeyEvent", key=name, code=name if name != " " else "Space",
                 windowsVirtualKeyCode=code, **one)  # fmt: skip
        self.settled()

    def downloaded(self, name: str) -> str:
        """The text of a download, once it is whole."""
        path, end = self.downloads / name, time.monotonic() + LONGEST
        while not path.exists():
            assert time.monotonic() < end, f"{name} was not downloaded: {list(self.downloads.glob('*'))}"
            time.sleep(0.05)
        return path.read_text("utf-8")

    def picture(self, path: Path, whole: bool = False) -> None:
        """A screenshot, of the whole page or of what is in sight."""
        shot = self("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(LONGEST)
        os.close(self.writer)
        os.close(self.reader)
