"""What recommendation tasks share: leave-one-out splits, sampled negatives, loss and ranking metrics.

Feedback is implicit: a user has interacted with an item or not. A network scores pairs of a user and an item; it learns
to tell the user's items from others, and is measured by the rank of one held-out item a user.

Source: He et al., Neural Collaborative Filtering, 2017, sections 2.1, 3.1 and 4.1; MLPerf recommendation v0.5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.tasks.base import Evaluation, Metric, Trivial

__all__ = [
    "HIT_RATE",
    "TOP",
    "Candidates",
    "HeldOut",
    "Interactions",
    "LabelledPairs",
    "LeaveOneOut",
    "PairBatch",
    "distinct",
    "evaluate",
    "leave_one_out",
    "loss",
    "most_popular",
    "ndcg",
    "ranks",
]

TOP = 10
"""Length of the recommended list (He et al., 2017, section 4.1)."""

HIT_RATE = Metric(name="hr10", unit="ratio")
"""HR@10: share of users whose held-out item is among the ten best of the candidates."""

PairBatch = tuple[Tensor, Tensor]
"""Pairs of a user and an item ``(batch, 2)``, int64, and labels ``(batch,)``, float32: 1 for an interaction, else 0."""

_NEGATIVE_SEED = 0
"""Decides the test candidates, the same for every run, so that all are measured alike."""

_DRAW = 2**62
"""Draws are whole numbers below this, reduced to their range by the remainder: uniform up to one part in 10^13."""

_PAIRS = 1 << 14
"""Pairs that an evaluation scores at a time: its memory doesn't grow with users and items."""

_CHUNK = 1 << 20
"""Training pairs that are drawn and moved to the device at a time."""

_BLOCK = 1 << 10
"""Users whose test negatives are drawn at a time."""


def loss(model: nn.Module, batch: PairBatch) -> Tensor:
    """Mean binary cross-entropy over the batch, in nats: ``-mean[y log s(m(x)) + (1 - y) log(1 - s(m(x)))]``.

    ``s`` is the logistic function: the model returns logits, one a pair (He et al., 2017, equation 7).

    >>> loss(lambda pairs: torch.zeros(len(pairs)), (torch.tensor([[0, 1], [0, 2]]), torch.tensor([1.0, 0.0])))
    tensor(0.6931)
    """
    pairs, labels = batch
    return F.binary_cross_entropy_with_logits(model(pairs).float(), labels)


