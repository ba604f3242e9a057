"""Leave-one-out splits, sampled negatives and ranking metrics, against slow implementations written independently."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from bibench.tasks import ranking
from bibench.tasks.ranking import (
    Interactions,
    LabelledPairs,
    LeaveOneOut,
    distinct,
    evaluate,
    leave_one_out,
    loss,
    most_popular,
    ndcg,
    ranks,
)

CPU = torch.device("cpu")


def _interactions(rows):
    """From a list of sets of items, one a user, and the number of items."""
    known, items = rows
    pairs = [(user, item) for user, own in enumerate(known) for item in sorted(own)]
    user, item = zip(*pairs, strict=True) if pairs else ((), ())
    return Interactions(
        users=len(known),
        items=items,
        user=torch.tensor(user, dtype=torch.int64),
        item=torch.tensor(item, dtype=torch.int64),
    )


@st.composite
def _known(draw, spare=1):
    """Sets of items, one a user, each of which leaves at least ``spare`` items."""
    items = draw(st.integers(spare + 1, 30))
    own = st.sets(st.integers(0, items - 1), max_size=items - spare)
    return draw(st.lists(own, min_size=1, max_size=6)), items


class Table(nn.Module):
    """A network whose scores are given."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, pairs):
        return self.scores[pairs[:, 0], pairs[:, 1]]


# ---- metrics


def _rank(own, others):
    """1 for the best; everything that isn't clearly worse than the own score comes before it."""
    return 1 + len([score for score in others if math.isnan(own) or math.isnan(score) or score >= own])


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (0.5, [0.1, 0.2, 0.3], 1),
        (0.5, [0.9, 0.2, 0.3], 2),
        (0.5, [0.5, 0.2, 0.3], 2),  # a tie counts against it
        (0.5, [0.5, 0.5, 0.5], 4),
        (math.inf, [math.inf, 0.0, 0.0], 2),
        (math.nan, [0.1, 0.2, 0.3], 4),
        (0.5, [math.nan, 0.2, 0.3], 2),
    ],
)
@pytest.mark.parametrize("column", [0, 2, 3])
def test_rank_by_hand(own, others, expected, column):
    scores = torch.tensor([*others[:column], own, *others[column:]])[None]
    counted = torch.ones(1, 4, dtype=torch.bool)
    counted[0, column] = False
    assert ranks(scores, torch.tensor([column]), counted).tolist() == [expected]


def test_columns_that_are_not_counted_do_not_matter():
    scores = torch.tensor([[0.5, 9.0, math.nan, 0.7]])
    counted = torch.tensor([[False, False, False, True]])
    assert ranks(scores, torch.tensor([0]), counted).tolist() == [2]


@settings(deadline=None)
@given(st.data())
def test_ranks_as_written_out(data):
    users, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    score = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, math.nan, math.inf, -math.inf])
    scores = [data.draw(st.lists(score, min_size=columns, max_size=columns)) for _ in range(users)]
    positive = [data.draw(st.integers(0, columns - 1)) for _ in range(users)]
    counted = [
        [data.draw(st.booleans()) and column != positive[user] for column in range(columns)] for user in range(users)
    ]
    expected = [
        _rank(scores[user][positive[user]], [scores[user][j] for j in range(columns) if counted[user][j]])
        for user in range(users)
    ]
    found = ranks(torch.tensor(scores), torch.tensor(positive), torch.tensor(counted))
    assert found.tolist() == expected


def test_ndcg_by_hand():
    found = ndcg(torch.arange(1, 13))
    assert found[:3].tolist() == pytest.approx([1, 1 / math.log2(3), 0.5])
    assert found[9] == pytest.approx(1 / math.log2(11))
    assert found[10:].tolist() == [0, 0]
    assert ndcg(torch.tensor([2]), top=1).tolist() == [0]


