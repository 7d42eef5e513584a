"""Notice of a preemption, from a metadata server of the test's own."""

import http.server
import threading

import jax.numpy as jnp
import pytest

from core_jax import train
from launch import notice
from tests.core_jax.train import toy

PATH = "/computeMetadata/v1/instance/"


@pytest.fixture
def server():
    """(address, what it says by key); a key that is absent is not found, and strangers are refused."""
    said = {"preempted": "FALSE", "maintenance-event": "NONE"}

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Metadata-Flavor"] == "Google"
            text = said.get(self.path.removeprefix(PATH)) if known else None
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", said
        running.shutdown()


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("preempted", "TRUE", "preempted=TRUE"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "maintenance-event=TERMINATE_ON_"),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", None),
        ("preempted", None, None),
    ],
)
def test_what_counts_as_notice(server, monkeypatch, key, value, found):
    # Nobody listens there: proxies are not asked.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    address, said = server
    assert notice.notice(address) is None
    said[key] = value
    told = notice.notice(address)
    assert told is None if found is None else str(told).startswith(found)


def test_a_server_that_does_not_answer_is_no_notice():
    assert notice.notice("127.0.0.1:9") is None


def test_only_machines_of_google_are_asked(tmp_path):
    product = tmp_path / "product_name"
    assert notice.metadata_server({}, product) is None
    product.write_text("Another Computer\n")
    assert notice.metadata_server({}, product) is None
    product.write_text("Google Compute Engine\n")
    assert notice.metadata_server({}, product) == "metadata.google.internal"
    assert notice.metadata_server({"GCE_METADATA_HOST": "10.0.0.1"}, product) == "10.0.0.1"


def test_a_run_saves_and_leaves_when_there_is_notice(server, tmp_path, capfd):
    address, said = server
    waiting = notice.watch(address, every_s=0.01)
    assert waiting is not None

    def evaluate(trainable, frozen, stats):
        said["preempted"] = "TRUE"
        waiting.join(timeout=30)
        return {"w_norm": jnp.linalg.norm(trainable["w"])}

    options = train.FitOptions(seed=1, eval_every=3, progress=False)
    with pytest.raises(train.Preempted, match="saved step 4"):
        train.fit(toy.make(9, evaluate=evaluate), options, workdir=tmp_path)
    assert "this machine will be taken away (preempted=TRUE)" in capfd.readouterr().err
    assert train.restore(toy.make(9), workdir=tmp_path)[1] == 4
