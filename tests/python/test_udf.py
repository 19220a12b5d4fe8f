"""The protocol of TradingView's charting library: what its data feed asks for, over weekends, empty ranges, daily bars and a
newest bar that moves, compared with bars computed here."""

import json
import urllib.error
import urllib.parse

import pytest
import support

HOUR = 3_600
DAY = 24 * HOUR
# 2024-02-01T00:00:00Z, a Thursday.
T0 = support.T0 // 1000


def bar(ts, price, volume=1):
    return {"ts": ts * 1000, "open": price, "high": price + 2, "low": price - 2, "close": price + 1, "volume": volume}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Five-minute bars of a market that is closed from Saturday to Sunday, and one-minute bars of another."""
    server = support.Server(tmp_path_factory.mktemp("udf") / "store").start()
    server.json(
        "POST", "/v1/series",
        {"kind": "kline", "symbol": "EURUSD", "timeframe": "5m", "price_digits": 5, "description": "Euro"},
    )
    times = [T0 + at * 300 for at in range(12 * 24 * 12) if (T0 + at * 300) // DAY % 7 not in (2, 3)]
    server.bars = [bar(ts, 100 + at % 50) for at, ts in enumerate(times)]
    server.json("POST", "/v1/klines/EURUSD/5m", server.bars)
    server.json("POST", "/v1/series", support.REGISTRATION)
    server.json("POST", "/v1/klines/BTCUSDT/1m", [bar(T0 + at * 60, 42_000 + at) for at in range(90)])
    yield server
    server.kill()


def ask(server, path, **parameters):
    # The library adds parameters of its own.
    query = urllib.parse.urlencode({**parameters, "currencyCode": "USD", "unitId": ""})
    return server.json("GET", f"/udf/{path}?{query}")


def history(server, symbol, resolution, start, end, countback=None, **more):
    parameters = {"symbol": symbol, "resolution": resolution, "from": start, "to": end, **more}
    if countback is not None:
        parameters["countback"] = countback
    return ask(server, "history", **parameters)


def combined(bars, seconds):
    """Bars of a length that starts at multiples of it since 1970."""
    out = {}
    for one in bars:
        start = one["ts"] // 1000 // seconds * seconds
        if start not in out:
            out[start] = [one["open"], one["high"], one["low"], one["close"], one["volume"]]
            continue
        row = out[start]
        row[1], row[2], row[3] = max(row[1], one["high"]), min(row[2], one["low"]), one["close"]
        row[4] += one["volume"]
    return out


def rows(answer):
    assert answer["s"] == "ok"
    return {ts: list(row) for ts, *row in zip(*(answer[name] for name in "tohlcv"))}


def test_the_library_finds_out_what_the_server_offers(store):
    offer = ask(store, "config")
    assert offer["supports_search"] is True and offer["supports_group_request"] is False
    assert {"1", "60", "1D", "1W", "1M"} <= set(offer["supported_resolutions"])
    seconds = int(store.read("/udf/time"))
    assert seconds > 1_700_000_000
    assert [one["symbol"] for one in ask(store, "search", query="", type="", exchange="", limit=30)] == ["BTCUSDT", "EURUSD"]
    assert [one["ticker"] for one in ask(store, "search", query="EUR", limit=30)] == ["EURUSD"]
    assert ask(store, "search", query="", limit=1) == ask(store, "search", query="BTC", limit=5)
    assert ask(store, "search", query="NOTHING") == []


def test_a_symbol_states_its_scale_and_the_intervals_that_can_be_made(store):
    euro = ask(store, "symbols", symbol="EURUSD")
    assert (euro["pricescale"], euro["minmov"], euro["description"]) == (100_000, 1, "Euro")
    assert euro["has_intraday"] is True and "1" not in euro["intraday_multipliers"]
    assert {"5", "15", "60", "240"} <= set(euro["intraday_multipliers"]) and "3" not in euro["intraday_multipliers"]
    assert euro["has_daily"] and euro["has_weekly_and_monthly"] and not euro["has_seconds"]
    assert (euro["session"], euro["timezone"]) == ("24x7", "Etc/UTC")
    coin = ask(store, "symbols", symbol="BTCUSDT")
    assert (coin["pricescale"], coin["volume_precision"]) == (100, 8) and "1" in coin["intraday_multipliers"]
    # Any `s` is an error to the library.
    assert "s" not in euro and "s" not in coin
    assert ask(store, "symbols", symbol="NOTHING")["s"] == "error"


def test_stored_and_combined_bars_equal_an_independent_computation(store):
    end = T0 + 20 * DAY
    for resolution, seconds in (("5", 300), ("15", 900), ("60", HOUR), ("240", 4 * HOUR), ("1D", DAY), ("D", DAY)):
        expected = combined(store.bars, seconds)
        found = rows(history(store, "EURUSD", resolution, T0, end))
        assert found == expected, resolution
    weeks = rows(history(store, "EURUSD", "1W", T0 - 30 * DAY, end))
    assert list(weeks) == [T0 - 3 * DAY, T0 + 4 * DAY, T0 + 11 * DAY] and sum(row[4] for row in weeks.values()) == len(store.bars)
    months = rows(history(store, "EURUSD", "1M", T0 - 40 * DAY, end))
    assert list(months) == [T0]


def test_the_end_is_not_among_the_bars_and_countback_decides_over_from(store):
    expected = sorted(combined(store.bars, HOUR))
    # A Monday at midnight: the last bars are those of Friday evening.
    monday = T0 + 4 * DAY
    found = history(store, "EURUSD", "60", monday - 2 * HOUR, monday, countback=10)
    assert found["t"] == [ts for ts in expected if ts < monday][-10:] and found["t"][-1] == T0 + 2 * DAY - HOUR
    for end in (T0 + 5 * HOUR, T0 + 5 * HOUR + 1, T0 + 5 * HOUR - 1):
        found = history(store, "EURUSD", "60", T0, end, countback=3)
        assert found["t"] == [ts for ts in expected if ts < end][-3:]
    # More than there are.
    found = history(store, "EURUSD", "60", T0, T0 + 3 * HOUR, countback=500)
    assert found["t"] == expected[:3]


def test_an_empty_range_names_the_last_bar_before_it(store):
    saturday = T0 + 2 * DAY
    found = history(store, "EURUSD", "60", saturday + HOUR, saturday + 20 * HOUR)
    assert found == {"s": "no_data", "nextTime": saturday - HOUR}
    assert history(store, "EURUSD", "60", T0 - 50 * DAY, T0 - 40 * DAY) == {"s": "no_data"}
    assert history(store, "EURUSD", "60", T0 - 50 * DAY, T0 - 40 * DAY, countback=300) == {"s": "no_data"}


def test_paging_to_the_left_as_the_library_does_returns_every_bar_once(store):
    expected = sorted(combined(store.bars, HOUR))
    seen, end, first = [], T0 + 20 * DAY, True
    for _ in range(100):
        start = end - 50 * HOUR
        more = {"firstDataRequest": "true"} if first else {}
        answer = history(store, "EURUSD", "60", start, end, countback=50, **more)
        first = False
        if answer["s"] == "no_data":
            assert "nextTime" not in answer
            break
        seen = answer["t"] + seen
        end = answer["t"][0]
    assert seen == expected


def test_updates_see_the_newest_bar_move_and_a_new_one_begin(store):
    """Every ten seconds the library asks for the last two bars of ten, and fails with fewer when a new one began."""
    now = T0 + 89 * 60 + 30

    def pulse(now):
        answer = history(store, "BTCUSDT", "5", now - 10 * 300, now, countback=2)
        assert answer["s"] == "ok" and len(answer["t"]) == 2
        return answer

    before = pulse(now)
    assert before["t"] == [T0 + 80 * 60, T0 + 85 * 60] and before["c"][-1] == 42_000 + 89 + 1
    store.json("POST", "/v1/klines/BTCUSDT/1m", [bar(T0 + 89 * 60, 50_000)])
    assert pulse(now)["h"][-1] == 50_002
    # Friday evening to Monday morning: no bar within ten intervals, and two are answered all the same.
    store.json("POST", "/v1/klines/BTCUSDT/1m", [bar(T0 + 4 * DAY, 60_000)])
    after = pulse(T0 + 4 * DAY + 10)
    assert after["t"] == [T0 + 85 * 60, T0 + 4 * DAY] and after["c"][-1] == 60_001


def test_errors_say_what_is_wrong(store):
    for path, parameters, word in (
        ("history", {"symbol": "NOTHING", "resolution": "60", "from": 1, "to": 2}, "NOTHING"),
        ("history", {"symbol": "EURUSD", "resolution": "1", "from": 1, "to": 2}, "resolution"),
        ("history", {"symbol": "EURUSD", "resolution": "60X", "from": 1, "to": 2}, "60X"),
        ("history", {"symbol": "EURUSD", "resolution": "60", "from": 1}, "to"),
        ("history", {"symbol": "EURUSD", "resolution": "60", "from": "a", "to": 2}, "from"),
        ("history", {"resolution": "60", "from": 1, "to": 2}, "symbol"),
    ):
        answer = ask(store, path, **parameters)
        assert answer["s"] == "error" and word in answer["errmsg"], answer
    # Numbers with fractions and exponents, as a script may send them.
    assert history(store, "EURUSD", "60", 0, float(T0 + 3 * HOUR) + 0.5)["t"] == [T0, T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]


def test_a_token_sees_its_symbols_only(tmp_path):
    root = tmp_path / "store"
    admin, limited = (
        json.loads(support.run("admin", "token", "create", "--root", root, "--name", name, "--json", *flags).stdout)["token"]
        for name, flags in (("admin", ["--scope", "admin"]), ("some", ["--scope", "read", "--prefix", "kline/A"]))
    )
    server = support.Server(root).start()
    try:
        head = {"authorization": f"Bearer {admin}"}
        for symbol in ("AAA", "BBB"):
            server.json("POST", "/v1/series", {"kind": "kline", "symbol": symbol, "timeframe": "1m"}, headers=head)
            server.json("POST", f"/v1/klines/{symbol}/1m", [bar(T0, 10)], headers=head)
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.json("GET", "/udf/config")
        assert refused.value.code == 401
        head = {"authorization": f"Bearer {limited}"}
        assert [one["symbol"] for one in server.json("GET", "/udf/search?query=", headers=head)] == ["AAA"]
        assert server.json("GET", "/udf/symbols?symbol=AAA", headers=head)["name"] == "AAA"
        assert server.json("GET", "/udf/symbols?symbol=BBB", headers=head)["s"] == "error"
        hidden = server.json("GET", f"/udf/history?symbol=BBB&resolution=1&from=0&to={T0 + 60}", headers=head)
        missing = server.json("GET", f"/udf/history?symbol=CCC&resolution=1&from=0&to={T0 + 60}", headers=head)
        assert hidden["s"] == "error" and hidden["errmsg"].replace("BBB", "CCC") == missing["errmsg"]
        server.stop()
    finally:
        server.kill()
