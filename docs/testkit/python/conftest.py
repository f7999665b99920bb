"""The test kit as a fixture: started once, reset before each test."""

import json
import os
import subprocess
import urllib.request

import pytest


class Kit:
    def __init__(self, env):
        self.env = env

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.env["KIT_URL"] + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=70) as answer:
            return json.load(answer)

    def job(self, job_id):
        return self.call("GET", f"/jobs/{job_id}?wait=20s")

    def sent(self, user, channel="web_push"):
        return self.call("GET", f"/sent?user={user}&channel={channel}")["sent"]


@pytest.fixture(scope="session")
def running():
    program = os.environ.get("CAREBELL", "carebell")
    with subprocess.Popen([program, "testkit", "--json"], stdout=subprocess.PIPE, text=True) as process:
        yield Kit(json.loads(process.stdout.readline())["env"])
        process.terminate()


@pytest.fixture
def kit(running):
    running.call("POST", "/reset")
    return running
