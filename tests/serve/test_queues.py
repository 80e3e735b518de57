"""Queues of a served cascade: full batches, a bound, and nothing lost when a worker dies."""

import threading
import time

import pytest

from lit_cascade.serve.queues import Done, Reply, StageQueues, Waiting


def queues(*, sizes=(4, 4), waits=(0.0, 0.0), workers=(1, 1), clients=1, most=100):
    return StageQueues(sizes, waits, workers, clients, most)


def some(*uids, **values):
    return [Waiting(str(uid), 0, f"input {uid}", **values) for uid in uids]


def uids(samples):
    return [int(one.uid) for one in samples]


def reply(sample):
    return Reply(sample.uid, sample.client, 200, {})


def soon(work):
    """Call in a thread, and return a function that waits for the result."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()

    def result():
        thread.join(5)
        assert found, "it hangs"
        return found[0]

    return result


def test_batches_are_full_and_in_order():
    here = queues()
    assert here.offer(some(*range(6))) == 6
    assert uids(here.exchange("a", 0, None)) == [0, 1, 2, 3]
    assert uids(here.exchange("a", 0, Done())) == [4, 5]


def test_a_batch_waits_to_be_filled_and_no_longer():
    here = queues(waits=(30.0, 0.0))
    batch = soon(lambda: here.exchange("a", 0, None))
    for uid in range(4):
        time.sleep(0.01)
        here.offer(some(uid))
    assert uids(batch()) == [0, 1, 2, 3]
    here = queues(waits=(0.05, 0.0))
    here.offer(some(1))
    start = time.monotonic()
    assert uids(here.exchange("a", 0, None)) == [1]
    assert 0.04 < time.monotonic() - start < 5


def test_without_a_given_wait_it_is_the_measured_time_of_a_full_batch():
    here = queues(waits=(None, 0.5))
    assert here.state()["seconds"] == [0.001, 0.5]  # never a loop that spins
    here.ready("a", 0, 0.25)
    here.ready("b", 0, 0.125)
    assert here.state()["seconds"] == [0.25, 0.5]
    assert here.state()["ready"] == [2, 0]


def test_what_does_not_fit_is_refused_and_what_is_deferred_never():
    here = queues(most=3)
    assert here.offer(some(*range(5))) == 3
    batch = here.exchange("a", 0, None)
    assert here.offer(some(10, 11, 12, 13)) == 3
    here.exchange("a", 0, Done(deferred=batch))
    assert here.state()["waiting"] == [0, 3]
    assert here.offer(some(20)) == 0  # the bound is for all stages together


def test_deferred_samples_go_to_the_next_stage_and_replies_to_their_client():
    here = queues(clients=2)
    here.offer([Waiting("1", 0, "x"), Waiting("2", 1, "y")])
    one, two = here.exchange("a", 0, None)
    here.offer(some(3))
    here.exchange("a", 0, Done(replies=[reply(two)], deferred=[one._replace(before="small")]))
    (later,) = here.exchange("b", 1, None)
    assert (later.uid, later.input, later.before) == ("1", "x", "small")
    assert [one.uid for one in here.replies(1)] == ["2"]
    assert here.replies(0, 0.01) == []


def test_what_a_dead_worker_held_goes_to_the_next_one_first():
    here = queues(sizes=(2, 2))
    here.offer(some(1, 2, 3, 4))
    assert uids(here.exchange("a", 0, None)) == [1, 2]
    here.release("a")
    assert uids(here.exchange("b", 0, None)) == [1, 2]
    assert uids(here.exchange("b", 0, Done())) == [3, 4]


def test_results_of_a_worker_that_counts_as_dead_are_dropped():
    """Its samples were given to another: nothing is answered twice."""
    here = queues()
    here.offer(some(1))
    (sample,) = here.exchange("a", 0, None)
    here.release("a")
    assert here.exchange("a", 0, Done(replies=[reply(sample)])) == []
    assert here.replies(0, 0.01) == []
    assert uids(here.exchange("b", 0, None)) == [1]


def test_a_worker_that_dies_while_it_waits_takes_nothing():
    """The call of a killed worker lives on in the process of the queues."""
    here = queues()
    ghost = soon(lambda: here.exchange("a", 0, None))
    time.sleep(0.05)
    here.release("a")
    assert ghost() == []
    here.offer(some(1))
    assert uids(here.exchange("b", 0, None)) == [1]
    here = queues(waits=(30.0, 0.0))
    here.offer(some(1))
    ghost = soon(lambda: here.exchange("a", 0, None))  # has a sample, and waits for more
    time.sleep(0.05)
    here.release("a")
    assert ghost() == []
    assert here.state()["waiting"] == [1, 0]


def test_a_sample_with_which_two_workers_died_fails():
    here = queues()
    here.offer(some(1, 2))
    here.exchange("a", 0, None)
    here.release("a")
    here.drop(["2"])
    here.exchange("b", 0, None)
    here.release("b")
    (failed,) = here.replies(0)
    assert (failed.uid, failed.status) == ("1", 500)
    assert "died" in failed.body["error"]
    assert here.state()["waiting"] == [0, 0]


def test_clients_that_left_are_dropped():
    here = queues()
    here.offer(some(1, 2, 3))
    here.drop(["2", "unknown"])
    assert uids(here.exchange("a", 0, None)) == [1, 3]


def test_two_workers_share_a_queue_and_none_gets_the_samples_of_another():
    here = queues(sizes=(3, 1), waits=(0.02, 0.0), workers=(2, 1))
    got = [soon(lambda name=name: here.exchange(name, 0, None)) for name in "ab"]
    time.sleep(0.01)
    here.offer(some(*range(6)))
    found = [uids(one()) for one in got]
    assert sorted(uid for batch in found for uid in batch) == list(range(6))


def test_audits_take_places_that_are_left():
    here = queues(sizes=(2, 4))
    audits = some(1, 2, 3, audited=("small", 0))
    here.offer(some(10, 11))
    waiting = here.exchange("a", 0, None)
    here.offer(some(12))
    here.exchange("a", 0, Done(deferred=waiting, audits=audits))
    batch = here.exchange("b", 1, None)
    assert uids(batch) == [10, 11, 1, 2]
    here.release("b")  # audits are not worth a second worker
    assert uids(here.exchange("c", 1, None)) == [10, 11, 3]


def test_a_drained_queue_waits_for_no_full_batch():
    here = queues(waits=(30.0, 0.0))
    here.offer(some(1))
    batch = soon(lambda: here.exchange("a", 0, None))
    time.sleep(0.02)
    here.drain()
    assert uids(batch()) == [1]
    assert here.state()["draining"]


@pytest.mark.parametrize(("waiting", "seconds"), [(0, 1), (8, 2), (9, 3)])
def test_retry_after_is_the_time_until_what_waits_is_done(waiting, seconds):
    here = queues()
    here.ready("a", 0, 1.0)
    here.offer(some(*range(waiting)))
    assert here.state()["retry_after"] == seconds


def test_the_first_reason_to_end_counts():
    here = queues()
    here.fail("first")
    here.fail("second")
    assert here.state()["failure"] == "first"
