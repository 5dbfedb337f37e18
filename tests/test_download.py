"""Downloads against a server on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers import reference

import segfast
from segfast.checkpoints import download
from segfast.errors import BadModel, DownloadFailed, UnknownModel


class Server(ThreadingHTTPServer):
    """Serves one file; `cut` bytes at a time where set, with or without ranges."""

    content, cut, ranges, status = b"", None, True, 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights-{self.digest}.pth"

    @property
    def digest(self):
        return hashlib.sha256(self.content).hexdigest()[:8]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut] if server.cut else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server()
    server.content = (reference("mmseg/linear-16") / "checkpoint.pth").read_bytes()
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path / "cache"))
    row = download.Weights(server.url, server.digest, (0.0, 0.0))
    monkeypatch.setattr(download, "PUBLISHED", {"seg-tiny-16@test": row})
    yield server
    server.shutdown()
    server.server_close()


def test_weights_are_downloaded_once_and_load(server, tmp_path, capfd):
    model = segfast.load_model("seg-tiny-16@test")
    assert model.config.provenance["weights"] == "seg-tiny-16@test"
    assert "100%" in capfd.readouterr().err  # a progress bar
    again = segfast.load_model("seg-tiny-16@test")
    assert torch.equal(model.encoder.pos_embed, again.encoder.pos_embed)
    assert server.requests == [None]
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_broken_download_resumes(server, tmp_path):
    server.cut = 1000
    with pytest.raises(DownloadFailed, match="it resumes where it stopped"):
        download.fetch("seg-tiny-16@test")
    (part,) = (tmp_path / "cache").glob("*.part")
    assert part.stat().st_size == 1000
    assert download.cached("seg-tiny-16@test") is None
    server.cut = None
    assert download.fetch("seg-tiny-16@test").read_bytes() == server.content
    assert server.requests == [None, "bytes=1000-"]


def test_a_server_without_ranges_starts_over(server):
    server.cut = 1000
    with pytest.raises(DownloadFailed):
        download.fetch("seg-tiny-16@test")
    server.cut, server.ranges = None, False
    assert download.fetch("seg-tiny-16@test").read_bytes() == server.content


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "cache").mkdir()
    name = server.url.rsplit("/", 1)[1]
    (tmp_path / "cache" / f"{name}.part").write_bytes(server.content)
    assert download.fetch("seg-tiny-16@test").read_bytes() == server.content


def test_a_wrong_digest_is_removed(server, tmp_path, monkeypatch):
    row = download.Weights(server.url, "00000000", (0.0, 0.0))
    monkeypatch.setattr(download, "PUBLISHED", {"seg-tiny-16@test": row})
    with pytest.raises(DownloadFailed, match="not 00000000"):
        download.fetch("seg-tiny-16@test")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_a_file_that_was_exchanged_is_refused_before_it_is_unpickled(server, monkeypatch):
    path = download.fetch("seg-tiny-16@test")
    torch.save({"state_dict": {"another": torch.zeros(1)}}, path)
    monkeypatch.setattr("segfast.checkpoints.load.load_pickle", lambda path: pytest.fail("unpickled"))
    with pytest.raises(BadModel, match=rf"has the SHA-256 .*, not {server.digest}…; delete it"):
        segfast.load_model("seg-tiny-16@test")


def test_whether_a_text_is_a_name_is_asked_once(server, monkeypatch):
    """It depends on the files there are, which may change meanwhile."""
    asked, is_name = [], download.is_name
    monkeypatch.setattr(download, "is_name", lambda text: asked.append(text) or is_name(text))
    segfast.load_model("seg-tiny-16@test")
    assert asked == ["seg-tiny-16@test"]


@pytest.mark.parametrize("status", [404, 500])
def test_http_errors_say_what_to_do(server, status):
    server.status = status
    with pytest.raises(DownloadFailed, match="check the connection"):
        download.fetch("seg-tiny-16@test")


def test_no_server_says_what_to_do(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadFailed, match="by hand"):
        download.fetch("seg-tiny-16@test")


def test_many_at_once_download_once(server):
    paths, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: paths.append(download.fetch("seg-tiny-16@test"))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert server.requests == [None]


def test_unknown_names_list_the_published_ones():
    with pytest.raises(UnknownModel, match="seg-b-mask-16@ade20k"):
        segfast.load_model("seg-b-mask16@ade20k")
    with pytest.raises(UnknownModel, match="names an architecture"):
        segfast.load_model("seg-b-mask-16")


def test_the_table_is_that_of_the_publisher():
    assert len(download.PUBLISHED) == 5
    for name, row in download.PUBLISHED.items():
        assert name.split("@")[0] in segfast.list_models()
        assert row.url.startswith("https://download.openmmlab.com/mmsegmentation/v0.5/segmenter/segmenter_vit-")
        assert row.url.endswith(f"-{row.digest}.pth")
        assert row.miou[0] < row.miou[1]
