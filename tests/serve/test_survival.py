"""Workers that die, signals, full queues, clients that leave: nothing hangs and nothing is lost."""

import asyncio
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

pytest.importorskip("litserve", reason="the extra serve is not installed")

from lit_cascade import Cascade
from lit_cascade.serve.inputs import Query
from lit_cascade.serve.on_litserve import CascadeServer, Front
from lit_cascade.serve.queues import Reply, StageQueues
from tests.serve import sleeping
from tests.serve.served import serving

SERVER = "tests.serve.sleeping"


def expected(deferred):
    with torch.inference_mode():
        output = Cascade(sleeping.stages(0.0), sleeping.policy(deferred))(sleeping.pool())
    return list(zip(output.prediction.tolist(), output.stage.tolist(), strict=True))


def bodies(n, start=0):
    return [{"array": one.tolist()} for one in sleeping.pool()[start : start + n]]


def told(answers):
    return [(one["prediction"], ("small", "large").index(one["stage"])) for _, one in answers]


def wait_until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def waiting(server):
    return server.counted("lit_cascade_waiting")


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_server_survives_what_may_happen_to_it(tmp_path):
    words = ["--deferred", 0.3, "--scale", 0.25, "--queue_size", 64, "--http_workers", 2]
    with serving(*words, cwd=tmp_path, module=SERVER) as server:
        for name in ("small", "large"):  # the worker that has started first is that of this stage
            killed_under_load(server, name)
        clients_that_leave_are_forgotten(server)
        a_slow_client_holds_up_nobody(server)
        more_than_may_wait_is_refused(server)
        accepted_requests_are_answered_before_the_end(server)


def killed_under_load(server, name):
    pids = {one.pid for one in server.workers()}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.predict_all, bodies(120), clients=40, timeout=60)
        time.sleep(0.2)
        server.workers()[0].kill()
        answers = asked.result(90)
    assert {status for status, _ in answers} == {200}
    assert told(answers) == expected(0.3)[:120]
    assert f"a worker of stage {name!r} ended with code -9; another one starts" in server.said
    server.until_ready()
    assert len({one.pid for one in server.workers()} - pids) == 1
    assert server.counted("lit_cascade_worker_restarts_total", stage=name) == 1


def clients_that_leave_are_forgotten(server):
    assert waiting(server) == 0
    sockets = []
    for body in bodies(60):
        one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        content = json.dumps(body)
        one.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content.encode())
        )
        sockets.append(one)
    for one in sockets:
        one.close()
    wait_until(lambda: waiting(server) == 0)
    assert server.predict(bodies(1)[0])[0] == 200


def a_slow_client_holds_up_nobody(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        answers = server.predict_all(bodies(8), clients=8)
        assert {status for status, _ in answers} == {200}


def more_than_may_wait_is_refused(server):
    """Of 200 inputs 64 may wait; the answers of those that were taken are right."""
    inputs = {"inputs": bodies(200)}
    status, _, content = server.ask("POST", "/predict/batch", inputs, timeout=60)
    assert status == 200
    found = [one.get("status", 200) for one in content["answers"]]
    assert set(found) == {200, 503}
    assert found[:64] == [200] * 64
    taken = [(200, one) for one in content["answers"] if "error" not in one]
    assert told(taken) == [
        answer for answer, status in zip(expected(0.3), found, strict=False) if status == 200
    ]
    assert {one["error"] for one in content["answers"] if "error" in one} == {
        "too many requests wait."
    }


def accepted_requests_are_answered_before_the_end(server):
    family = server.family()
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(server.predict, body, timeout=60) for body in bodies(32)]
        wait_until(lambda: waiting(server) > 0)
        server.process.send_signal(signal.SIGTERM)
        answers = [one.result(60) for one in asked]
    assert {status for status, _ in answers} == {200}
    assert told(answers) == expected(0.3)[:32]
    assert server.ended() == 0
    assert "Traceback" not in server.said
    wait_until(lambda: not any(map(alive, family)))


@pytest.mark.slow
def test_when_the_server_is_killed_all_its_processes_end(tmp_path):
    with serving("--scale", 0.1, cwd=tmp_path, module=SERVER) as server:
        family = server.family()
        assert len(family) >= 4  # the queues, requests, and a worker per stage
        server.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, family)))


