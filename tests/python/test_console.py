"""The console in headless Chromium: every page, by keyboard, on a phone, in both themes, with and without a token, over an
empty store and a server that is gone. The accessibility checker axe runs in each page, nothing is requested from another
host, and nothing is written to the console of the browser. `FASTK_SCREENSHOTS` names a folder for pictures of the pages."""

import gzip
import json
import os
import re
import shutil
import urllib.error
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import support
from browser import NEEDED_FOR_NPM, missing, npm

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(bool(missing(NEEDED_FOR_NPM)), reason=f"not installed: {missing(NEEDED_FOR_NPM)}")

MINUTES = 40_000
TRADES = "trade/BTCUSDT/spot"
SECONDS_MAX = 60


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The script of axe."""
    at = tmp_path_factory.mktemp("console") / "packages"
    shutil.copytree(HERE / "console", at, ignore=shutil.ignore_patterns("node_modules"))
    npm(at, "ci")
    return (at / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A server with bars that have a gap, trades, a snapshot and many series without rows."""
    import pyarrow.flight as flight

    server = support.Server(tmp_path_factory.mktemp("console") / "store").start()
    rows = support.klines(MINUTES)
    with flight.connect(server.flight) as client:
        command = flight.FlightDescriptor.for_command(
            json.dumps({"series": support.KEY, "create": support.REGISTRATION})
        )
        writer, _ = client.do_put(command, rows.schema)
        writer.write_table(rows.slice(0, 20_000), max_chunksize=65_536)
        writer.write_table(rows.slice(20_090), max_chunksize=65_536)
        writer.close()
    server.json("POST", "/v1/series", {"kind": "trade", "key": ["BTCUSDT", "spot"], "price_digits": 2, "volume_digits": 8})
    trades = [
        {"ts": (support.T0 + second * 500) * 1000 + 1, "price": f"{42_000 + second % 90}.01", "qty": "0.00000001"}
        for second in range(3_000)
    ]
    server.json("POST", f"/v1/series/{TRADES}/rows", {"rows": trades})
    server.json("POST", "/v1/snapshots", {"name": "monday"})
    for number in range(150):
        server.json("POST", "/v1/series", {"kind": "kline", "symbol": f"S{number:03}", "timeframe": "1h"})
    server.rows = rows
    yield server
    server.kill()


def wait(browser, test):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SECONDS_MAX).until(lambda _: test())


def find(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, selector)


def text(browser, selector="main"):
    return " ".join(part.text for part in find(browser, selector))


def open_page(browser, server, page, ready):
    """Opens a page, and waits until it shows something."""
    browser.get("about:blank")
    browser.get(f"{server.http}/{page}")
    wait(browser, lambda: ready in text(browser))


def clean(browser, server):
    """Asserts that the page wrote nothing to the console and asked no other host."""
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert messages == [], messages
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme not in ("data", "blob", "about", "chrome"):
                hosts.add(url.netloc)
    assert hosts <= {urlsplit(server.http).netloc}, hosts


