"""`scripts/gce_spot.sh`: what the metadata server says of the machine reaches the trainer as a signal."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = "gce_spot.sh"
SECONDS_AT_MOST = 30
Until = Callable[..., None]


class Metadata(http.server.ThreadingHTTPServer):
    """A metadata server: answers at once what has another etag than the one seen, else when that changes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.etags = dict.fromkeys(self.values, 1)
        self.changed = threading.Condition()
        self.asked: list[str] = []
        self.longest_wait = 3600.0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def say(self, entry: str, value: str) -> None:
        with self.changed:
            self.values[entry] = value
            self.etags[entry] += 1
            self.changed.notify_all()


class Answer(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        entry = path.removeprefix("/computeMetadata/v1/instance/")
        wanted = dict(urllib.parse.parse_qsl(query))
        if self.headers["Metadata-Flavor"] != "Google" or entry not in self.server.values:
            self.send_error(403)
            return
        with self.server.changed:
            self.server.asked.append(entry)
            if wanted.get("wait_for_change") == "true":
                self.server.changed.wait_for(
                    lambda: str(self.server.etags[entry]) != wanted.get("last_etag"), self.server.longest_wait
                )
            value, etag = self.server.values[entry], self.server.etags[entry]
        self.send_response(200)
        self.send_header("ETag", str(etag))
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, *arguments: object) -> None:
        """What is asked is in `asked`, and nothing on stderr."""


class Folder(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("entry", "value"), [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")]
)
def test_a_machine_that_goes_ends_the_run_once_it_is_saved(
    project: Any, until: Until, metadata: Metadata, entry: str, value: str
) -> None:
    project.plan("wait", "exit 0")
    script = project.start(SCRIPT, "--attempts=3", "--experiment=digits", GCE_METADATA_HOST=metadata.host)
    until(lambda: project.starts() and len(metadata.asked) >= 4)
    assert project.signals() == []
    metadata.say(entry, value)
    stderr = script.communicate(timeout=SECONDS_AT_MOST)[1]
    assert script.returncode == 75
    assert project.log()[1:] == ["SIGTERM", "saved"]
    assert project.starts() == [["-m", "trainer.main", "--experiment=digits"]]
    assert stderr == f"the machine goes: {entry} is {value}\n"
    # Once for what is, and once for what comes.
    assert metadata.asked.count(entry) == 2


def test_a_machine_that_is_moved_has_the_state_saved_once_and_goes_on(
    project: Any, until: Until, metadata: Metadata
) -> None:
    metadata.longest_wait = 0.02
    project.plan("wait")
    script = project.start(SCRIPT, GCE_METADATA_HOST=metadata.host)
    until(project.starts)
    metadata.say("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    until(project.signals)
    # The same is said again at the end of each wait.
    count = len(metadata.asked)
    until(lambda: len(metadata.asked) > count + 10)
    assert script.poll() is None
    metadata.say("maintenance-event", "NONE")
    metadata.say("preempted", "TRUE")
    script.communicate(timeout=SECONDS_AT_MOST)
    assert project.log()[1:] == ["SIGUSR2", "SIGTERM", "saved"]


@pytest.mark.parametrize(
    ("entry", "value"), [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")]
)
def test_a_machine_that_goes_already_trains_no_more(project: Any, metadata: Metadata, entry: str, value: str) -> None:
    metadata.say(entry, value)
    project.plan("wait", "exit 0")
    script = project.start(SCRIPT, GCE_METADATA_HOST=metadata.host)
    script.communicate(timeout=SECONDS_AT_MOST)
    assert script.returncode == 75
    assert len(project.starts()) <= 1


def test_a_metadata_server_out_of_reach_is_warned_of_once_and_asked_again(
    project: Any, until: Until, metadata: Metadata
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        project.plan("wait", "exit 0")
        script = project.start(SCRIPT, GCE_METADATA_HOST=address)
        until(lambda: project.starts() and len(project.pauses()) >= 6)
        os.kill(project.pid(), signal.SIGTERM)
        stderr = script.communicate(timeout=SECONDS_AT_MOST)[1]
    assert script.returncode == 0
    warnings = [line for line in stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert all(address in line for line in warnings)


def test_a_metadata_server_that_comes_back_is_listened_to(project: Any, until: Until, metadata: Metadata) -> None:
    entries, metadata.values = metadata.values, {}
    project.plan("wait")
    script = project.start(SCRIPT, GCE_METADATA_HOST=metadata.host)
    until(lambda: project.starts() and len(project.pauses()) >= 4)
    metadata.values = entries
    metadata.say("preempted", "TRUE")
    script.communicate(timeout=SECONDS_AT_MOST)
    assert script.returncode == 75


def test_a_folder_that_is_served_is_metadata_server_enough_to_try_it(project: Any, until: Until) -> None:
    entries = project.path / "computeMetadata" / "v1" / "instance"
    entries.mkdir(parents=True)
    (entries / "preempted").write_text("FALSE")
    (entries / "maintenance-event").write_text("NONE")
    handler = functools.partial(Folder, directory=str(project.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        project.plan("wait")
        script = project.start(SCRIPT, GCE_METADATA_HOST=f"127.0.0.1:{server.server_port}")
        until(lambda: project.starts() and len(project.pauses()) >= 4)
        (entries / "preempted").write_text("TRUE")
        script.communicate(timeout=SECONDS_AT_MOST)
        server.shutdown()
        thread.join()
    assert script.returncode == 75
    assert project.log()[1:] == ["SIGTERM", "saved"]


def test_nothing_that_watches_is_left_when_it_ends(project: Any, until: Until, metadata: Metadata) -> None:
    project.plan("wait", "exit 64")
    script = project.start(SCRIPT, GCE_METADATA_HOST=metadata.host)
    until(lambda: project.starts() and len(metadata.asked) >= 4)
    os.kill(project.pid(), signal.SIGTERM)
    # Whoever still waited for an answer would have the pipe open, and keep this from ending.
    script.communicate(timeout=SECONDS_AT_MOST)
    assert script.returncode == 64


def test_a_proxy_is_not_asked_for_the_machine_itself(project: Any, until: Until, metadata: Metadata) -> None:
    project.plan("wait")
    proxy = "http://127.0.0.1:9"
    script = project.start(SCRIPT, GCE_METADATA_HOST=metadata.host, http_proxy=proxy, ALL_PROXY=proxy)
    until(lambda: project.starts() and len(metadata.asked) >= 4)
    metadata.say("preempted", "TRUE")
    script.communicate(timeout=SECONDS_AT_MOST)
    assert script.returncode == 75


def test_wrong_options_are_the_supervisor_s_own_error(project: Any, metadata: Metadata) -> None:
    done = project.run(SCRIPT, "--attempts=none", GCE_METADATA_HOST=metadata.host)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("error: --attempts=none")


def test_without_curl_it_says_so(project: Any) -> None:
    for name in ("bash", "env"):
        (project.path / "bin" / name).symlink_to(f"/usr/bin/{name}" if name == "env" else "/bin/bash")
    done = project.run(SCRIPT, PATH=str(project.path / "bin"))
    assert (done.returncode, done.stdout, project.starts()) == (64, "", [])
    assert done.stderr.startswith("error: curl ")
    assert done.stderr.count("\n") == 1


def test_help_watches_and_starts_nothing(project: Any, metadata: Metadata) -> None:
    done = project.run(SCRIPT, "--help", GCE_METADATA_HOST=metadata.host)
    assert (done.returncode, done.stderr, project.starts(), metadata.asked) == (0, "", [], [])
    assert done.stdout.startswith("usage: scripts/gce_spot.sh")
