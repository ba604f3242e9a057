"""Where processes meet: the same files in a folder and in a bucket."""

import os
import threading

import pytest
import s3fs

from bibench.bench.storage import Folder, ObjectStore, StoreError, StoreUnreachable, is_url, mirror_of, patiently
from object_store import environment, server


@pytest.fixture(scope="module")
def port():
    with server() as port:
        yield port


def use(port, monkeypatch):
    """Let s3fs in this process talk to a server."""
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def storage(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return Folder(tmp_path)
    use(request.getfixturevalue("port"), monkeypatch)
    return ObjectStore(f"s3://results/{tmp_path.name}")


def test_files_come_back(storage):
    assert storage.read("a/b.json") is None
    storage.write("a/b.json", b"1")
    storage.write("a/b.json", b"\0two")
    storage.write("a/c/d", b"")
    assert storage.read("a/b.json") == b"\0two"
    assert storage.read("a/c/d") == b""
    assert storage.names("a") == ["b.json"]
    assert storage.names("a/c") == ["d"]
    assert storage.names("nothing") == []
    assert sorted(storage.listing()) == ["a/b.json", "a/c/d"]
    assert sorted(storage.listing("a/c")) == ["a/c/d"]
    assert storage.listing("nothing") == {}
    storage.remove("a/b.json")
    storage.remove("a/b.json")
    assert storage.read("a/b.json") is None
    assert sorted(storage.listing()) == ["a/c/d"]


def test_a_changed_file_is_told_apart(storage):
    storage.write("a", b"one")
    before = storage.listing()["a"]
    assert storage.listing()["a"] == before
    storage.write("a", b"two")
    assert storage.listing()["a"] != before


def test_a_file_is_created_once(storage):
    assert storage.create("a/b", b"first")
    assert not storage.create("a/b", b"second")
    assert storage.read("a/b") == b"first"
    storage.remove("a/b")
    assert storage.create("a/b", b"third")
    assert storage.names("a") == ["b"]


def test_of_many_who_create_at_once_one_succeeds(storage):
    start = threading.Barrier(8)
    won = []

    def create(number):
        start.wait()
        if storage.create("a/b", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("a/b") == str(won[0]).encode()


@pytest.mark.slow
def test_many_are_read_side_by_side(port, monkeypatch):
    use(port, monkeypatch)
    store = ObjectStore("s3://results/many")
    for number in range(30):
        store.write(f"n/{number}", str(number).encode())
    found = store.read_many([f"n/{number}" for number in range(31)])
    assert found == {f"n/{number}": str(number).encode() for number in range(30)}
    assert store.read_many(["n/7"]) == {"n/7": b"7"}
    assert store.read_many([]) == {}


@pytest.mark.slow
def test_a_bucket_that_lets_two_create_one_file_is_refused(port, monkeypatch):
    use(port, monkeypatch)
    good = ObjectStore("s3://results/good")
    good.check()
    assert good.listing() == {}
    with server(conditional=False) as careless:
        use(careless, monkeypatch)
        bad = ObjectStore("s3://results/bad")
        with pytest.raises(StoreError, match="s3://results/bad: it doesn't create a file for one process alone"):
            bad.check()
        assert bad.listing() == {}


def test_a_file_system_without_hard_links_is_refused(tmp_path, monkeypatch):
    def link(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=r"its file system can't create a file for one process alone \(Operation not"):
        Folder(tmp_path).create("a", b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host/x", "expected a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("memory://x/y", "expected a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("memory://key:SECRET@host/x", "memory://... (not shown, since there may be keys in it): expected a folder"),
        ("s3://", "expected s3://BUCKET/FOLDER with names of letters"),
        ("s3://key:SECRET@bucket/x", "keys don't belong in an address"),
        ("s3://bucket/x?secret=SECRET", "s3://... (not shown, since there may be keys in it): expected s3://BUCKET"),
        ("s3://bucket/../other", "expected s3://BUCKET/FOLDER"),
        ("s3://bucket//x", "expected s3://BUCKET/FOLDER"),
        ("s3://bucket/a b", "expected s3://BUCKET/FOLDER"),
        ("s3://bucket/x?endpoint=http://other", "expected s3://BUCKET/FOLDER"),
    ],
)
def test_other_addresses_are_refused(url, message):
    with pytest.raises(StoreError) as caught:
        ObjectStore(url)
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_what_is_an_address(tmp_path):
    assert is_url("s3://bucket/x")
    assert not is_url("results/quick")
    assert not is_url(r"C:\results")
    assert not is_url(tmp_path)
    assert mirror_of("s3://bucket/x") == mirror_of("s3://bucket/x/")
    assert mirror_of("s3://bucket/x") != mirror_of("s3://bucket/y")


class Time:
    def __init__(self):
        self.now = 0.0
        self.waits = []

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


def test_what_may_pass_is_tried_again_and_told_once(capsys):
    time = Time()
    answers = [ConnectionError("no route"), TimeoutError("slow\nmore"), *[OSError("5xx")] * 8]

    def operation():
        if answers:
            raise answers.pop(0)
        return "done"

    assert patiently(operation, "s3://b/x", 300, wait=time.wait, clock=lambda: time.now) == "done"
    assert time.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    told = "note: s3://b/x can't be reached (no route); trying again for 300 s\n"
    assert capsys.readouterr() == ("", told)


def test_patience_ends():
    time = Time()

    def operation():
        raise ConnectionError("no route")

    with pytest.raises(
        StoreUnreachable, match=r"s3://b/x can't be reached \(ConnectionError: no route\), tried for 60 s"
    ):
        patiently(operation, "s3://b/x", 60, wait=time.wait, clock=lambda: time.now)
    assert 30 <= time.now <= 60


@pytest.mark.parametrize("answer", [FileNotFoundError("a"), FileExistsError("a")])
def test_an_answer_is_an_answer(answer):
    def operation():
        raise answer

    with pytest.raises(type(answer)):
        patiently(operation, "s3://b/x", 60, wait=pytest.fail)


def test_closed_doors_are_told_at_once():
    def operation():
        raise PermissionError("Access Denied")

    with pytest.raises(StoreError, match="s3://b/x: Access Denied; may these keys read, write and list there"):
        patiently(operation, "s3://b/x", 60, wait=pytest.fail)


def test_without_keys_it_says_so_at_once():
    class NoCredentialsError(Exception):
        pass

    def operation():
        raise NoCredentialsError("Unable to locate credentials")

    with pytest.raises(StoreError, match="s3://b/x: Unable to locate credentials"):
        patiently(operation, "s3://b/x", 60, wait=pytest.fail)
