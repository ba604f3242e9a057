"""Machines that commands run on: names, commands, files and folders, here and through a real ssh server."""

import shlex
import stat
import threading
import time
from pathlib import Path

import pytest
from adb_server import SERIAL, adb_server
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ssh_server import ssh_server

from bibench.deploy import targets
from bibench.deploy.targets import Done, Target, TargetError, parse_target

LOCAL = parse_target("local")
ECHO = ["sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "sh"]
HOSTILE = [
    "",
    " ",
    "-n",
    "--",
    "a b",
    "$(touch x)",
    "`id`",
    "'",
    '"',
    "\\",
    "\n",
    ";reboot",
    "*",
    "~",
    "ä\u202e",
    "\x1b[2J",
]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def adb(tmp_path_factory):
    with adb_server(tmp_path_factory.mktemp("adb") / "tmp") as server:
        yield server


@pytest.fixture(params=["local", "ssh", "adb"])
def target(request, monkeypatch, tmp_path):
    """A machine, and the folder where its folders are made."""
    if request.param == "local":
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        return LOCAL, tmp_path
    server = request.getfixturevalue(request.param)
    if request.param == "adb":
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        return parse_target(f"adb://{SERIAL}"), server.temporary
    return parse_target(server.target, ssh_config=server.config), server.temporary


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("ssh://camera", ["camera"]),
        ("ssh://pi@camera.local", ["-l", "pi", "camera.local"]),
        ("ssh://pi@192.168.1.7:22", ["-p", "22", "-l", "pi", "192.168.1.7"]),
        ("ssh://[fe80::1]:65535", ["-p", "65535", "fe80::1"]),
        ("adb://emulator-5554", ["-s", "emulator-5554", "shell", "-T"]),
        ("adb://192.168.1.7:5555", ["-s", "192.168.1.7:5555", "shell", "-T"]),
    ],
)
def test_names(text, end):
    found = parse_target(text)
    assert found.text == text
    assert found.prefix[0] == text[:3]
    assert list(found.prefix[-len(end) :]) == end


def test_ssh_never_asks_and_wants_a_known_key(tmp_path):
    prefix = parse_target("ssh://camera", ssh_config=tmp_path / "config").prefix
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} < set(prefix)
    assert prefix[-3:] == ("-F", str(tmp_path / "config"), "camera")


@pytest.mark.parametrize(
    "text",
    [
        *("", "Local", "local ", "here", "ssh:", "ssh://", "http://camera", "adb://", "ssh://pi@", "ssh://@camera"),
        *(
            "ssh://-oProxyCommand=id",
            "ssh://-l@camera",
            "ssh://pi@-p",
            "adb://-s",
            "ssh://camera:0",
            "ssh://camera:65536",
        ),
        *("ssh://camera:22:22", "ssh://camera:-1", "ssh://camera:²", "ssh://a b", "ssh://pi@camera/tmp", "ssh://[::1"),
        *("ssh://camera\n", "ssh://ca$(id)mera", "ssh://ｃamera", "ssh://pi:word@camera", "adb://a b", "ssh://a@b@c"),
    ],
)
def test_other_names_are_refused(text):
    with pytest.raises(TargetError, match="expected local, ssh://user@host"):
        parse_target(text)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.from_regex(r"(ssh|adb)://[-@:.\[\]a-z0-9=\s]{0,20}", fullmatch=True))
@example("ssh://-oProxyCommand=x")
def test_no_part_of_a_name_becomes_an_option(text):
    known = {*targets._SSH, "adb", "-s", "shell", "-T", "-p", "-l"}
    try:
        found = parse_target(text)
    except TargetError:
        return
    parts = [part for part in found.prefix if part not in known]
    assert all(part.isascii() and part[0] != "-" and part in text for part in parts)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=4))
def test_a_shell_there_sees_the_words_as_they_are(words):
    there = Target("a shell", ("sh", "-c"))
    assert there.run([*ECHO, *words]).out == "".join(word + "\0" for word in words)


def test_words_arrive_as_they_are(target):
    where, _ = target
    assert where.run([*ECHO, *HOSTILE]) == Done(0, "".join(word + "\0" for word in HOSTILE), "")


