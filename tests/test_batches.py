"""The batches: every example exactly once in a pass, the same for every number of devices."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fit
from hypothesis import given, settings
from hypothesis import strategies as st

from handgrad.data import batches
from handgrad.data.batches import BatchPlan, Block, EvaluationMicrobatches, TrainingBlocks, shard
from handgrad.data.examples import Examples
from handgrad.data.scaling import Scaling
from handgrad.data.splits import Split


def split_of(examples: int) -> Split:
    """A split whose only feature is the example's number."""
    numbers = np.arange(examples)
    data = Examples(numbers[:, None].astype(float), numbers % 2, ("a", "b"), ("number",))
    scaling = Scaling.fit("none", data.X)
    return Split(data, numbers, scaling, torch.float64, torch.device("cpu"))


def blocks_of(plan: BatchPlan, start: int = 0, horizon: int = 10**6) -> list[Block]:
    split = split_of(plan.examples)
    return list(TrainingBlocks(split, plan, lambda: start, lambda done: horizon - done % horizon))


def updates_of(blocks: list[Block]) -> list[tuple[list[list[float]], int]]:
    """Return each update's examples, by this device's microbatches, and how many there are."""
    return [
        (
            [
                block.examples(update)[0][microbatch, 0].tolist()
                for microbatch in update.microbatches
            ],
            update.examples,
        )
        for block in blocks
        for update in block.updates
    ]


sizes = {
    "examples": st.integers(1, 40),
    "batch_size": st.integers(1, 45),
    "accumulate": st.integers(1, 5),
    "microbatch": st.one_of(st.none(), st.integers(1, 9)),
    "world_size": st.integers(1, 7),
}