def _split(users=30, items=60, seed=0, **settings):
    """A random split, as sets of training items, the held-out items, and the test half."""
    rng = np.random.default_rng(seed)
    known = [set(rng.choice(items, rng.integers(2, max(3, items // 3)), replace=False).tolist()) for _ in range(users)]
    test = [sorted(own)[int(rng.integers(len(own)))] for own in known]
    known = [own - {item} for own, item in zip(known, test, strict=True)]
    return known, test, LeaveOneOut(train=_interactions((known, items)), test=torch.tensor(test), **settings)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("decimals", [1, 6])  # 1: many ties
def test_evaluation_as_written_out(batch_size, decimals):
    known, test, split = _split(negatives=20, full_users=12)
    scores = torch.from_numpy(np.random.default_rng(1).random((30, 60)).round(decimals))
    scores[range(0, 30, 2), test[::2]] += 0.3
    found = evaluate(Table(scores), split.batches(batch_size, device=CPU))

    def figures(others):
        places = [_rank(scores[user, test[user]].item(), scores[user, others(user)].tolist()) for user in others.users]
        return [place <= 10 for place in places], [
            math.log(2) / math.log(1 + place) if place <= 10 else 0 for place in places
        ]

    def sampled(user):
        return split.sampled[user].tolist()

    def everything(user):
        return [item for item in range(60) if item != test[user] and item not in known[user]]

    sampled.users, everything.users = range(30), split.ranked_fully.tolist()
    hits, gains = figures(sampled)
    all_hits, all_gains = figures(everything)
    assert 0 < np.mean(hits) < 1
    assert 0 < np.mean(all_hits) < 1
    assert found.per_sample.dtype == np.float32
    assert found.per_sample.tolist() == hits
    assert found.figures == pytest.approx(
        {
            "hr10": np.mean(hits),
            "ndcg10": np.mean(gains),
            "hr10_all": np.mean(all_hits),
            "ndcg10_all": np.mean(all_gains),
        },
        abs=1e-6,
    )


def test_extreme_predictors():
    _, test, split = _split(items=90, negatives=30)
    perfect = torch.zeros(30, 90)
    perfect[range(30), test] = 1
    for scores, expected in ((perfect, 1), (-perfect, 0), (torch.zeros(30, 90), 0), (perfect * math.nan, 0)):
        found = evaluate(Table(scores), split.batches(64, device=CPU))
        assert set(found.figures.values()) == {expected}
        assert set(found.per_sample) == {expected}


def test_a_random_predictor_hits_as_often_as_chance():
    """10 of 1 + 50 places; 2,000 users: a standard error of 0.9 %."""
    _, _, split = _split(users=2000, items=120, negatives=50)
    scores = torch.rand(2000, 120, generator=torch.Generator().manual_seed(0))
    hits = evaluate(Table(scores), split.batches(512, device=CPU)).figures["hr10"]
    assert hits == pytest.approx(10 / 51, abs=0.036)


def test_full_ranking_can_be_left_out_and_no_user_is_an_error():
    _, _, split = _split(full_users=0)
    assert set(evaluate(Table(torch.rand(30, 60)), split.batches(8, device=CPU)).figures) == {"hr10", "ndcg10"}
    with pytest.raises(ValueError, match="at least one user, got none; check the test split"):
        evaluate(nn.Identity(), [])


def test_loss_by_hand():
    pairs, labels = torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([1.0, 0.0, 1.0])
    logits = [[2.0, -1.0], [0.5, 0.0]]
    right = [1 / (1 + math.exp(-2.0)), 1 - 1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-0.5))]
    expected = -sum(map(math.log, right)) / 3
    assert loss(Table(torch.tensor(logits)), (pairs, labels)).item() == pytest.approx(expected, rel=1e-6)


# ---- interactions


@settings(deadline=None)
@given(_known())
def test_other_items_are_those_without_an_interaction_in_order(rows):
    known, items = rows
    seen = _interactions(rows)
    assert seen.available.tolist() == [items - len(own) for own in known]
    for user, own in enumerate(known):
        others = [item for item in range(items) if item not in own]
        index = torch.arange(len(others))
        assert seen.other_item(torch.full_like(index, user), index).tolist() == others
        assert seen.item[seen.starts[user] : seen.starts[user + 1]].tolist() == sorted(own)


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ([0, 0], [1, 1], "sorted by user, then by item, each pair once"),
        ([0, 0], [1, 0], "sorted by user"),
        ([1, 0], [0, 1], "sorted by user"),
        ([0, 2], [0, 1], "user holds numbers from 0 to 2, expected 0 to 1"),
        ([0, 1], [0, 3], "item holds numbers from 0 to 3, expected 0 to 2"),
        ([0, 1], [-1, 1], "item holds numbers from -1 to 1"),
        ([0], [0, 1], r"item must be int64, one a interaction \(1 of them\), got torch.int64 of shape \(2,\)"),
        ([0.0], [0], "user must be int64.*got torch.float32"),
    ],
)
def test_interactions_that_are_none_are_refused(user, item, message):
    with pytest.raises(ValueError, match=message):
        Interactions(users=2, items=3, user=torch.tensor(user), item=torch.tensor(item))


# ---- leave one out


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4)), max_size=30))
def test_leave_one_out_as_written_out(ratings):
    table = np.array(ratings, dtype=np.int64).reshape(-1, 3)
    latest: dict = {}
    for place, (user, item, time) in enumerate(ratings):
        if (user, item) not in latest or time >= latest[user, item][0]:
            latest[user, item] = (time, place)
    own = {user: {i: key for (u, i), key in latest.items() if u == user} for user in sorted({u for u, _ in latest})}
    several = {user: items for user, items in own.items() if len(items) > 1}
    catalogue = sorted({item for items in several.values() for item in items})
    found = leave_one_out(*table.T)
    if not several:
        assert found is None
        return
    test = [max(items, key=items.get) for items in several.values()]
    train = [
        (number, catalogue.index(item))
        for number, (items, held_out) in enumerate(zip(several.values(), test, strict=True))
        for item in sorted(items)
        if item != held_out
    ]
    assert found.test.tolist() == [catalogue.index(item) for item in test]
    assert list(zip(found.train.user.tolist(), found.train.item.tolist(), strict=True)) == train
    assert (found.train.users, found.train.items) == (len(several), len(catalogue))
    assert (found.repeated, found.single) == (len(ratings) - len(latest), len(own) - len(several))


