"""`python -m bench.web [--quick]`: how soon the map is there after a sign-in, and how smoothly it moves, in Chromium.

A controller with 10,000 hosts, 5,000 rules and 10 million flows of a week (bench/flowfleet.py), and a browser on the
same machine that draws WebGL in software: with a graphics card it is quicker. Rows go to bench/out/web.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

import segctl_controller.tls13  # noqa: F401 - before grpc is imported
from playwright.sync_api import Browser, Page, Request, sync_playwright
from segctl.apitoken import new_token
from segctl.model.policy import Tags
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl_controller.clock import Clock
from segctl_controller.config import FLOWS_FILE, Config, Web, load_config
from segctl_controller.flowstore.store import flow_store_on
from segctl_controller.server import open_controller
from segctl_controller.setup import create_controller, open_store
from segctl_controller.store.records import ApiTokenRecord, Entry, GenerationRecord, Role

from bench.fleet.identities import issue
from bench.fleet.policies import FleetHost
from bench.flowfleet import HOSTS, NOW, Ends, policy_text, tags_of
from bench.measures_fleet.flowstore import LIMITS, ROWS, fill
from bench.rows import Goal, Row, table, to_json

OUT = Path(__file__).parent / "out" / "web.json"
CHROMIUM = "/usr/bin/chromium"
SIGN_INS = 5
WAIT_MS = 120_000
FRAMES = """async () => {
  const drawing = document.querySelector(".sigma-mouse"), box = drawing.getBoundingClientRect();
  const at = (x, y) => ({ clientX: box.left + x, clientY: box.top + y, bubbles: true, buttons: 1 });
  drawing.dispatchEvent(new MouseEvent("mousedown", at(300, 200)));
  const began = performance.now();
  let frames = 0;
  while (performance.now() - began < 4000) {
    await new Promise(requestAnimationFrame);
    frames += 1;
    const turn = frames / 8;
    document.dispatchEvent(new MouseEvent("mousemove", at(300 + 120 * Math.sin(turn), 200 + 80 * Math.cos(turn))));
  }
  document.dispatchEvent(new MouseEvent("mouseup", at(300, 200)));
  return frames / ((performance.now() - began) / 1000);
}"""
"""Drags the map in circles for 4 s; frames a second."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.web", description="Measure the web UI on this machine.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the flows")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = measure(ROWS // 10 if options.quick else ROWS)
    options.out.write_text(to_json(rows) + "\n")
    print(table(rows))
    return 0


def measure(flows: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="segctl-web.") as scratch, sync_playwright() as playwright:
        state = Path(scratch) / "controller"
        secret = _fleet(state, flows)
        arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        with _running(state) as port, playwright.chromium.launch(executable_path=CHROMIUM, args=arguments) as browser:
            visits = [_visit(browser, port, secret) for _ in range(SIGN_INS)]
    took, answered, painted, moved, groups, links = (list(column) for column in zip(*visits, strict=True))
    what = f"{HOSTS:,} hosts, {flows:,} flows of 7 days, 24 h by app: {groups[0]} groups, {links[0]} links"
    how = (
        f"from the click on `Sign in` to map and table; median of {SIGN_INS}, software WebGL, browser on the same cores"
    )
    packed = len(gzip.compress((files("segctl_controller.web") / "static" / "app.js").read_bytes(), 9))
    return [
        Row(f"first map after sign-in, {what}", round(median(took), 2), "s", how, Goal("<=", 1)),
        Row("of that, the controller's answer", round(median(answered), 2), "s", "the flow store, the judge, JSON"),
        Row("the map again", round(median(painted), 2), "s", "the page is loaded anew, signed in"),
        Row("frames while the map is dragged", round(median(moved)), "1/s", "4 s, software WebGL", Goal(">=", 30)),
        Row("bundle, compressed", round(packed / 1000), "kB", "app.js by gzip", Goal("<=", 150)),
    ]


def _visit(browser: Browser, port: int, secret: str) -> tuple[float, float, float, float, int, int]:
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    answers: list[float] = []

    def note(request: Request) -> None:
        if request.url.endswith("/FlowMap"):
            answers.append(request.timing["responseEnd"] / 1000)

    page.on("requestfinished", note)
    page.clock.set_fixed_time(NOW / 1e6)
    page.goto(f"https://localhost:{port}/map")
    page.get_by_label("API token").fill(secret)
    began = time.perf_counter()
    page.get_by_role("button", name="Sign in with the token").click()
    _drawn(page)
    took = time.perf_counter() - began
    began = time.perf_counter()
    page.reload()
    _drawn(page)
    again = time.perf_counter() - began
    frames: float = page.evaluate(FRAMES)
    told = page.locator(".drawing").get_attribute("aria-label") or ""
    groups, links = (int(word.replace(",", "")) for word in told.split() if word.replace(",", "").isdigit())
    context.close()
    return took, answers[0], again, frames, groups, links


def _drawn(page: Page) -> None:
    page.locator(".sigma-mouse").wait_for()
    page.locator("main tbody tr").first.wait_for()


def _fleet(state: Path, flows: int) -> str:
    """An API token of a reader."""
    clock = Clock(lambda: NOW)
    create_controller(state, "127.0.0.1", ("127.0.0.1",), 0, 0, clock)
    issue(state, [_host(number) for number in range(HOSTS)])
    store = open_store(state)
    source = (SourceFile("policy.yaml", policy_text().encode()),)
    assert parse_policy(source).policy is not None
    entry = Entry(NOW, "bench", "push", "")
    store.add_generation(GenerationRecord("d" * 64, "bench", "", NOW - 10**12, source), 0, entry)
    secret = new_token()
    digest = hashlib.sha256(secret.encode()).digest()
    token = ApiTokenRecord("a-bench", digest, "bench", Role.VIEWER, Tags(), "bench", NOW, NOW + 10**12)
    store.add_api_token(token, entry)
    store.close()
    flowing = flow_store_on(state / FLOWS_FILE, Ends(), LIMITS)
    fill(flowing, flows)
    flowing.close()
    return secret


def _host(number: int) -> FleetHost:
    pairs = (pair.partition("=")[::2] for pair in tags_of(number).split(","))
    return FleetHost(f"h{number}", Tags.of(pairs), (IPv4Address("10.0.0.0") + number + 1,))


@contextmanager
def _running(state: Path) -> Iterator[int]:
    """The port of the web UI, of a controller on a thread of its own."""
    config: Config = replace(load_config(state), port=0, enrol_port=0, web=Web(0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    controller = open_controller(state, config, open_store(state), Clock(lambda: NOW))
    asyncio.run_coroutine_threadsafe(controller.start(), loop).result(300)
    try:
        assert controller.config.web is not None
        yield controller.config.web.port
    finally:
        asyncio.run_coroutine_threadsafe(controller.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
