"""Several gloo processes against one process on the global batch."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.training import all_gather_rows, all_reduce_sum, convert_sync_batchnorm, distributed, train, world_size
from torch import nn

SCRIPT = Path(__file__).with_name("toy.py")
toy = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
QUICK = ["two", "three, one without rows", "helpers", "diverged", "stopped", "apart", "seldom", "hashed"]
REST = ["two, single precision", "three, uneven", "two, in parts", "two, lars", "spread", "broken"]


@pytest.fixture(scope="module")
def answers(preloaded):
    return json.loads(preloaded.run(SCRIPT, "distributed", *QUICK))


@pytest.fixture(scope="module")
def more(preloaded):
    return json.loads(preloaded.run(SCRIPT, "distributed", *REST))


def values(answer):
    assert "value" in answer, answer.get("trace") or answer
    return answer["value"]


def distance(one, many):
    """Largest difference in any state, and in any number of the history."""
    assert one["state"].keys() == many["state"].keys()
    state = max(float(np.abs(np.subtract(one["state"][name], many["state"][name])).max()) for name in one["state"])
    assert [sorted(record) for record in one["history"]] == [sorted(record) for record in many["history"]]
    pairs = zip(one["history"], many["history"], strict=True)
    history = max(abs(a[name] - b[name]) for a, b in pairs for name in a if name != "kind")
    return max(state, history)


@pytest.mark.parametrize("name", ["two", "three, one without rows", "apart", "seldom"])
def test_many_processes_end_where_one_does(answers, name):
    one = values(answers[name]["one"])
    for answer in answers[name]["many"]:
        assert distance(one, values(answer)) < 1e-10  # double precision: what is left is the order of sums


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three, uneven", "two, in parts", "two, lars"])
def test_many_processes_end_where_one_does_in_other_settings(more, name):
    one = values(more[name]["one"])
    for answer in more[name]["many"]:
        assert distance(one, values(answer)) < 1e-10


@pytest.mark.slow
def test_single_precision_differs_by_rounding_only(more):
    one = values(more["two, single precision"]["one"])
    for answer in more["two, single precision"]["many"]:
        assert distance(one, values(answer)) < 1e-3


def test_all_processes_are_equal_and_batch_norms_are_plain_again(answers):
    first, second = (values(answer) for answer in answers["two"]["many"])
    assert first["state"] == second["state"]
    assert first["kinds"] == ["BatchNorm1d", "BatchNorm2d"]


def test_a_checkpoint_belongs_to_the_first_weights_of_the_first_process(answers):
    for before, after in zip(answers["apart"]["many"], answers["apart"]["then"], strict=True):
        assert values(after)["from"] == 12
        assert values(after)["state"] == values(before)["state"]


def test_a_layer_that_one_process_uses_is_trained(answers):
    one = values(answers["seldom"]["one"])["state"]["never_used.weight"]
    assert one != values(answers["two"]["one"])["state"]["never_used.weight"]


def test_collectives_give_the_values_and_gradients_of_one_process(answers):
    given = [values(answer) for answer in answers["helpers"]]
    gathered = [[0, 1], [2, 3], [20, 21]]
    weight = np.arange(1.0, 7).reshape(3, 2) * (1 + 2 + 3)
    for answer in given:
        assert answer["gathered"] == gathered
        assert answer["integers"] == [1, 2, 2]
        assert answer["truth"] == [False, True, False]
        assert (answer["sum"], answer["sum_gradient"]) == (6.0, 111.0)
        assert answer["bytes"] == "abc"
    assert [answer["gradient"] for answer in given] == [weight[:2].tolist(), [], weight[2:].tolist()]


def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_step(answers):
    for answer in answers["diverged"]:
        assert "step 4 of 12" in values(answer)["text"]
        assert "loss nan" in values(answer)["text"]
        assert values(answer)["finite"]


def test_a_signal_to_one_process_stops_all_and_one_process_can_go_on(answers):
    for answer in answers["stopped"]["first"]:
        assert values(answer)["code"] == 75
        assert "run the same command again" in values(answer)["text"]
    then = values(answers["stopped"]["then"])
    assert then["from"] == 5
    assert distance(values(answers["two"]["one"]), then) < 1e-10


def test_only_the_first_process_reads_all_pixels_for_the_checkpoint(answers):
    found = [values(answer) for answer in answers["hashed"]]
    assert [one["calls"] for one in found] == [2, 0]
    assert [one["from"] for one in found] == [[None, 4], [None, 4]]
    assert all(one["same"] for one in found)


@pytest.mark.slow
def test_processes_that_do_not_see_the_checkpoint_get_it_from_the_first(answers, more):
    for answer in more["spread"]["then"]:
        assert values(answer)["from"] == 5
        assert distance(values(answers["two"]["one"]), values(answer)) < 1e-10


@pytest.mark.slow
def test_a_damaged_checkpoint_ends_all_processes(more):
    first, second = more["broken"]
    assert first["error"].startswith("UserError: Expected `checkpoint` to be readable")
    assert second["error"].startswith("RetryableError: Process 0 could not go on")


@pytest.mark.slow
def test_torchrun(answers):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(SCRIPT), "torchrun"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert distance(values(answers["two"]["one"]), json.loads(done.stdout)) < 1e-10


def test_helpers_do_nothing_without_a_process_group():
    rows = torch.ones(2, 3)
    assert all_gather_rows(rows) is rows
    assert all_reduce_sum(rows) is rows
    assert (world_size(), distributed.rank()) == (1, 0)


def test_converting_batch_norm_keeps_names_objects_and_kinds():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(72))
    norms, names = [net[1], net[3]], list(net.state_dict())
    images = torch.randn(4, 1, 8, 8)
    before = net(images)
    convert_sync_batchnorm(net, torch.device("cpu"))
    assert [net[1], net[3]] == norms
    assert list(net.state_dict()) == names
    assert isinstance(net[1], nn.BatchNorm2d)
    assert type(net[1]) is not nn.BatchNorm2d
    torch.testing.assert_close(net(images), before)
    distributed.revert_sync_batchnorm(net)
    assert [type(net[1]), type(net[3])] == [nn.BatchNorm2d, nn.BatchNorm1d]


def test_cuda_gets_torchs_own_batch_norm():
    net = nn.Sequential(nn.BatchNorm2d(2))
    convert_sync_batchnorm(net, torch.device("cuda"))
    assert isinstance(net[0], nn.SyncBatchNorm)
    assert isinstance(net[0], nn.BatchNorm2d)
    assert net.eval()(torch.ones(1, 2, 3, 3)).shape == (1, 2, 3, 3)


def test_a_world_without_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"`MASTER_ADDR`.*WORLD_SIZE is above 1.*torchrun"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings())


def test_a_batch_must_have_an_image_for_every_part():
    with pytest.raises(UserError, match=r"`batch_size`.*at least 32.*got 16.*smaller accumulate"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings(accumulate=32))
