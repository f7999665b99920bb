"""Tests of a producer: what its jobs do to a family, and when."""

import json
import urllib.request


def remind(env, job_id, **more):
    """The producer under test."""
    job = {"recipients": [{"userId": "ana"}], "title": "Tea is ready"}
    body = json.dumps({"kind": "notification", "jobId": job_id, "job": job, **more}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {env['GATEWAY_TOKEN']}"}
    urllib.request.urlopen(urllib.request.Request(env["GATEWAY_URL"] + "/v1/jobs", body, headers)).close()


def test_ana_is_told_once(kit):
    remind(kit.env, "tea")
    remind(kit.env, "tea")
    assert kit.job("tea")["state"] == "done"
    assert [push["title"] for push in kit.sent("ana")] == ["Tea is ready"]
    assert kit.sent("ben") == []


def test_a_delayed_reminder_comes_when_it_is_due(kit):
    remind(kit.env, "tea", delay="2h")
    kit.call("POST", "/clock", {"by": "1h 59m"})
    assert kit.sent("ana") == []
    kit.call("POST", "/clock", {"by": "1m"})
    assert kit.job("tea")["state"] == "done"
    assert len(kit.sent("ana")) == 1


def test_a_push_service_that_fails_once_is_asked_again(kit):
    kit.call("PUT", "/providers/web_push", {"status": 503, "times": 1})
    remind(kit.env, "tea")
    kit.call("POST", "/clock", {"by": "10m"})
    assert kit.job("tea")["state"] == "done"
    assert len(kit.sent("ana")) == 1