@settings(max_examples=200, deadline=None)
@given(**sizes, horizon=st.integers(1, 9), passes=st.integers(1, 3))
def test_every_pass_sees_every_example_once_over_all_devices(
    examples: int,
    batch_size: int,
    accumulate: int,
    microbatch: int | None,
    world_size: int,
    horizon: int,
    passes: int,
) -> None:
    seen: dict[int, list[float]] = {}
    for rank in range(world_size):
        plan = BatchPlan(
            examples=examples,
            batch_size=batch_size,
            accumulate=accumulate,
            microbatch=microbatch,
            passes=passes,
            seed=3,
            rank=rank,
            world_size=world_size,
        )
        updates = updates_of(blocks_of(plan, horizon=horizon))
        assert len(updates) == passes * plan.updates_per_pass
        for number, (microbatches, total) in enumerate(updates):
            assert all(0 < len(each) <= (microbatch or examples) for each in microbatches)
            window = min(batch_size * accumulate, -(-examples // batch_size) * batch_size)
            first = number % plan.updates_per_pass * batch_size * accumulate
            assert total == min(window, examples - first)
            seen.setdefault(number // plan.updates_per_pass, []).extend(chain(*microbatches))
    assert len(seen) == passes
    for numbers in seen.values():
        assert sorted(numbers) == list(range(examples))


@settings(max_examples=100, deadline=None)
@given(**sizes)
def test_each_update_has_the_same_examples_on_any_number_of_devices(
    examples: int, batch_size: int, accumulate: int, microbatch: int | None, world_size: int
) -> None:
    common = {"examples": examples, "batch_size": batch_size, "accumulate": accumulate, "seed": 5}
    alone = updates_of(blocks_of(BatchPlan(**common)))
    shards = [
        updates_of(
            blocks_of(BatchPlan(**common, microbatch=microbatch, rank=rank, world_size=world_size))
        )
        for rank in range(world_size)
    ]
    for together, *parts in zip(alone, *shards, strict=True):
        assert sorted(chain(*together[0])) == sorted(chain(*(chain(*each[0]) for each in parts)))
        assert {each[1] for each in parts} == {together[1]}


@pytest.mark.parametrize(
    ("batch_size", "lengths"), [(10, [5, 5]), (13, [5, 5, 3]), (12, [6, 6]), (3, [3])]
)
def test_a_batch_is_cut_into_few_pieces_of_nearly_the_same_size(
    batch_size: int, lengths: list[int]
) -> None:
    plan = BatchPlan(examples=40, batch_size=batch_size, microbatch=6, seed=1)
    microbatches, _ = updates_of(blocks_of(plan))[0]
    assert [len(each) for each in microbatches] == lengths


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_are_contiguous_and_differ_by_at_most_one(examples: int, world_size: int) -> None:
    shards = [shard(examples, rank, world_size) for rank in range(world_size)]
    assert [s.start for s in shards] == [0, *(s.stop for s in shards[:-1])]
    assert shards[-1].stop == examples
    lengths = [s.stop - s.start for s in shards]
    assert max(lengths) - min(lengths) <= 1


def test_the_order_is_a_function_of_seed_and_pass_alone() -> None:
    plans = [
        BatchPlan(examples=50, batch_size=b, rank=r, world_size=3, seed=7)
        for b, r in ((4, 0), (9, 1), (9, 2))
    ]
    orders = [[plan.order(number).tolist() for number in range(4)] for plan in plans]
    assert orders[0] == orders[1] == orders[2]
    assert len({tuple(order) for order in orders[0]}) == 4
    torch.manual_seed(1)
    np.random.seed(1)  # nobody else's state matters
    batches.shuffled.cache_clear()
    assert plans[0].order(2).tolist() == orders[0][2]
    other = BatchPlan(examples=50, batch_size=4, seed=8)
    assert other.order(0).tolist() not in orders[0]


@pytest.mark.parametrize("horizon", [1, 3, 5, 100])
def test_blocks_end_at_the_horizon_and_hold_the_same_updates(horizon: int) -> None:
    plan = BatchPlan(examples=37, batch_size=3, passes=2, seed=1)  # 13 updates a pass
    blocks = blocks_of(plan, horizon=horizon)
    ends = np.cumsum([len(block.updates) for block in blocks]).tolist()
    assert ends == sorted({*range(horizon, 26, horizon), 26})
    assert updates_of(blocks) == updates_of(blocks_of(plan, horizon=1))


def test_a_block_does_not_outgrow_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = BatchPlan(examples=37, batch_size=3, seed=1)
    whole = updates_of(blocks_of(plan))
    monkeypatch.setattr(batches, "BLOCK_BYTES", 8 * 20)  # twenty examples of one float64
    blocks = blocks_of(plan)
    assert max(len(block.rows) for block in blocks) == 16  # two threes, filled up to 64 bytes
    assert updates_of(blocks) == whole


@pytest.mark.parametrize("examples", [1, 8, 20, 1000])
def test_what_is_gathered_at_once_fits_the_cache(
    monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    plan = BatchPlan(examples=37, batch_size=3, accumulate=2, microbatch=2, passes=2, seed=1)
    whole = updates_of(blocks_of(plan))
    monkeypatch.setattr(batches, "GATHERED_BYTES", 8 * examples)
    (block,) = blocks_of(plan)
    groups = [block.examples(update)[0] for update in block.updates]
    assert max(map(len, groups)) <= max(8, examples)  # one update at least
    for update, inputs in zip(block.updates, groups, strict=True):
        assert inputs[:, 0].tolist() == block.rows[update.rows].tolist()
        assert inputs.data_ptr() % 64 == 0
        assert update.microbatches[0].start % 8 == 0
    assert updates_of([block]) == whole


def test_an_update_finds_its_examples_whenever_it_asks() -> None:
    plan = BatchPlan(examples=500, batch_size=3, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "GATHERED_BYTES", 8 * 16)  # two updates
        (block,) = blocks_of(plan)
    order = torch.from_numpy(plan.order(0)).double()
    for number in (0, 1, 100, 2, 101, 100, 166):
        update = block.updates[number]
        seen = block.examples(update)[0][update.microbatches[0], 0]
        assert torch.equal(seen, order[3 * number : 3 * number + 3])


@pytest.mark.parametrize("start", range(26))
def test_training_continues_from_any_update_with_the_same_examples(start: int) -> None:
    plan = BatchPlan(examples=37, batch_size=3, passes=2, seed=1)
    assert updates_of(blocks_of(plan, start)) == updates_of(blocks_of(plan))[start:]


def test_the_second_epoch_goes_on_with_new_orders() -> None:
    plan = BatchPlan(examples=37, batch_size=3, passes=2, seed=1)
    second = updates_of(blocks_of(plan, start=26))
    assert len(second) == 26
    in_order = [
        int(x) for microbatches, _ in second for microbatch in microbatches for x in microbatch
    ]
    assert in_order == [*plan.order(2), *plan.order(3)]


def test_full_batch_sees_all_examples_in_every_update_without_a_copy() -> None:
    split = split_of(11)
    plan = BatchPlan(examples=11, batch_size=11, passes=6)
    (block,) = TrainingBlocks(split, plan, lambda: 0, lambda done: 100)
    assert [update.examples for update in block.updates] == [11] * 6
    inputs, _ = block.examples(block.updates[0])
    assert inputs.data_ptr() == split.rows(slice(0, 11))[0].data_ptr()
    assert block.rows.tolist() == list(range(11))


def test_a_block_names_the_rows_it_holds() -> None:
    plan = BatchPlan(examples=23, batch_size=4, accumulate=2, rank=1, world_size=3, seed=2)
    for block in blocks_of(plan, horizon=2):
        for update in block.updates:
            inputs, targets = block.examples(update)
            rows = block.rows[update.rows].tolist()
            assert inputs[:, 0].tolist() == rows
            assert targets[:, 0].tolist() == [row % 2 for row in rows]


def test_limit_cuts_every_pass() -> None:
    plan = BatchPlan(examples=37, batch_size=3, limit=5, accumulate=2, passes=2, seed=1)
    updates = updates_of(blocks_of(plan))
    assert [total for _, total in updates] == [6, 6, 3] * 2
    first = [
        int(x) for microbatches, _ in updates[:3] for microbatch in microbatches for x in microbatch
    ]
    assert first == plan.order(0)[:15].tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_evaluation_counts_every_row_once_over_all_devices(
    examples: int, world_size: int, rows: int, limit: int | None
) -> None:
    split = split_of(examples)
    seen: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "EVALUATED_BYTES", 8 * rows)
        for rank in range(world_size):
            microbatches = EvaluationMicrobatches(split, rank, world_size, limit)
            taken = [inputs[:, 0].tolist() for inputs, _ in microbatches]
            assert len(taken) == len(microbatches) >= 1
            assert all(len(each) <= rows for each in taken)
            seen += chain(*taken)
    assert seen == list(range(min(examples, limit or examples)))


def test_a_memory_mapped_pair_trains_exactly_as_the_same_arrays_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)) * [1, 10, 100, 1000], rng.integers(0, 3, 90)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "both.npz", X=X, y=y)
    common = ("data=npz", "model.hidden=5", "trainer.precision=64-true", "trainer.max_epochs=3")
    mapped = fit(*common, f"data.path={tmp_path}/X.npy", f"data.target={tmp_path}/y.npy")
    assert mapped.data.splits["train"].kept is None
    in_memory = fit(*common, f"data.path={tmp_path}/both.npz")
    assert in_memory.data.splits["train"].kept is not None
    for mine, its in zip(mapped.network.params, in_memory.network.params, strict=True):
        assert torch.equal(mine, its)
    assert mapped.network.published == in_memory.network.published
