"""Every command under `fastk admin`: on a directory, through a server, and on a directory that a server owns.

The commands come from the help, so that a new one has to be added here.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import support

CLI_PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
# Further arguments of each command, and one name in its reply. Words in braces are replaced in each case.
COMMANDS = {
    "inventory": ([], "totals"),
    "list-series": ([], "series"),
    "stats": ([], "maintenance"),
    "capabilities": ([], "operators"),
    "health": ([], "checks"),
    "compact": ([], "series_sealed"),
    "backup": (["{backup}"], "files_copied"),
    "restore": (["{made}"], "epoch_before"),
    "repair": ([], "actions"),
    "rebuild-manifest": ([], "actions"),
    "verify": ([], "findings"),
    "scrub": ([], "findings"),
    "list-orphans": ([], "orphans"),
    "explain-overlap": ([], "overlaps"),
    "ping": ([], "status"),
    "token create": (["--name", "b", "--scope", "read"], "token"),
    "token list": ([], "tokens"),
    "token revoke": (["{token}"], "tokens"),
}
# Needs a running server.
NEEDS_SERVER = {"ping"}
# These create a store in an empty directory, or need one that no process has open.
ALONE = {"restore": "invalid_argument", "repair": "store_locked", "rebuild-manifest": "store_locked"}


def helps(*words):
    """Help of each command below these words, by command."""
    text = support.run("admin", *words, "--help").stdout
    listed = re.search(r"^Commands:\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)
    if listed is None:
        return {" ".join(words): text}
    found = {}
    for command in re.findall(r"^  ([a-z][a-z-]*)", listed[1], re.M):
        if command != "help":
            found |= helps(*words, command)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with rows in chunks and in the log, a snapshot and a token, and a backup of it."""
    folder = tmp_path_factory.mktemp("admin")
    root, rows = folder / "store", folder / "rows.csv"
    for day in ("01", "02", "01"):
        lines = [f"2024-{day}-01T00:0{minute}:00Z,1,2,0.5,1.5,10" for minute in range(2)]
        rows.write_text("\n".join(["ts,open,high,low,close,volume", *lines, ""]))
        support.run("import", rows, "--series", support.KEY, "--root", root)
        if not (folder / "backup").exists():
            support.run("admin", "compact", "--root", root)
            support.run("admin", "backup", folder / "backup", "--copy", "--root", root)
    support.run("snapshot", "create", "then", "--root", root)
    made = support.run("admin", "token", "create", "--name", "a", "--scope", "admin", "--root", root, "--json")
    return root, folder / "backup", json.loads(made.stdout)


class Case:
    """A copy of the store that a command may change."""

    def __init__(self, store, folder):
        original, self.made, self.token = store
        self.root, self.folder = folder / "store", folder
        shutil.copytree(original, self.root)

    def words(self, command, backup):
        filled = {"backup": backup, "made": self.made, "token": self.token["id"]}
        return [*command.split(), *(word.format(**filled) for word in COMMANDS[command][0])]

    def reply(self, command, *place, backup):
        """The reply as JSON; fails without one."""
        done = support.run("admin", *self.words(command, backup), *place, "--json", check=False)
        assert done.returncode in (0, 1), (command, place, done.stderr)
        reply = json.loads(done.stdout)
        assert COMMANDS[command][1] in reply, (command, place, reply)
        return reply


def test_the_table_has_every_command_and_each_accepts_a_directory_and_prints_json():
    found = helps()
    assert set(found) == set(COMMANDS)
    assert [command for command, text in found.items() if not re.search(r"^ +--json\b", text, re.M)] == []
    assert [command for command, text in found.items() if not re.search(r"^ +--root\b", text, re.M)] == []
    # The page lists the commands that work on a directory only.
    alone = {command.split()[0] for command, text in found.items() if "--server" not in text}
    sentence = re.search(r"^No server runs(.*?)\.$", CLI_PAGE.read_text(), re.M | re.S)[1]
    assert set(re.findall(r"`admin ([a-z-]+)`", sentence)) == alone


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_works_on_every_target_in_its_help(command, store, tmp_path):
    text = helps(*command.split())[command]
    case = Case(store, tmp_path)
    replies = []
    if command not in NEEDS_SERVER:
        root = tmp_path / "restored" if command == "restore" else case.root
        replies.append(case.reply(command, "--root", root, backup=tmp_path / "beside"))
        # Without --json the same reply is text.
        shown = support.run("admin", *case.words(command, tmp_path / "again"), "--root", root, check=False)
        assert shown.returncode in (0, 1) or command == "token revoke", shown.stderr
        with pytest.raises(ValueError):
            json.loads(shown.stdout)
    (tmp_path / "served").mkdir()
    served = Case(store, tmp_path / "served")
    backups = tmp_path / "backups"
    (tmp_path / "fastk.toml").write_text(f'[store]\nbackup_dir = "{backups}"\n')
    server = support.Server(served.root, "--config", str(tmp_path / "fastk.toml")).start()
    try:
        token = ["--token", served.token["token"]]
        if "--server" in text:
            replies.append(served.reply(command, "--server", server.http, *token, backup="named"))
            replies.append(served.reply(command, "--root", served.root, *token, backup="owned"))
            if command != "ping":
                unauthenticated = support.run("admin", *served.words(command, "nobody"), "--server", server.http, check=False)
                assert unauthenticated.returncode == 5 and "error[unauthenticated]" in unauthenticated.stderr
        else:
            both = ["--root", served.root, "--server", server.http]
            refused = support.run("admin", *served.words(command, "x"), *both, check=False)
            assert refused.returncode == 2 and "server" in refused.stderr, refused.stderr
            if command in ALONE:
                place = ["--root", served.root, "--apply"]
                locked = support.run("admin", *served.words(command, "x"), *place, check=False)
                assert locked.returncode != 0 and f"error[{ALONE[command]}]" in locked.stderr, locked.stderr
            else:
                # On the directory while the server runs.
                replies.append(served.reply(command, "--root", served.root, backup=""))
    finally:
        server.stop()
    assert len({tuple(sorted(reply)) for reply in replies}) == 1, "the reply does not depend on the target"


def test_a_dry_run_of_drop_removes_nothing(tmp_path, fastk):
    root = tmp_path / "store"
    fastk("register", support.KEY, "--price-digits", "2", "--volume-digits", "2", "--root", root)
    rows = tmp_path / "rows.csv"
    rows.write_text(f"ts,open,high,low,close,volume\n{support.T0},1,1,1,1,1\n")
    written = json.loads(fastk("write", support.KEY, rows, "--root", root, "--json").stdout)
    for way in (["--root", root], None):
        server = None
        if way is None:
            server = support.Server(root).start()
            way = ["--server", server.http]
        try:
            report = json.loads(fastk("drop", support.KEY, "--dry-run", "--json", *way).stdout)
            assert report == {"dry_run": True, "series": support.KEY, "rows": 1, "version": written["version"]}
            done = fastk("drop", support.KEY, "--dry-run", "--if-version", "99", *way, check=False)
            assert done.returncode != 0 and "commit_conflict" in done.stderr
            assert fastk("drop", "kline/NONE/1m", "--dry-run", *way, check=False).returncode == 3
            assert len(json.loads(fastk("admin", "list-series", "--json", *way).stdout)["series"]) == 1
        finally:
            if server:
                server.stop()
