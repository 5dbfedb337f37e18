"""The service's page in a real browser: Debian's Chromium, by the WebDriver protocol that its driver speaks."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from helpers import REPOSITORY
from test_serve import Started

from segfast import Engine

PETS = REPOSITORY / "examples" / "pets.onnx"
CAT = REPOSITORY / "examples" / "cat.jpg"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of references to elements, by the W3C's standard
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,800")


class Browser:
    """A session of a driver."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"
        wanted = {"goog:chromeOptions": {"args": [*OPTIONS]}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["value"]

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def wait(self, script, seconds=60):
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, self.run("return document.body.innerText")
            time.sleep(0.05)
        return found

    def screenshot(self, name):
        folder = os.environ.get("SEGFAST_SCREENSHOTS")  # to look at
        if folder:
            with open(f"{folder}/{name}.png", "wb") as file:
                file.write(base64.b64decode(self.call("GET", "/screenshot")))


@pytest.fixture
def browser():
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        session = Browser(port)
        yield session
        session.call("DELETE", "")
    finally:
        process.terminate()
        process.wait()


def largest(model):
    """What the legend's first row must say: the cat, or what a model without meaning takes it for."""
    return "cat" if model == PETS else next(iter(Engine(model, device="cpu").segment(CAT).areas))


def test_a_photo_is_dropped_and_its_labels_are_shown(browser, tiny_onnx, tmp_path):
    model = PETS if PETS.is_file() else tiny_onnx
    name = largest(model)
    service = Started(model, tmp_path, "--token-file", "token")
    try:
        browser.call("POST", "/url", {"url": f"http://127.0.0.1:{service.port}/"})
        browser.call("POST", f"/element/{browser.find('#file')}/value", {"text": str(CAT)})
        browser.wait("return document.getElementById('state').className === 'bad'")  # the token is asked for
        browser.run("document.getElementById('secret').value = 'a token of 20 letters'")
        browser.call("POST", f"/element/{browser.find('#token button')}/click")
        browser.wait("return document.querySelectorAll('#legend li').length > 0")
        browser.screenshot("found")

        first = browser.run("return document.querySelector('#legend li b').textContent")
        assert name in first if model == PETS else first == name
        assert browser.run("return document.getElementById('state').textContent").startswith("cat.jpg: 451×300, ")
        assert browser.run("return [photo.width, photo.height, overlay.width, overlay.height]") == [451, 300, 451, 300]
        shown, over = browser.run("return [photo, overlay].map(c => c.getBoundingClientRect().toJSON())")
        assert shown == over

        # Every pixel of the overlay has its label's colour, and the photo is there below it.
        assert browser.run(
            "const p = overlay.getContext('2d').getImageData(0, 0, width, height).data;"
            "return labels.every((label, i) => names.get(label).color.every((c, k) => p[4 * i + k] === c))"
        )
        assert browser.run("return new Set(photo.getContext('2d').getImageData(0, 0, 451, 300).data).size > 50")

        # Hovering names the class below the pointer, here and in the legend.
        spot = {
            "type": "pointer",
            "id": "mouse",
            "actions": [{"type": "pointerMove", "x": int(shown["x"]) + 200, "y": int(shown["y"]) + 150}],
        }
        browser.call("POST", "/actions", {"actions": [spot]})
        tip, row, label = browser.run(
            "const box = photo.getBoundingClientRect(), scale = width / box.width;"
            f"const x = Math.floor(({spot['actions'][0]['x']} - box.left) * scale), y = Math.floor(({spot['actions'][0]['y']} - box.top) * scale);"
            "return [tip.textContent, document.querySelector('#legend li.on b').textContent, names.get(labels[y * width + x]).name]"
        )
        assert tip == row == label
        browser.screenshot("hover")

        for value, opacity in ((0, "0"), (100, "1")):
            browser.run(f"slider.value = {value}; slider.dispatchEvent(new Event('input'))")
            assert browser.run("return getComputedStyle(overlay).opacity") == opacity
        # A file that is not a picture says why, in the page; the 401 and 422 are all that the console has.
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no picture")
        browser.call("POST", f"/element/{browser.find('#file')}/value", {"text": str(bad)})
        assert "is no picture" in browser.wait(
            "const s = document.getElementById('state'); return s.className === 'bad' && s.textContent"
        )
        errors = [entry["message"] for entry in browser.call("POST", "/se/log", {"type": "browser"})]
        assert len(errors) == 2, errors
        assert "401" in errors[0]
        assert "422" in errors[1]
    finally:
        service.process.kill()
        service.process.wait()