def accessible(browser, axe):
    """Asserts that axe finds no serious fault."""
    browser.execute_script(axe)
    found = browser.execute_async_script("axe.run(document).then(arguments[0], (error) => arguments[0](String(error)))")
    faults = [
        (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"][:3]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == [], faults


def picture(browser, name):
    folder = os.environ.get("FASTK_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


PAGES = [
    ("series", "", "of 152 series"),
    ("bars", f"#/series/{support.KEY}", "20,090"),
    ("trades", f"#/series/{TRADES}", "every"),
    ("query", "#/query", "Run"),
    ("health", "#/health", "fastk_rows_read_total"),
    ("registry", "#/registry", "monday"),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_and_asks_only_its_server(store, browser, axe, theme):
    browser.get(f"{store.http}/")
    browser.execute_script("localStorage.setItem('fastk-theme', arguments[0])", theme)
    for name, page, ready in PAGES:
        ready = "90" if name == "bars" else ready
        open_page(browser, store, page, ready)
        if name in ("bars", "trades"):
            wait(browser, lambda: find(browser, ".chart .main-svg") and "Columns" in text(browser))
            wait(browser, lambda: "points" in text(browser, "section[aria-label=Chart]"))
        assert browser.execute_script("return document.documentElement.dataset.theme") == theme
        accessible(browser, axe)
        picture(browser, f"{name}-{theme}")
        clean(browser, store)


def test_a_phone_shows_every_page_without_scrolling_sideways(store, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    for name, page, ready in PAGES:
        open_page(browser, store, page, "90" if name == "bars" else ready)
        if name in ("bars", "trades"):
            wait(browser, lambda: find(browser, ".chart .main-svg"))
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360, f"{name} is {width} pixels wide"
        picture(browser, f"{name}-phone")


def test_the_list_is_searched_filtered_and_shown_in_parts(store, browser):
    from selenium.webdriver.support.ui import Select

    open_page(browser, store, "", "152 of 152 series")
    assert len(find(browser, "tbody tr")) == 100
    # Small charts are drawn of the series on the screen that have rows.
    wait(browser, lambda: len(find(browser, "svg.spark")) == 1)
    find(browser, "main button")[-1].click()
    wait(browser, lambda: len(find(browser, "tbody tr")) == 152)
    [search] = find(browser, "#search")
    search.send_keys("s01 1h")
    wait(browser, lambda: "10 of 152 series" in text(browser))
    assert len(find(browser, "tbody tr")) == 10
    search.clear()
    search.send_keys("x")
    Select(find(browser, "#kind")[0]).select_by_value("trade")
    search.clear()
    search.send_keys(" ")
    wait(browser, lambda: "1 of 152 series" in text(browser))
    assert TRADES in text(browser, "tbody")
    find(browser, "tbody a")[0].click()
    wait(browser, lambda: text(browser, "h1") == TRADES)


def requests_of_rows(browser):
    """Parameters of the requests for rows since the last call."""
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent" and "/rows?" in message["params"]["request"]["url"]:
            asked.append(message["params"]["request"]["url"])
    return asked


def test_a_chart_asks_for_no_more_points_than_it_shows(store, browser):
    open_page(browser, store, f"#/series/{support.KEY}", "points")
    chart = "section[aria-label=Chart]"
    points = lambda: int(re.search(r"([\d,]+) points", text(browser, chart))[1].replace(",", ""))
    assert "every 1h" in text(browser, chart) and 600 < points() <= 800
    # The rows of the browser are those of an independent computation.
    rows = store.rows.to_pydict()
    kept = [at for at in range(MINUTES) if not 20_000 <= at < 20_090]
    high = max(Decimal(rows["high"][at]) for at in kept if at // 60 == 3)
    drawn = browser.execute_script("const t = document.querySelector('.chart').data[0]; return [t.x[3], t.high[3], t.x.length]")
    assert drawn[0] == "2024-02-01T03:00:00.000" and Decimal(str(drawn[1])) == high and drawn[2] == points()
    # Zoomed into three hours, the bars are those that are stored.
    requests_of_rows(browser)
    browser.execute_script(
        "Plotly.relayout(document.querySelector('.chart'),"
        " {'xaxis.range[0]': '2024-02-03T00:00:00', 'xaxis.range[1]': '2024-02-03T02:59:00'})"
    )
    wait(browser, lambda: "as stored" in text(browser, chart))
    assert points() == 180
    [asked] = requests_of_rows(browser)
    assert "every=" not in asked
    # One day, by its button.
    day = [button for button in find(browser, f"{chart} button") if button.text == "1 day"]
    day[0].click()
    wait(browser, lambda: "every 5m" in text(browser, chart))
    assert 280 < points() <= 300
    clean(browser, store)


def test_gaps_rows_and_lines_to_copy_are_those_of_the_series(store, browser):
    open_page(browser, store, f"#/series/{support.KEY}", "Missing intervals")
    wait(browser, lambda: "The last 200 rows" in text(browser))
    assert "2024-02-14 21:20 2024-02-14 22:49 90" in text(browser, "section[aria-label=Coverage] tbody")
    newest = text(browser, "section[aria-label=Rows] tbody tr:first-child")
    rows = store.rows.to_pydict()
    assert newest.split()[2:] == [str(rows[name][-1]) for name in ("open", "high", "low", "close", "volume")]
    # The heat map has a value for each day.
    days = browser.execute_script("return document.querySelectorAll('.chart')[1].data[0].z.flat().filter((v) => v === 1).length")
    assert days == MINUTES // 1440 - 1
    [line] = [part.text for part in find(browser, "pre[aria-label=curl]")]
    url = line.split("'")[1]
    assert url.startswith(store.http)
    assert store.read(url.removeprefix(store.http)).decode().count("\n") == 4
    # As of a snapshot, which is in the address.
    find(browser, "#as-of option")[1].click()
    wait(browser, lambda: "as_of=monday" in browser.current_url and "points" in text(browser))
    assert "as_of=monday" in text(browser, "pre[aria-label=curl]")


def test_questions_are_answered_exactly_drawn_and_their_errors_shown(store, browser):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, store, "#/query", "Run")

    def ask(question):
        [field] = find(browser, "#query")
        field.clear()
        field.send_keys(question)
        field.send_keys(Keys.CONTROL, Keys.ENTER)

    ask("SELECT count(*) AS n, sum(volume) AS v FROM klines_1m")
    wait(browser, lambda: "1 rows" in text(browser))
    kept = [value for at, value in enumerate(store.rows["volume"].to_pylist()) if not 20_000 <= at < 20_090]
    assert text(browser, "tbody").split() == [str(len(kept)), str(sum(map(Decimal, kept)))]
    ask("SELECT nothing FROM klines_1m")
    wait(browser, lambda: "nothing" in text(browser, ".error"))
    ask("SELECT symbol, time_bucket('1d', ts) AS day, max(high) AS high FROM klines_1m GROUP BY symbol, day ORDER BY day")
    wait(browser, lambda: "28 rows" in text(browser))
    [draw] = [button for button in find(browser, "main button") if button.text == "Draw a chart"]
    draw.click()
    wait(browser, lambda: find(browser, ".chart .main-svg"))
    assert browser.execute_script("return document.querySelector('.chart').data[0].y.length") == 28
    assert browser.execute_script("return document.querySelector('.chart').data[0].x[0]").startswith("2024-02-01")
    find(browser, "button[data-kind=object]")[0].click()
    ask(json.dumps({"series": [support.KEY], "latest": 3}))
    wait(browser, lambda: "3 rows" in text(browser))
    picture(browser, "query-object")


def test_a_statement_is_cancelled(store, browser):
    open_page(browser, store, "#/query", "Run")
    [field] = find(browser, "#query")
    field.clear()
    field.send_keys("SELECT count(*) FROM klines_1m a, klines_1m b, klines_1m c WHERE a.close < b.close AND b.close < c.close")
    find(browser, "button.primary")[0].click()
    wait(browser, lambda: len(store.json("GET", "/v1/sql/queries")["queries"]) == 1)
    [cancel] = [button for button in find(browser, "main button") if button.text == "Cancel"]
    cancel.click()
    wait(browser, lambda: "Cancelled" in text(browser))
    wait(browser, lambda: store.json("GET", "/v1/sql/queries")["queries"] == [])


def test_jobs_are_started_and_followed(store, browser):
    open_page(browser, store, "#/health", "Verify")
    [verify] = [button for button in find(browser, "main button") if button.text == "Verify"]
    verify.click()
    wait(browser, lambda: "verify done" in text(browser))
    assert store.json("GET", "/v1/admin/jobs")["jobs"][0]["verb"] == "verify"


def test_a_token_is_asked_for_kept_for_the_tab_and_forgotten(tmp_path, browser, axe):
    root = tmp_path / "store"
    made = support.run("admin", "token", "create", "--root", root, "--name", "page", "--scope", "read", "--json")
    token = json.loads(made.stdout)["token"]
    server = support.Server(root).start()
    try:
        open_page(browser, server, "", "asks for a token")
        accessible(browser, axe)
        picture(browser, "sign-in")
        [field] = find(browser, "#token")
        field.send_keys("wrong")
        find(browser, "button.primary")[0].click()
        wait(browser, lambda: "unauthenticated" in text(browser, ".error"))
        [field] = find(browser, "#token")
        field.send_keys(token)
        find(browser, "button.primary")[0].click()
        wait(browser, lambda: "no series yet" in text(browser))
        assert browser.execute_script("return [localStorage.length, document.cookie]") == [0, ""]
        # A token that may only read is refused what it may not do, and the page says so.
        browser.get(f"{server.http}/#/health")
        wait(browser, lambda: "permission_denied" in text(browser) or "Checks" in text(browser))
        find(browser, "#sign-out")[0].click()
        wait(browser, lambda: "asks for a token" in text(browser))
        server.stop()
    finally:
        server.kill()


def test_an_empty_store_and_a_server_that_is_gone_say_what_to_do(tmp_path, browser, axe):
    server = support.Server(tmp_path / "store").start()
    try:
        open_page(browser, server, "", "no series yet")
        accessible(browser, axe)
        picture(browser, "empty")
        # The lines of the page work.
        [lines] = [part.text for part in find(browser, "pre") if part.text.startswith("curl")]
        support.subprocess.run(["bash", "-ec", lines], check=True, capture_output=True, timeout=60)
        assert server.json("GET", f"/v1/series/{support.KEY}")["rows"] == 1
        server.stop()
        browser.execute_script("location.hash = '#/registry'")
        wait(browser, lambda: "does not answer" in text(browser))
        picture(browser, "gone")
        server.listen = server.http.removeprefix("http://")
        server.start()
        find(browser, "button.primary")[0].click()
        wait(browser, lambda: "Snapshots" in text(browser))
        server.stop()
    finally:
        server.kill()


def test_the_keyboard_reaches_everything_in_order(store, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, store, "", "152 of 152 series")
    seen = []
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        seen.append(browser.execute_script("const e = document.activeElement; return e.id || e.textContent || e.className"))
    assert seen[:2] == ["Skip to the content", "FastK"]
    assert [name for name in seen if name in ("search", "kind", "order")] == ["search", "kind", "order"]


def test_files_need_no_token_and_are_cached_by_their_tags(tmp_path):
    root = tmp_path / "store"
    support.run("admin", "token", "create", "--root", root, "--name", "page", "--scope", "read", "--json")
    server = support.Server(root).start()
    try:
        with server.request("GET", "/") as response:
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            policy, tag = response.headers["content-security-policy"], response.headers["etag"]
            page = response.read().decode()
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        # Nothing in the page is code or style, as the policy demands.
        assert "<style" not in page and " style=" not in page and not re.search(r"<script[^>]*>[^<]", page)
        with pytest.raises(urllib.error.HTTPError) as unchanged:
            server.request("GET", "/", headers={"If-None-Match": tag})
        assert unchanged.value.code == 304
        plain = server.read("/console/plotly.js")
        with server.request("GET", "/console/plotly.js", headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["content-encoding"] == "gzip"
            packed = response.read()
        assert len(packed) < 1_600_000 and gzip.decompress(packed) == plain
        for path in ("/console/nothing.js", "/console/", "/console/..%2F..%2FCargo.toml"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                server.request("GET", path)
            assert refused.value.code in (401, 404), path
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.request("GET", "/inventory")
        assert refused.value.code == 401
        server.stop()
    finally:
        server.kill()
