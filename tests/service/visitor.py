"""The page in Chromium without a window, steered as a person would."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 90  # seconds


class Visitor:
    """A browser with the page open.

    Args:
        url: of the page.
        folder: of what it uploads and downloads.
        size: of its window.
    """

    def __init__(self, url: str, folder: Path, size: tuple[int, int] = (1280, 1000)) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.add_argument("--window-size={},{}".format(*size))
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.url, self.folder = url, folder
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER or ""))
        self.driver.get(url)
        self.until(lambda: self.all("#pictures input[type=file]"))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Waits for something, and returns it."""
        return WebDriverWait(self.driver, seconds).until(lambda _: condition())

    def choose(self, *contents: bytes) -> None:
        """Gives pictures to the page, a.png and so on."""
        for i, content in enumerate(contents):
            (self.folder / f"{'abcdef'[i]}.png").write_bytes(content)
        names = [str(self.folder / f"{'abcdef'[i]}.png") for i in range(len(contents))]
        self.one("#pictures input[type=file]").send_keys("\n".join(names))
        self.until(lambda: len(self.all("#pictures tr.file")) == len(contents))

    def drop(self, content: bytes, name: str) -> None:
        """Drops a picture on the page, as from another window."""
        file = self.folder / name
        file.write_bytes(content)
        box = self.one("#pictures").rect
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, **where, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)
        self.until(lambda: self.all("#pictures tr.file"))

    def paste(self, png: bytes) -> None:
        """Puts a picture on the clipboard, and presses the keys that paste."""
        rights = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        self.driver.execute_cdp_cmd("Browser.grantPermissions", rights)
        script = """
            const [text, done] = arguments;
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            const item = new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})});
            navigator.clipboard.write([item]).then(() => done(""), (error) => done(`${error}`));
        """
        failure = self.driver.execute_async_script(script, base64.b64encode(png).decode())
        assert not failure
        keys = {"type": "keyDown", "modifiers": 2, "key": "v", "code": "KeyV"}
        self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {**keys, "commands": ["paste"]})
        self.until(lambda: self.all("#pictures tr.file"))

    def zoom(self) -> None:
        """Turns the wheel over the left half of the comparison."""
        box = self.one("#compare img").rect
        where = {"x": box["x"] + box["width"] / 4, "y": box["y"] + box["height"] / 2}
        turn = {"type": "mouseWheel", **where, "deltaX": 0, "deltaY": -240}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", turn)

    def look(self, scheme: str, size: tuple[int, int]) -> None:
        """Opens the page again with light or dark colours; a narrow one as on a phone."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        if size[0] < 600:
            screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.refresh()
        self.until(lambda: self.all("#pictures input[type=file]"))

    def take_small(self) -> None:
        """Chooses the small network, by keyboard."""
        field = self.one("#model input")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys("small")
        field.send_keys(Keys.ENTER)

    def start(self) -> None:
        self.one("#start").send_keys(Keys.ENTER)

    def result(self, seconds: float = PATIENCE) -> str:
        """What the page says at the end."""
        return self.until(
            lambda: (
                "restored in" in (text := self.one("#results").text)
                and self.one("#start").is_enabled()
                and text
            ),
            seconds,
        )

    def download(self, name: str) -> bytes:
        self.one("#download").click()
        path = self.folder / name
        self.until(path.exists)
        return path.read_bytes()