def ranks(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """The held-out item's rank among its candidates, from 1: ``1 + #{j : not score_j < score_positive}``.

    A tie counts against the held-out item, so a network that gives every item the same score has hit nothing; so does a
    score that is not a number.

    Args:
        scores: ``(users, candidates)``.
        positive: int64 ``(users,)``, the held-out item's column.
        counted: bool ``(users, candidates)``, true for the negatives; false for the held-out item and unused columns.

    Returns:
        int64 ``(users,)``.

    >>> scores = torch.tensor([[0.2, 0.9, 0.2, 0.1]])
    >>> ranks(scores, torch.tensor([0]), torch.tensor([[False, True, True, True]]))
    tensor([3])
    """
    own = scores.gather(1, positive[:, None])
    # Not (scores >= own), which is false wherever one of the two is not a number.
    return 1 + (counted & ~(scores < own)).sum(dim=1)


def ndcg(rank: Tensor, top: int = TOP) -> Tensor:
    """Normalised discounted cumulative gain of one relevant item: ``1 / log2(1 + rank)`` in the top list, else 0.

    Args:
        rank: from 1, any shape.
        top: length of the list.

    Returns:
        float64, between 0 and 1.

    >>> ndcg(torch.tensor([1, 3, 10, 11]))
    tensor([1.0000, 0.5000, 0.2891, 0.0000], dtype=torch.float64)
    """
    return (rank <= top) / torch.log2(1.0 + rank.double())


@dataclass(eq=False, kw_only=True)
class Interactions:
    """Which users have interacted with which items.

    Args:
        users, items: how many there are; they are numbered from 0.
        user, item: int64 ``(interactions,)``, sorted by user, then by item, each pair once.

    Raises:
        ValueError: other types or shapes, numbers out of range, or not sorted.

    >>> seen = Interactions(users=2, items=4, user=torch.tensor([0, 0, 1]), item=torch.tensor([0, 2, 3]))
    >>> seen.available
    tensor([2, 3])
    >>> seen.other_item(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    tensor([1, 3, 2])
    """

    users: int
    items: int
    user: Tensor
    item: Tensor
    starts: Tensor = field(init=False)
    """int64 ``(users + 1,)``: user u's interactions are at positions ``starts[u]`` to ``starts[u + 1]``."""
    available: Tensor = field(init=False)
    """int64 ``(users,)``: number of items that a user has not interacted with."""
    _gaps: Tensor = field(init=False, repr=False)
    _held: dict[torch.device, Interactions] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, values, count in (("user", self.user, self.users), ("item", self.item, self.items)):
            if values.dtype != torch.int64 or values.ndim != 1 or len(values) != len(self.user):
                raise ValueError(
                    f"{name} must be int64, one a interaction ({len(self.user)} of them), "
                    f"got {values.dtype} of shape {tuple(values.shape)}"
                )
            if len(values) and (int(values.min()) < 0 or int(values.max()) >= count):
                raise ValueError(
                    f"{name} holds numbers from {int(values.min())} to {int(values.max())}, expected 0 to {count - 1}"
                )
        if bool((torch.diff(self.user * self.items + self.item) <= 0).any()):
            raise ValueError("interactions must be sorted by user, then by item, each pair once; sort them first")
        everyone = torch.arange(self.users + 1, device=self.user.device)
        self.starts = torch.searchsorted(self.user, everyone)
        self.available = self.items - torch.diff(self.starts)
        # Of a user's k-th interaction: the number of items before it that are not the user's. The users' stretches are
        # laid end to end, so that one binary search serves all.
        position = torch.arange(len(self.user), device=self.user.device) - self.starts[self.user]
        self._gaps = self.user * (self.items + 1) + self.item - position

    def __len__(self) -> int:
        return len(self.user)

    def other_item(self, user: Tensor, index: Tensor) -> Tensor:
        """The item at an index among those that the user has not interacted with, in the order of their numbers.

        A uniform index gives a uniform item without trying again, also for a user who knows nearly all of them.

        Args:
            user: int64, any shape.
            index: int64, of the same shape, from 0 to ``available[user] - 1``.
        """
        passed = torch.searchsorted(self._gaps, user * (self.items + 1) + index, right=True)
        return index + passed - self.starts[user]

    def on(self, device: torch.device) -> Interactions:
        """The same interactions on a device, moved there once."""
        if device == self.user.device:
            return self
        if device not in self._held:
            self._held[device] = Interactions(
                users=self.users, items=self.items, user=self.user.to(device), item=self.item.to(device)
            )
        return self._held[device]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a leave-one-out split made of ratings.

    Args:
        train: all interactions but one a user.
        test: int64 ``(users,)``, the item that was held out of each user's.
        repeated: ratings left out because the same user rated the same item later.
        single: users left out because they have interacted with one item only.
    """

    train: Interactions
    test: Tensor
    repeated: int
    single: int


def leave_one_out(
    user: npt.NDArray[np.int64], item: npt.NDArray[np.int64], time: npt.NDArray[np.int64]
) -> HeldOut | None:
    """Hold out each user's latest interaction (He et al., 2017, section 4.1); of equally late ones the last in order.

    Of several ratings of an item by a user the latest is kept. Users with a single interaction are left out, since they
    would be in one of the halves only. The users and items that remain are numbered from 0, in the order of their ids.

    Args:
        user, item: ids, ``(ratings,)``, in the order of the file.
        time: when the rating was given, in any unit.

    Returns:
        The split; None if no user has two interactions.

    >>> split = leave_one_out(np.array([7, 7, 7, 9]), np.array([5, 3, 8, 3]), np.array([20, 30, 10, 0]))
    >>> split.train.item, split.test, split.single
    (tensor([1, 2]), tensor([0]), 1)
    """
    order = np.lexsort((time, item, user))  # stable: of equal times the file's order remains
    newest = np.ones(len(order), dtype=np.bool_)
    newest[:-1] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
    kept = order[newest]
    owner, count = np.unique(user[kept], return_counts=True)
    several = np.repeat(count > 1, count)
    kept = kept[several]
    if not len(kept):
        return None
    users, user_number = np.unique(user[kept], return_inverse=True)
    items, item_number = np.unique(item[kept], return_inverse=True)
    by_time = np.lexsort((kept, time[kept], user_number))
    latest = by_time[np.append(np.diff(user_number[by_time]) != 0, True)]
    training = np.ones(len(kept), dtype=np.bool_)
    training[latest] = False
    return HeldOut(
        train=Interactions(
            users=len(users),
            items=len(items),
            user=torch.from_numpy(user_number[training].astype(np.int64)),
            item=torch.from_numpy(item_number[training].astype(np.int64)),
        ),
        test=torch.from_numpy(item_number[latest].astype(np.int64)),
        repeated=len(order) - int(newest.sum()),
        single=len(owner) - len(users),
    )


@dataclass(eq=False, kw_only=True)
class LabelledPairs:
    """Training pairs: every interaction with label 1, and for each of them other items of its user with label 0.

    The negatives are drawn anew with every seed, each uniformly from all items that the user has no *training*
    interaction with, independently of each other, so one can come twice. The held-out item can be one of them, as in
    MLPerf: sparing it would tell the network which item it is.

    Order and negatives depend on the seed of ``batches`` and the batch size alone, not on torch's global generator or
    the device.

    Args:
        interactions: the training half.
        negatives: a positive (MLPerf: 4).

    Raises:
        ValueError: a user has interacted with every item.

    >>> seen = Interactions(users=2, items=4, user=torch.tensor([0, 0, 1]), item=torch.tensor([0, 2, 3]))
    >>> pairs = LabelledPairs(interactions=seen)
    >>> len(pairs)
    15
    >>> [len(labels) for _, labels in pairs.batches(6, device=torch.device("cpu"), seed=0)]
    [6, 6]
    """

    interactions: Interactions
    negatives: int = 4

    def __post_init__(self) -> None:
        if bool((self.interactions.available == 0).any()):
            user = int(self.interactions.available.argmin())
            raise ValueError(
                f"user {user} has interacted with all {self.interactions.items} items, so it has no negative; "
                "leave the user out"
            )

    def __len__(self) -> int:
        return len(self.interactions) * (1 + self.negatives)

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[PairBatch]:
        """Iterate over ``(pairs, labels)``; see `bibench.tasks.base.Split.batches`.

        Without a seed the pairs come in order, with the negatives of seed 0.
        """
        # All random numbers are drawn on the CPU: the same on every device.
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        order = None if seed is None else torch.randperm(len(self), generator=generator)
        stop = len(self) if seed is None else min(len(self), max(1, len(self) // batch_size) * batch_size)
        chunk = max(1, _CHUNK // batch_size) * batch_size
        for start in range(0, stop, chunk):
            end = min(start + chunk, stop)
            chosen = torch.arange(start, end) if order is None else order[start:end]
            draws = torch.randint(_DRAW, chosen.shape, generator=generator)
            pairs, labels = self._pairs(chosen.to(device), draws.to(device))
            yield from zip(pairs.split(batch_size), labels.split(batch_size), strict=True)

    def _pairs(self, chosen: Tensor, draws: Tensor) -> PairBatch:
        """The pairs at positions from 0 to ``len(self) - 1``: each positive is followed by its negatives."""
        seen = self.interactions.on(chosen.device)
        source = chosen // (1 + self.negatives)
        positive = chosen % (1 + self.negatives) == 0
        user = seen.user[source]
        other = seen.other_item(user, draws % seen.available[user])
        return torch.stack((user, torch.where(positive, seen.item[source], other)), dim=1), positive.float()


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Some users' held-out items and what they are ranked against.

    Args:
        pairs: int64 ``(users, candidates, 2)``, a user and an item each.
        positive: int64 ``(users,)``, the held-out item's column.
        counted: bool ``(users, candidates)``, true for the negatives.
        all_items: whether the negatives are all that there are, or a sample.
    """

    pairs: Tensor
    positive: Tensor
    counted: Tensor
    all_items: bool


def distinct(available: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw different whole numbers for each row, every set of them equally likely (Floyd's algorithm, rows at once).

    Args:
        available: int64 ``(rows,)``; a row's numbers are from 0 to ``available - 1``.
        count: how many; a row with fewer gets all of its own.
        generator: of the CPU.

    Returns:
        int64 ``(rows, count)``, ascending, then -1 where a row has fewer.

    Source: Bentley & Floyd, A sample of brilliance, 1987.

    >>> distinct(torch.tensor([2, 4]), 4, torch.Generator())
    tensor([[ 0,  1, -1, -1],
            [ 0,  1,  2,  3]])
    """
    size = int(available.max()) if len(available) else 0
    taken = torch.arange(size) < available[:, None]
    more = torch.nonzero(available > count).flatten()
    taken[more] = False
    draws = torch.randint(_DRAW, (count, len(more)), generator=generator)
    for step, drawn in enumerate(draws):
        last = available[more] - count + step
        value = drawn % (last + 1)
        taken[more, torch.where(taken[more, value], last, value)] = True
    row, number = torch.nonzero(taken, as_tuple=True)
    found = torch.full((len(available), count), -1)
    found[row, torch.arange(len(row)) - torch.searchsorted(row, row)] = number
    return found


@dataclass(eq=False, kw_only=True)
class LeaveOneOut:
    """The test half: every user's held-out item, to be ranked against others.

    It is ranked twice: against ``negatives`` different items drawn from those that the user has neither in training nor
    in the test, always the same ones; and, for at most ``full_users`` users, against every item that the user doesn't
    have in training.

    Args:
        train: the training half.
        test: int64 ``(users,)``, the held-out items.
        negatives: sampled ones a user; all where there are fewer (MLPerf: 999; He et al., 2017, section 4.1: 99).
        full_users: bounds what ranking against all items costs, which is users times items.

    Raises:
        ValueError: not one held-out item a user, or one that is in the training half.

    >>> seen = Interactions(users=2, items=4, user=torch.tensor([0, 0, 1]), item=torch.tensor([0, 2, 3]))
    >>> split = LeaveOneOut(train=seen, test=torch.tensor([1, 1]))
    >>> sampled, everything = split.batches(8, device=torch.device("cpu"))
    >>> sampled.pairs[..., 1]
    tensor([[1, 3, 0],
            [1, 0, 2]])
    >>> everything.counted
    tensor([[False, False, False,  True],
            [ True, False,  True, False]])
    """

    train: Interactions
    test: Tensor
    negatives: int = 999
    full_users: int = 200

    def __post_init__(self) -> None:
        if self.test.dtype != torch.int64 or self.test.shape != (self.train.users,):
            raise ValueError(
                f"test must be int64 of shape ({self.train.users},), one item a user, "
                f"got {self.test.dtype} of shape {tuple(self.test.shape)}"
            )
        self._known  # noqa: B018 - refuses an item that is in both halves

    def __len__(self) -> int:
        return len(self.test)

    @cached_property
    def _known(self) -> Interactions:
        """Both halves together."""
        users = torch.arange(self.train.users)
        keys = torch.cat(
            (self.train.user * self.train.items + self.train.item, users * self.train.items + self.test)
        ).sort()[0]
        try:
            return Interactions(
                users=self.train.users,
                items=self.train.items,
                user=keys // self.train.items,
                item=keys % self.train.items,
            )
        except ValueError as error:
            raise ValueError(f"the held-out items don't fit the training half: {error}") from error

    @cached_property
    def sampled(self) -> Tensor:
        """The sampled negatives, int32 ``(users, at most negatives)``; -1 where a user has fewer."""
        generator = torch.Generator().manual_seed(_NEGATIVE_SEED)
        known = self._known
        width = min(self.negatives, int(known.available.max()))
        blocks = []
        for users in torch.arange(known.users).split(_BLOCK):
            index = distinct(known.available[users], width, generator)
            items = known.other_item(users[:, None].expand_as(index), index.clamp(min=0))
            blocks.append(torch.where(index < 0, -1, items).int())
        return torch.cat(blocks)

    @cached_property
    def ranked_fully(self) -> Tensor:
        """The users whose held-out item is ranked against all items, int64, ascending; always the same."""
        generator = torch.Generator().manual_seed(_NEGATIVE_SEED)
        return torch.randperm(len(self), generator=generator)[: self.full_users].sort()[0]

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[Candidates]:
        """Iterate over the users' candidates: first all users with the sampled ones, then some with all items.

        Args:
            batch_size: users at a time at most; fewer where they have many candidates.
            device: where the candidates go.
            seed: must be None: a test half isn't shuffled.
        """
        if seed is not None:
            raise ValueError(f"seed={seed}: the test half is only evaluated, always in order; leave the seed out")
        width = 1 + self.sampled.shape[1]
        for users in torch.arange(len(self)).split(max(1, min(batch_size, _PAIRS // width))):
            negatives = self.sampled[users].long().to(device)
            items = torch.cat((self.test[users, None].to(device), negatives), dim=1)
            counted = items >= 0
            counted[:, 0] = False
            yield self._candidates(users.to(device), items.clamp(min=0), torch.zeros_like(users), counted, False)
        if not self.full_users:
            return
        for users in self.ranked_fully.split(max(1, min(batch_size, _PAIRS // self.train.items))):
            items = torch.arange(self.train.items, device=device).expand(len(users), -1)
            counted = torch.ones(items.shape, dtype=torch.bool)
            for row, user in enumerate(users.tolist()):
                counted[row, self.train.item[self.train.starts[user] : self.train.starts[user + 1]]] = False
                counted[row, self.test[user]] = False
            yield self._candidates(users.to(device), items, self.test[users], counted.to(device), True)

    @staticmethod
    def _candidates(users: Tensor, items: Tensor, positive: Tensor, counted: Tensor, all_items: bool) -> Candidates:
        pairs = torch.stack((users[:, None].expand_as(items), items), dim=-1)
        return Candidates(pairs=pairs, positive=positive.to(items.device), counted=counted, all_items=all_items)


def evaluate(model: nn.Module, batches: Iterable[Candidates]) -> Evaluation:
    """HR@10 and NDCG@10 over the sampled candidates and over all items, as ratios; 1.0 or 0.0 per user for a hit.

    The figures are ``hr10`` and ``ndcg10``, and ``hr10_all`` and ``ndcg10_all`` where all items were ranked. The model
    is in evaluation mode, without gradients.

    Raises:
        ValueError: there is no batch of sampled candidates.

    >>> batch = Candidates(
    ...     pairs=torch.tensor([[[0, 0], [0, 1]]]),
    ...     positive=torch.tensor([0]),
    ...     counted=torch.tensor([[False, True]]),
    ...     all_items=False,
    ... )
    >>> evaluate(lambda pairs: pairs[:, 1], [batch]).figures["ndcg10"]
    0.6309297535714575
    """
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    for batch in batches:
        scores = model(batch.pairs.flatten(0, 1)).float().view(batch.counted.shape)
        found[batch.all_items].append(ranks(scores, batch.positive, batch.counted))
    if not found[False]:
        raise ValueError("an evaluation needs at least one user, got none; check the test split")
    # One transfer at the end: asking for figures after each batch would stall an accelerator.
    sampled = torch.cat(found[False]).cpu()
    hits = sampled <= TOP
    figures = {"hr10": hits.double().mean().item(), "ndcg10": ndcg(sampled).mean().item()}
    if found[True]:
        full = torch.cat(found[True]).cpu()
        figures |= {"hr10_all": (full <= TOP).double().mean().item(), "ndcg10_all": ndcg(full).mean().item()}
    return Evaluation(figures=figures, per_sample=hits.numpy().astype(np.float32))


def most_popular(train: Interactions, test: LeaveOneOut) -> Trivial:
    """HR@10, as a ratio, of ranking items by how many users have them in training: the same ranking for every user.

    The margin is two standard errors of a share, ``2 sqrt(p (1 - p) / users)``.

    Source: He et al., Neural Collaborative Filtering, 2017, section 4.1 (ItemPop).

    >>> seen = Interactions(users=2, items=4, user=torch.tensor([0, 0, 1]), item=torch.tensor([0, 2, 3]))
    >>> most_popular(seen, LeaveOneOut(train=seen, test=torch.tensor([1, 1]))).value
    1.0
    """
    count = train.item.bincount(minlength=train.items).float()
    batches = test.batches(_BLOCK, device=torch.device("cpu"))
    sampled = itertools.takewhile(lambda batch: not batch.all_items, batches)
    places = torch.cat([ranks(count[batch.pairs[..., 1]], batch.positive, batch.counted) for batch in sampled])
    share = (places <= TOP).double().mean().item()
    return Trivial(
        answer="ranking items by how many users have them, the same for every user",
        value=share,
        margin=2 * math.sqrt(share * (1 - share) / len(test)),
    )