def test_how_a_command_ended(target):
    where, _ = target
    assert where.run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Done(3, "out\n", "err\n")
    assert where.output(["echo", " a  b "]) == "a  b"
    with pytest.raises(TargetError, match=r"sh failed: no such thing$"):
        where.output(["sh", "-c", "echo no such thing >&2; exit 1"])
    with pytest.raises(TargetError, match=r"false failed: status 1$"):
        where.output(["false"])
    assert where.run(["cat"]).out == ""


def test_a_reason_is_one_printable_line():
    assert Done(1, "", "\x1b[31mno\r\n\tway\x07\u202e\n").reason == "[31mno way"
    assert len(Done(1, "", "x" * 10_000).reason) == 300
    assert Done(5, "", " \n").reason == "status 5"


def test_a_file_is_pushed(target, tmp_path):
    where, _ = target
    source = tmp_path / "a:b c"
    source.write_bytes(bytes(range(256)) * 1000)
    with where.folder() as folder:
        where.push(source, f"{folder}/file")
        copy = Path(folder) / "file"
        assert copy.read_bytes() == source.read_bytes()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o700
        with pytest.raises(TargetError, match=r"a:b c can't be copied there: .*file/x"):
            where.push(source, f"{folder}/file/x")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TargetError, match=r"local: .*nowhere can't be read: No such file"):
        LOCAL.push(tmp_path / "nowhere", str(tmp_path / "copy"))


def test_a_folder_is_private_and_goes_away(target):
    where, parent = target
    with where.folder() as first, where.folder() as second:
        assert first != second
        assert Path(first).parent == parent
        assert stat.S_IMODE(Path(first).stat().st_mode) == 0o700
        (Path(first) / "file").touch()
    assert list(parent.iterdir()) == []
    with pytest.raises(FileNotFoundError), where.folder() as path:
        (Path(path) / "none" / "file").touch()
    assert list(parent.iterdir()) == []


def test_a_folder_in_any_folder(monkeypatch, tmp_path):
    parent = tmp_path / "a 'b' $(c);d"
    parent.mkdir()
    monkeypatch.setenv("TMPDIR", str(parent))
    with LOCAL.folder() as path:
        assert Path(path).parent == parent
    assert list(parent.iterdir()) == []


def test_a_folder_that_cannot_be_made_or_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(TargetError, match="local: sh failed: mktemp: "), LOCAL.folder():
        pass
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "rm").write_text("#!/bin/sh\necho stuck >&2\nexit 1\n")
    (tools / "rm").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(TargetError, match=r"local: \S*/bibench\.\w+ can't be removed there: stuck$"), LOCAL.folder():
        pass
    for error, said in ((ValueError("broken"), "broken"), (MemoryError(), "MemoryError")):
        with pytest.raises(TargetError, match=rf"^{said}; \S*/bibench\.\w+ is left there$"), LOCAL.folder():
            raise error
    with pytest.raises(KeyboardInterrupt) as stopped, LOCAL.folder() as path:
        raise KeyboardInterrupt
    assert str(stopped.value.__cause__) == f"local: {path} can't be removed there: stuck"


@pytest.mark.parametrize(
    "path", ["/", "/tmp", "", "relative/bibench.12345678", "/tmp/../bibench.12345678", "/a b/bibench.1"]
)
def test_only_a_new_folder_is_taken(monkeypatch, tmp_path, path):
    (tmp_path / "mktemp").write_text(f"#!/bin/sh\necho {shlex.quote(path)}\n")
    (tmp_path / "mktemp").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(TargetError, match="expected the path of a new folder"), LOCAL.folder():
        pass


def test_a_command_is_bounded(target):
    where, _ = target
    with pytest.raises(TargetError, match="yes: stopped after 1,048,576 bytes of output"):
        where.run(["yes"])
    with pytest.raises(TargetError, match=r"sleep: no answer within 0\.2 s"):
        where.run(["sleep", "60"], seconds=0.2)