@pytest.mark.slow
def test_without_its_queues_a_server_ends_with_the_reason(tmp_path):
    with serving("--scale", 0.1, cwd=tmp_path, module=SERVER) as server:
        family = server.family()
        by_age = sorted(family, key=lambda one: one.create_time())
        by_age[0].kill()
        assert server.ended(20) == 1
        assert "the process of the queues has ended." in server.said
        wait_until(lambda: not any(map(alive, family)))


class Child:
    """A process, as far as the supervisor looks at it."""

    def __init__(self, pid=1, code=None):
        self.pid, self.exitcode = pid, code

    def is_alive(self):
        return self.exitcode is None


@pytest.fixture
def supervised(monkeypatch):
    """A server without processes."""
    served = sleeping.made()
    served.queues = StageQueues([1, 1], [0.0, 0.0], [1, 1], 1, 10)
    served._shutdown_event = asyncio.Event()
    served.inference_workers = [Child(1), Child(2)]
    served.started = []

    def start(self, api, place):
        served.started.append(api.runner.name)
        return Child(10 + len(served.started))

    monkeypatch.setattr(CascadeServer, "launch_single_inference_worker", start)
    return served


def test_a_worker_that_died_is_started_again_until_it_is_hopeless(supervised, capsys):
    for times in range(1, 4):
        supervised.inference_workers[1].exitcode = -9
        supervised._look_after({0: Child()})
        assert supervised.started == ["large"] * times
        assert not supervised._failure
    supervised.inference_workers[1].exitcode = -11
    supervised._look_after({0: Child()})
    assert supervised.started == ["large"] * 3
    assert supervised._shutdown_event.is_set()
    assert supervised._failure == (
        "a worker of stage 'large' ended with code -11; 4 have died within 120 s."
    )
    assert capsys.readouterr().err.count("another one starts") == 3


def test_a_stage_that_says_why_it_cannot_go_on_is_not_started_again(supervised):
    supervised.queues.fail("stage 'small' cannot start")
    supervised.inference_workers[0].exitcode = 1
    supervised._look_after({0: Child()})
    assert (supervised.started, supervised._failure) == ([], "stage 'small' cannot start")


def test_without_a_process_that_takes_requests_the_server_ends(supervised):
    supervised._look_after({0: Child(), 1: Child(code=-9)})
    assert supervised._failure == "a process that takes requests has ended."


def asked(queues, queries, work=None, timeout=5.0, *, leaves=False):
    """Replies to queries of one client."""

    async def run():
        front = Front(queues, 0, timeout)
        left = asyncio.get_running_loop().create_future()
        if leaves:
            asyncio.get_running_loop().call_later(0.05, left.set_result, None)
        if work is not None:
            asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await front.answer(queries, left)
        finally:
            front.close()

    return asyncio.run(run())


def test_a_request_without_an_answer_is_told_so_and_forgotten():
    queues = StageQueues([1], [0.0], [1], 1, 10)
    (reply,) = asked(queues, [Query(1)], timeout=0.1)
    assert (reply.status, reply.body) == (504, {"error": "no answer within 0.1 s."})
    assert queues.state()["waiting"] == [0]


def test_a_client_that_leaves_is_forgotten_at_once():
    queues = StageQueues([1], [0.0], [1], 1, 10)
    start = time.monotonic()
    assert [one.status for one in asked(queues, [Query(1), Query(2)], leaves=True)] == [499] * 2
    assert time.monotonic() - start < 4
    assert queues.state()["waiting"] == [0]


def test_replies_come_in_the_order_of_the_queries_and_what_is_refused_fails_alone():
    queues = StageQueues([2], [0.0], [1], 1, 2)

    def work():
        from lit_cascade.serve.queues import Done

        batch = queues.exchange("a", 0, None)
        replies = [Reply(one.uid, one.client, 200, {"input": one.input}) for one in batch]
        queues.exchange("a", 0, Done(replies[::-1]))

    replies = asked(queues, [Query("a"), Query("b"), Query("c")], work)
    assert [one.status for one in replies] == [200, 200, 503]
    assert [one.body.get("input") for one in replies] == ["a", "b", None]


def test_when_the_queues_end_nobody_waits_for_them():
    class Gone(StageQueues):
        def replies(self, client, seconds=1.0):
            time.sleep(0.1)
            raise EOFError

    (reply,) = asked(Gone([1], [0.0], [1], 1, 10), [Query(1)])
    assert (reply.status, reply.body) == (503, {"error": "the server is ending."})
