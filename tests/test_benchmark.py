"""The benchmark compares like with like: the same numbers, in turns, and a record is kept."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from visual_rft import benchmark
from visual_rft.benchmark import Workload, bench, bench_table, compare_steps, medians, speedups, trainer_for
from visual_rft.cli import main, parser
from visual_rft.trainer import grpo_config

SMALL = Workload(prompts=1, group=2, threads=1)
STEP = "bench step --json --rounds 1 --prompts 1 --group 2 --threads 1".split()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A measurement sets the number of threads of this process; afterwards it is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_bench_step_prints_json(capsys) -> None:
    assert main(STEP) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("speedup_over_trl", "speedup_over_reference", "training_speedup_over_trl", "rollout_speedup_over_trl"):
        assert isinstance(result[name], float) and 0 < result[name] < 1000
    assert set(result["seconds"]) == set(result["rounds"]) == {"shared", "trl", "reference"}
    assert all(len(steps) == 1 for steps in result["rounds"].values())  # the first round does not count


def test_bench_table_shows_numbers_only() -> None:
    text = bench_table(dict(speedup_over_trl=3.25, share=1, seconds={"shared": 1.0}, groups=[4, 8]))
    assert [line.split() for line in text.splitlines()] == [["speedup", "over", "trl", "3.25"], ["share", "1"]]


def test_medians_and_speedups() -> None:
    found = {"shared": [dict(step=1.0, update=2.0), dict(step=2.0, update=2.0), dict(step=4.0, update=2.0)],
             "trl": [dict(step=3.0, update=2.0), dict(step=20.0, update=4.0), dict(step=8.0, update=6.0)]}
    assert medians(found["trl"]) == dict(step=8.0, update=4.0)
    assert speedups(found) == {"trl": 3.0}  # the ratios are 3, 10 and 2; the quotient of the medians would be 4
    assert speedups(found, "update") == {"trl": 2.0}


@pytest.mark.parametrize("words", [["--shape", "round"], ["--shape", ""]])
def test_an_unknown_shape_is_one_line(words, capsys, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "MEASURES", {name: None for name in benchmark.MEASURES})  # nothing is measured
    assert main(["bench", "step", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1 and repr(words[1]) in printed.err


def test_every_measure_can_be_asked_for() -> None:
    bench_parser = next(a for a in parser()._actions if a.dest == "command").choices["bench"]
    assert next(a for a in bench_parser._actions if a.dest == "what").choices == tuple(benchmark.MEASURES)
    with pytest.raises(ValueError, match="no benchmark 'stairs'; expected one of step, "):
        bench("stairs", SMALL)


def test_a_finished_record_is_not_measured_again(tmp_path: Path, capsys, monkeypatch) -> None:
    def busy(*place):
        raise AssertionError("measured again")

    words = [*STEP, "--out", str(tmp_path / "run")]
    monkeypatch.setattr(benchmark, "MEASURES", dict(benchmark.MEASURES, step=lambda *place: dict(speedup_over_trl=3.5)))
    assert main(words) == 0
    monkeypatch.setattr(benchmark, "MEASURES", dict(benchmark.MEASURES, step=busy))
    assert main(words) == 0
    first, second = capsys.readouterr().out.split("}\n")[:2]
    assert first == second and "3.5" in first
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["command"].startswith("visual-rft bench step") and config["rounds"] == 1
    assert main([*words, "--group", "4"]) == 2  # another run in the same folder
    assert "holds another run" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="measured again"):
        main(STEP)  # without a record, always


def logps(trainer, inputs: dict) -> torch.Tensor:
    """(B, T) log-probabilities of the completion tokens, as a trainer computes them."""
    ids, mask = (torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], 1) for what in ("ids", "mask"))
    more = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, inputs["completion_ids"].shape[1], **more)[0]


@pytest.mark.parametrize("heat", [1.0, 0.7])
def test_all_ways_compute_the_same_log_probabilities(heat: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "grpo_config",
                        lambda settings, folder: grpo_config(replace(settings, temperature=heat), folder))
    work = Workload(prompts=4, group=2, beta=0.0, threads=1)
    trainers = {way: trainer_for(way, work, tmp_path) for way in benchmark.WAYS}
    batches = [next(benchmark.forever(trainer)) for trainer in trainers.values()]
    assert [row["problem"] for row in batches[0]] == [row["problem"] for row in batches[1]]
    for row in batches[1][:4]:  # otherwise all prompts are equally long
        row["prompt"] = [dict(role="user", content=row["problem"] + " Look closely.")]
    inputs = benchmark._forced_batch(trainers["trl"], batches[1])
    assert len({int(n) for n in inputs["prompt_mask"].sum(1)}) > 1  # prompts of different lengths
    kept = torch.arange(128) < torch.tensor([128, 1, 90, 2, 50, 128, 7, 30])[:, None]
    inputs |= dict(completion_mask=kept.int())
    found = {}
    for way, trainer in trainers.items():
        trainer.model.double()
        found[way] = logps(trainer, inputs)[kept]
    assert found["trl"].abs().mean() > 0.1
    assert (found["reference"] - found["trl"]).abs().max() < 1e-5
    assert (found["shared"] - found["trl"]).abs().max() < 1e-5


def test_the_ways_take_turns(tmp_path: Path, monkeypatch) -> None:
    order = []
    monkeypatch.setattr(benchmark, "trainer_for", lambda way, work, folder: way)
    monkeypatch.setattr(benchmark, "forever", lambda way: iter(range(100)))
    monkeypatch.setattr(benchmark, "timed_step",
                        lambda way, batch, number: order.append((number, batch, way)) or dict(step=float(number)))
    found = compare_steps(SMALL, rounds=3, folder=tmp_path)
    assert found == {way: [dict(step=1.0), dict(step=2.0), dict(step=3.0)] for way in benchmark.WAYS}
    rounds = [[way for number, _, way in order if number == wanted] for wanted in range(4)]
    assert rounds == [["shared", "trl", "reference"], ["trl", "reference", "shared"], ["reference", "shared", "trl"],
                      ["shared", "trl", "reference"]]
    assert all(number == batch for number, batch, _ in order)  # the same batch for all ways of a round


def test_no_row_has_advantage_zero() -> None:
    for rows in range(1, 10):
        assert benchmark._both_signs(torch.zeros(rows)).abs().tolist() == [1.0] * rows


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted(causal: bool) -> None:
    query, key, value = (torch.randn(2, 3, 40, 16, requires_grad=True) for _ in range(3))
    pairs = 40 * 41 // 2 if causal else 40 * 40
    forwards = benchmark.count_operations(lambda: scaled_dot_product_attention(query, key, value, is_causal=causal))
    both = benchmark.count_operations(
        lambda: scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward())
    assert forwards == {"attention": 4 * 2 * 3 * pairs * 16} and both == {"attention": 3.5 * forwards["attention"]}


def test_products_are_seen_and_done_again() -> None:
    left, right = torch.randn(2, 3), torch.randn(4, 3)
    bias = torch.zeros(4)
    products = benchmark.matrix_products(lambda: (left @ right.T, torch.addmm(bias, left, right.T), right @ left.T))
    assert products == {(((2, 3), False), ((3, 4), True)): 2, (((4, 3), False), ((3, 2), True)): 1}
    alone, operations = benchmark.products_alone(products)
    assert benchmark.matrix_products(alone) == products and operations == 3 * 2 * (2 * 3 * 4)


def test_a_pass_has_no_reference_model_and_repeats_itself(tmp_path: Path) -> None:
    run = benchmark.training_pass(replace(SMALL, prompts=2, group=4), tmp_path)
    assert SMALL.beta > 0 and run.trainer.beta == 0 and run.trainer.ref_model is None
    gradients = []
    for _ in range(2):
        run()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in run.trainer.model.parameters()]))
    assert gradients[0].norm() > 1e-3  # else the next line would say nothing
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()  # they do not add up


def test_profile() -> None:
    result = bench("profile", SMALL, rounds=1)
    for name in ("share_of_matrix_rate", "gflops_per_second", "matrix_gflops_per_second", "seconds"):
        assert isinstance(result[name], float) and result[name] > 0
    assert sum(result["time_shares"].values()) == pytest.approx(1, abs=0.01)
    assert result["time_shares"]["matrix products"] > 0.1 and result["time_shares"]["attention"] > 0
    ours, theirs = (result["operations"][way] for way in ("shared", "trl"))
    assert ours.keys() == theirs.keys() == {"matrix products", "attention"}
    assert all(theirs[kind] > ours[kind] for kind in ours)
    (whole, alone), = result["turns"]  # one round after the first
    rates = sum(ours.values()) / whole, result["products"]["operations"] / alone
    assert result["share_of_matrix_rate"] == pytest.approx(rates[0] / rates[1], abs=1e-3)
    assert result["products"]["operations"] == pytest.approx(ours["matrix products"], rel=0.03)  # but the convolution