def test_the_latest_is_held_out_and_of_equally_late_ones_the_last_line():
    items, users = np.array([4, 2, 3]), np.zeros(3, dtype=np.int64)
    assert leave_one_out(users, items, np.array([5, 9, 7])).test.tolist() == [0]  # item 2
    assert leave_one_out(users, items, np.array([9, 9, 7])).test.tolist() == [0]
    assert leave_one_out(users, items, np.array([9, 7, 9])).test.tolist() == [1]  # item 3
    assert leave_one_out(users, items, np.array([9, 7, 8])).test.tolist() == [2]  # item 4


# ---- training pairs


def _epoch(split, seed, batch_size=64):
    pairs, labels = zip(*split.batches(batch_size, device=CPU, seed=seed), strict=True)
    return torch.cat(pairs), torch.cat(labels)


@settings(deadline=None)
@given(_known(), st.integers(0, 4), st.integers(1, 40), st.integers(0, 2**62))
def test_an_epoch_has_every_positive_once_and_its_negatives(rows, negatives, batch_size, seed):
    known, items = rows
    split = LabelledPairs(interactions=_interactions(rows), negatives=negatives)
    positives = sum(map(len, known))
    assert len(split) == positives * (1 + negatives)
    if not positives:
        return
    whole = max(1, len(split) // batch_size)
    sizes = [len(labels) for _, labels in split.batches(batch_size, device=CPU, seed=seed)]
    assert sizes == [min(batch_size, len(split))] * whole
    for order in (None, seed):
        pairs, labels = _epoch(split, order, batch_size=1)
        assert (pairs.dtype, labels.dtype, pairs.shape) == (torch.int64, torch.float32, (len(split), 2))
        found = sorted(map(tuple, pairs[labels == 1].tolist()))
        assert found == [(user, item) for user, own in enumerate(known) for item in sorted(own)]
        others = pairs[labels == 0].tolist()
        assert not any(item in known[user] for user, item in others)
        assert all(0 <= item < items for _, item in others)
        counts = torch.bincount(pairs[labels == 0][:, 0], minlength=len(known)).tolist()
        assert counts == [negatives * len(own) for own in known]


def test_without_a_seed_each_positive_is_followed_by_its_negatives():
    known, _, test = _split()
    pairs, labels = _epoch(LabelledPairs(interactions=test.train, negatives=2), None)
    assert labels.tolist() == [1, 0, 0] * sum(map(len, known))
    assert torch.equal(pairs[1::3, 0], pairs[::3, 0])


def test_a_seed_decides_order_and_negatives_whatever_ran_before():
    _, _, test = _split()
    split = LabelledPairs(interactions=test.train)
    first = _epoch(split, 3)
    torch.rand(7)
    other = split.batches(64, device=CPU, seed=4)
    next(other)
    again = split.batches(64, device=CPU, seed=3)
    mixed = []
    for batch in again:  # two epochs at the same time
        mixed.append(batch)
        next(other, None)
    assert torch.equal(first[0], torch.cat([pairs for pairs, _ in mixed]))
    assert torch.equal(first[1], torch.cat([labels for _, labels in mixed]))
    second = _epoch(split, 4)
    assert not torch.equal(first[1], second[1])

    def negatives(epoch):
        return sorted(map(tuple, epoch[0][epoch[1] == 0].tolist()))

    assert negatives(first) != negatives(second)  # not the same ones in another order


def test_the_epoch_is_shuffled():
    _, _, test = _split()
    pairs, labels = _epoch(LabelledPairs(interactions=test.train), 0, batch_size=10)
    first = torch.cat([pairs[:, 0], labels.long()])
    assert not torch.equal(first, first.sort()[0])
    assert labels[: len(labels) // 2].mean() == pytest.approx(0.2, abs=0.05)


def test_a_long_epoch_is_drawn_in_parts(monkeypatch):
    known, _, test = _split()
    monkeypatch.setattr(ranking, "_CHUNK", 50)
    split = LabelledPairs(interactions=test.train)
    sizes = [len(labels) for _, labels in split.batches(12, device=CPU, seed=0)]
    assert sizes == [12] * (len(split) // 12)
    pairs, labels = _epoch(split, 0, batch_size=1)
    assert sorted(map(tuple, pairs[labels == 1].tolist())) == [
        (user, item) for user, own in enumerate(known) for item in sorted(own)
    ]
    alike = LabelledPairs(interactions=_interactions(([{0}] * 50, 1000)), negatives=1)
    first, second = _epoch(alike, None, batch_size=50)[0].chunk(2)
    assert not torch.equal(first[:, 1], second[:, 1])


def test_negatives_are_uniform_over_the_other_items():
    known = [{0, 3, 4, 11}, {0}]
    split = LabelledPairs(interactions=_interactions((known, 12)), negatives=1000)
    pairs, labels = _epoch(split, 5, batch_size=1000)
    for user, own in enumerate(known):
        chosen = pairs[(labels == 0) & (pairs[:, 0] == user)][:, 1]
        counts = torch.bincount(chosen, minlength=12)
        others = [item for item in range(12) if item not in own]
        assert counts.sum() == counts[others].sum()
        assert chisquare(counts[others]).pvalue > 1e-3


def test_the_held_out_item_can_be_a_negative():
    """As in MLPerf. If it never were one, it would be the only item that is never called wrong."""
    known, test, half = _split(users=5, items=8)
    pairs, labels = _epoch(LabelledPairs(interactions=half.train, negatives=200), 0)
    drawn = set(map(tuple, pairs[labels == 0].tolist()))
    assert all((user, item) in drawn for user, item in enumerate(test) if known[user])


def test_a_user_who_knows_everything_has_no_negative():
    with pytest.raises(ValueError, match=r"user 1 has interacted with all 3 items.*leave the user out"):
        LabelledPairs(interactions=_interactions(([{0}, {0, 1, 2}], 3)))


# ---- test candidates


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 12), st.integers(0, 2**62))
def test_distinct_numbers(available, count, seed):
    found = distinct(torch.tensor(available), count, torch.Generator().manual_seed(seed)).tolist()
    for row, size in zip(found, available, strict=True):
        drawn, rest = row[: min(size, count)], row[min(size, count) :]
        assert drawn == sorted(set(drawn))
        assert all(0 <= number < size for number in drawn)
        assert set(rest) <= {-1}


def test_every_set_of_distinct_numbers_is_equally_likely():
    found = distinct(torch.full((20_000,), 6), 3, torch.Generator().manual_seed(1))
    _, counts = found.unique(dim=0, return_counts=True)
    assert len(counts) == math.comb(6, 3)
    assert chisquare(counts).pvalue > 1e-3


@settings(deadline=None)
@given(_known(spare=2), st.integers(1, 12), st.integers(1, 9), st.data())
def test_candidates(rows, negatives, batch_size, data):
    known, items = rows
    test = [data.draw(st.sampled_from(sorted(set(range(items)) - own))) for own in known]
    full_users = data.draw(st.integers(0, 4))
    half = LeaveOneOut(train=_interactions(rows), test=torch.tensor(test), negatives=negatives, full_users=full_users)
    assert len(half) == len(known)
    users = {False: [], True: []}
    for batch in half.batches(batch_size, device=CPU):
        assert 1 <= len(batch.pairs) <= batch_size
        for pairs, positive, counted in zip(batch.pairs, batch.positive, batch.counted, strict=True):
            user = int(pairs[0, 0])
            users[batch.all_items].append(user)
            assert set(pairs[:, 0].tolist()) == {user}
            assert pairs[positive, 1] == test[user]
            drawn = pairs[counted, 1].tolist()
            others = set(range(items)) - known[user] - {test[user]}
            assert len(drawn) == len(set(drawn)) == (len(others) if batch.all_items else min(negatives, len(others)))
            assert set(drawn) <= others
            assert int(pairs.min()) >= 0
    assert users[False] == list(range(len(known)))
    assert users[True] == sorted(set(users[True]))
    assert len(users[True]) == min(full_users, len(known))


def test_test_negatives_are_always_the_same():
    torch.manual_seed(1)
    _, _, one = _split(users=40, negatives=10, full_users=9)
    torch.manual_seed(2)
    _, _, other = _split(users=40, negatives=10, full_users=9)
    assert torch.equal(one.sampled, other.sampled)
    assert torch.equal(one.ranked_fully, other.ranked_fully)
    for small, large in zip(
        (row for batch in one.batches(1, device=CPU) for row in batch.pairs),
        (row for batch in one.batches(16, device=CPU) for row in batch.pairs),
        strict=True,
    ):
        assert torch.equal(small, large)


def test_users_have_different_negatives_and_blocks_too(monkeypatch):
    _, _, half = _split(users=40, negatives=10)
    assert len(half.sampled.unique(dim=0)) > 30
    monkeypatch.setattr(ranking, "_BLOCK", 7)
    _, _, blocks = _split(users=40, negatives=10)
    assert blocks.sampled.shape == half.sampled.shape
    alike = LeaveOneOut(train=_interactions(([{0}] * 14, 200)), test=torch.ones(14, dtype=torch.int64), negatives=10)
    assert len(alike.sampled.unique(dim=0)) == 14


def test_an_evaluation_scores_a_bounded_number_of_pairs(monkeypatch):
    _, _, half = _split(users=40, negatives=9)
    monkeypatch.setattr(ranking, "_PAIRS", 60)
    assert max(batch.counted.numel() for batch in half.batches(1000, device=CPU)) == 60


def test_the_two_halves_must_fit():
    train = _interactions(([{0}, {1, 2}], 4))
    with pytest.raises(ValueError, match=r"test must be int64 of shape \(2,\), one item a user, got .*\(1,\)"):
        LeaveOneOut(train=train, test=torch.tensor([1]))
    with pytest.raises(ValueError, match=r"held-out items don't fit the training half: .*each pair once"):
        LeaveOneOut(train=train, test=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="seed=3: the test half is only evaluated"):
        next(LeaveOneOut(train=train, test=torch.tensor([1, 3])).batches(2, device=CPU, seed=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_an_accelerator_gets_the_same_pairs_and_candidates():
    cuda = torch.device("cuda")
    _, _, half = _split()
    split = LabelledPairs(interactions=half.train)
    for there, here in zip(split.batches(32, device=cuda, seed=1), split.batches(32, device=CPU, seed=1), strict=True):
        assert torch.equal(there[0].cpu(), here[0])
        assert torch.equal(there[1].cpu(), here[1])
    for there, here in zip(half.batches(8, device=cuda), half.batches(8, device=CPU), strict=True):
        assert torch.equal(there.pairs.cpu(), here.pairs)
        assert torch.equal(there.counted.cpu(), here.counted)
        assert torch.equal(there.positive.cpu(), here.positive)


@settings(deadline=None)
@given(rows=_known(spare=2), full_users=st.integers(0, 3), data=st.data())
def test_the_most_popular_items_score_as_a_network_that_knows_only_them(rows, full_users, data):
    train = _interactions(rows)
    test = [data.draw(st.sampled_from(sorted(set(range(rows[1])) - own))) for own in rows[0]]
    half = LeaveOneOut(train=train, test=torch.tensor(test), negatives=12, full_users=full_users)
    counts = torch.tensor([float(sum(item in own for own in rows[0])) for item in range(rows[1])])
    found = evaluate(Table(counts.expand(len(rows[0]), -1)), half.batches(4, device=CPU))
    trivial = most_popular(train, half)
    assert trivial.value == found.figures["hr10"]
    assert trivial.margin == pytest.approx(2 * found.per_sample.std() / len(test) ** 0.5, abs=1e-6)