def test_a_command_that_closes_its_output_is_bounded_too():
    with pytest.raises(TargetError, match=r"sh: no answer within 0\.2 s"):
        LOCAL.run(["sh", "-c", "exec >&- 2>&-; sleep 60"], seconds=0.2)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for text, program in (("ssh://camera", "ssh"), ("adb://one", "adb")):
        with pytest.raises(TargetError, match=rf"^{text}: {program} can't be started: No such file"):
            parse_target(text).run(["true"])


def test_a_host_must_be_known(ssh, tmp_path):
    for known, said in (
        ("no_hosts", "No ED25519 host key is known"),
        ("other_hosts", "HOST IDENTIFICATION HAS CHANGED"),
    ):
        where = parse_target(ssh.target, ssh_config=ssh.client_config("strict", known=known))
        with pytest.raises(TargetError, match=rf"the connection failed: .*{said}") as caught:
            where.run(["touch", str(tmp_path / "reached")])
        assert caught.value.args[0].endswith(
            f"compare its key with the device's and accept it once: {shlex.join(('ssh', *where.prefix[-7:]))}"
        )
    assert list(tmp_path.iterdir()) == []
    assert (ssh.folder / "no_hosts").read_text() == ""


def test_a_connection_that_cannot_be_made(ssh):
    stranger = parse_target(ssh.target, ssh_config=ssh.client_config("stranger", key="other_key"))
    with pytest.raises(TargetError, match=r"Permission denied .*a key that asks for no password"):
        stranger.run(["true"])
    nobody = parse_target("ssh://127.0.0.1:1", ssh_config=ssh.config)
    with pytest.raises(TargetError, match=r"ssh://127\.0\.0\.1:1: the connection failed: .*Connection refused"):
        nobody.run(["true"])


def during(started, action):
    """Do something once a file is there."""

    def wait():
        end = time.monotonic() + 60
        while not started.exists() and time.monotonic() < end:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("gone", [False, True])
def test_a_connection_that_breaks(tmp_path, gone):
    with ssh_server(tmp_path / "server") as server:
        where = parse_target(server.target, ssh_config=server.config)
        started = tmp_path / "started"
        thread = during(started, server.stop if gone else server.hang_up)
        with pytest.raises(TargetError, match="the connection failed") as caught, where.folder() as folder:
            where.run(["sh", "-c", f"touch {started}; exec sleep 60"])
        thread.join()
        assert (f"{folder} is left there" in str(caught.value)) == gone
        assert list(server.temporary.iterdir()) == [Path(folder)] * gone


@pytest.mark.parametrize("gone", [False, True])
def test_a_device_that_is_unplugged(tmp_path, monkeypatch, gone):
    with adb_server(tmp_path / "tmp") as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        where = parse_target(f"adb://{SERIAL}")
        started = tmp_path / "started"
        thread = during(started, lambda: server.unplug(for_good=gone))
        with (
            pytest.raises(TargetError, match="connection failed: it ended in the middle") as caught,
            where.folder() as folder,
        ):
            where.run(["sh", "-c", f"touch {started}; exec sleep 2"])
        thread.join()
        assert (f"{folder} is left there" in str(caught.value)) == gone
        assert list(server.temporary.iterdir()) == [Path(folder)] * gone


def test_a_device_that_is_not_there(adb, monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb.port))
    with pytest.raises(TargetError, match=r"^adb://none: the connection failed: error: device 'none' not found$"):
        parse_target("adb://none").run(["true"])


def test_a_full_disk_there(tmp_path):
    # Where a real one can't be mounted: no file may become larger than 50 KiB, and the signal that says so is ignored.
    limited = "ForceCommand trap '' XFSZ; ulimit -f 100; eval \"$SSH_ORIGINAL_COMMAND\"\n"
    source = tmp_path / "large"
    source.write_bytes(bytes(200_000))
    with ssh_server(tmp_path / "server", limited) as server:
        where = parse_target(server.target, ssh_config=server.config)
        with (
            pytest.raises(TargetError, match=r"large can't be copied there: cat: .*File too large"),
            where.folder() as folder,
        ):
            where.push(source, f"{folder}/large")
        assert list(server.temporary.iterdir()) == []
