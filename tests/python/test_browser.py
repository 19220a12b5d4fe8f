"""In headless Chromium: the TypeScript example, built, type-checked and driven from an allowed origin and another, and the
forms of the documentation that the server shows."""

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
import support
from browser import NEEDED_FOR_NPM, missing, npm

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "browser"
pytestmark = pytest.mark.skipif(bool(missing(NEEDED_FOR_NPM)), reason=f"not installed: {missing(NEEDED_FOR_NPM)}")

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The example, built in a copy outside of the tree."""
    top = tmp_path_factory.mktemp("browser")
    at = top / "docs" / "examples" / "browser"
    shutil.copytree(EXAMPLE, at, ignore=shutil.ignore_patterns("node_modules", "dist", "fastk.ts"))
    shutil.copytree(ROOT / "openapi", top / "openapi")
    npm(at, "ci")
    npm(at, "run", "build")
    return at


@pytest.fixture
def origins(built):
    """Two origins that serve the page."""
    handler = functools.partial(Quiet, directory=built / "dist")
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    for server, thread in zip(servers, threads):
        server.shutdown()
        server.server_close()
        thread.join()


def request(browser, origin, server, token=""):
    """Opens the page, lets it write and read, and returns its status line and cells."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(origin + "/")
    for name, text in (("server", server), ("token", token)):
        field = browser.find_element(By.ID, name)
        field.clear()
        field.send_keys(text)
    browser.find_element(By.ID, "go").click()
    status = lambda: browser.find_element(By.ID, "status").text
    WebDriverWait(browser, 60).until(lambda _: status().startswith(("read", "failed")))
    rows = browser.find_elements(By.CSS_SELECTOR, "#rows tr")
    return status(), [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]


def test_a_page_of_an_allowed_origin_writes_and_reads_and_another_is_refused(tmp_path, origins, browser):
    root = tmp_path / "store"
    made = support.run("admin", "token", "create", "--root", root, "--name", "page", "--scope", "admin", "--json")
    token = json.loads(made.stdout)["token"]
    allowed, other = origins
    config = tmp_path / "fastk.toml"
    config.write_text(f'[http]\ncors_origins = ["{allowed}"]\n')
    server = support.Server(root, "--config", str(config)).start()
    try:
        # The other origin first: its requests have no effect.
        status, rows = request(browser, other, server.http, token)
        assert status.startswith("failed: ") and rows == [], status
        headers = {"authorization": f"Bearer {token}"}
        assert server.json("GET", "/v1/series", headers=headers)["series"] == []

        status, rows = request(browser, allowed, server.http)
        assert status.startswith("failed: unauthenticated"), status

        status, rows = request(browser, allowed, server.http, token)
        assert status == "read 2 rows", status
        assert rows == [
            ["2024-02-01T00:00:00Z", "42000.10", "42010.00", "41990.50", "42005.00", "3.50000000"],
            ["2024-02-01T00:01:00Z", "42005.00", "42020.50", "42000.00", "42018.25", "0.00000001"],
        ]
        server.stop()
    finally:
        server.kill()


def test_a_form_of_the_documentation_has_only_required_fields_filled_in_and_works(tmp_path, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    server = support.Server(tmp_path / "store").start()
    try:
        server.json("POST", "/v1/series", support.REGISTRATION)
        row = {"ts": support.T0, "open": 1, "high": 2, "low": 1, "close": 2, "volume": 3}
        server.json("POST", "/v1/klines/BTCUSDT/1m", [row])
        browser.get(f"{server.http}/docs/")

        def find(selector):
            return WebDriverWait(browser, 60).until(lambda _: browser.find_elements(By.CSS_SELECTOR, selector))

        [read] = [part for part in find("#operations-rows-readKlines .opblock-summary")]
        read.click()
        find("#operations-rows-readKlines .try-out__btn")[0].click()
        find("#operations-rows-readKlines .execute")
        fields = find("#operations-rows-readKlines .parameters input")
        filled = {field.get_attribute("placeholder"): field.get_attribute("value") for field in fields}
        assert len(filled) > 5
        assert {name: value for name, value in filled.items() if value} == {"symbol": "BTCUSDT", "timeframe": "1m"}
        find("#operations-rows-readKlines .execute")[0].click()
        response_parts = find("#operations-rows-readKlines .live-responses-table .response-col_description")
        WebDriverWait(browser, 60).until(lambda _: "kline/BTCUSDT/1m" in "".join(part.text for part in response_parts))
        server.stop()
    finally:
        server.kill()


def test_the_lock_file_names_no_host():
    lock = (EXAMPLE / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock and "registry" not in lock
