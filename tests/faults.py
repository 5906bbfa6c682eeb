"""What goes wrong, for real: servers that are killed, a proxy that misbehaves in front of a real one, small disks."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras_explain as kx
from tests.conftest import wait_for


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real MLflow server that can be killed, and started again on what it has stored."""

    def __init__(self, folder, store=None):
        self.folder, self.store, self.port = Path(folder), store or Path(folder) / "store", free_port()
        self.process = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.store)]
        if os.getuid() == 0:  # to whom nothing is forbidden otherwise
            command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        wait_for(f"{self.address}/health", 120)

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """Stands before a real server, and does to requests what `mode` says.

    pass: nothing; a number: answers with that status; hang: never answers; lost: the server is asked, and the answer
    thrown away.
    """

    def __init__(self, target):
        self.mode, self.asked = "pass", Counter()
        self._released = threading.Event()
        proxy, host = self, target.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                mode = proxy.mode
                proxy.asked[mode] += 1
                if mode == "hang":
                    proxy._released.wait()
                    return
                if isinstance(mode, int):
                    self.send_response(mode)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(host, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if mode == "lost":
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def small_disk(folder, kilobytes):
    """A folder on a disk of its own, which holds so much. Needs root."""
    options = f"size={kilobytes}k,mode=1777"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        import pytest

        pytest.skip("only root can mount a small disk")

    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def files(client, run_id, path=""):
    found = []
    for entry in client.list_artifacts(run_id, path):
        found += files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found


def audit(client, run_id, steps, into):
    """Of the rounds of a run that should be those of `steps`: how many are whole, what is lost, and what is doubled."""
    whole, lost, doubled = [], [], []
    everything = files(client, run_id)
    pictures = Counter(re.sub(r"\+timestamp\+\d+\+[0-9a-f-]+", "", name) for name in everything if "images/" in name)
    doubled += [name for name, count in pictures.items() if count > 1]
    for step in steps:
        name = f"explanations/epoch_{step:04d}"
        missing = []
        try:
            place = Path(client.download_artifacts(run_id, name, str(into)))
            _, attributions, settings = kx.load_round(place)
            missing += [] if attributions else ["maps"]
        except Exception as error:
            lost.append(f"{name}: {error}")
            continue
        for picture in place.glob("*.png"):
            for end in (".png", "+compressed.webp"):
                key = f"images/explanations~{picture.stem}+step+{step}{end}"
                missing += [] if pictures[key] else [key]
        for metric, value in settings["numbers"].items():
            found = [point.value for point in client.get_metric_history(run_id, metric) if point.step == step]
            missing += [] if found else [metric]
            doubled += [f"{metric} at {step}"] if len(found) > 1 else []
            if found and abs(found[0] - value) > 1e-6 * max(1, abs(value)):
                lost.append(f"{metric} at {step} is {found[0]}, not {value}")
        (lost if missing else whole).append(f"{name} {missing}" if missing else step)
    steps_there = {int(name.split("epoch_")[1][:4]) for name in everything if "epoch_" in name}
    doubled += [f"epoch {step} that should not be" for step in steps_there - set(steps)]
    return whole, lost, doubled
