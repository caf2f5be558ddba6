"""Weight files of the hub: the real cache layout, a hub on this machine, and no hub at all."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from case_jax import CaseJaxError
from case_jax.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(cache, repo, files, *, commit=COMMIT, revision="main"):
    """Lay files down as huggingface_hub does: blobs, links to them in snapshots, and the commit of each revision in refs."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    for name, content in files.items():
        blob = root / "blobs" / f"{commit[:8]}-{name}"
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache on a machine that must not ask the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("text", "can"),
    [
        ("timm/resnet50.tv_in1k", True),
        ("me/my-model@v1.0", True),
        ("me/x@refs/pr/1", True),
        ("folder/model.safetensors", False),
        ("a/b.pth", False),
        ("resnet50", False),
        ("../a", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("a/b..c", False),
    ],
)
def test_a_repository_is_told_from_a_file(text, can):
    assert hub.is_hub_id(text) is can


def test_what_the_cache_holds_is_used_without_asking(cache):
    snapshot = fill_cache(cache, "timm/tiny", {"model.safetensors": b"weights", "config.json": b"{}"})
    found = hub.fetch("timm/tiny")
    assert found == (snapshot / "model.safetensors", snapshot / "config.json")
    assert found.weights.read_bytes() == b"weights"


def test_a_revision_has_its_own_files(cache):
    fill_cache(cache, "timm/tiny", {"model.safetensors": b"new"})
    fill_cache(cache, "timm/tiny", {"model.safetensors": b"old"}, commit="f" * 40, revision="v1")
    assert hub.fetch("timm/tiny@v1").weights.read_bytes() == b"old"
    assert hub.fetch("timm/tiny@" + "f" * 40).weights.read_bytes() == b"old"
    assert hub.fetch("timm/tiny").weights.read_bytes() == b"new"


def test_a_cache_without_config_is_enough(cache):
    fill_cache(cache, "timm/tiny", {"model.safetensors": b"weights"})
    assert hub.fetch("timm/tiny").config is None


def test_pickled_weights_count_where_there_are_no_others(cache):
    fill_cache(cache, "timm/tiny", {"pytorch_model.bin": b"weights"})
    assert hub.fetch("timm/tiny").weights.name == "pytorch_model.bin"
    fill_cache(cache, "timm/tiny", {"model.safetensors": b"weights"})
    assert hub.fetch("timm/tiny").weights.name == "model.safetensors"


def test_a_machine_without_connection_is_told_what_to_fetch_and_where_to_put_it(cache):
    with pytest.raises(CaseJaxError) as caught:
        hub.fetch("timm/tiny@v1")
    message = str(caught.value)
    for words in (
        "cannot fetch model.safetensors of 'timm/tiny'",
        "offline",
        str(cache),
        "/timm/tiny/resolve/v1/model.safetensors",
        "--weights FILE",
        "hf download timm/tiny model.safetensors config.json --revision v1",
    ):
        assert words in message


FILES = {"model.safetensors": b"fetched", "config.json": b'{"architecture": "tiny"}'}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: one repository, one with no weights, and none of any other name."""

    protocol_version = "HTTP/1.1"

    def answer(self, *, body):
        repo, _, name = self.path.lstrip("/").partition("/resolve/")
        content = FILES.get(name.partition("/")[2]) if repo == "me/tiny" else None
        missing = "EntryNotFound" if repo in ("me/tiny", "me/empty") else "RepoNotFound"
        self.send_response(404 if content is None else 200)
        self.send_header("X-Error-Code" if content is None else "X-Repo-Commit", missing if content is None else COMMIT)
        self.send_header("ETag", f'"{name.partition("/")[2]}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def log_message(self, *args):
        pass


ASK = """
import json
from case_jax import CaseJaxError
from case_jax.models.hub import fetch
for repo in ("me/tiny", "me/empty", "me/nothing"):
    try:
        found = fetch(repo)
        print(json.dumps([found.weights.read_text(), json.loads(found.config.read_text())]))
    except CaseJaxError as error:
        print(json.dumps(str(error)))
"""


def test_a_hub_that_answers_is_asked_once_and_what_it_lacks_is_named(tmp_path):
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://localhost:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "localhost",
        "JAX_PLATFORMS": "cpu",
    }
    run = {"capture_output": True, "text": True, "timeout": 120}
    try:
        online = subprocess.run([sys.executable, "-c", ASK], env=environment, **run)
    finally:
        server.shutdown()
        server.server_close()
    assert online.returncode == 0, online.stderr
    tiny, empty, nothing = (json.loads(line) for line in online.stdout.splitlines())
    assert tiny == ["fetched", {"architecture": "tiny"}]
    assert "'me/empty' has no model.safetensors" in empty
    assert "cannot fetch model.safetensors of 'me/nothing'" in nothing
    assert "404" in nothing
    offline = subprocess.run([sys.executable, "-c", ASK], env=environment | {"HF_HUB_OFFLINE": "1"}, **run)
    assert json.loads(offline.stdout.splitlines()[0]) == tiny  # from the cache that the first run filled
