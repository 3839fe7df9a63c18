"""A headless Chromium, driven by its DevTools protocol over a pair of pipes: no port, no driver, no package.

Messages are JSON objects that end with a NUL byte; a command has an `id`, its answer the same one, and events have
none. Everything here is synchronous: whoever asks reads until the answer is there, and keeps the events on the way.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import eventually

WITHIN_S = 60.0
START_WITHIN_S = 120.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "NO CHROMIUM, SO THE CONSOLE IS NOT TESTED. On Debian: apt-get install chromium fonts-dejavu-core"
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",                 # a sandbox needs a user other than root
    "--disable-dev-shm-usage",      # /dev/shm is small in containers
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--hide-scrollbars",
    "--mute-audio",
    "--metrics-recording-only",
    "--password-store=basic",
    "--lang=en-GB",
)
KEYS = {
    "Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "ArrowUp": (38, ""), "ArrowDown": (40, ""),
    "ArrowLeft": (37, ""), "ArrowRight": (39, ""), "/": (191, "/"),
}  # fmt: skip
SHIFT = 8
MIDDLE = """
(e.scrollIntoView({block: 'center', behavior: 'instant'}), (b) => {
  const [x, y] = [b.x + b.width / 2, b.y + b.height / 2];
  return b.width && e.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
})(e.getBoundingClientRect())
"""
"""Where to click for an element `e`; null while something else is there."""
WHERE = """
[location.href, document.readyState, document.getElementById('live')?.innerText,
 performance.getEntriesByType('resource').filter((e) => !e.responseEnd || e.responseStatus >= 400).map((e) => e.name)]
"""
"""What to say of a page that is not as it should be: where it is, and what it lacks."""


class Refused(AssertionError):
    """The browser does not carry a command out, as while a page gives way to another one."""


class Browser:
    """A browser of our own, with an empty profile in `directory`. `needed` skips the test where there is none."""

    def __init__(self, directory: Path) -> None:
        if CHROMIUM is None:
            pytest.skip(MISSING)
        self.log_path = directory / "chromium.log"
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The browser reads from descriptor 3 and writes to descriptor 4.
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", CHROMIUM, *FLAGS]
        command += [f"--user-data-dir={directory / 'profile'}", "about:blank"]
        home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(directory))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs_in, theirs_out),
                env={**os.environ, **home, "TZ": "UTC"},
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", *, within_s: float = WITHIN_S, **params: Any) -> dict[str, Any]:
        """Carry out a command. Refused where the browser does not, AssertionError where it does not answer."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + within_s
        while True:
            answer = self._read(deadline)
            assert answer is not None, f"no answer to {method}; see {self.log_path}"
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise Refused(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None where there is none by the deadline."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._in, 1 << 20)
            assert data, f"the browser has gone; see {self.log_path}"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def open(self) -> Page:
        """A new page, in a context of its own."""
        context = self.call("Target.createBrowserContext", within_s=START_WITHIN_S)["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, target)

    def close(self) -> None:
        """End the browser, and wait until it is gone."""
        try:
            self.call("Browser.close", within_s=20)
            self.process.wait(20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        os.close(self._out)


class Page:
    """One page. Selectors are CSS; whatever acts on an element waits until it is there."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(1280, 900)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def go(self, url: str) -> None:
        """Open an address, and wait until all that the page names is there.

        A fresh page may still be on its way to about:blank, which then takes the place of where it was sent meanwhile:
        so it is looked where it is, and sent again where it is not there.
        """

        def arrived() -> bool:
            try:
                if self.js("location.href") != url:
                    self.call("Page.navigate", url=url)
                return bool(self.js(f"location.href === {json.dumps(url)} && document.readyState === 'complete'"))
            except Refused:
                return False

        eventually(arrived, within_s=WITHIN_S, what=f"{url} to be loaded")

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of this kind so far."""
        self.js("0")        # what has happened before is told before this is answered
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    # -- looking -----------------------------------------------------------------------------------------------------

    def js(self, expression: str) -> Any:
        """The value of an expression; a promise's, once it has one."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def on(self, selector: str, expression: str) -> Any:
        """The value of an expression of `e`, the first element of a selector; None where there is none."""
        return self.js(f"(e => e && ({expression}))(document.querySelector({json.dumps(selector)}))")

    def text(self, selector: str) -> str:
        """The text that an element shows, empty where there is none."""
        return self.on(selector, "e.innerText") or ""

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that can be seen."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.checkVisibility())"
        found: list[str] = self.js(f"{every}.map(e => e.innerText)")
        return found

    def until(self, expression: str, what: str = "") -> None:
        """Ask until an expression is true."""
        eventually(lambda: self.js(f"!!({expression})"), within_s=WITHIN_S, what=what or expression)

    def until_text(self, selector: str, part: str) -> str:
        """Wait until an element shows a text."""
        try:
            return eventually(
                lambda: found if part in (found := self.text(selector)) else None,
                within_s=WITHIN_S, what=f"{part!r} in {selector}",
            )  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.text(selector)!r}, {self.js(WHERE)}") from None

    @property
    def focus(self) -> str:
        """What has the focus, by id or text."""
        return str(self.js("document.activeElement.id || document.activeElement.innerText"))

    # -- acting ------------------------------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a mouse does: whatever lies above it would get the click."""
        box = eventually(
            lambda: self.on(selector, MIDDLE), within_s=WITHIN_S, what=f"{selector} to be there, and not below another"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, by its name."""
        code, text = KEYS[key]
        pressed = {"key": key, "windowsVirtualKeyCode": code, "modifiers": SHIFT * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def fill(self, selector: str, text: str) -> None:
        """Put a text in place of what a field holds."""
        eventually(lambda: self.on(selector, "(e.focus(), e.select(), true)"), within_s=WITHIN_S, what=selector)
        if text:
            self.type(text)
        else:
            self.js("document.execCommand('delete')")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """Media features that the user is said to prefer, `_` for `-`."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot, as PNG: of what is seen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
